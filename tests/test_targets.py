"""Targets: how they are found, what they are called with, and what is said where they cannot be."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import frameworks
import ml_dtypes
import numpy as np
import pytest

from attnspec.conformance import backend_target, targets
from attnspec.conformance.backends import BACKEND_NAMES, Backend, list_backends, load_backend
from attnspec.conformance.cases import shipped_cases
from attnspec.conformance.implementations import Steps, build
from attnspec.conformance.profiles import PROFILES, profile_for
from attnspec.conformance.targets import (
    CallableTarget,
    MissingFrameworkError,
    TargetError,
    load_target,
    to_numpy,
)

# ruff: noqa: ARG001, ARG005 - what a target takes is the subject, not what it does with it

Array = np.ndarray[Any, Any]

both = build(Steps())
CASES = {case.id: case for case in shipped_cases()}


@pytest.fixture(autouse=True)
def _same_path_afterwards() -> Iterator[None]:
    before, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = before
    for name in set(sys.modules) - modules:
        if name.startswith("attnspec_target_") or name in ("neighbour", "late_neighbour"):
            del sys.modules[name]


def right(*args: Any, **options: Any) -> Array:
    """Give the right output, and no logsumexp beside it."""
    return both(*args, **options)[0]


def run(target: targets.Target, case: str) -> Array:
    """Compute the only result of a case."""
    (output,) = target.run(CASES[case], dict(CASES[case].tensors)).values()
    return output


# Finding a target.


@pytest.mark.parametrize("name", frameworks.MODULES)
def test_built_in_names(name: str) -> None:
    frameworks.load(name)
    target = load_target(name)
    assert target.name == name
    assert target.version.split()[0] == {backend.name: backend.framework for backend in list_backends()}[name]
    assert run(target, "square-float32").shape == (2, 3, 7, 5)
    (dtype,) = target.result_dtypes(CASES["square-float32"])["output"]
    assert dtype == (np.float64 if name == "reference" else np.float32)


PARTIAL_DTYPES: dict[str, dict[str, str]] = {
    "logsumexp-float64": {"output": "float64", "logsumexp": "float64"},
    "logsumexp-bfloat16": {"output": "float32", "logsumexp": "float32"},
    "merge-float16": {"output": "float32", "logsumexp": "float32"},
    "rotary-base-bfloat16": {"output": "bfloat16"},
    "sinusoidal-float16": {"output": "float16"},
    "gradient-sinks-bfloat16": dict.fromkeys(("query", "key", "value", "sinks"), "bfloat16"),
    "gradient-logsumexp-float16": dict.fromkeys(("query", "key", "value"), "float16"),
    "cell-bfloat16": dict.fromkeys(("outputs", "state.memory", "state.output"), "bfloat16"),
    "cached-full-float32": dict.fromkeys(("output", "cache.key", "cache.value"), "float32"),
    "gradient-layer-norm-float32": dict.fromkeys(("inputs", "parameters.weight", "parameters.bias"), "float32"),
}


@pytest.mark.parametrize("case", PARTIAL_DTYPES)
@pytest.mark.parametrize("name", frameworks.MODULES)
def test_results_of_a_backend_are_named_and_have_their_dtypes(name: str, case: str) -> None:
    frameworks.load(name)
    target = load_target(name)
    results = target.run(CASES[case], dict(CASES[case].tensors))
    expected = dict.fromkeys(PARTIAL_DTYPES[case], "float64") if name == "reference" else PARTIAL_DTYPES[case]
    assert {result: str(array.dtype) for result, array in results.items()} == expected
    allowed = target.result_dtypes(CASES[case])
    assert {result: tuple(map(str, dtypes)) for result, dtypes in allowed.items()} == {
        result: (dtype,) for result, dtype in expected.items()
    }


def test_module_and_callable() -> None:
    target = load_target("attnspec.reference:dot_product_attention")
    assert target.name == "attnspec.reference:dot_product_attention"
    assert target.version == "Python callable"


def write(path: Path, source: str) -> Path:
    path.write_text(source, encoding="utf8")
    return path


def test_file_and_callable_with_a_neighbour(tmp_path: Path) -> None:
    write(tmp_path / "neighbour.py", "FACTOR = 2.0\n")
    write(tmp_path / "late_neighbour.py", "SHIFT = 1.0\n")
    path = write(
        tmp_path / "mine.py",
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "from neighbour import FACTOR\n"
        "@dataclass\n"
        "class Settings:\n"
        "    factor: float = FACTOR\n"
        "def attention(query, key, value):\n"
        "    from late_neighbour import SHIFT\n"
        "    return Settings().factor * query + SHIFT\n",
    )
    target = load_target(f"{path}:attention")
    assert target.name == f"{path}:attention"
    case = CASES["square-float32"]
    np.testing.assert_array_equal(run(target, "square-float32"), 2.0 * case.tensors["query"] + 1.0)


def test_a_file_may_have_the_name_of_a_framework(tmp_path: Path) -> None:
    path = write(tmp_path / "torch.py", "def attention(query, key, value):\n    return query\n")
    before = sys.modules.get("torch")
    load_target(f"{path}:attention")
    assert sys.modules.get("torch") is before


def test_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "mine.py", "def attention(query, key, value):\n    return query\n")
    monkeypatch.chdir(tmp_path)
    assert load_target("mine.py:attention").name == "mine.py:attention"


class Layer:
    """A callable object, as layers are."""

    def __call__(self, query: Array, key: Array, value: Array, *, scale: float | None = None) -> Array:
        return right(query, key, value, scale=scale)


@pytest.mark.parametrize(
    ("function", "name"),
    [
        pytest.param(right, "right", id="function"),
        pytest.param(lambda q, k, v, scale=None: right(q, k, v), "<lambda>", id="lambda"),
        pytest.param(Layer(), "Layer", id="object"),
        pytest.param(functools.partial(right, softcap=None), "partial", id="partial"),
        pytest.param(Layer().__call__, "__call__", id="method"),
        pytest.param(lambda q, *rest: right(q, rest[0], rest[1]), "<lambda>", id="positional-rest"),
        pytest.param(lambda q, k, v, /, scale=None: right(q, k, v), "<lambda>", id="positional-only"),
    ],
)
def test_callables(function: Callable[..., Any], name: str) -> None:
    target = load_target(function)
    assert target.name == name
    assert target.unsupported(CASES["square-float32"]) is None
    assert run(target, "square-float32").shape == (2, 3, 7, 5)


# What cannot be found, or called.


REFUSED = {
    "unknown": (
        "tensorflo",
        "^there is no target 'tensorflo': it must be one of reference, .*, or a folder of results; did you mean tensor",
    ),
    "empty": ("", "^there is no target ''"),
    "unknown-native": ("torch.spda", "or a folder of results; did you mean torch.sdpa or .*[?]$"),
    "far-from-all": ("xyz", "^there is no target 'xyz': it must be .*, torch.sdpa, .*, or a folder of results$"),
    "file-without-function": (
        "mine.py",
        "^there is no target 'mine.py': name the function in the file, as in mine.py:my_attention$",
    ),
    "no-function-name": ("mine.py:", "^there is no target 'mine.py:': name the function .* mine.py:my_attention$"),
    "missing-folder": ("nowhere/", "^there is no folder nowhere/$"),
    "folder-without-results": (".", "^the folder . holds no results: there is no file <case id>.safetensors$"),
    "no-module-name": (":attention", "^there is no target ':attention'"),
    "missing-file": ("nowhere.py:attention", "^there is no file nowhere.py$"),
    "missing-module": (
        "no_such_module:attention",
        "^module 'no_such_module' cannot be imported: ModuleNotFoundError: No module named 'no_such_module'$",
    ),
    "missing-function": (
        "mine.py:atention",
        "^mine.py has no callable 'atention'; its functions are: attention, other; did you mean attention[?]$",
    ),
    "not-callable": ("mine.py:SIZE", "^mine.py has no callable 'SIZE'; its functions are: attention, other$"),
    "no-functions": ("constants.py:attention", "^constants.py has no callable 'attention'; its functions are: none$"),
    "import-error": (
        "broken.py:attention",
        "^broken.py cannot be imported: ModuleNotFoundError: No module named 'nobody_has_this'$",
    ),
    "syntax-error": ("misspelt.py:attention", "^misspelt.py cannot be imported: SyntaxError: .*misspelt.py, line 1"),
    "bad-declaration": (
        "declared.py:attention",
        "^declared.py: @target: layout must be 'BHTD' or 'BTHD'; got 'BHDT'$",
    ),
    "exit": ("script.py:attention", "^script.py cannot be imported: SystemExit: 2$"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_not_found(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = "(query, key, value): return query\n"
    write(tmp_path / "mine.py", f"SIZE = 3\ndef attention{arguments}def other{arguments}")
    write(tmp_path / "constants.py", "SIZE = 3\n")
    write(tmp_path / "broken.py", f"import nobody_has_this\ndef attention{arguments}")
    write(tmp_path / "misspelt.py", f"dfe attention{arguments}")
    declared = "from attnspec.conformance import target\n@target(layout='BHDT')\n"
    write(tmp_path / "declared.py", f"{declared}def attention{arguments}")
    write(tmp_path / "script.py", f"def attention{arguments}raise SystemExit(2)")
    spec, message = REFUSED[kind]
    before = list(sys.path)
    with pytest.raises(TargetError, match=message):
        load_target(spec)
    assert [entry for entry in sys.path if entry != str(tmp_path.resolve())] == before
    assert not any(
        name.startswith("attnspec_target_") for name in sys.modules if "mine" not in name and "const" not in name
    )


@pytest.mark.parametrize(
    ("function", "message"),
    [
        pytest.param(lambda query, key: query, r"must take query, key and value; .* is \(query, key\)$", id="two"),
        pytest.param(lambda: None, r"must take query, key and value; its signature is \(\)$", id="none"),
        pytest.param(lambda *, query, key, value: query, "must take query, key and value", id="keyword-only"),
        pytest.param(lambda **given: None, "must take query, key and value", id="keywords"),
        pytest.param(
            lambda q, k, v, num_heads: q,
            "demands `num_heads`, which no case gives; beside query, key and value the keywords are bias, causal_o",
            id="demands-a-fourth",
        ),
        pytest.param(
            lambda q, k, v, *, is_causal: q, "demands `is_causal`, which no case gives", id="demands-a-keyword"
        ),
        pytest.param(lambda q, k, v, mask, /: q, "demands `mask`, which no case gives", id="demands-by-position"),
        pytest.param(type, "the signature of type cannot be read; wrap it in a function", id="no-signature"),
    ],
)
def test_what_cannot_be_called(function: Callable[..., Any], message: str) -> None:
    with pytest.raises(TargetError, match=message):
        load_target(function)


def _without(name: str) -> tuple[Backend, ...]:
    return tuple(backend._replace(version=None) if backend.name == name else backend for backend in list_backends())


@pytest.mark.parametrize("name", frameworks.FRAMEWORKS)
def test_a_missing_framework_says_how_to_install_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend_target, "list_backends", lambda: _without(name))
    with pytest.raises(
        MissingFrameworkError, match=rf"^target '{name}' needs \w+; install it with: pip install 'attnspec"
    ):
        load_target(name)


def test_a_framework_that_does_not_import_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> Any:
        raise ImportError("libfoo.so: cannot open shared object file")

    monkeypatch.setattr(backend_target, "load_backend", broken)
    with pytest.raises(TargetError, match=r"^target 'reference' cannot be imported: ImportError: libfoo\.so"):
        load_target("reference")


def test_backends_are_listed_with_their_availability() -> None:
    backends = {backend.name: backend for backend in list_backends()}
    assert tuple(backends) == BACKEND_NAMES
    assert backends["reference"] == ("reference", "attnspec.reference", "NumPy", np.__version__, "pip install attnspec")
    assert backends["reference"].is_available
    assert backends["jax"].install == "pip install 'attnspec[jax]'"
    assert load_backend("reference").__name__ == "attnspec.reference"


def test_a_folder_is_not_a_framework(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "no_such_framework").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(
        "attnspec.conformance.backends._FRAMEWORKS", (("torch", "PyTorch", "no_such_framework", ("torch",)),)
    )
    (backend,) = list_backends()
    assert not backend.is_available


def test_an_unknown_backend() -> None:
    with pytest.raises(ValueError, match=r"^there is no backend 'numpy'; there are reference, torch, tensorflow, jax$"):
        load_backend("numpy")


# What a callable cannot take.


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        pytest.param("square-float32", None, id="plain"),
        pytest.param("bias-pairs-float32", "the function takes no `bias`", id="bias"),
        pytest.param("causal-end-float32", "the function takes no `mask`", id="mask"),
        pytest.param("softcap-causal-float32", "the function takes no `softcap`", id="softcap"),
        pytest.param("scale-explicit-float32", "the function takes no `scale`", id="scale"),
        pytest.param("sinks-float32", "the function takes no `sinks`", id="sinks"),
        pytest.param("dropout-float32", "the function takes no `dropout_keep`", id="dropout"),
        pytest.param("alibi-float32", "the function takes no `bias`", id="bias-object"),
        pytest.param("segments-float32", "the function takes no `mask`", id="segments"),
        pytest.param(
            "gradient-plain-float32",
            "a plain callable gives no gradients",
            id="gradient",
        ),
        pytest.param(
            "gradient-logsumexp-float32",
            "a plain callable gives no gradients",
            id="gradient-of-partial",
        ),
        pytest.param("logsumexp-float32", None, id="logsumexp"),
        pytest.param("merge-float32", "a plain callable is a dot_product_attention, not a merge_attention", id="merge"),
        pytest.param(
            "rotary-base-float32", "a plain callable is a dot_product_attention, not a rotary_embedding", id="rotary"
        ),
        pytest.param(
            "gradient-rotary-interleaved-float32",
            "a plain callable is a dot_product_attention, not a rotary_embedding",
            id="gradient-of-rotary",
        ),
        pytest.param(
            "self-attention-float32",
            "a plain callable is a dot_product_attention, not a self_attention",
            id="other-operation",
        ),
    ],
)
def test_a_keyword_that_is_not_taken_is_unsupported(case: str, reason: str | None) -> None:
    assert load_target(lambda query, key, value: query).unsupported(CASES[case]) == reason


def test_a_keyword_that_is_demanded_and_not_given_is_unsupported() -> None:
    target = load_target(lambda query, key, value, mask: query)
    assert target.unsupported(CASES["mask-pairs-float32"]) is None
    reason = target.unsupported(CASES["square-float32"])
    assert reason == "the function demands `mask`, which this case does not give"


def test_the_first_three_are_never_keywords() -> None:
    target = load_target(lambda mask, bias, scale: mask)
    assert target.unsupported(CASES["mask-pairs-float32"]) == "the function takes no `mask`"


def test_jax_without_64_bit_is_unsupported_not_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    frameworks.load("jax")
    target = load_target("jax")
    assert target.unsupported(CASES["square-float64"]) is None
    monkeypatch.setattr(backend_target, "jax_has_64_bit", lambda: False)
    assert target.unsupported(CASES["square-float64"]) == "JAX runs without 64-bit numbers (jax_enable_x64)"
    assert target.unsupported(CASES["square-float32"]) is None


def test_profiles_of_another_dtype_leave_a_case_alone() -> None:
    eager = PROFILES["bf16_eager"]
    assert profile_for("bfloat16", eager) is eager
    assert profile_for("float16", eager).name == "fp16_flash"
    assert profile_for("bfloat16", None).name == "bf16_flash"


# Reading outputs.

NUMBERS = [1.0, -0.0, 3.140625, float("inf"), float("nan")]


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", frameworks.MODULES)
def test_outputs_are_read_bit_for_bit(name: str, dtype: str) -> None:
    frameworks.load(name)
    numpy_dtype = np.dtype(getattr(ml_dtypes, dtype, None) or dtype)
    expected = np.array(NUMBERS, numpy_dtype)
    if name == "reference":
        output: Any = expected
    else:
        output = frameworks.tensor(name, NUMBERS, dtype)
    found = to_numpy(output)
    assert found.dtype == numpy_dtype
    assert found.tobytes() == expected.tobytes()


def test_torch_outputs_with_a_gradient_or_of_a_subclass() -> None:
    torch = pytest.importorskip("torch")

    class Mine(torch.Tensor):
        pass

    for dtype in (torch.float32, torch.bfloat16):
        output = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=dtype, requires_grad=True).T * 2
        np.testing.assert_array_equal(to_numpy(output).astype(np.float32), [[2.0, 6.0], [4.0, 8.0]])
        np.testing.assert_array_equal(to_numpy(output.detach().as_subclass(Mine)), to_numpy(output))


@pytest.mark.parametrize(
    ("output", "name"),
    [([1.0], "list"), ("text", "str"), (None, "NoneType"), (1.0, "float")],
    ids=["list", "text", "none", "number"],
)
def test_what_is_no_array(output: Any, name: str) -> None:
    with pytest.raises(TypeError, match=f"^the output must be an array; got {name}$"):
        to_numpy(output)


def test_a_callable_target_may_return_more_than_the_output() -> None:
    target = CallableTarget("pair", lambda q, k, v: (right(q, k, v), np.zeros(2)))
    assert run(target, "square-float32").shape == CASES["square-float32"].expected["output"].shape
