"""Our attention inside models of Transformers computes what the models' own "eager" attention computes.

The models are tiny and random, and compute in float64 only (`Double`): nothing but the attention can differ, and that
only by roundings. Padded positions are left out: what a query without any visible key gets is 0 here, and the mean of
all values there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from torch.overrides import TorchFunctionMode  # noqa: E402 - behind the line that may skip
from transformers import (  # noqa: E402
    AttentionInterface,
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertModel,
    Gemma2Config,
    Gemma2ForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    StaticCache,
    T5Config,
    T5ForConditionalGeneration,
)

from examples import hugging_face  # noqa: E402

VOCABULARY, LENGTH, LAYERS = 29, 7, 2
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 24,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "intermediate_size": 13,
    "pad_token_id": 0,
}
GROUPED: dict[str, Any] = {**SIZES, "num_key_value_heads": 2, "head_dim": 6, "bos_token_id": 1, "eos_token_id": 2}
STOPS: dict[str, Any] = {"decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 2}
MODELS: dict[str, Callable[[], Any]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**GROUPED)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**GROUPED, sliding_window=3)),
    "gemma2": lambda: Gemma2ForCausalLM(Gemma2Config(**GROUPED, sliding_window=3, attn_logit_softcapping=1.5)),
    "gpt_oss": lambda: GptOssForCausalLM(
        GptOssConfig(
            **GROUPED, sliding_window=3, num_local_experts=3, num_experts_per_tok=2, experts_implementation="eager"
        )
    ),
    "bert": lambda: BertModel(BertConfig(**SIZES), add_pooling_layer=False),
    "t5": lambda: T5ForConditionalGeneration(
        T5Config(
            vocab_size=VOCABULARY,
            d_model=24,
            d_kv=5,
            d_ff=13,
            num_layers=LAYERS,
            num_heads=4,
            relative_attention_num_buckets=6,
            relative_attention_max_distance=5,
            **STOPS,
        )
    ),
    "bart": lambda: BartForConditionalGeneration(
        BartConfig(
            vocab_size=VOCABULARY,
            d_model=24,
            encoder_layers=LAYERS,
            decoder_layers=LAYERS,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=13,
            decoder_ffn_dim=13,
            forced_eos_token_id=None,
            **STOPS,
        )
    ),
}
GENERATING = [name for name in MODELS if name != "bert"]
TOLERANCE = 1e-10
"""Of numbers of size 1 to 100, after some hundred operations in float64."""


class Double(TorchFunctionMode):
    """Takes float64 wherever a model asks for float32: in its normalisations, softmax and rotary positions."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.Tensor.float:
            function = torch.Tensor.double
        args = tuple(torch.float64 if value is torch.float32 else value for value in args)
        kwargs = {name: torch.float64 if value is torch.float32 else value for name, value in (kwargs or {}).items()}
        return function(*args, **kwargs)


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    hugging_face.register()
    with Double():
        yield


def build(name: str) -> Any:
    """Build a model whose attention is far from uniform."""
    torch.manual_seed(5)
    model = MODELS[name]().double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
    return model.eval()


def inputs(padding: str) -> tuple[Any, Any]:
    ids = torch.tensor(np.random.default_rng(3).integers(3, VOCABULARY, (3, LENGTH)))
    valid = torch.ones_like(ids)
    hidden = slice(0, 3) if padding == "left" else slice(LENGTH - 3, LENGTH)
    if padding != "none":
        valid[1, hidden] = 0
    return ids, valid


def run(model: Any, implementation: str, ids: Any, valid: Any, **options: Any) -> Any:
    model.set_attn_implementation(implementation)
    if model.config.is_encoder_decoder:
        options["decoder_input_ids"] = ids[:, :5]
    return model(ids, attention_mask=valid, **options)


def read(model: Any, result: Any, valid: Any) -> Any:
    """Take what was computed for real tokens."""
    return result[0] if model.config.is_encoder_decoder else result[0][valid.bool()]


@pytest.mark.parametrize("padding", ["none", "left", "right"])
@pytest.mark.parametrize("name", MODELS)
def test_results_are_those_of_eager(name: str, padding: str) -> None:
    model, (ids, valid) = build(name), inputs(padding)
    with torch.no_grad():
        theirs, ours = (read(model, run(model, one, ids, valid), valid) for one in ("eager", "attnspec"))
    torch.testing.assert_close(ours, theirs, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("gemma2", "softcap"),
        ("gpt_oss", "s_aux"),
        ("t5", "position_bias"),
        ("mistral", "attention_mask"),
        ("bert", "attention_mask"),
        ("llama", "scaling"),
    ],
)
def test_an_option_that_is_lost_would_be_noticed(name: str, option: str) -> None:
    def losing(module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **options: Any) -> Any:
        options["attention_mask"] = attention_mask
        options["is_causal"] = False
        return hugging_face.attention(module, query, key, value, **{**options, option: None})

    AttentionInterface.register("losing", losing)
    transformers.AttentionMaskInterface.register("losing", hugging_face.boolean_mask)
    model, (ids, valid) = build(name), inputs("left")
    if option == "scaling":  # the default is right for this model: another one is not
        for layer in model.model.layers:
            layer.self_attn.scaling = 1.0
    with torch.no_grad():
        right, wrong = (read(model, run(model, one, ids, valid), valid) for one in ("eager", "losing"))
    assert (right - wrong).abs().max() > 1e-2


def generate(model: Any, implementation: str, ids: Any, valid: Any, **options: Any) -> tuple[Any, Any]:
    """Return the generated tokens, and the logits that each was the largest of."""
    model.set_attn_implementation(implementation)
    options |= {"max_new_tokens": 9, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
    result = model.generate(ids, attention_mask=valid, **options)
    return result.sequences, torch.stack(result.logits)


def assert_same_generation(ours: tuple[Any, Any], theirs: tuple[Any, Any]) -> None:
    assert ours[0].tolist() == theirs[0].tolist()
    assert len(ours[1]) == 9
    torch.testing.assert_close(ours[1], theirs[1], rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("name", GENERATING)
def test_the_same_tokens_are_generated_with_a_cache(name: str) -> None:
    model, (ids, valid) = build(name), inputs("left")
    theirs, ours = (generate(model, one, ids, valid) for one in ("eager", "attnspec"))
    assert_same_generation(ours, theirs)


def test_a_cache_of_fixed_size_is_masked_where_it_is_empty() -> None:
    model, (ids, valid) = build("llama"), inputs("left")
    cache = StaticCache(config=model.config, max_cache_len=LENGTH + 11)
    growing = generate(model, "attnspec", ids, valid)
    assert_same_generation(generate(model, "attnspec", ids, valid, past_key_values=cache), growing)


def test_gradients_of_all_parameters_are_those_of_eager() -> None:
    model, (ids, valid) = build("llama"), inputs("left")
    labels, found = ids.clone(), []
    labels[1, :4] = -100  # neither padding nor the first token, which padding would have to foretell
    for one in ("eager", "attnspec"):
        model.zero_grad()
        run(model, one, ids, valid, labels=labels).loss.backward()
        found.append([parameter.grad for parameter in model.parameters()])
    for theirs, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("name", ["gemma2", "gpt_oss", "bert", "t5"])
def test_weights_are_returned_where_they_are_asked_for(name: str) -> None:
    model, (ids, valid) = build(name), inputs("left")
    with torch.no_grad():
        theirs, ours = (run(model, one, ids, valid, output_attentions=True) for one in ("eager", "attnspec"))
    key = "encoder_attentions" if name == "t5" else "attentions"
    assert len(ours[key]) == LAYERS
    for mine, weights in zip(ours[key], theirs[key], strict=True):
        is_read = valid.bool()[:, None, :].expand(weights.shape[:3])
        torch.testing.assert_close(mine[is_read], weights[is_read], rtol=TOLERANCE, atol=TOLERANCE)
        if name in ("gemma2", "gpt_oss"):  # the first tokens of row 1 are padding, and see padding only
            assert (mine[1, :, :3] == 0).all()
    with torch.no_grad():
        assert not run(model, "attnspec", ids, valid).get(key)


def call(**options: Any) -> tuple[Any, Any, Any]:
    """Call the attention by itself; the values are unit vectors, so that the output is the weights."""
    generator = torch.Generator().manual_seed(1)
    query, key = (torch.randn(2, heads, 5, 3, generator=generator).double() for heads in (4, 2))
    value = torch.eye(5).double().expand(2, 2, 5, 5)
    module = torch.nn.Module()
    output, weights = hugging_face.attention(module, query, key, value, options.pop("mask", None), **options)
    return output.transpose(1, 2), weights, (query, key.repeat_interleave(2, dim=1))


def test_dropout_drops_the_share_that_it_says_and_scales_the_rest() -> None:
    whole, _, _ = call()
    torch.manual_seed(7)
    dropped, weights, _ = call(dropout=0.25, output_attentions=True)
    kept = dropped != 0
    torch.testing.assert_close(dropped[kept], (whole / 0.75)[kept], rtol=1e-14, atol=0.0)
    torch.testing.assert_close(weights, whole, rtol=1e-14, atol=0.0)
    # No mask is causal, as for "sdpa": 2 · 4 · 15 weights are not 0 to begin with. Three standard deviations are 0.12.
    assert 1 - kept.sum() / 120 == pytest.approx(0.25, abs=0.12)
    again, _, _ = call(dropout=0.25)
    assert not torch.equal(dropped, again)


def test_training_draws_dropout_and_evaluation_does_not() -> None:
    model, (ids, valid) = build("llama"), inputs("none")
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    with torch.no_grad():
        first, second = (run(model, "attnspec", ids, valid)[0] for _ in range(2))
        assert torch.equal(first, second)
        model.train()
        first, second = (run(model, "attnspec", ids, valid)[0] for _ in range(2))
    assert not torch.equal(first, second)


def test_floating_masks_hide_where_they_are_least_and_add_elsewhere() -> None:
    least = torch.finfo(torch.float64).min
    mask = torch.tensor([[0.0, 1.5, least, -torch.inf, -2.0]]).double().expand(2, 1, 5, 5)
    bias = torch.linspace(-1.0, 1.0, 100).double().reshape(1, 4, 5, 5)
    output, weights, (query, key) = call(mask=mask, position_bias=bias, scaling=0.7)
    assert weights is None
    expected = torch.softmax(0.7 * query @ key.mT + bias + mask, dim=-1)
    torch.testing.assert_close(output, expected, rtol=1e-13, atol=0.0)
    assert (output[..., 2:4] == 0).all()


@pytest.mark.parametrize(("is_causal", "visible"), [(None, 15), (True, 15), (False, 25)])
def test_without_a_mask_the_module_says_whether_attention_is_causal(is_causal: bool | None, visible: int) -> None:
    output, _, _ = call(is_causal=is_causal)
    assert (output[0, 0] != 0).sum() == visible


def test_half_precision_stays() -> None:
    with torch.no_grad():
        model = build("llama").to(torch.bfloat16)
        result = run(model, "attnspec", *inputs("left"), output_attentions=True)
    assert (result.logits.dtype, result.attentions[0].dtype) == (torch.bfloat16, torch.bfloat16)


@pytest.mark.parametrize("name", ["sinks", "cache", "cu_seq_lens_q"])
def test_what_cannot_be_computed_is_refused(name: str) -> None:
    with pytest.raises(NotImplementedError, match=rf"^Module needs {name}, which attnspec does not have$"):
        call(**{name: torch.zeros(3)})
