"""Sizes of nets: the shape of a recipe, config.json there and back, and refusals that say why."""

import json
from pathlib import Path
from typing import Any

import pytest

from tandem.kit.errors import IntegrityError, NotFound, UnsupportedFeature
from tandem.spec import Shape
from tandem.train.nets.config import NetConfig, config_json, read_config


def test_a_shape_becomes_sizes() -> None:
    shape = Shape(width=256, layers=3, heads=4, kv_heads=2, ffn=704, rope_theta=500.0, tie=False, norm_eps=1e-6)
    config = NetConfig.from_shape(shape, vocab=320, context=128)
    assert (config.width, config.layers, config.heads, config.kv_heads, config.ffn) == (256, 3, 4, 2, 704)
    assert (config.vocab, config.context, config.head_width) == (320, 128, 64)
    assert (config.rope_theta, config.tie, config.norm_eps) == (500.0, False, 1e-6)


def written(folder: Path, **changes: Any) -> Path:
    config = NetConfig(
        width=192, layers=2, heads=4, kv_heads=2, ffn=96, vocab=64, context=32, rope_theta=5e5, head_width=64
    )
    content = config_json(config) | changes
    kept = {key: value for key, value in content.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(kept))
    return folder


def test_sizes_survive_config_json(tmp_path: Path) -> None:
    config = read_config(written(tmp_path, tie_word_embeddings=False))
    assert (config.head_width, config.heads, config.kv_heads, config.tie, config.rope_theta) == (64, 4, 2, False, 5e5)
    assert config_json(config)["rope_theta"] == config_json(config)["rope_parameters"]["rope_theta"] == 5e5
    assert read_config(written(tmp_path, **config_json(config))) == config


@pytest.mark.parametrize(
    ("changes", "theta"),
    [
        ({"rope_parameters": None}, 5e5),
        ({"rope_theta": None}, 5e5),
        ({"rope_theta": 7.0}, 5e5),
        ({"rope_parameters": None, "rope_theta": None}, 10_000.0),
    ],
    ids=["old", "new", "both", "neither"],
)
def test_the_rope_is_found_where_old_and_new_files_have_it(
    tmp_path: Path, changes: dict[str, Any], theta: float
) -> None:
    assert read_config(written(tmp_path, **changes)).rope_theta == theta


def test_what_a_file_leaves_out_follows_from_the_rest(tmp_path: Path) -> None:
    config = read_config(written(tmp_path, head_dim=None, num_key_value_heads=None))
    assert (config.head_width, config.kv_heads) == (48, 4)


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"architectures": ["MistralForCausalLM"]}, "MistralForCausalLM"),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 1.0}}, "llama3"),
        ({"rope_parameters": None, "rope_scaling": {"type": "linear"}}, "linear"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"attention_bias": True}, "attention has biases"),
        ({"mlp_bias": True}, "feed-forward layers have biases"),
        ({"num_key_value_heads": 3}, "4 heads share 3"),
        ({"head_dim": 63}, "odd"),
    ],
)
def test_what_would_be_computed_otherwise_is_refused(tmp_path: Path, changes: dict[str, Any], cause: str) -> None:
    with pytest.raises(UnsupportedFeature, match=cause) as caught:
        read_config(written(tmp_path, **changes))
    assert caught.value.remedy


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff", b'{"vocab_size": 0}'])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(IntegrityError, match="config.json"):
        read_config(tmp_path)
    with pytest.raises(NotFound, match="config.json"):
        read_config(tmp_path / "nowhere")
