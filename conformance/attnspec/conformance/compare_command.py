"""The command `attnspec compare`. Everything heavy is imported inside, so that `attnspec --help` is immediate."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from attnspec.contract import Mask

    from .compare import Comparison
    from .example_files import Example

AGREES, DISAGREES, WRONG_USAGE = 0, 1, 2

_OFFSET = re.compile(r"end|-?\d+")


class InputProblem(click.ClickException):
    """Files or options that do not fit: one line, without the usage text that `click.UsageError` adds."""

    exit_code = WRONG_USAGE


class _CompareCommand(click.Command):
    """Lets `--causal` stand alone, before a file too: click would take the file for its value."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, _complete_causal(args))


def _complete_causal(args: list[str]) -> list[str]:
    completed: list[str] = []
    for i, arg in enumerate(args):
        if arg == "--":
            return completed + args[i:]
        has_offset = i + 1 < len(args) and _OFFSET.fullmatch(args[i + 1]) is not None
        completed.append("--causal=" if arg == "--causal" and not has_offset else arg)
    return completed


@click.command(name="compare", cls=_CompareCommand)
@click.argument("files", nargs=-1, metavar="[FILE | SAVED SAVED]", type=click.Path(path_type=Path))
@click.option(
    "--op",
    "operation",
    metavar="NAME",
    help="dot_product_attention (default), self_attention, key_value_attention or multi_head_attention.",
)
@click.option("--causal", metavar="[OFFSET]", help="Causal mask; OFFSET is a number or end (--causal=end).")
@click.option("--window", metavar="LEFT,RIGHT[,OFFSET]", help="Sliding window, such as 256,0 or ,2 or 4,.")
@click.option("--key-lengths", metavar="N,…", help="How many keys are real, for each batch element.")
@click.option("--query-lengths", metavar="N,…", help="How many queries are real, for each batch element.")
@click.option("--scale", type=float, help="Instead of 1/sqrt(head size).")
@click.option("--softcap", type=float, help="Scores become c * tanh(score / c).")
@click.option("--num-heads", type=int, help="For multi_head_attention, which needs it.")
@click.option("--num-kv-heads", type=int, help="For multi_head_attention; by default as many as heads.")
@click.option("--dtype", metavar="NAME", help="Convert the tensors to float64, float32, bfloat16 or float16.")
@click.option("--profile", metavar="NAME", help="The arithmetic that targets are held to, such as bf16_eager.")
@click.option(
    "--target",
    "targets",
    multiple=True,
    metavar="TARGET",
    help="What is compared with the reference, as for verify: a name, module:callable or path.py:callable; repeatable. "
    "Default: every installed backend.",
)
@click.option("--example", metavar="NAME", help="Real input that ships with attnspec, instead of FILE: fox or minilm.")
@click.option("--template", metavar="OP", help="Write an example input for an operation to FILE (.json) and stop.")
@click.option("--output", type=click.Path(path_type=Path), help="Save all outputs to this .safetensors file.")
@click.option(
    "--json",
    "json_path",
    type=click.Path(path_type=Path, allow_dash=True),
    help="Write the result as JSON (- for standard output, instead of the tables).",
)
@click.option("--html", "html_path", type=click.Path(path_type=Path), help="Draw attention maps as a page, .html.")
@click.option("--png", "png_path", type=click.Path(path_type=Path), help="Draw attention maps as a picture, .png.")
def compare_command(files: tuple[Path, ...], template: str | None, output: Path | None, **options: Any) -> None:
    """Run the same inputs on every framework and show who differs, from which stage on, and by how much.

    \b
    attnspec compare inputs.npz --causal
    attnspec compare inputs.json --target torch --target my_kernel.py:attention
    attnspec compare one.safetensors other.safetensors      two files that --output wrote
    attnspec compare --example fox
    attnspec compare --example minilm --html maps.html      what every head looks at, and where frameworks differ

    FILE is .npz, .safetensors or .json and holds query, key, value and optionally mask and bias (other operations: the
    names of their arguments). An output agrees if no element's error exceeds its derived bound: error / bound <= 1.

    Exit codes: 0 agreement, 1 disagreement, 2 wrong usage, 3 the harness itself failed.
    """
    from .comparison_files import InputError
    from .targets import TargetError

    try:
        if template is not None:
            _refuse("--template", options, output)
            code = _write_template(template, files)
        elif len(files) == 2:
            json_path = options.pop("json_path")
            _refuse("two saved files", options, output)
            code = _compare_saved(*files, json_path)
        else:
            code = _compare(files, output, **options)
    except (InputError, TargetError) as error:
        raise InputProblem(str(error)) from None
    raise SystemExit(code)


def _compare(
    files: tuple[Path, ...],
    output: Path | None,
    *,
    operation: str | None,
    causal: str | None,
    window: str | None,
    key_lengths: str | None,
    query_lengths: str | None,
    scale: float | None,
    softcap: float | None,
    num_heads: int | None,
    num_kv_heads: int | None,
    dtype: str | None,
    profile: str | None,
    targets: tuple[str, ...],
    example: str | None,
    json_path: Path | None,
    html_path: Path | None,
    png_path: Path | None,
) -> int:
    from .children import ENVIRONMENT, silence
    from .compare import answer, load_targets
    from .comparison_files import InputError
    from .comparison_question import pose
    from .example_files import Example, find_example

    if len(files) > 2 or (files and example is not None) or not (files or example):
        raise InputError(f"give one file of inputs, or two of saved outputs, or --example NAME; got {_show(files)}")
    _check_writable(output, ".safetensors")
    _check_writable(json_path, None)
    for drawing, suffix in ((html_path, ".html"), (png_path, ".png")):
        _check_drawing(drawing, suffix)
    mask = _read_masks(causal, window, key_lengths, query_lengths)
    shipped = Example(files[0], "") if example is None else find_example(example)
    try:
        question = pose(
            shipped.path,
            operation=operation or "dot_product_attention",
            mask=_both(shipped.mask, mask),
            scale=scale,
            softcap=softcap,
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            dtype=dtype,
            profile=profile,
        )
    except InputError as error:
        raise InputError(str(error) + _offset_hint(str(error))) from None
    if example is not None:
        question = question.renamed(f"example {example}")
    os.environ.update(ENVIRONMENT)  # before the first framework is imported
    with contextlib.redirect_stdout(sys.stderr):  # what a target prints must not mix with the report
        with silence():
            loaded = load_targets(targets or None)
        comparison = answer(question, loaded)
    return _report(comparison, shipped, output, json_path, [path for path in (html_path, png_path) if path is not None])


def _report(
    comparison: Comparison, source: Example, output: Path | None, json_path: Path | None, drawings: list[Path]
) -> int:
    from .comparison_tables import print_comparison, print_meaning
    from .tables import new_console

    if json_path is not None:
        _write_json(json_path, comparison.to_json())
    console = new_console()
    if str(json_path) != "-":
        if source.description:
            console.print(source.description, markup=False, soft_wrap=True)
        print_comparison(console, comparison)
        if comparison.question.inputs.tokens is not None:
            print_meaning(console, comparison)
    if output is not None:
        with _writing(output):
            comparison.save(output)
        unsaved = [row.target for row in comparison.rows if row.output is None]
        note = f"; without output: {', '.join(unsaved)}" if unsaved else ""
        click.echo(f"{len(comparison.rows) - len(unsaved)} outputs saved to {output}{note}", err=True)
    for path in drawings:
        with _writing(path):
            comparison.draw(path, source.names)
        click.echo(f"attention maps drawn to {path}", err=True)
    if comparison.is_empty:
        raise InputProblem("no target could take the inputs")
    return AGREES if comparison.agrees else DISAGREES


def _compare_saved(left: Path, right: Path, json_path: Path | None) -> int:
    from .comparison_tables import print_saved
    from .saved_comparisons import compare_saved
    from .tables import new_console

    _check_writable(json_path, None)
    differences = compare_saved(left, right)
    if json_path is not None:
        _write_json(json_path, differences.to_json())
    if str(json_path) != "-":
        print_saved(new_console(), differences)
    return AGREES if differences.agrees else DISAGREES


def _write_template(operation: str, files: tuple[Path, ...]) -> int:
    from .comparison_files import InputError
    from .example_files import template_command, template_text

    text = template_text(operation)
    if not files:
        click.echo(text, nl=False)
        return AGREES
    if len(files) > 1 or files[0].suffix != ".json":
        raise InputError(f"--template writes one .json file; got {_show(files)}")
    path = files[0]
    if path.exists():
        raise InputError(f"{path}: this file exists already; choose another name")
    _check_writable(path, ".json")
    with _writing(path):
        path.write_text(text, encoding="utf8")
    click.echo(f"wrote {path}; run it with: {template_command(operation, str(path))}")
    return AGREES


def _refuse(what: str, options: dict[str, Any], output: Path | None) -> None:
    """Refuse options that would be ignored."""
    from .comparison_files import InputError

    given = [name for name, value in {**options, "output": output}.items() if value not in (None, ())]
    if given:
        spelled = {"operation": "op", "targets": "target", "json_path": "json", "html_path": "html", "png_path": "png"}
        named = ", ".join(f"--{spelled.get(name, name).replace('_', '-')}" for name in given)
        raise InputError(f"{what} cannot be combined with {named}")


def _read_masks(
    causal: str | None, window: str | None, key_lengths: str | None, query_lengths: str | None
) -> Mask | None:
    from attnspec import contract

    mask: Mask | None = None
    offset = None if causal is None else _read_offset("--causal", causal or None)
    if causal is not None:
        mask = contract.causal(offset)
    if window is not None:
        left, right, own = _read_window(window, is_causal=causal is not None)
        mask = _both(mask, contract.sliding_window(left, right, own if causal is None else offset))
    if key_lengths is not None:
        mask = _both(mask, contract.key_lengths(_read_lengths("--key-lengths", key_lengths)))
    if query_lengths is not None:
        mask = _both(mask, contract.query_lengths(_read_lengths("--query-lengths", query_lengths)))
    return mask


def _both(left: Mask | None, right: Mask | None) -> Mask | None:
    if left is None or right is None:
        return right if left is None else left
    return left & right


def _read_offset(option: str, text: str | None) -> Any:
    from .comparison_files import InputError

    if text is None or text == "end":
        return text
    if _OFFSET.fullmatch(text) is None:
        raise InputError(f"the offset of {option} must be a whole number or end, as in {option}=end; got {text!r}")
    return int(text)


def _read_window(text: str, *, is_causal: bool) -> tuple[int | None, int | None, Any]:
    from .comparison_files import InputError

    parts = [part.strip() for part in text.split(",")]
    if len(parts) not in (2, 3) or not all(re.fullmatch(r"\d*", part) for part in parts[:2]) or not any(parts[:2]):
        raise InputError(f"--window must be LEFT,RIGHT or LEFT,RIGHT,OFFSET, such as 256,0 or ,2 or 4,; got {text!r}")
    if len(parts) == 3 and is_causal:
        raise InputError(f"--window beside --causal shares its offset; got {text!r}: leave out the third part")
    left, right = (int(part) if part else None for part in parts[:2])
    return left, right, _read_offset("--window", parts[2]) if len(parts) == 3 else None


def _read_lengths(option: str, text: str) -> int | list[int]:
    from .comparison_files import InputError

    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch(r"\d+", part) for part in parts):
        raise InputError(f"{option} must be whole numbers, one for each batch element, such as 5,3; got {text!r}")
    lengths = [int(part) for part in parts]
    return lengths[0] if len(lengths) == 1 else lengths


def _offset_hint(message: str) -> str:
    """Say on the command line what the agreement says in Python."""
    if "without an offset" not in message:
        return ""
    return " (here: --causal=0 or --causal=end; a window alone: --window LEFT,RIGHT,0 or LEFT,RIGHT,end)"


def _check_drawing(path: Path | None, suffix: str) -> None:
    """Refuse a drawing that cannot be made before anything is computed."""
    from .attention_maps import check_drawable

    _check_writable(path, suffix, "attention maps are drawn")
    if path is not None:
        try:
            check_drawable(path)
        except ModuleNotFoundError as error:
            raise InputProblem(f"--{suffix[1:]}: {error}") from None


def _check_writable(path: Path | None, suffix: str | None, what: str = "outputs are saved") -> None:
    """Refuse a path that cannot be written before anything is computed."""
    from .comparison_files import InputError

    if path is None or (str(path) == "-" and suffix is None):
        return
    if suffix is not None and path.suffix != suffix:
        raise InputError(f"{path}: {what} to a {suffix} file; got {path.suffix!r}")
    if path.is_dir():
        raise InputError(f"{path}: this is a folder, not a file")
    if not path.parent.is_dir():
        raise InputError(f"{path}: cannot be written: there is no folder {path.parent}")


def _write_json(path: Path, text: str) -> None:
    if str(path) == "-":
        click.echo(text)
        return
    with _writing(path):
        path.write_text(text, encoding="utf8")


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    from .comparison_files import InputError

    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from None


def _show(files: tuple[Path, ...]) -> str:
    return " ".join(map(str, files)) or "nothing"
