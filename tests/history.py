"""A home with a past, for tests of lineage, cards and retention: runs, versions, evidence, releases, deployments."""

import shutil
from pathlib import Path
from typing import Any

from msgspec import UNSET

from tandem.accounts import Outcome, Principal
from tandem.accounts.journal import Reserved, Writer, settled, settlement_bytes, to_line
from tandem.accounts.tables import usage_events
from tandem.formats.tiny import write_tiny_gguf
from tandem.kit.config import Settings
from tandem.kit.signing import signed
from tandem.registry import Dataset, Standing, first_charter, register_run, sealed
from tandem.serve import DeployOptions
from tandem.server import House
from tandem.spec import Evidence, Metric, RunFolder, Version
from tests.adapters import write_tiny_adapter
from tests.run_folders import BEGAN, write_run

HOSTILE = '<script>alert("1")</script> | `x` & \x00 [a](javascript:b) # *c*'
"""A text that is markup in each language that we write."""
SUITE = f"sha256:{'5' * 64}"


def opened(settings: Settings, migrated_sqlite: Path) -> House:
    """A house with an empty database."""
    shutil.copy(migrated_sqlite, settings.home / "tandem.db")
    return House.as_it_is(settings)


def trained(house: House, run_id: str = "run_0001", *, size: int = 512, **changes: object) -> Version:
    """A finished run and its version; `size` makes its bytes others, `changes` are made to the recipe."""
    folder = write_run(house.settings.home, run_id, **changes)
    _export(folder, size)
    return registered(house, run_id)


def adapted(house: House, parent: Version, run_id: str = "run_0002", *, seed: int = 1, **changes: object) -> Version:
    """A finished LoRA run from a tiny parent, and its version; `seed` makes its bytes others."""
    model = {"parent": parent.ref, "parent_sha256": parent.whole}
    folder = write_run(house.settings.home, run_id, **{"name": "tuned", "model": model, "adapter": {}, **changes})
    export_adapted(folder, house.registry.file(parent.whole), seed=seed)
    return registered(house, run_id)


def export_adapted(folder: RunFolder, parent: Path, *, seed: int = 1, **merged: Any) -> None:
    """What a LoRA run leaves; `merged` says in what its merged model differs besides its weights."""
    folder.export.mkdir(parents=True)
    write_tiny_gguf(folder.export / "model.gguf", **{"context_length": 512, "seed": seed, **merged})
    write_tiny_adapter(folder.export / "adapter.gguf", parent, seed=seed)


def registered(house: House, run_id: str) -> Version:
    """The version of a run whose export is there."""
    run = house.runs.read(run_id)
    house.runs.reindex()
    house.datasets.record(run_id, house.runs.recipe(run_id))
    return register_run(run, house.registry, house.runs, house.datasets)


def _export(folder: RunFolder, size: int) -> None:
    folder.export.mkdir(parents=True)
    write_tiny_gguf(folder.export / "model.gguf", context_length=size)


def dataset_of(house: House, run_id: str = "run_0001") -> Dataset:
    """The dataset of a run."""
    return house.datasets.of_run(run_id)[0]


def chartered(house: House) -> None:
    """A charter of one person."""
    public = house.members.make("ada")
    text = first_charter("home", {"lab": {"ada": public}}, solo=True)
    house.charters.propose(text, [house.members.key("ada")])


def measured(house: House, version: Version, suite: str = "quality-code", **metrics: float) -> str:
    """Signed evidence on a version; returns its digest."""
    transcripts = house.registry.blobs.put(_text(house, f"transcripts of {suite} on {version.ref}"))
    document = Evidence(
        version=version.ref,
        digest=version.artifact.digest,
        base=version.artifact.base or UNSET,
        suite=suite,
        suite_digest=SUITE,
        metrics=tuple(
            Metric(name=name, value=value, low=value - 0.01, high=value + 0.01, samples=50)
            for name, value in metrics.items()
        ),
        answered=50,
        filtered=0,
        failed=0,
        transcripts=transcripts.digest,
        engine="fake 1",
        hardware={"processor": "AVX2"},
        measured_at=BEGAN,
    )
    return house.evidence.add(signed(sealed(document), house.members.key("ada")))


def _text(house: House, text: str) -> Path:
    path = house.settings.home / "scratch"
    path.write_text(text)
    return path


def released(house: House, version: Version) -> Standing:
    """A release in force, with the evidence that the code class of the first charter wants."""
    if house.charters.chain().current is None:
        chartered(house)
    measured(house, version, edit_similarity=0.6, edit_similarity_gain=0.3)
    measured(house, version, "regression", failures=0.0)
    standing = house.releases.request(version.ref, by="ada")
    return house.releases.sign(standing.digest, [house.members.key("ada")])


def deployed(house: House, version: Version, name: str = "code", *, owner: str = "") -> None:
    """A deployment of a version."""
    house.deployments.bind(name, version=version, options=DeployOptions(), engine="fake", owner=owner)


def answered(house: House, digits: str, version: str, *, caller: Principal, deployment: str = "code") -> str:
    """A response that the ledger has folded; returns its id in the ledger."""
    row = {
        "id": f"req_{digits}",
        "tenant_id": caller.tenant,
        "key_id": caller.key_id,
        "deployment": deployment,
        "version": version,
        "operation": "chat.completions",
        "surface": "openai",
        "outcome": "ok",
        "prompt_tokens": 10,
        "cached_tokens": 0,
        "completion_tokens": 20,
        "reserved_tokens": 100,
        "started_at": BEGAN,
        "settled_at": BEGAN,
        "duration_ms": 5,
    }
    house.db.run_sync(lambda connection: connection.execute(usage_events.insert(), row))
    return str(row["id"])


def journaled(folder: Path, digits: str, version: str, *, caller: Principal, ended: bool = True) -> str:
    """A response that only the journal of a running gateway has; returns its id in the ledger."""
    own = f"req_{digits}"
    writer = Writer(folder, segment_bytes=4096, fsync=False)
    segment = writer.new_segment(0)
    reserved = Reserved(own, caller.tenant, caller.key_id, "code", version, "embeddings", "azure", 100, BEGAN)
    segment.reserve(to_line(reserved), settlement_bytes(own))
    if ended:
        end = settled(own, Outcome.OK, tokens=(10, 0, 20), settled_ms=BEGAN, duration_ms=5)
        segment.settle(to_line(end), settlement_bytes(own))
    segment.close()
    return own
