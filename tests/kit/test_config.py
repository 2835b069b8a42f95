"""Settings: the file, the environment and the overrides, in that order, and clear words about every mistake."""

import dataclasses
from pathlib import Path

import pytest

from tandem.kit.config import Settings, child_environment, load_settings, settings_environment
from tandem.kit.errors import ConfigError


def _load(home: Path, toml: str = "", **environ: str) -> Settings:
    (home / "tandem.toml").write_text(toml)
    return load_settings({"TANDEM_HOME": str(home), **environ})


def test_defaults_need_no_file(home: Path) -> None:
    settings = load_settings({}, home=home)
    assert settings == Settings(home=home)
    assert settings.sqlalchemy_url == f"sqlite:///{home}/tandem.db"
    assert settings.blobs_url == f"file://{home}/blobs"


def test_the_home_folder_is_absolute_and_without_a_tilde(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert load_settings({}).home == tmp_path / ".tandem"
    assert load_settings({"TANDEM_HOME": "~/elsewhere"}).home == tmp_path / "elsewhere"
    assert load_settings({"TANDEM_HOME": "here"}).home == tmp_path / "here"


def test_overrides_win_over_the_environment_and_that_over_the_file(home: Path) -> None:
    toml = 'port = 1\nregion = "file"\nlog_level = "error"'
    (home / "tandem.toml").write_text(toml)
    environ = {"TANDEM_HOME": str(home), "TANDEM_PORT": "2", "TANDEM_REGION": "environment"}
    settings = load_settings(environ, port=3, host=None)
    assert (settings.port, settings.region, settings.log_level, settings.host) == (
        3,
        "environment",
        "error",
        "127.0.0.1",
    )


def test_the_environment_of_the_process_is_read_when_none_is_given(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setenv("TANDEM_HOME", str(home))
    monkeypatch.setenv("TANDEM_PORT", "4")
    assert load_settings().port == 4


def test_a_named_file_is_read_instead_of_the_one_in_the_home_folder(home: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "other.toml"
    elsewhere.write_text("port = 5")
    assert _load(home, "port = 6").port == 6
    assert _load(home, "port = 6", TANDEM_CONFIG=str(elsewhere)).port == 5


def test_the_home_folder_may_be_set_in_the_named_file(home: Path, tmp_path: Path) -> None:
    named = tmp_path / "tandem.toml"
    named.write_text(f'home = "{home}"')
    assert load_settings({"TANDEM_CONFIG": str(named)}).home == home


def test_the_home_folder_must_be_text(tmp_path: Path) -> None:
    named = tmp_path / "tandem.toml"
    named.write_text("home = 3")
    with pytest.raises(ConfigError, match=r"home.*Path"):
        load_settings({"TANDEM_CONFIG": str(named)})


@pytest.mark.parametrize(("text", "value"), [("true", True), ("1", True), ("false", False), ("0", False)])
def test_switches_in_the_environment(home: Path, text: str, value: bool) -> None:
    assert _load(home, TANDEM_JOURNAL_FSYNC=text).journal_fsync is value


def test_numbers_in_the_environment(home: Path) -> None:
    settings = _load(home, TANDEM_KEY_CACHE_S="0.5", TANDEM_MAX_BODY_BYTES="1024")
    assert (settings.key_cache_s, settings.max_body_bytes) == (0.5, 1024)


@pytest.mark.parametrize("name", ["TANDEM_TEST_POSTGRES", "TANDEM_", "TANDEM_PROT"])
def test_variables_that_are_no_settings_are_not_ours(home: Path, name: str) -> None:
    assert _load(home, **{name: "x"}) == Settings(home=home)


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ("prot = 1", ["tandem.toml", "'prot'", "Did you mean 'port'?"]),
        ("frobnicate = 1", ["tandem.toml", "'frobnicate'", "docs/reference/settings.md"]),
        ("port = [", ["tandem.toml", "not valid TOML"]),
        ('port = "many"', ["port", "int"]),
        ("port = 65536", ["port is 65536", "1 to 65535"]),
        ("port = -1", ["port is -1"]),
        ("region = 7", ["region", "str"]),
        ('log_level = "loud"', ["log_level is 'loud'", "debug, info, warning or error"]),
        ('log_format = "xml"', ["log_format is 'xml'", "text or json"]),
        ("[port]\nnumber = 1", ["port", "int"]),
        ("blob_url = 3", ["blob_url", "str"]),
    ],
)
def test_a_mistake_in_the_file_is_named(home: Path, toml: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        _load(home, toml)
    for word in words:
        assert word in str(caught.value)


def test_a_mistake_in_the_environment_names_the_setting(home: Path) -> None:
    with pytest.raises(ConfigError, match="port"):
        _load(home, TANDEM_PORT="many")


def test_a_named_file_that_is_missing_is_refused(home: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing\.toml.*No such file"):
        _load(home, TANDEM_CONFIG=str(home / "missing.toml"))


def test_a_file_that_cannot_be_read_is_refused(home: Path) -> None:
    (home / "tandem.toml").mkdir()
    with pytest.raises(ConfigError, match="Cannot read the settings file"):
        load_settings({"TANDEM_HOME": str(home)})


def test_a_file_that_is_not_utf8_is_refused(home: Path) -> None:
    (home / "tandem.toml").write_bytes(b'region = "\xff"')
    with pytest.raises(ConfigError, match=r"tandem\.toml"):
        load_settings({"TANDEM_HOME": str(home)})


def test_an_unknown_override_is_refused(home: Path) -> None:
    with pytest.raises(ConfigError, match="'prot'"):
        load_settings({}, home=home, prot=1)


def test_settings_cannot_be_changed(settings: Settings) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.port = 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_body_bytes", 0),
        ("request_timeout_s", 0),
        ("stall_timeout_s", -1),
        ("drain_timeout_s", -1),
        ("engine_start_timeout_s", 0),
        ("key_cache_s", -1),
        ("key_grace_s", -1),
        ("journal_segment_bytes", 100),
    ],
)
def test_a_number_out_of_bounds_is_named(home: Path, name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=name):
        _load(home, f"{name} = {value}")


def test_not_a_number_is_no_duration(home: Path) -> None:
    with pytest.raises(ConfigError, match="key_cache_s"):
        _load(home, "key_cache_s = nan")


def test_a_child_gets_what_it_computes_with_and_no_secret() -> None:
    computing = {"PATH": "/bin", "LC_ALL": "C", "CUDA_VISIBLE_DEVICES": "1", "NCCL_DEBUG": "INFO"}
    hub = {"TANDEM_HUB_TOKEN": "hf_secret", "https_proxy": "http://a:b@c", "TANDEM_CONFIG": "x.toml"}
    secret = {"OPENAI_API_KEY": "sk-secret", "AWS_SECRET_ACCESS_KEY": "secret", "TANDEM_DATABASE_URL": "postgresql://"}
    environ = computing | hub | secret
    assert child_environment(environ) == computing
    assert child_environment(environ, hub=True) == computing | hub


def test_a_process_of_ours_stands_on_the_same_settings(home: Path) -> None:
    settings = _load(home, "port = 0\nlog_level = 'debug'\ncharter_anchor = 'sha256:1'")
    environ = settings_environment(settings, {"PATH": "/bin", "TANDEM_CONFIG": "other.toml", "TANDEM_PORT": "9"})
    assert environ["PATH"] == "/bin"
    assert load_settings(environ) == settings


def test_secrets_are_named_and_not_printed() -> None:
    settings = load_settings({"TANDEM_SIGNING_PASSPHRASE": "open sesame", "TANDEM_HUB_TOKEN": "hf_x"})
    assert settings.secrets == ("hf_x", "open sesame")
    assert "open sesame" not in repr(settings)
    assert "TANDEM_SIGNING_PASSPHRASE" not in child_environment({"TANDEM_SIGNING_PASSPHRASE": "x"}, hub=True)
