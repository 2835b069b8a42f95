"""Amounts as people type them, and what answers stand on."""

import pytest

from tandem.cli.planning.options import count, maybe, seconds, standing, usd
from tandem.kit.errors import InvalidRequest
from tandem.server import House


def test_amounts_that_nobody_gave_are_none() -> None:
    assert usd(None, what="x") is seconds(None, what="x") is count(None, what="x") is None
    assert maybe(None, lambda text, what: text, what="x") is None


def test_amounts_are_read() -> None:
    assert usd("$1.5M", what="x") == 1.5e6
    assert seconds("90min", what="x") == 5400
    assert (count("8B", what="x"), count("0.4", what="x"), count("2.6", what="x")) == (8_000_000_000, 1, 3)


def test_a_wrong_amount_names_its_option() -> None:
    with pytest.raises(InvalidRequest, match="--within is '3 weeks'"):
        seconds("3 weeks", what="--within")


def test_answers_stand_on_the_home(house: House) -> None:
    (house.settings.home / "catalogue.toml").write_text('[systems.west]\nhost = "8xh100"\nhosts = 2\n')
    opened, ground = standing()
    opened.db.close()
    assert opened.settings.home == house.settings.home
    assert "west" in ground.allowed
