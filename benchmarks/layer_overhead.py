"""How long a layer takes beside the function that it calls: `python benchmarks/layer_overhead.py`.

Multi-head attention over 512 positions, model size 512, 8 heads, float32, no gradients; calls in turn, medians. The
functions are called with the layer's own parameters, compiled and not compiled.
"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

LENGTH, MODEL_SIZE, HEADS, REPEATS = 512, 512, 8, 60


def torch_pair(compiled: bool) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Return the calls of the function and of the layer."""
    import torch

    import attnspec.torch as attn

    layer = attn.MultiHeadAttention(MODEL_SIZE, HEADS).eval().requires_grad_(False)
    inputs, parameters = torch.randn(1, LENGTH, MODEL_SIZE), layer.parameter_tree()

    def function(x: Any) -> Any:
        return attn.multi_head_attention(x, x, x, parameters, num_heads=HEADS)

    ours = functools.partial(torch.compile, fullgraph=True) if compiled else lambda f: f
    return functools.partial(ours(function), inputs), functools.partial(ours(layer), inputs)


def tensorflow_pair(compiled: bool) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Return the calls of the function and of the layer."""
    import tensorflow as tf

    import attnspec.tensorflow as attn

    layer = attn.MultiHeadAttention(MODEL_SIZE, HEADS)
    inputs = tf.random.normal((1, LENGTH, MODEL_SIZE))
    layer(inputs)
    parameters = layer.parameter_tree()

    def function(x: Any) -> Any:
        return attn.multi_head_attention(x, x, x, parameters, num_heads=HEADS)

    ours = functools.partial(tf.function, autograph=False) if compiled else lambda f: f
    return functools.partial(ours(function), inputs), functools.partial(ours(layer.__call__), inputs)


def jax_pair(compiled: bool) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Return the calls of the function and of the layer."""
    import jax
    from flax import nnx

    import attnspec.jax as attn

    layer = attn.MultiHeadAttention(MODEL_SIZE, HEADS, rngs=nnx.Rngs(0))
    inputs, parameters = jax.random.normal(jax.random.key(0), (1, LENGTH, MODEL_SIZE)), layer.parameter_tree()

    def function(parameters: Any, x: Any) -> Any:
        return attn.multi_head_attention(x, x, x, parameters, num_heads=HEADS)

    if not compiled:
        return lambda: function(parameters, inputs).block_until_ready(), lambda: layer(inputs).block_until_ready()
    # As Flax advises for small calls: `nnx.jit` itself takes a millisecond to take a layer apart.
    definition, state = nnx.split(layer)
    function, called = jax.jit(function), jax.jit(lambda state, x: nnx.merge(definition, state)(x))
    return lambda: function(parameters, inputs).block_until_ready(), lambda: called(state, inputs).block_until_ready()


def main() -> None:
    """Print a table."""
    print("framework   compiled   function ms   layer ms   ratio")
    for name, pair in (("torch", torch_pair), ("tensorflow", tensorflow_pair), ("jax", jax_pair)):
        for compiled in (False, True):
            calls = pair(compiled)
            times: tuple[list[float], list[float]] = ([], [])
            for turn in range(REPEATS + 5):
                for i in (turn % 2, 1 - turn % 2):
                    started = time.perf_counter()
                    calls[i]()
                    times[i].append(time.perf_counter() - started)
            function, layer = (1e3 * statistics.median(part[5:]) for part in times)
            print(f"{name:11} {'yes' if compiled else 'no':8} {function:13.2f} {layer:10.2f} {layer / function:7.3f}")


if __name__ == "__main__":
    main()
