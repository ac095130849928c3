"""MNIST's files: images and labels in the IDX format, plain or compressed by gzip."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np

from examples.training.command import WrongUsageError
from examples.training.exercises import Array

SIDE = 28
_PARTS = ("train", "t10k")
_IMAGES, _LABELS = "images-idx3-ubyte", "labels-idx1-ubyte"
_UNSIGNED_BYTES = b"\x00\x00\x08"
"""How an IDX file of bytes begins; the number of its axes follows, then each axis' length in four bytes."""


def read_mnist(folder: Path) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Read the four files of a folder: images (N, 28, 28) and labels (N,) for training, then for the test, bytes.

    Raises:
        WrongUsageError: a file is missing, is no such file, or does not fit the other one.
    """
    training, test = (_read_part(folder, part) for part in _PARTS)
    return training, test


def read_idx(path: Path) -> Array:
    """Read the bytes that an IDX file holds, in their shape.

    Raises:
        WrongUsageError: it cannot be read, or holds something else.
    """
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise WrongUsageError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
    if content[:3] != _UNSIGNED_BYTES or len(content) < 4:
        raise WrongUsageError(f"{path} is no IDX file of bytes: it begins with {content[:4].hex(' ') or 'nothing'}")
    begin = 4 + 4 * content[3]
    shape = tuple(np.frombuffer(content[4:begin], ">i4").tolist()) if len(content) >= begin else None
    if shape is None or len(content) - begin != np.prod(shape, dtype=np.int64):
        said = "" if shape is None else f", {len(content) - begin} bytes for {_times(shape)}"
        raise WrongUsageError(f"{path} is damaged: its length does not fit what it says it holds{said}")
    return np.frombuffer(content, np.uint8, offset=begin).reshape(shape)


def _read_part(folder: Path, part: str) -> tuple[Array, Array]:
    (images, images_path), (labels, labels_path) = (_read(folder, f"{part}-{kind}") for kind in (_IMAGES, _LABELS))
    if images.shape[1:] != (SIDE, SIDE) or len(images) == 0:
        raise WrongUsageError(f"{images_path} holds {_times(images.shape)} bytes, not images of {SIDE}×{SIDE}")
    if labels.shape != images.shape[:1]:
        raise WrongUsageError(
            f"{labels_path} holds {_times(labels.shape)} labels for {len(images)} images of {images_path.name}"
        )
    if labels.max() > 9:
        raise WrongUsageError(f"{labels_path} holds the label {labels.max()}; digits are 0 to 9")
    return images, labels


def _read(folder: Path, name: str) -> tuple[Array, Path]:
    """Find a file under the names that it has on the web: plain or compressed, with a hyphen or a dot."""
    names = [spelled + end for spelled in (name, name.replace("-idx", ".idx")) for end in ("", ".gz")]
    for candidate in names:
        if (folder / candidate).is_file():
            return read_idx(folder / candidate), folder / candidate
    raise WrongUsageError(f"there is no {name} or {name}.gz in {folder}")


def _times(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))
