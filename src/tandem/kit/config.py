"""Settings: one frozen object, read once from tandem.toml and TANDEM_* variables, then passed down."""

import difflib
import os
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any

import msgspec

from tandem.kit.errors import ConfigError

Seconds = Annotated[float, msgspec.Meta(ge=0)]
PositiveSeconds = Annotated[float, msgspec.Meta(gt=0)]
NotNegative = Annotated[float, msgspec.Meta(ge=0)]
PositiveBytes = Annotated[int, msgspec.Meta(gt=0)]
# A segment must hold a record, and a page is the least that a disk writes.
SegmentBytes = Annotated[int, msgspec.Meta(ge=4096)]

# What a worker may know of its surroundings: where programs and libraries are, and how to compute. No setting of
# ours and nothing that could be a secret.
_CHILD_NAMES = frozenset(
    {"PATH", "HOME", "USER", "LOGNAME", "LANG", "TZ", "TMPDIR", "XDG_CACHE_HOME", "VIRTUAL_ENV", "PYTHONPATH"}
    | {"LD_LIBRARY_PATH", "LD_PRELOAD", "CC", "CXX", "SSL_CERT_FILE", "SSL_CERT_DIR"}
)
_CHILD_PREFIXES = (
    "LC_",
    "CUDA_",
    "NVIDIA_",
    "NCCL_",
    "GLOO_",
    "OMP_",
    "GOMP_",
    "KMP_",
    "MKL_",
    "MALLOC_",
    "TORCH",
    "PYTORCH_",
)
# What a child that fetches from the hub needs besides.
_HUB_NAMES = frozenset({"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"})
_HUB_PREFIXES = ("TANDEM_HUB_", "TANDEM_CONFIG", "TANDEM_HOME")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that a person may set. Each field is a key of `tandem.toml` and a variable `TANDEM_<FIELD>`.

    The environment wins over the file, the file over the defaults.
    """

    home: Path = Path("~/.tandem")
    """Folder of the database, the blobs, the logs and the journals."""
    host: str = "127.0.0.1"
    """Address that `tandem up` listens on."""
    port: int = 8000
    """Port that `tandem up` listens on; 0 takes a free one."""
    database_url: str = ""
    """SQLAlchemy URL; empty means SQLite in the home folder."""
    blob_url: str = ""
    """fsspec URL of the blob store; empty means a folder in the home folder."""
    region: str = "local"
    """Region name that the Azure surface reports."""
    max_body_bytes: PositiveBytes = 32 * 1024 * 1024
    """Largest request body that is read; anything larger is answered with 413."""
    request_timeout_s: PositiveSeconds = 600.0
    """Longest time that one request may take at an engine."""
    stall_timeout_s: PositiveSeconds = 60.0
    """Longest time that a client may leave its end of a stream unread before it is cut off."""
    drain_timeout_s: Seconds = 30.0
    """How long a shutdown waits for the answers that are still running."""
    engine_start_timeout_s: PositiveSeconds = 300.0
    """Longest time that an engine may take to load its model."""
    key_cache_s: Seconds = 2.0
    """How long a key is believed without asking the database: a revoked key dies within this time."""
    key_grace_s: Seconds = 3600.0
    """How long a known key keeps working while the database is down."""
    journal_segment_bytes: SegmentBytes = 4 * 1024 * 1024
    """Size of one preallocated file of the usage journal."""
    journal_fsync: bool = False
    """Also survive a power cut, not only a crash: fsync the journal before the last byte of each answer."""
    hub_url: str = "https://huggingface.co"
    """Where `hf:` model sources are fetched from."""
    hub_token: str = ""
    """Access token for gated models of the hub."""
    allow_private_upstreams: bool = False
    """Let outbound requests reach private and loopback addresses."""
    charter_anchor: str = ""
    """Digest of revision 1 of the charter; where it is set, no other beginning is believed."""
    signing_passphrase: str = field(default="", repr=False)
    """Opens the private keys of the charter's members on this machine, and locks new ones."""
    local_usd_per_hour: NotNegative = 0.0
    """What an hour of this machine costs, for the cost of runs and their limit; 0 where it is not known."""
    lease_s: PositiveSeconds = 30.0
    """How long a run belongs to a supervisor that gives no sign of life on another machine."""
    stop_grace_s: Seconds = 300.0
    """How long the workers of a run may take to save when they are stopped."""
    log_level: str = "info"
    """debug, info, warning or error."""
    log_format: str = "text"
    """text or json."""

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must never be logged or shown."""
        return (self.hub_token, self.signing_passphrase)

    @property
    def sqlalchemy_url(self) -> str:
        """The database URL with the default filled in."""
        return self.database_url or f"sqlite:///{self.home / 'tandem.db'}"

    @property
    def blobs_url(self) -> str:
        """The blob store's URL with the default filled in."""
        return self.blob_url or f"file://{self.home / 'blobs'}"


def load_settings(environ: Mapping[str, str] | None = None, **overrides: Any) -> Settings:
    """Read the settings once: defaults, then `tandem.toml`, then `TANDEM_*`, then the given overrides.

    The file is the one that `TANDEM_CONFIG` names, else `tandem.toml` in the home folder if it is there.

    Raises:
        ConfigError: an unknown key, a value of the wrong type or out of bounds, or an unreadable file.
    """
    environ = os.environ if environ is None else environ
    variables = {
        key.removeprefix("TANDEM_").lower(): value for key, value in environ.items() if key.startswith("TANDEM_")
    }
    named = variables.pop("config", None)
    known = {field.name for field in fields(Settings)}
    _check_known(overrides, known=known, where="The command line")
    # Other programs and the tests use TANDEM_* too; a misspelt setting in the file is an error, here it is not ours.
    variables = {key: value for key, value in variables.items() if key in known}
    home = Path(str(overrides.get("home") or variables.get("home") or Settings().home)).expanduser()
    path = Path(named).expanduser() if named else home / "tandem.toml"
    from_file = _read_file(path, required=named is not None, known=known)
    values = {**from_file, **variables, **{key: value for key, value in overrides.items() if value is not None}}
    settings = _convert(values)
    return replace(settings, home=settings.home.expanduser().absolute())


def settings_environment(settings: Settings, environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a process of ours that stands on the same settings, wherever those came from."""
    environ = os.environ if environ is None else environ
    own = {f"TANDEM_{field.name.upper()}": str(getattr(settings, field.name)) for field in fields(Settings)}
    return {key: value for key, value in environ.items() if key != "TANDEM_CONFIG"} | own


def child_environment(environ: Mapping[str, str] | None = None, *, hub: bool = False) -> dict[str, str]:
    """The environment of a worker process: what it needs to compute, without settings, keys and tokens.

    With `hub` also what reaches the hub of models and data: its settings and the proxies.
    """
    environ = os.environ if environ is None else environ
    names = _CHILD_NAMES | _HUB_NAMES if hub else _CHILD_NAMES
    prefixes = _CHILD_PREFIXES + _HUB_PREFIXES if hub else _CHILD_PREFIXES
    return {
        key: value
        for key, value in environ.items()
        if key in names or key.startswith(prefixes) or (hub and key.upper() in _HUB_NAMES)
    }


def _read_file(path: Path, *, required: bool, known: set[str]) -> dict[str, Any]:
    if not required and not path.exists():
        return {}
    try:
        values = tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigError(
            f"Cannot read the settings file {path}: {error.strerror}.",
            remedy="Check that it is there and who may read it.",
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path} is not valid TOML: {error}.", remedy="Mend it; docs/reference/settings.md shows how it is written."
        ) from error
    _check_known(values, known=known, where=str(path))
    return values


def _check_known(keys: Iterable[str], *, known: set[str], where: str) -> None:
    for key in keys:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            remedy = f"Did you mean {near[0]!r}?" if near else "docs/reference/settings.md lists the settings."
            raise ConfigError(f"{where} has an unknown setting {key!r}.", remedy=remedy)


def _convert(values: dict[str, Any]) -> Settings:
    plain = {key: str(value) if isinstance(value, Path) else value for key, value in values.items()}
    try:
        settings = msgspec.convert(plain, Settings, strict=False, dec_hook=_decode)
    except msgspec.ValidationError as error:
        problem, _, where = str(error).partition(" - at `$.")
        raise ConfigError(
            f"The setting {where.rstrip('`')} has a wrong value: {problem}.",
            remedy="docs/reference/settings.md says what it takes.",
        ) from error
    if settings.log_level not in {"debug", "info", "warning", "error"}:
        raise ConfigError(f"log_level is {settings.log_level!r}.", remedy="Use debug, info, warning or error.")
    if settings.log_format not in {"text", "json"}:
        raise ConfigError(f"log_format is {settings.log_format!r}.", remedy="Use text or json.")
    if not 0 <= settings.port <= 65535:
        raise ConfigError(f"port is {settings.port}.", remedy="Use 1 to 65535, or 0 for a free one.")
    return settings


def _decode(kind: type, value: Any) -> Any:
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise TypeError(f"Expected `{kind.__name__}`, got `{type(value).__name__}`")  # msgspec adds where
