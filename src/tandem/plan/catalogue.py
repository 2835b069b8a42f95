"""The hardware catalogue: accelerators, hosts, prices and systems from reviewed TOML, each row with date and source."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Literal, TypeVar

import msgspec

from tandem.kit.errors import InvalidRequest, NotFound
from tandem.kit.typed import converted, parse_toml

Precision = Literal["bf16", "fp16", "fp8", "fp4", "fp32"]
"""What products of matrices are computed in."""

_Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")]
_Positive = Annotated[float, msgspec.Meta(gt=0, le=1e30)]
_NotNegative = Annotated[float, msgspec.Meta(ge=0, le=1e30)]
_Share = Annotated[float, msgspec.Meta(gt=0, le=1)]
_Count = Annotated[int, msgspec.Meta(ge=1, le=10**7)]
_Bytes = Annotated[int, msgspec.Meta(ge=1, le=2**50)]
_Date = Annotated[str, msgspec.Meta(pattern=r"^(\d{4}-\d{2}(-\d{2})?)?\Z")]
_PAGE = "docs/reference/catalogue.md"
_WIDE: frozenset[Precision] = frozenset({"bf16", "fp16", "fp32"})
_WIDE_SHARE, _NARROW_SHARE = 0.6, 0.5  # of the peak that products reach, see docs/reference/planner.md


class _Row(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A row: immutable, and nothing in it is unknown."""

    source: str = ""
    """Where this is known from."""
    date: _Date = ""
    """When that was so."""
    name: str = ""
    """The row's name; not written in it."""


class Accelerator(_Row, frozen=True):
    """One device."""

    memory_bytes: _Bytes
    """Its own memory."""
    memory_bytes_per_s: _Positive
    """What it reads from it."""
    peak_flops: dict[Precision, _Positive]
    """Dense peaks by precision, one of 16 or 32 bits among them."""
    power_w: _NotNegative = 0.0
    """At most; 0 where it is not known."""
    reached_share: dict[Precision, _Share] = {}
    """Of the peaks that large products of matrices reach in training; 0.6 where nobody says, 0.5 from 8 bits down."""
    attention_share: _Share = 0.2
    """Of the 16-bit peak that causal attention reaches, its half square counted."""

    def peak_of(self, precision: Precision) -> float:
        """Dense peak in FLOP/s.

        Raises:
            InvalidRequest: the device has no such units; names those it has.
        """
        if precision not in self.peak_flops:
            raise InvalidRequest(
                f"The accelerator {self.name} has no peak for {precision}.",
                remedy=f"Use {', '.join(sorted(self.peak_flops))}, or add the peak to your catalogue.toml.",
                param="precision",
            )
        return self.peak_flops[precision]

    def reached_flops(self, precision: Precision) -> float:
        """FLOP/s of large products of matrices.

        Raises:
            InvalidRequest: the device has no such units.
        """
        usual = _NARROW_SHARE if precision in {"fp8", "fp4"} else _WIDE_SHARE
        return self.peak_of(precision) * self.reached_share.get(precision, usual)


class Host(_Row, frozen=True):
    """A machine with devices of one kind."""

    accelerator: _Name
    """Which device; a row of the accelerators."""
    devices: _Count
    """How many."""
    inside_bytes_per_s: _Positive
    """What each device can send to others of its host, one way."""
    between_bytes_per_s: _Positive
    """What each device can send to other hosts, one way."""
    storage_bytes_per_s: _Positive = 2e9
    """What a host writes to checkpoint storage; 2 GB/s where nobody says otherwise."""


class Price(_Row, frozen=True):
    """What a host costs."""

    host: _Name
    """Which one."""
    usd_per_hour: _NotNegative
    """US dollars for an hour of the whole host."""
    kind: Literal["on-demand", "spot", "reserved", "owned"] = "on-demand"
    """How it is had; spot hosts are taken away at times."""


class SystemRow(_Row, frozen=True):
    """A system: hosts of one kind that are there to be used."""

    host: _Name
    """Which kind."""
    hosts: _Count
    """How many of them at most."""
    price: str = ""
    """Which row of the prices; empty takes the host's first one."""
    region: str = ""
    """Where it stands."""
    failures_per_1000_node_days: _NotNegative = 4.0
    """Interruptions per 1,000 hosts and days: 2 to 16 are usual."""
    restart_s: _NotNegative = 600.0
    """From a failure until training goes on."""
    about: str = ""
    """For people."""


class _Tables(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    accelerators: dict[_Name, Accelerator] = {}
    hosts: dict[_Name, Host] = {}
    prices: dict[_Name, Price] = {}
    systems: dict[_Name, SystemRow] = {}


_KINDS: Mapping[str, type[_Row]] = {
    "accelerators": Accelerator,
    "hosts": Host,
    "prices": Price,
    "systems": SystemRow,
}

RowT = TypeVar("RowT", bound=_Row)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """So many hosts of a system, with everything that arithmetic needs of their rows."""

    name: str
    accelerator: Accelerator
    host: Host
    hosts: int
    price: Price | None = None
    failures_per_1000_node_days: float = 4.0
    restart_s: float = 600.0
    region: str = ""

    @property
    def devices(self) -> int:
        """All of them."""
        return self.hosts * self.host.devices

    @property
    def usd_per_hour(self) -> float:
        """Of all hosts; 0 where no price is known."""
        return self.hosts * self.price.usd_per_hour if self.price else 0.0

    @property
    def usd_per_device_hour(self) -> float:
        """Of one device; 0 where no price is known."""
        return self.price.usd_per_hour / self.host.devices if self.price else 0.0

    def of_hosts(self, hosts: int) -> "Cluster":
        """The same with another number of hosts."""
        return replace(self, hosts=hosts)

    @property
    def rows(self) -> tuple[str, ...]:
        """The rows that it is made of, for the derivation: kind, name, source and date."""
        device, host = self.accelerator, self.host
        rows = [
            f"accelerator {device.name} ({_sourced(device.source, device.date)})",
            f"host {host.name} ({_sourced(host.source, host.date)})",
        ]
        if self.price is not None:
            told = f"{self.price.usd_per_hour:g} USD/h {self.price.kind}"
            rows.append(f"price {self.price.name}: {told} ({_sourced(self.price.source, self.price.date)})")
        return tuple(rows)


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All rows, checked against each other."""

    accelerators: Mapping[str, Accelerator]
    hosts: Mapping[str, Host]
    prices: Mapping[str, Price]
    systems: Mapping[str, SystemRow]

    def cluster(self, name: str, *, hosts: int | None = None, price: str | None = None) -> Cluster:
        """So many hosts of a system, or of a host's kind; all that the system has where nobody says.

        Raises:
            NotFound: there is no system, host or price of this name; names those there are.
            InvalidRequest: the system has fewer hosts, or the price is another host's.
        """
        system = self.systems.get(name)
        if system is None and name not in self.hosts:
            known = ", ".join([*self.systems, *self.hosts])
            raise NotFound(f"The catalogue has no system or host {name[:80]!r}.", remedy=f"It has {known}.")
        host = self.hosts[system.host if system else name]
        most = system.hosts if system else None
        count = hosts if hosts is not None else most or 1
        if count < 1 or (most is not None and count > most):
            raise InvalidRequest(
                f"{count} hosts of {name} cannot be had; it has {most or 'at least 1'}.",
                remedy=f"Ask for 1 to {most or 'any number of'} hosts.",
                param="hosts",
            )
        found = self._price(host, price or (system.price if system else ""))
        told = system or SystemRow(host=host.name, hosts=count)
        return Cluster(
            name=name,
            accelerator=self.accelerators[host.accelerator],
            host=host,
            hosts=count,
            price=found,
            failures_per_1000_node_days=told.failures_per_1000_node_days,
            restart_s=told.restart_s,
            region=told.region,
        )

    def _price(self, host: Host, name: str) -> Price | None:
        if not name:
            return next((price for price in self.prices.values() if price.host == host.name), None)
        if name not in self.prices:
            raise NotFound(
                f"The catalogue has no price {name[:80]!r}.", remedy=f"It has {', '.join(self.prices) or 'none'}."
            )
        if self.prices[name].host != host.name:
            raise InvalidRequest(
                f"The price {name} is for {self.prices[name].host}, not for {host.name}.",
                remedy="Name a price of that host.",
                param="price",
            )
        return self.prices[name]


def parse_catalogue(text: str, *, where: str, over: Catalogue | None = None) -> Catalogue:
    """A catalogue from TOML; its rows replace those of `over` that have the same name.

    Raises:
        InvalidRequest: it is none, or a row names another that is not there; names `where` and the key.
    """
    tables = _tables(parse_toml(text, what="the catalogue", where=where), where=where)
    found = Catalogue(
        accelerators=_named(tables.accelerators, over.accelerators if over else {}),
        hosts=_named(tables.hosts, over.hosts if over else {}),
        # A person's own price comes before those of the house.
        prices=_named(tables.prices, {})
        | {name: row for name, row in (over.prices if over else {}).items() if name not in tables.prices},
        systems=_named(tables.systems, over.systems if over else {}),
    )
    for key, named, known in _references(found):
        if named and named not in known:
            raise InvalidRequest(
                f"The catalogue {where} is wrong at {key}: there is no {named!r}.",
                remedy=f"{_PAGE} lists the keys; the names there are: {', '.join(known)}.",
                param=key,
            )
    return found


def _tables(table: Mapping[str, object], *, where: str) -> _Tables:
    """The rows as they are typed; each by itself first, so that a refusal names the row."""
    for group, kind in _KINDS.items():
        rows = table.get(group)
        for name, row in rows.items() if isinstance(rows, dict) else ():
            converted(row, kind, what=f"the row {group}.{name} of the catalogue", where=where, page=_PAGE)
    tables = converted(table, _Tables, what="the catalogue", where=where, page=_PAGE)
    for name, device in tables.accelerators.items():
        if not _WIDE & set(device.peak_flops):
            raise InvalidRequest(
                f"The row accelerators.{name} of the catalogue {where} is wrong at peak_flops: it has no peak of 16 or "
                "32 bits, in which attention and logits are computed whatever the products are.",
                remedy=f"Give one of {', '.join(sorted(_WIDE))} too.",
                param="peak_flops",
            )
    return tables


def _references(found: Catalogue) -> list[tuple[str, str, Mapping[str, object]]]:
    return [
        *((f"hosts.{name}.accelerator", row.accelerator, found.accelerators) for name, row in found.hosts.items()),
        *((f"prices.{name}.host", row.host, found.hosts) for name, row in found.prices.items()),
        *((f"systems.{name}.host", row.host, found.hosts) for name, row in found.systems.items()),
        *((f"systems.{name}.price", row.price, found.prices) for name, row in found.systems.items()),
    ]


def _named(rows: Mapping[str, RowT], over: Mapping[str, RowT]) -> dict[str, RowT]:
    return {**over, **{name: msgspec.structs.replace(row, name=name) for name, row in rows.items()}}


def _sourced(source: str, date: str) -> str:
    return ", ".join(filter(None, (source or "no source given", date)))
