"""Real training on a tiny model: a prepared home, a run that nothing disturbed, and ways to disturb others."""

import asyncio
import json
import shutil
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from tandem.compute import Pace
from tandem.compute.systems import Local
from tandem.compute.watch import heartbeats
from tandem.flows import resume
from tandem.kit.config import load_settings
from tandem.server import House
from tandem.spec import (
    AttemptFolder,
    Checkpoints,
    Event,
    Happened,
    Limits,
    Placement,
    Recipe,
    Run,
    RunFolder,
    parse_recipe,
)
from tandem.train.data import prepare
from tests.compute.stand_ins import until

STEPS = 300  # some 3 s: enough for a test to reach a step before the end, however late it comes
PACE = Pace(poll_s=0.05, disk_s=0.2, stop_grace_s=60.0)

RECIPE: dict[str, Any] = {
    "name": "tiny",
    "model": {"shape": {"width": 64, "layers": 2, "heads": 1, "kv_heads": 1, "ffn": 96}},
    "tokenizer": {"vocab": 263},
    "data": [{"format": "code"}],
    "curation": {"held_out": 0.2, "near_duplicates": 0.0},
    "objective": {"name": "fim", "params": {"rate": 0.5}},
    "optimizer": {"lr": 3e-3, "name": "muon"},
    "batch": {"samples": 8, "context": 64},
    "budget": {"steps": STEPS},
    "evaluation": {"every": 10, "samples": 8},
    "export": {"gguf": "f32"},
    "seed": 3,
}


def write_texts(folder: Path) -> Path:
    """A few small programs."""
    folder.mkdir()
    for number in range(12):
        lines = [f"def f{number}_{line}(x):\n    return x * {line} + {number}\n" for line in range(20)]
        (folder / f"part{number}.py").write_text("\n".join(lines))
    return folder


def placed(*, workers: int = 1, every_steps: int = 5, **limits: float) -> Placement:
    """A placement on this machine that saves often; one thread, so that two tests can share it."""
    return Placement(
        workers=workers,
        threads=1,
        device="cpu",
        checkpoints=Checkpoints(every_steps=every_steps),
        limits=msgspec.convert({"restarts": 50, **limits}, Limits),
    )


@dataclass(frozen=True, slots=True)
class Workshop:
    """A house whose data is prepared."""

    house: House
    recipe: Recipe

    def begin(self, placement: Placement, **changes: Any) -> Run:
        """A run that nobody supervises yet; `changes` are made to the tables of the recipe."""
        plain = msgspec.to_builtins(self.recipe)
        for key, value in changes.items():
            plain[key] = {**plain[key], **value} if isinstance(value, dict) else value
        return self.house.runs.create(parse_recipe(plain, where="test"), placement)

    async def supervise(self, run: Run, *, placement: Placement | None = None, system: Local | None = None) -> Run:
        """Supervise a run until it is over or paused."""
        return await resume(run.run_id, house=self.house, pace=PACE, placement=placement, system=system)

    async def disturbed(self, run: Run, disturb: Callable[[Run], Awaitable[None]]) -> Run:
        """Supervise a run while something happens to it."""
        supervising = asyncio.create_task(self.supervise(run))
        disturbing = asyncio.create_task(disturb(run))
        done, _ = await asyncio.wait({supervising, disturbing}, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()
        await disturbing
        return await supervising

    def folder(self, run: Run) -> RunFolder:
        """The folder of a run."""
        return self.house.runs.folder(run.run_id)

    def weights(self, run: Run) -> str:
        """The digest of the trained weights."""
        told = self.told(run, Happened.EXPORTED)[-1].fields["files"]
        return str(told["hf/model.safetensors"]["sha256"])

    def told(self, run: Run, kind: Happened) -> list[Event]:
        """The events of a kind."""
        return [event for event in self.house.runs.events(run.run_id) if event.kind is kind]

    def losses(self, run: Run) -> dict[int, float]:
        """The last held-out loss told for each step."""
        return {event.fields["step"]: event.fields["loss"] for event in self.told(run, Happened.EVALUATED)}

    def endings(self, run: Run) -> list[str]:
        """How the attempts ended."""
        return [event.fields["ending"] for event in self.told(run, Happened.ATTEMPT_ENDED)]

    async def at_step(self, run: Run, step: int) -> AttemptFolder:
        """Wait until the newest attempt has done so many steps."""

        def reached() -> bool:
            return self.newest(run) is not None and any(
                beat.step >= step for beat in heartbeats(self.newest(run), 1) if beat.phase == "train"
            )

        await until(reached)
        return self.newest(run)

    def newest(self, run: Run) -> AttemptFolder | None:
        """The folder of the newest attempt."""
        number = self.folder(run).current_attempt()
        return self.folder(run).attempt(number) if number else None


@contextmanager
def workshop(home: Path, database: Path) -> Iterator[Workshop]:
    """A prepared home with a migrated database."""
    home.mkdir(exist_ok=True)
    shutil.copyfile(database, home / "tandem.db")
    texts = write_texts(home / "texts")
    plain = {**RECIPE, "data": [{"format": "code", "source": f"folder:{texts}"}]}
    recipe = prepare(
        parse_recipe(plain, where="test"), home=home, parent_gguf=None, progress=lambda _step, _done, _total: None
    )
    house = House.as_it_is(load_settings({}, home=home, stop_grace_s=60.0, lease_s=2.0))
    yield Workshop(house, recipe)
    house.db.close()


def flip_a_byte(path: Path) -> None:
    """Change one byte in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def manifest(checkpoint: Path) -> dict[str, Any]:
    """What a checkpoint says of itself."""
    return dict(json.loads((checkpoint / "manifest.json").read_text()))
