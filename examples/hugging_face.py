"""The attention of attnspec inside models of Hugging Face Transformers.

    python -m examples.hugging_face

`register()` adds a name to the library's `AttentionInterface`, beside "eager" and "sdpa": every model that looks its
attention up there can then be built with `attn_implementation="attnspec"`, or changed later by
`model.set_attn_implementation("attnspec")`. Grouped heads, softcap, sinks, position biases, windows, caches and dropout
are the model's own; a query that may see nothing gets 0, as everywhere in attnspec (S10), where "eager" averages all
values.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    BertConfig,
    BertModel,
    GptOssConfig,
    GptOssForCausalLM,
    PreTrainedModel,
)
from transformers.masking_utils import sdpa_mask

import attnspec.torch as attn

_REFUSED = ("sinks", "cache", "cu_seq_lens_q", "cu_seq_lens_k")
"""What some models pass to some kernels and this attention cannot honour: a sink for each query, paged caches, packed
sequences without a mask."""


def register(name: str = "attnspec") -> None:
    """Make `attn_implementation=name` known to Transformers."""
    AttentionInterface.register(name, attention)
    AttentionMaskInterface.register(name, boolean_mask)


def boolean_mask(**arguments: Any) -> Tensor:
    """Build the mask of a model, (B, 1, Tq, Tk), True where a query may attend, even where it could be left out."""
    arguments |= {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
    mask: Tensor = sdpa_mask(**arguments)
    return mask


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    position_bias: Tensor | None = None,
    is_causal: bool | None = None,
    output_attentions: bool = False,
    **others: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attend as a layer of a model asks for it.

    Args:
        module: the layer.
        query: (B, Hq, Tq, D); rotary positions are in it.
        key, value: (B, Hkv, Tk, D), where Hkv divides Hq, with what the cache holds.
        attention_mask: of `boolean_mask`; a user's own floating mask (B, 1 or Hq, Tq, Tk), which is added, but hides
            where it is the least number of its dtype; or None.
        dropout: of the weights, in training.
        scaling: by default 1/√D.
        softcap: of the scores.
        s_aux: one sink for each head, (Hq,).
        position_bias: added to the scores, (1 or B, Hq, Tq, Tk).
        is_causal: whether no mask means a causal one; by default what the module says, as for "sdpa".
        output_attentions: whether the weights are wanted.
        others: what is not for the attention.

    Returns:
        The output, (B, Tq, Hq, D), and the weights before dropout, (B, Hq, Tq, Tk), or None.

    Raises:
        NotImplementedError: the model wants what this attention does not have.
    """
    refused = [name for name in _REFUSED if others.get(name) is not None]
    if refused:
        raise NotImplementedError(f"{type(module).__name__} needs {', '.join(refused)}, which attnspec does not have")
    mask, bias = _as_mask(attention_mask, position_bias)
    if (
        mask is None
        and query.shape[-2] > 1
        and (getattr(module, "is_causal", True) if is_causal is None else is_causal)
    ):
        mask = attn.causal(0)
    kept = None
    if dropout:
        pairs = (*query.shape[:-1], key.shape[-2])
        kept = attn.Dropout(dropout, torch.rand(pairs, device=query.device) >= dropout)
    options = {"mask": mask, "bias": bias, "scale": scaling, "softcap": softcap, "sinks": s_aux, "dropout": kept}
    if output_attentions:
        stages = attn.attention_stages(query, key, value, **options)
        output, weights = stages.output, stages.weights.to(query.dtype)
    else:
        output, weights = attn.dot_product_attention(query, key, value, **options), None
    return output.transpose(1, 2).contiguous(), weights


def _as_mask(mask: Tensor | None, bias: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """Part a mask of Transformers into what hides and what is added."""
    if mask is None or mask.dtype == torch.bool:
        return mask, bias
    hides = mask <= torch.finfo(mask.dtype).min
    added = torch.where(hides, 0.0, mask)
    return ~hides, added if bias is None else added + bias


def main() -> None:
    """Run two models with "eager" and with our attention, and show how far they differ."""
    register()
    torch.manual_seed(0)
    bert = BertModel(BertConfig(hidden_size=48, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64))
    gpt = GptOssForCausalLM(
        GptOssConfig(
            vocab_size=96,
            hidden_size=48,
            intermediate_size=32,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            sliding_window=5,
            num_local_experts=4,
            num_experts_per_tok=2,
            pad_token_id=0,
            eos_token_id=1,
        )
    )
    ids = torch.randint(2, 96, (3, 11))
    valid = torch.ones_like(ids)
    valid[1, :4] = 0  # padding on the left, as generation wants it
    for model in (bert, gpt):
        _compare(model.eval(), ids, valid)
    tokens = {name: _generate(gpt, name, ids, valid) for name in ("eager", "attnspec")}
    print("the same 12 tokens are generated:", torch.equal(tokens["eager"], tokens["attnspec"]))


def _compare(model: PreTrainedModel, ids: Tensor, valid: Tensor) -> None:
    outputs = []
    for name in ("eager", "attnspec"):
        model.set_attn_implementation(name)
        with torch.inference_mode():
            outputs.append(model(ids, attention_mask=valid)[0])
    difference, largest = (outputs[0] - outputs[1])[valid.bool()].abs().max(), outputs[0].abs().max()
    print(f"{type(model).__name__}: differs from eager by {difference:.1e} at most; numbers up to {largest:.1f}")


def _generate(model: PreTrainedModel, name: str, ids: Tensor, valid: Tensor) -> Tensor:
    model.set_attn_implementation(name)
    return model.generate(ids, attention_mask=valid, max_new_tokens=12, do_sample=False)


if __name__ == "__main__":
    main()
