"""Logs carry their fields, and no secret gets into them."""

import io
import json
import logging
from collections.abc import Iterator

import pytest
from hypothesis import assume, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tandem.kit.ids import new_secret
from tandem.kit.log import get_logger, redact, request_id, setup_logging

log = get_logger("tandem.test")


@pytest.fixture(autouse=True)
def quiet_afterwards() -> Iterator[None]:
    """Puts the standard library's logging back as it was."""
    root, ours = logging.getLogger(), logging.getLogger("tandem")
    before = root.handlers[:], root.level, ours.level
    yield
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    ours.setLevel(before[2])


def _lines(stream: io.StringIO) -> list[str]:
    return stream.getvalue().splitlines()


def test_text_line_has_time_level_logger_message_and_fields() -> None:
    stream = io.StringIO()
    setup_logging("info", stream=stream)
    log.info("Engine started.", extra={"pid": 7, "model": "starter@1", "note": "two words"})
    (line,) = _lines(stream)
    time, rest = line.split(" ", 1)
    assert time.endswith("Z")
    assert rest == 'INFO tandem.test: Engine started. pid=7 model=starter@1 note="two words"'


def test_json_line_is_one_object() -> None:
    stream = io.StringIO()
    setup_logging("info", "json", stream=stream)
    log.warning("Two\nlines: %s", "ä", extra={"pid": 7, "ok": True, "level": "a field cannot replace the level"})
    (line,) = _lines(stream)
    written = json.loads(line)
    assert written.pop("time").endswith("Z")
    assert written == {"level": "warning", "logger": "tandem.test", "message": "Two\nlines: ä", "pid": 7, "ok": True}


@pytest.mark.parametrize("style", ["text", "json"])
def test_the_request_id_is_on_every_line_of_a_request(style: str) -> None:
    stream = io.StringIO()
    setup_logging("info", style, stream=stream)
    token = request_id.set("req_1")
    log.info("inside")
    request_id.reset(token)
    log.info("outside")
    inside, outside = _lines(stream)
    assert "req_1" in inside
    assert "request_id" not in outside


def test_a_message_cannot_fake_a_second_line() -> None:
    stream = io.StringIO()
    setup_logging("info", stream=stream)
    log.info("name is %s", "x\n2026-01-01T00:00:00.000Z INFO tandem: all is well", extra={"model": "a\nb"})
    assert len(_lines(stream)) == 1


def test_a_trace_follows_indented_and_without_secrets() -> None:
    stream = io.StringIO()
    setup_logging("info", stream=stream)
    secret = new_secret("tk")
    try:
        raise ValueError(f"cannot use {secret}")
    except ValueError:
        log.exception("It failed.", stack_info=True)
    first, *trace = _lines(stream)
    assert first.endswith("It failed.")
    assert all(line.startswith("  ") for line in trace)
    assert any("ValueError: cannot use tk-***" in line for line in trace)
    assert secret not in stream.getvalue()


def test_levels_hold_for_tandem_and_others_speak_from_warning_on() -> None:
    stream = io.StringIO()
    setup_logging("debug", stream=stream)
    log.debug("ours")
    logging.getLogger("somebody").info("theirs")
    logging.getLogger("somebody").warning("their warning")
    assert [line.split(": ", 1)[1] for line in _lines(stream)] == ["ours", "their warning"]


def test_setting_up_again_replaces_the_first() -> None:
    first, second = io.StringIO(), io.StringIO()
    setup_logging("info", stream=first)
    setup_logging("error", stream=second)
    log.warning("too quiet")
    log.error("once")
    assert not first.getvalue()
    assert len(_lines(second)) == 1


def test_a_record_that_cannot_be_formatted_shows_nothing_of_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # pytest's own would raise what ours has to bear
    stream = io.StringIO()
    setup_logging("info", stream=stream)
    log.info("%d", "a secret in the wrong place")
    assert "could not be written" in stream.getvalue()
    assert "wrong place" not in stream.getvalue()


def test_a_closed_stream_is_borne() -> None:
    stream = io.StringIO()
    setup_logging("info", stream=stream)
    stream.close()
    log.info("nobody reads this")


def test_loggers_are_named_below_tandem() -> None:
    assert get_logger("serve.engines").name == "tandem.serve.engines"
    assert get_logger("tandem.serve").name == "tandem.serve"
    assert get_logger("tandemonium").name == "tandem.tandemonium"


@pytest.mark.parametrize(
    "text",
    [
        "max_tokens=17 prompt_tokens: 3, completion_tokens: 4",
        "The key req_01 was revoked at http://127.0.0.1:8000/v1/models?limit=3",
        "bare words: basic auth, a token, the password",
        "task-force and desk-lamp are no keys",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text) == text


PLACES = [
    "Authorization: Bearer {}",
    "authorization=Basic {}",
    "{{'Authorization': 'Bearer {}', 'x': '1'}}",
    "[(b'authorization', b'Bearer {}'), (b'api-key', b'{}')]",
    "[(b'cookie', b'session={}; other=1')]",
    "api-key: {}",
    "x-api-key={}",
    '{{"api_key": "{}"}}',
    '{{\\"api_key\\": \\"{}\\"}}',
    "hub_token={} and more",
    "Cookie: session={}; other=1",
    "postgresql://tandem:{}@db.example/tandem",
    "https://{}@git.example/x",
    "GET /sign-in?code={}&next=/ HTTP/1.1",
    "https://blob.example/x?sv=1&sig={}",
    "password='{}'",
    "sent bearer {}, refused",
    "a key of ours: tk-{}",
    "a key of theirs: sk-{}.",
    "hf_{}",
]
# At least 12 characters, so that none of them is a word of the line by chance.
TOKENS = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-", min_size=12, max_size=48)


@pytest.mark.parametrize("style", ["text", "json"])
@pytest.mark.parametrize("place", PLACES)
@example(secret="----------------")
@hypothesis_settings(max_examples=20)
@given(secret=TOKENS)
def test_no_secret_is_ever_written(place: str, style: str, secret: str) -> None:
    stream = io.StringIO()
    setup_logging("info", style, stream=stream)
    line = place.replace("{}", secret).replace("{{", "{").replace("}}", "}")
    log.info("before %s after", line, extra={"field": line, "api_key": secret, "headers": {"api-key": secret}})
    try:
        raise RuntimeError(line)
    except RuntimeError:
        log.exception("failed")
    assert secret not in stream.getvalue()
    assert len(stream.getvalue()) > 100


@given(password=st.text(st.characters(min_codepoint=33, max_codepoint=0x2FF), min_size=6))
def test_no_password_of_a_url_is_written(password: str) -> None:
    assume(password not in "could not connect to postgresql://***@db/tandem")
    assert password not in redact(f"could not connect to postgresql://tandem:{password}@db/tandem")


@given(secret=st.text(min_size=8))
def test_a_configured_secret_is_never_written(secret: str) -> None:
    assume(secret not in "before *** after")
    assert secret not in redact(f"before {secret} after", [secret])
