"""What an import loads, what it says when a framework is missing or broken, and what it leaves alone.

Every test runs in a process of its own: this one has long imported everything.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import textwrap
from types import ModuleType

import frameworks
import pytest

BLOCK = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {blocked!r}:
            raise ModuleNotFoundError("No module named " + repr({reported!r}), name={reported!r})

sys.meta_path.insert(0, Blocked())
try:
    import attnspec.{module}
except ModuleNotFoundError as error:
    print(repr((error.name, str(error), error.__cause__, error.__suppress_context__)))
"""

STATE = {
    "torch": """
        import torch
        def state():
            return [torch.get_default_dtype(), torch.get_default_device(), torch.get_num_threads(),
                    torch.get_num_interop_threads(), torch.is_grad_enabled(), torch.get_float32_matmul_precision(),
                    torch.are_deterministic_algorithms_enabled(), torch.get_rng_state().tolist()]
        """,
    "tensorflow": """
        import tensorflow as tf
        def state():
            return [tf.executing_eagerly(), tf.config.threading.get_intra_op_parallelism_threads(),
                    tf.config.threading.get_inter_op_parallelism_threads(), tf.config.get_soft_device_placement(),
                    tf.config.experimental.tensor_float_32_execution_enabled(), tf.config.functions_run_eagerly(),
                    tf.config.optimizer.get_jit(), tf.get_logger().level]
        """,
    "jax": """
        import jax
        def state():
            return [sorted(jax.config.values.items(), key=str), jax.numpy.asarray(1.0).dtype]
        """,
}


CHANGE = {
    "torch": "torch.set_default_dtype(torch.float64)",
    "tensorflow": "tf.config.set_soft_device_placement(not tf.config.get_soft_device_placement())",
    "jax": "jax.config.update('jax_enable_x64', True)",
}

MISSING = {
    "torch": "attnspec.torch needs PyTorch, which is not installed; install it with: pip install 'attnspec[torch]'",
    "tensorflow": (
        "attnspec.tensorflow needs TensorFlow, which is not installed; "
        "install it with: pip install 'attnspec[tensorflow]'"
    ),
    "jax": "attnspec.jax needs JAX, which is not installed; install it with: pip install 'attnspec[jax]'",
}


def run(code: str, **variables: str) -> str:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "KERAS_", "PYTHON"))
    }
    environment |= {"TF_CPP_MIN_LOG_LEVEL": "3", **variables}
    finished = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, env=environment, check=False
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout.strip()


@pytest.mark.parametrize("module", ["attnspec.reference", "attnspec.contract"])
def test_import_loads_no_framework(module: str) -> None:
    loaded = run(
        f"import sys, {module}; "
        "print(*sorted({'torch', 'tensorflow', 'jax', 'jaxlib', 'keras', 'flax'} & {*sys.modules}))"
    )
    assert loaded == ""


def test_the_reference_computes_without_a_framework_and_changes_no_global_state() -> None:
    """Its gradients, biases, JSON and positions too: TensorFlow's protocol for trees is looked up by name only."""
    code = """
        import os, random, sys, warnings
        import numpy as np
        import attnspec.reference as attn
        from attnspec import contract
        def everything():
            return [np.geterr(), str(np.random.get_state()), random.getstate(), list(warnings.filters),
                    dict(os.environ), list(sys.path)]
        before = everything()
        x = np.ones((2, 4, 3, 6))
        mask = attn.causal() & attn.segments([0, 0, 1], [0, 1, 1]) | attn.predicate("own", lambda q, k: q == k)
        bias = attn.alibi(symmetric=True) + attn.relative_position_bias(np.ones((4, 4)), bidirectional=False)
        options = dict(mask=mask, bias=bias, sinks=[0.0] * 4, dropout=attn.Dropout(0.5, np.ones((3, 3), bool)))
        gradients = attn.dot_product_attention_vjp(x, x, x, x, **options)
        part = attn.attention_with_logsumexp(x, x, x, bias=bias)
        attn.merge_attention([part.output], [part.logsumexp])
        attn.rotary_embedding_vjp([0, 1, 2], attn.rotary_embedding(x, [0, 1, 2], pairing="interleaved"),
                                  pairing="half_split")
        attn.mask_from_json(attn.mask_to_json(mask), {"own": lambda q, k: q == k})
        config = contract.TextEncoderConfig(6, 3, 1, input_size=5)
        attn.run_layer(config, contract.initial_state(config, 0), [[1, 2, 4]])
        print(before == everything(), type(gradients.bias).__name__,
              *sorted({'torch','tensorflow','jax','jaxlib','keras','flax'} & {*sys.modules}))
        """
    assert run(code) == "True Sum"


@pytest.mark.parametrize(
    ("module", "others"),
    [
        ("torch", "{'tensorflow', 'jax', 'keras', 'flax'}"),
        ("tensorflow", "{'torch', 'jax', 'keras', 'flax'}"),
        ("jax", "{'torch', 'tensorflow', 'keras', 'flax'}"),
    ],
    ids=frameworks.FRAMEWORKS,
)
def test_backend_loads_neither_the_reference_nor_another_backend_nor_layers(module: str, others: str) -> None:
    frameworks.load(module)
    code = f"""
        import sys
        import {module}
        before = {{*sys.modules}}
        import attnspec.{module}
        new = {{*sys.modules}} - before
        print(*sorted(new & {others}), *sorted(name for name in new if name.startswith("attnspec.reference")))
        """
    assert run(code) == ""


@pytest.mark.parametrize(
    ("module", "package", "others"),
    [
        ("torch", "torch", "{'tensorflow', 'jax', 'keras', 'flax'}"),
        ("tensorflow", "keras", "{'torch', 'jax', 'flax'}"),
        ("jax", "flax.nnx", "{'torch', 'tensorflow', 'keras'}"),
    ],
    ids=frameworks.FRAMEWORKS,
)
def test_layers_load_neither_the_reference_nor_another_backend(module: str, package: str, others: str) -> None:
    frameworks.load(module)
    code = f"""
        import sys
        import {package}
        before = {{*sys.modules}}
        import attnspec.{module}
        attnspec.{module}.Transformer, attnspec.{module}.from_native
        new = {{*sys.modules}} - before
        print(*sorted(new & {others}), *sorted(name for name in new if name.startswith("attnspec.reference")))
        """
    assert run(code) == ""


MISSING_LAYERS = {
    ("tensorflow", "keras"): (
        "attnspec.tensorflow.Encoder needs Keras, which is not installed; "
        "install it with: pip install 'attnspec[tensorflow]'"
    ),
    ("jax", "flax"): (
        "attnspec.jax.Encoder needs Flax, which is not installed; install it with: pip install 'attnspec[jax]'"
    ),
}


@pytest.mark.parametrize(("module", "package"), MISSING_LAYERS)
def test_layers_name_what_they_need_and_functions_do_without(module: str, package: str) -> None:
    frameworks.load(module)
    code = f"""
        import sys
        sys.modules["{package}"] = None
        import attnspec.{module} as attn
        print(float(attn.dot_product_attention([[1.0]], [[1.0]], [[2.0]])[0][0]))
        try:
            attn.Encoder
        except ModuleNotFoundError as error:
            print(repr((error.name, str(error), error.__cause__, error.__suppress_context__)))
        """
    printed = run(code).splitlines()
    assert printed == ["2.0", repr((package, MISSING_LAYERS[module, package], None, True))]


def test_keras_on_another_framework_is_refused() -> None:
    for module in ("tensorflow", "jax"):
        frameworks.load(module)
    code = """
        import attnspec.tensorflow as attn
        print(float(attn.dot_product_attention([[1.0]], [[1.0]], [[2.0]])[0, 0]))
        for name in ("Encoder", "from_native"):
            try:
                getattr(attn, name)
            except ImportError as error:
                print(error)
        """
    message = (
        "the layers of attnspec.tensorflow need Keras on TensorFlow; "
        "KERAS_BACKEND is 'jax': set KERAS_BACKEND=tensorflow before Keras is imported"
    )
    assert run(code, KERAS_BACKEND="jax").splitlines() == ["2.0", message, message]


@pytest.mark.parametrize("module", frameworks.FRAMEWORKS)
def test_missing_framework_is_named_with_its_remedy(module: str) -> None:
    assert run(BLOCK.format(blocked=module, reported=module, module=module)) == repr(
        (module, MISSING[module], None, True)
    )


def test_jax_without_jaxlib_counts_as_missing() -> None:
    name, message, *_ = ast.literal_eval(run(BLOCK.format(blocked="jax", reported="jaxlib", module="jax")))
    assert (name, message) == ("jax", MISSING["jax"])


@pytest.mark.parametrize("module", frameworks.FRAMEWORKS)
def test_broken_import_inside_a_framework_passes_through(module: str) -> None:
    printed = run(BLOCK.format(blocked=module, reported="its_dependency", module=module))
    assert printed == repr(("its_dependency", "No module named 'its_dependency'", None, False))


@pytest.mark.parametrize("module", frameworks.FRAMEWORKS)
def test_import_changes_no_global_state(module: str) -> None:
    frameworks.load(module)
    code = textwrap.dedent(STATE[module]) + textwrap.dedent(
        f"""
        import os, random, sys, warnings
        import numpy as np
        def everything():
            return [state(), np.geterr(), np.get_printoptions(), str(np.random.get_state()), random.getstate(),
                    list(warnings.filters), dict(os.environ), list(sys.path)]
        before = everything()
        import attnspec.{module}
        after_import = everything()
        {CHANGE[module]}
        print(before == after_import, before == everything())
        """
    )
    assert run(code) == "True False"  # the second shows that this comparison can fail


def test_namespace_is_empty() -> None:
    assert (
        run("import attnspec; print(attnspec.__file__, [n for n in dir(attnspec) if not n.startswith('__')])")
        == "None []"
    )


def test_missing_backend_is_skipped_here_but_fails_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> ModuleType:
        raise ModuleNotFoundError(f"No module named {name!r}", name="jax")

    monkeypatch.setattr(frameworks.importlib, "import_module", missing)
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match=r"^jax is not installed$"):
        frameworks.load("jax")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match=r"^jax is not installed, and CI may not skip a backend$"):
        frameworks.load("jax")
    with pytest.raises(ModuleNotFoundError):
        frameworks.load("torch")
