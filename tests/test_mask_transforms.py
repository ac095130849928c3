"""What masks alone do inside transformations: clamping, comparing what is traced, far offsets, compiled gradients.

What every tree does there is in test_tree_transforms.
"""

from __future__ import annotations

from typing import Any

import frameworks
import numpy as np
import pytest
from numpy.testing import assert_array_equal

import attnspec.reference
from attnspec.contract import Mask, causal, full, key_lengths, sliding_window

BATCH, LENGTH, SIZE = 2, 3, 5
QUERY = np.arange(BATCH * LENGTH * SIZE, dtype=np.float64).reshape(BATCH, LENGTH, SIZE) / 7.0
PAIRS = np.array([[True, False, False], [False, True, True], [True, True, False]])


def expected(mask: Mask) -> Any:
    return attnspec.reference.dot_product_attention(QUERY, QUERY, QUERY, mask=mask)


class TestJax:
    jax: Any
    attn: Any

    @pytest.fixture(autouse=True)
    def _load(self) -> None:
        self.attn = frameworks.load("jax")
        import jax

        self.jax = jax

    def attend(self, query: Any, mask: Mask) -> Any:
        return self.attn.dot_product_attention(query, query, query, mask=mask)

    def test_tree_map_may_put_anything_where_arrays_were(self) -> None:
        mask = self.jax.tree.map(lambda _: 0, key_lengths([1, 2]))
        assert self.jax.tree.leaves(mask) == [0]
        assert self.jax.tree.structure(mask) == self.jax.tree.structure(key_lengths([1, 2]))

    def test_traced_lengths_beyond_the_keys_are_clamped(self) -> None:
        got = self.jax.jit(self.attend)(QUERY, key_lengths(np.array([9, 1])))
        np.testing.assert_allclose(got, expected(key_lengths([LENGTH, 1])), rtol=1e-12)

    def test_traced_masks_are_unequal_not_an_error(self) -> None:
        found = []

        @self.jax.jit
        def compare(left: Any, right: Any) -> Any:
            found.append((key_lengths(left) == key_lengths(right), key_lengths(left) != key_lengths(right)))
            found.append(hash(key_lengths(left)) == hash(key_lengths(right)))
            return left

        compare(np.array([1, 2]), np.array([1, 2]))
        assert found == [(False, True), True]

    def test_grad_of_a_function_that_takes_a_mask(self) -> None:
        def total(query: Any, mask: Mask) -> Any:
            return self.attend(query, mask).sum()

        gradient = self.jax.jit(self.jax.grad(total))(QUERY, key_lengths([1, 0]))
        # One visible key: the output is its value, so only the value's gradient is left; none: nothing.
        assert_array_equal(gradient, [[[LENGTH] * SIZE, [0] * SIZE, [0] * SIZE], np.zeros((LENGTH, SIZE))])

    def test_far_offsets_without_64_bit(self) -> None:
        with self.jax.enable_x64(False):
            query = QUERY.astype(np.float32)
            expected_far = self.attend(query, key_lengths([LENGTH, 0]))
            largest = self.jax.numpy.array([2**31 - 1, -(2**31)])
            for mask in (causal(largest), causal([2**40, -(2**40)]), causal(np.array([2**63 - 1, -(2**63)]))):
                got = self.attn.attention_stages(query, query, query, mask=mask).logits > -np.inf
                assert_array_equal(got.all(axis=(1, 2)), [True, False])
                assert_array_equal(got.any(axis=(1, 2)), [True, False])
                assert_array_equal(self.jax.jit(self.attend)(query, mask), expected_far)
            unsigned = self.jax.numpy.array([2**32 - 1, 0], np.uint32)
            assert_array_equal(self.jax.jit(self.attend)(query, key_lengths(unsigned)), expected_far)


class TestTorch:
    torch: Any
    attn: Any

    @pytest.fixture(autouse=True)
    def _load(self) -> None:
        self.attn = frameworks.load("torch")
        import torch
        import torch._dynamo.testing

        self.torch = torch
        torch._dynamo.reset()

    def attend(self, query: Any, mask: Mask) -> Any:
        return self.attn.dot_product_attention(query, query, query, mask=mask)

    @pytest.mark.parametrize(
        ("first", "second"),
        [
            (causal(), causal()),
            (causal("end") | ~full(), causal("end") | ~full()),
            (sliding_window(1, 0, [0, 1]), sliding_window(1, 0, [0, 1])),
            (PAIRS & causal(), PAIRS & causal()),
        ],
        ids=["static", "combined", "numpy offset", "numpy array"],
    )
    def test_compiles_whole_and_once_for_an_equal_mask(self, first: Mask, second: Mask) -> None:
        counter = self.torch._dynamo.testing.CompileCounter()
        attend = self.torch.compile(self.attend, backend=counter, fullgraph=True)
        query = self.torch.tensor(QUERY)
        np.testing.assert_allclose(attend(query, first), expected(first), rtol=1e-12)
        np.testing.assert_allclose(attend(query, second), expected(second), rtol=1e-12)
        assert counter.frame_count == 1

    def test_compiles_once_for_other_lengths(self) -> None:
        counter = self.torch._dynamo.testing.CompileCounter()
        attend = self.torch.compile(self.attend, backend=counter, fullgraph=True)
        for lengths in ([1, 3], [2, 2]):
            got = attend(self.torch.tensor(QUERY), causal() & key_lengths(self.torch.tensor(lengths)))
            np.testing.assert_allclose(got, expected(causal() & key_lengths(lengths)), rtol=1e-12)
        assert counter.frame_count == 1

    def test_grad_of_a_function_that_takes_a_mask(self) -> None:
        gradient = self.torch.func.grad(lambda query, mask: self.attend(query, mask).sum())
        got = gradient(self.torch.tensor(QUERY), key_lengths(self.torch.tensor([1, 0])))
        assert_array_equal(got, [[[LENGTH] * SIZE, [0] * SIZE, [0] * SIZE], np.zeros((LENGTH, SIZE))])

    def test_mapped_masks_are_unequal_not_an_error(self) -> None:
        found = []

        def compare(left: Any, right: Any) -> Any:
            found.append(key_lengths(left) == key_lengths(right))
            return left

        self.torch.func.vmap(compare)(self.torch.tensor([1, 2]), self.torch.tensor([1, 2]))
        assert found == [False]


class TestTensorflow:
    tf: Any
    attn: Any

    @pytest.fixture(autouse=True)
    def _load(self) -> None:
        self.attn = frameworks.load("tensorflow")
        import tensorflow

        self.tf = tensorflow

    def attend(self, query: Any, mask: Mask) -> Any:
        return self.attn.dot_product_attention(query, query, query, mask=mask)

    def test_symbolic_masks_are_unequal_not_an_error(self) -> None:
        found = []

        @self.tf.function
        def compare(left: Any, right: Any) -> Any:
            found.append(key_lengths(left) == key_lengths(right))
            return left

        compare(self.tf.constant([1, 2]), self.tf.constant([1, 2]))
        assert found == [False]

    def test_gradient_of_a_compiled_function_that_takes_a_mask(self) -> None:
        query = self.tf.Variable(QUERY)
        with self.tf.GradientTape() as tape:
            total = self.tf.reduce_sum(self.tf.function(self.attend)(query, key_lengths(self.tf.constant([1, 0]))))
        gradient = tape.gradient(total, query)
        assert_array_equal(gradient, [[[LENGTH] * SIZE, [0] * SIZE, [0] * SIZE], np.zeros((LENGTH, SIZE))])
