"""Outside witnesses: what Hugging Face's transformers compute, from their own sources, for the options they share.

Nothing here is a dependency of the package: without transformers these tests are skipped.
"""

import importlib
import warnings
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from attention_cases import DIMS, GROUPED, draw
from comparisons import assert_close

from attnspec import reference
from attnspec.contract.biases import alibi_slopes, relative_position_buckets

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

FLOAT32 = 2.0**-24


def load(model: str) -> ModuleType:
    """Import one model's source."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what it warns of while it is imported is not ours to fix
        return importlib.import_module(f"transformers.models.{model}.modeling_{model}")


@pytest.mark.parametrize(
    ("buckets", "bidirectional", "limit"),
    [
        (32, True, 128),
        (32, False, 128),
        (64, True, 256),
        (320, True, 800),
        (8, True, 20),
        (12, False, 100),
        (10, False, 50),
        (16, False, 17),
        (2, False, 8),
    ],
)
def test_t5_buckets(buckets: int, bidirectional: bool, limit: int) -> None:
    """All distances from −300 to 300, and the edges of every bucket: no rounding of theirs moves one of these."""
    distances = np.arange(-max(300, limit + 5), max(300, limit + 5) + 1)
    attention: Any = load("t5").T5Attention
    theirs = attention._relative_position_bucket(torch.tensor(distances), bidirectional, buckets, limit)
    ours = np.array(relative_position_buckets(buckets, bidirectional, limit))[np.clip(distances, -limit, limit) + limit]
    np.testing.assert_array_equal(ours, theirs.numpy())
    assert set(ours.tolist()) <= set(range(buckets))


@pytest.mark.parametrize("heads", [1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 20, 24, 25, 32, 40, 63, 64, 71, 112, 128])
def test_bloom_slopes(heads: int) -> None:
    """BLOOM adds slope · (position of the key), which differs from −slope · distance by a constant of the row."""
    alibi = load("bloom").build_alibi_tensor(torch.ones(1, 5), heads, torch.float32).reshape(heads, 5)
    np.testing.assert_allclose(alibi_slopes(heads), alibi[:, 1].double().numpy(), rtol=40 * FLOAT32)
    np.testing.assert_allclose((alibi / alibi[:, 1:2]).numpy(), np.tile(np.arange(5.0), (heads, 1)), rtol=1e-6)


def test_bloom_attention() -> None:
    query, key, value = draw(DIMS._replace(queries=7))
    alibi = load("bloom").build_alibi_tensor(torch.ones(2, 7), 3, torch.float64).reshape(2, 3, 1, 7).double().numpy()
    causal = reference.causal()
    theirs = reference.dot_product_attention(query, key, value, mask=causal, bias=alibi)
    for symmetric in (True, False):
        ours = reference.dot_product_attention(
            query, key, value, mask=causal, bias=reference.alibi(symmetric=symmetric)
        )
        assert_close(ours, theirs, 1e-6)


@pytest.mark.parametrize("heads", [1, 2, 4, 8, 16, 64])
def test_mpt_slopes_of_powers_of_two(heads: int) -> None:
    """MPT orders the slopes of other numbers of heads in its own way; for powers of two there is one way."""
    alibi = load("mpt").build_mpt_alibi_tensor(heads, 2).reshape(heads, 2)
    np.testing.assert_allclose(alibi_slopes(heads), -alibi[:, 0].double().numpy(), rtol=8 * FLOAT32)


@pytest.mark.parametrize(
    "sinks", [[0.5, -1.0, 2.0, 0.0, 4.0, -3.0], [-1000.0] * 6, [30.0] * 6], ids=["few", "none", "all"]
)
def test_gpt_oss_sinks(sinks: list[float]) -> None:
    query, key, value = draw(GROUPED)
    module = SimpleNamespace(num_key_value_groups=2, sinks=torch.tensor(sinks, dtype=torch.float64), training=False)
    mask = np.triu(np.full((5, 7), -np.inf), 3)
    output, weights = load("gpt_oss").eager_attention_forward(
        module, *(torch.tensor(array) for array in (query, key, value)), torch.tensor(mask), 0.4
    )
    stages = reference.attention_stages(
        query, key, value, sinks=np.array(sinks), mask=reference.causal("end"), scale=0.4
    )
    assert_close(stages.weights, weights.numpy(), 1e-13)
    assert_close(stages.output, output.transpose(1, 2).numpy(), 1e-13)


def test_llama_turns_pairs_of_halves() -> None:
    query, key, _ = (torch.tensor(array) for array in draw(GROUPED._replace(head_dim=12, keys=5)))
    positions = np.array([[0, 1, 2, 3, 4], [9, 70, 800, 5, 5]])
    angles = positions[..., None] * 10000.0 ** (-np.arange(0, 12, 2) / 12)
    angles = torch.tensor(np.concatenate([angles, angles], axis=-1))
    theirs = load("llama").apply_rotary_pos_emb(query, key, angles.cos(), angles.sin())
    for array, expected in zip((query, key), theirs, strict=True):
        actual = reference.rotary_embedding(array.numpy(), positions, pairing="half_split")
        assert_close(actual, expected.numpy(), 1e-14)


def test_gptj_turns_neighbours() -> None:
    query = draw(DIMS._replace(head_dim=12))[0]
    positions = np.array([0, 3, 1, 70, 11])
    gptj: Any = load("gptj")
    sines, cosines = gptj.create_sinusoidal_positions(71, 8)[positions].double().chunk(2, dim=-1)
    turned = torch.tensor(query.swapaxes(1, 2)[..., :8])
    theirs = gptj.apply_rotary_pos_emb(turned, sines.expand(2, -1, -1), cosines.expand(2, -1, -1))
    actual = reference.rotary_embedding(query, positions, pairing="interleaved", rotary_dim=8)
    # Their angles are float32: 70 radians are known to 70 u, and so is each component.
    assert np.abs(actual[..., :8] - theirs.numpy().swapaxes(1, 2)).max() <= 4 * 70 * FLOAT32 * np.abs(query).max()
    np.testing.assert_array_equal(actual[..., 8:], query[..., 8:])
    by_tables = reference.rotate_pairs(query, cosines.numpy(), sines.numpy(), pairing="interleaved")
    assert_close(by_tables[..., :8], theirs.numpy().swapaxes(1, 2), 1e-15)
