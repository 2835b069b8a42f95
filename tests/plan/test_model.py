"""Models as plans see them: the same numbers of weights as the workshop's net, and shapes for a number of weights."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.kit.errors import InvalidRequest
from tandem.plan.flops import Convention
from tandem.plan.model import ModelSize, gpt_parameters, size_of, vocab_of
from tandem.spec.shape import Shape
from tests.plan.published import LLAMA

torch = pytest.importorskip("torch")


@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize(("heads", "kv_heads", "ffn"), [(2, 1, 192), (4, 4, 512), (6, 2, 1024)])
def test_the_workshops_net_has_as_many_weights(*, heads: int, kv_heads: int, ffn: int, tie: bool) -> None:
    from tandem.train.nets.config import NetConfig
    from tandem.train.nets.llama import Llama

    shape = Shape(width=64 * heads, layers=3, heads=heads, kv_heads=kv_heads, ffn=ffn, tie=tie)
    with torch.device("meta"):
        net = Llama(NetConfig.from_shape(shape, vocab=1000, context=128))
    size = ModelSize.of(shape, vocab=1000, context=128)
    assert size.parameters == sum(weight.numel() for weight in net.parameters())
    assert size.embedding_parameters == net.model.embed_tokens.weight.numel()
    assert size.layer_parameters == sum(weight.numel() for weight in net.model.layers[0].parameters())


def test_a_size_is_a_shape_and_back() -> None:
    shape = Shape(width=512, layers=8, heads=8, kv_heads=4, ffn=1792, tie=False)
    assert ModelSize.of(shape, vocab=4096, context=512, name="x").shape == shape


def test_a_tied_table_is_no_input_embedding_that_only_looks_up() -> None:
    tied = size_of(5e7, context=1024)
    assert tied.tie
    assert tied.token_flop(Convention.A) == tied.token_flop(Convention.B), "it computes as the output layer"
    untied = LLAMA["8b"]
    gap = untied.token_flop(Convention.A) - untied.token_flop(Convention.B)
    assert gap == pytest.approx(6 * untied.embedding_parameters)


@given(st.floats(1e5, 2e13), st.sampled_from([512, 8192]))
def test_a_number_of_weights_has_a_usual_shape_near_it(parameters: float, context: int) -> None:
    size = size_of(parameters, context=context)
    # Few shapes are that small; from ten million weights on there is always one near.
    far = 0.06 if parameters >= 1e7 else 0.3 if parameters >= 1e6 else 0.55
    assert size.parameters == pytest.approx(parameters, rel=far)
    assert size.shape, "recipes take it"
    assert size.context == context
    assert size.vocab == vocab_of(parameters)
    assert size_of(parameters, context=context) == size


@given(st.floats(1e7, 9e12))
def test_twice_the_weights_are_a_larger_model(parameters: float) -> None:
    assert size_of(2 * parameters, context=512).parameters > size_of(parameters, context=512).parameters


@given(st.floats(1e10, 2e13))
def test_large_models_divide_over_a_host(parameters: float) -> None:
    size = size_of(parameters, context=8192)
    assert size.heads % 8 == size.kv_heads % 8 == size.ffn % 8 == 0, "tensor parallelism over eight devices"


def test_eight_billion_weights_are_llama_3() -> None:
    assert replace(size_of(8e9, context=8192), name="8b") == LLAMA["8b"]


def test_a_named_vocabulary_is_kept() -> None:
    assert size_of(1e8, context=512, vocab=32_000).vocab == 32_000


@pytest.mark.parametrize("parameters", [0, 9e4, 3e13, float("inf"), float("nan")])
def test_nonsense_has_no_shape(parameters: float) -> None:
    with pytest.raises(InvalidRequest, match="no usual shape"):
        size_of(parameters, context=512)


def test_gpt_2_has_its_weights() -> None:
    # GPT-2 124M: 12 layers of 768, 50,257 tokens, 1,024 positions.
    assert gpt_parameters(layers=12, width=768, vocab=50_257, context=1024) == pytest.approx(124_439_808, rel=1e-4)
