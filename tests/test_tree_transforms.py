"""Every class of tree (masks, biases, dropout) inside each framework's transformations, and as a Python value."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import frameworks
import numpy as np
import pytest
from comparisons import assert_close
from tree_cases import (
    CASES,
    COTANGENT,
    KEY,
    QUERY,
    VALUE,
    WITH_ARRAYS,
    WITH_NUMBERS,
    Array,
    attend,
    expected,
    expected_gradients,
    stacked,
)

from attnspec.contract.tree_classes import TREE_CLASSES
from attnspec.contract.trees import Tree

TOLERANCE = 1e-13

every_case = pytest.mark.parametrize("name", CASES)


# --- as Python values


def test_the_cases_cover_every_class() -> None:
    def classes(tree: Any) -> set[type]:
        children, _ = tree.flatten()
        return {type(tree)}.union(*(classes(child) for child in children if isinstance(child, Tree)))

    assert set().union(*(classes(case.make(*case.first)) for case in CASES.values())) == {*TREE_CLASSES}
    assert {type(case.make(*case.first)) for case in CASES.values()} == {*TREE_CLASSES}


@every_case
def test_equality_hash_and_text(name: str) -> None:
    case = CASES[name]
    tree, twin = case.make(*case.first), case.make(*(array.copy() for array in case.first))
    assert tree == twin
    assert hash(tree) == hash(twin)
    assert {tree: 1}[twin] == 1
    assert (tree != twin) is False
    assert tree != "tree"
    assert tree != None  # noqa: E711 - what `==` says of it
    assert copy.deepcopy(tree) == tree
    if case.text is not None:
        assert repr(tree) == case.text
    if case.other is not None:
        assert type(case.other) is type(tree)
        assert tree != case.other
        assert hash(tree) != hash(case.other)
    if case.first:
        same_structure = case.make(*case.second)
        assert tree != same_structure
        assert hash(tree) == hash(same_structure)  # arrays have no hash
        assert tree.flatten()[1] == same_structure.flatten()[1] or name in ("both", "either", "not", "sum")
    for unequal in CASES:
        assert (unequal == name) == (CASES[unequal].make(*CASES[unequal].first) == tree)
    with pytest.raises(dataclasses.FrozenInstanceError):
        tree.another = 1


@every_case
def test_taken_apart_and_rebuilt(name: str) -> None:
    case = CASES[name]
    tree = case.make(*case.first)
    children, static = tree.flatten()
    rebuilt = type(tree).rebuild(static, children)
    assert rebuilt == tree
    assert hash(rebuilt) == hash(tree)
    assert repr(rebuilt) == repr(tree)
    assert type(tree).__tf_unflatten__(*tree.__tf_flatten__()) == tree
    placeholders = type(tree).rebuild(static, tuple(range(len(children))))  # as `vmap` does for `in_axes`
    assert placeholders.flatten() == (tuple(range(len(children))), static)
    np.testing.assert_array_equal(expected(rebuilt), expected(tree))


# --- JAX


class TestJax:
    jax: Any
    attn: Any

    @pytest.fixture(autouse=True)
    def _load(self) -> None:
        self.attn = frameworks.load("jax")
        import jax

        self.jax = jax

    @every_case
    def test_leaves_and_structure(self, name: str) -> None:
        case, tree_util = CASES[name], self.jax.tree_util
        tree = case.make(*case.first)
        leaves, structure = tree_util.tree_flatten(tree)
        assert len(leaves) == len(case.first)
        for leaf, array in zip(leaves, case.first, strict=True):
            np.testing.assert_array_equal(leaf, array)
        assert tree_util.tree_unflatten(structure, leaves) == tree
        assert structure == tree_util.tree_structure(case.make(*case.second))
        assert case.other is None or structure != tree_util.tree_structure(case.other)
        doubled = self.jax.tree.map(lambda leaf: leaf + leaf, tree)
        np.testing.assert_equal(self.jax.tree.leaves(doubled), [array + array for array in case.first])

    @every_case
    def test_jit_traces_once_for_an_equal_static_part(self, name: str) -> None:
        case, traces = CASES[name], []

        @self.jax.jit
        def function(tree: Any) -> Any:
            traces.append(tree)
            return attend(self.attn, tree)

        for leaves in (case.first, case.second):
            assert_close(function(case.make(*leaves)), expected(case.make(*leaves)), TOLERANCE)
        assert len(traces) == 1
        if case.other is not None:
            assert_close(function(case.other), expected(case.other), TOLERANCE)
            assert len(traces) == 2

    @pytest.mark.parametrize("name", WITH_ARRAYS)
    def test_mapped_scanned_carried_and_chosen(self, name: str) -> None:
        case, jax = CASES[name], self.jax
        each = [case.make(*leaves) for leaves in stacked(case)]
        results = np.stack([expected(tree) for tree in each])
        trees = jax.tree.map(lambda *leaves: np.stack(leaves), *each)
        behind = jax.tree.map(lambda leaf: np.moveaxis(leaf, 0, -1), trees)

        def mapped(trees: Any, axes: Any) -> Any:
            return jax.vmap(lambda _, tree: attend(self.attn, tree), in_axes=(0, axes))(np.arange(3), trees)

        @jax.jit
        def function(trees: Any, behind: Any, first: Any, second: Any) -> Any:
            _, scanned = jax.lax.scan(lambda carry, tree: (carry, attend(self.attn, tree)), 0, trees, length=3)
            by_axes = mapped(behind, jax.tree.map(lambda _: -1, behind))
            swapped, _ = jax.lax.fori_loop(0, 3, lambda _, pair: (pair[1], pair[0]), (first, second))
            chosen = jax.lax.cond(np.arange(3).sum() > 3, lambda: first, lambda: second)
            return (mapped(trees, 0), by_axes, scanned), swapped, chosen

        for result in (answer := function(trees, behind, each[0], each[1]))[0]:
            assert_close(result, results, TOLERANCE)
        for tree in answer[1:]:
            assert jax.tree.structure(tree) == jax.tree.structure(each[1])
            np.testing.assert_equal(jax.tree.leaves(tree), list(case.second))

    @pytest.mark.parametrize("name", WITH_NUMBERS)
    def test_gradients_of_the_leaves(self, name: str) -> None:
        tree = CASES[name].make(*CASES[name].first)

        def loss(tree: Any) -> Any:
            return (attend(self.attn, tree) * COTANGENT).sum()

        given = self.jax.jit(self.jax.grad(loss, allow_int=True))(tree)
        assert self.jax.tree.structure(given) == self.jax.tree.structure(tree)
        actual = [leaf for leaf in self.jax.tree.leaves(given) if leaf.dtype == np.float64]
        for gradient, exact in zip(actual, expected_gradients(tree), strict=True):
            assert np.abs(exact).max() > 0.01
            assert_close(gradient, exact, TOLERANCE)


# --- PyTorch


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

    def native(self, arrays: tuple[Array, ...]) -> list[Any]:
        return [self.torch.tensor(array) for array in arrays]

    def attend(self, tree: Any, query: Any = None) -> Any:
        query, key, value = (self.torch.as_tensor(array) for array in (QUERY if query is None else query, KEY, VALUE))
        return attend(self.attn, tree, query, key, value)

    @every_case
    def test_leaves_and_structure(self, name: str) -> None:
        case, pytree = CASES[name], self.torch.utils._pytree
        tree = case.make(*self.native(case.first))
        leaves, structure = pytree.tree_flatten(tree)
        assert len(leaves) == len(case.first)
        for leaf, array in zip(leaves, case.first, strict=True):
            assert self.torch.equal(leaf, self.torch.tensor(array))
        assert pytree.tree_unflatten(leaves, structure) == tree
        assert pytree.tree_unflatten([leaf.clone() for leaf in leaves], structure) == tree
        assert structure == pytree.tree_structure(case.make(*self.native(case.second)))
        assert case.other is None or structure != pytree.tree_structure(case.other)
        assert_close(self.attend(tree), expected(case.make(*case.first)), TOLERANCE)
        doubled = pytree.tree_map(lambda leaf: leaf + leaf, tree)
        for leaf, array in zip(pytree.tree_leaves(doubled), case.first, strict=True):
            np.testing.assert_array_equal(leaf, array + array)

    @every_case
    def test_vmap_over_the_leaves(self, name: str) -> None:
        case, torch = CASES[name], self.torch
        each = [case.make(*leaves) for leaves in stacked(case)]
        trees = case.make(*case.first)
        if case.first:  # constructors take no axis in front: as everywhere, a stacked tree is a mapped one
            trees = torch.utils._pytree.tree_map(lambda *leaves: torch.tensor(np.stack(leaves)), *each)
        queries = torch.tensor(np.stack([QUERY] * 3))
        axes = torch.utils._pytree.tree_map(lambda _: 0, trees)
        for in_dims in ((0, 0), (0, axes)):
            mapped = torch.func.vmap(lambda query, tree: self.attend(tree, query), in_dims=in_dims)(queries, trees)
            assert_close(mapped, np.stack([expected(tree) for tree in each]), TOLERANCE)

    @every_case
    def test_compiles_whole_and_once_for_an_equal_static_part(self, name: str) -> None:
        case, counter = CASES[name], self.torch._dynamo.testing.CompileCounter()
        arrays = self.native((QUERY, KEY, VALUE))
        function = self.torch.compile(lambda tree: attend(self.attn, tree, *arrays), backend=counter, fullgraph=True)
        for leaves in (case.first, case.second):
            result = function(case.make(*self.native(leaves)))
            assert_close(result, expected(case.make(*leaves)), TOLERANCE)
        assert counter.frame_count == 1
        if case.other is not None:
            other = self.torch.utils._pytree.tree_map(self.torch.tensor, case.other)
            assert_close(function(other), expected(case.other), TOLERANCE)
            assert counter.frame_count == 2

    @pytest.mark.parametrize("name", WITH_NUMBERS)
    @pytest.mark.parametrize("way", ["backward", "compiled", "func"])
    def test_gradients_of_the_leaves(self, name: str, way: str) -> None:
        case, torch = CASES[name], self.torch
        leaves, cotangent, arrays = self.native(case.first), torch.tensor(COTANGENT), self.native((QUERY, KEY, VALUE))
        places = [place for place, leaf in enumerate(leaves) if leaf.is_floating_point()]

        def loss(*numbers: Any) -> Any:
            every = list(leaves)
            for place, number in zip(places, numbers, strict=True):
                every[place] = number
            return (attend(self.attn, case.make(*every), *arrays) * cotangent).sum()

        numbers = tuple(leaves[place].requires_grad_(way != "func") for place in places)
        if way == "func":
            given = torch.func.grad(loss, argnums=tuple(range(len(places))))(*numbers)
        else:
            function = torch.compile(loss, backend="aot_eager", fullgraph=True) if way == "compiled" else loss
            given = torch.autograd.grad(function(*numbers), numbers)
        for gradient, exact in zip(given, expected_gradients(case.make(*case.first)), strict=True):
            assert_close(gradient, exact, TOLERANCE)

    @every_case
    def test_func_grad_of_a_function_that_holds_a_tree(self, name: str) -> None:
        tree = CASES[name].make(*self.native(CASES[name].first))
        query, cotangent = self.torch.tensor(QUERY), self.torch.tensor(COTANGENT)
        given = self.torch.func.grad(lambda query: (self.attend(tree, query) * cotangent).sum())(query)
        backward = query.clone().requires_grad_()
        (self.attend(tree, backward) * cotangent).sum().backward()
        assert_close(given, backward.grad, TOLERANCE)

    @pytest.mark.parametrize("name", ["alibi", "relative", "sum", "bias_array"])
    def test_gradient_of_a_tree_under_vmap(self, name: str) -> None:
        case, torch = CASES[name], self.torch
        each = [case.make(*leaves) for leaves in stacked(case)]
        trees = torch.utils._pytree.tree_map(lambda *leaves: torch.tensor(np.stack(leaves)), *each)
        gradient = torch.func.grad(lambda tree: (self.attend(tree) * torch.tensor(COTANGENT)).sum())
        given = torch.utils._pytree.tree_leaves(torch.func.vmap(gradient)(trees))
        for place, leaf in enumerate(given):
            exact = np.stack([expected_gradients(tree)[place] for tree in each])
            assert_close(leaf, exact, TOLERANCE)


# --- TensorFlow


class TestTensorflow:
    tf: Any
    attn: Any

    @pytest.fixture(autouse=True)
    def _load(self) -> None:
        self.attn = frameworks.load("tensorflow")
        import tensorflow

        self.tf = tensorflow

    def native(self, arrays: tuple[Array, ...]) -> list[Any]:
        return [self.tf.constant(array) for array in arrays]

    @every_case
    def test_nest(self, name: str) -> None:
        case, nest = CASES[name], self.tf.nest
        tree = case.make(*self.native(case.first))
        leaves = nest.flatten(tree)
        assert len(leaves) == len(case.first)
        for leaf, array in zip(leaves, case.first, strict=True):
            np.testing.assert_array_equal(leaf, array)
        assert nest.pack_sequence_as(tree, leaves) == tree
        nest.assert_same_structure(tree, case.make(*self.native(case.second)))
        doubled = nest.map_structure(lambda leaf: leaf, (tree, tree))
        assert doubled == (tree, tree)
        assert_close(attend(self.attn, doubled[1]), expected(case.make(*case.first)), TOLERANCE)

    @every_case
    def test_function_traces_once_for_an_equal_static_part(self, name: str) -> None:
        case, traces = CASES[name], []

        @self.tf.function
        def function(tree: Any) -> Any:
            traces.append(tree)
            return attend(self.attn, tree)

        for leaves in (case.first, case.second):
            result = function(case.make(*self.native(leaves)))
            assert_close(result, expected(case.make(*leaves)), TOLERANCE)
        assert len(traces) == 1
        if case.other is not None:
            for _ in range(2):
                result = function(self.tf.nest.map_structure(self.tf.constant, copy.deepcopy(case.other)))
            assert_close(result, expected(case.other), TOLERANCE)
            assert len(traces) == 2

    @pytest.mark.parametrize("name", WITH_ARRAYS)
    def test_function_takes_numpy_leaves(self, name: str) -> None:
        case = CASES[name]
        function = self.tf.function(lambda tree: attend(self.attn, tree))
        for leaves in (case.first, case.second):
            assert_close(function(case.make(*leaves)), expected(case.make(*leaves)), TOLERANCE)

    @pytest.mark.parametrize("name", WITH_NUMBERS)
    @pytest.mark.parametrize("way", ["eager", "graph", "xla"])
    def test_gradients_of_the_leaves(self, name: str, way: str) -> None:
        case, tf = CASES[name], self.tf

        def differentiate(tree: Any) -> Any:
            numbers = [leaf for leaf in tf.nest.flatten(tree) if leaf.dtype.is_floating]
            with tf.GradientTape() as tape:
                tape.watch(numbers)
                output = attend(self.attn, tree)
            return tape.gradient(output, numbers, output_gradients=tf.constant(COTANGENT))

        function = differentiate if way == "eager" else tf.function(differentiate, jit_compile=way == "xla")
        given = function(case.make(*self.native(case.first)))
        for gradient, exact in zip(given, expected_gradients(case.make(*case.first)), strict=True):
            assert_close(gradient, exact, TOLERANCE)
