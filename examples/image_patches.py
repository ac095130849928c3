"""Attention over patches of images: handwritten digits as sequences of small squares.

    python -m examples.image_patches

An image of 8 × 8 pixels is cut into 16 patches of 2 × 2, each one a position of a sequence (Dosovitskiy et al. 2021).
A text encoder with learned positions lets the patches attend to each other; a learned query then reads them all by
key-value attention, and what it reads is classified. The images are the 1797 handwritten digits that come with
scikit-learn; every fifth is held back. Without positions the model sees the same patches in no order: what it loses is
what order is worth.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

import attnspec.torch as attn

SIDE, PATCH, CLASSES = 8, 2, 10
ACROSS = SIDE // PATCH
SIZE, HEADS = 24, 3
SHADES = " ░▒▓█"


class Digits(NamedTuple):
    """Images as patches, (N, 16, 4), from 0 to 1, and their classes (N,)."""

    patches: Tensor
    classes: Tensor


class PatchReader(nn.Module):
    """Encodes patches, and reads the digit from them."""

    def __init__(self, *, has_positions: bool) -> None:
        super().__init__()
        positions = {"positions": "learned", "max_length": ACROSS**2} if has_positions else {"positions": None}
        self.encoder = attn.TextEncoder(SIZE, HEADS, 1, input_size=PATCH**2, hidden_size=2 * SIZE, **positions)
        self.query = nn.Parameter(torch.randn(SIZE))
        self.attention = attn.KeyValueAttention(SIZE)
        self.classes = attn.Linear(SIZE, CLASSES)

    def forward(self, patches: Tensor) -> Tensor:
        """Classify (N, 16, 4): (N, 10)."""
        encoded = self.encoder(patches)
        return self.classes(self.attention(self.query.expand(len(patches), -1), encoded, encoded))

    def weights(self, patches: Tensor) -> Tensor:
        """Say how much of each patch the query reads, (N, 16)."""
        encoded = self.encoder(patches)
        query = self.query.expand(len(patches), 1, -1)
        return attn.attention_stages(query, encoded, encoded).weights[:, 0]


def cut(images: Tensor) -> Tensor:
    """Cut images (N, 8, 8) into patches, row by row: (N, 16, 4)."""
    squares = images.reshape(-1, ACROSS, PATCH, ACROSS, PATCH).transpose(2, 3)
    return squares.reshape(-1, ACROSS**2, PATCH**2)


def load() -> tuple[Digits, Digits]:
    """Load the digits for training and those that are held back."""
    found = load_digits()
    patches, classes = cut(torch.tensor(found.images, dtype=torch.float32) / 16), torch.tensor(found.target)
    held_back = torch.arange(len(classes)) % 5 == 0
    return Digits(patches[~held_back], classes[~held_back]), Digits(patches[held_back], classes[held_back])


def train(model: PatchReader, digits: Digits, epochs: int) -> None:
    """Train in batches of 64."""
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(epochs):
        for batch in torch.randperm(len(digits.classes)).split(64):
            optimiser.zero_grad()
            functional.cross_entropy(model(digits.patches[batch]), digits.classes[batch]).backward()
            optimiser.step()


def run(epochs: int = 12) -> dict[str, Any]:
    """Train with and without positions; return the accuracies on digits held back, and what the query reads."""
    training, test = load()
    found: dict[str, Any] = {}
    for name in ("without positions", "with positions"):
        torch.manual_seed(7)
        model = PatchReader(has_positions=name == "with positions")
        train(model.train(), training, epochs)
        with torch.inference_mode():
            found[name] = (model.eval()(test.patches).argmax(dim=-1) == test.classes).double().mean().item()
    with torch.inference_mode():
        found["weights"] = torch.stack(
            [model.weights(test.patches[test.classes == i]).mean(dim=0) for i in range(CLASSES)]
        )
        found["images"] = torch.stack([test.patches[test.classes == i].mean(dim=0) for i in range(CLASSES)])
    return found


def show(found: dict[str, Any]) -> None:
    """Print what was learned."""
    for name in ("without positions", "with positions"):
        print(f"{name}: {found[name]:.1%} of the digits held back are right")
    print("\nthe mean image of each digit, and below it the patches that the query reads most")
    images = found["images"].reshape(CLASSES, ACROSS, ACROSS, PATCH, PATCH).transpose(2, 3)
    weights = found["weights"].reshape(CLASSES, ACROSS, 1, ACROSS, 1).expand(CLASSES, ACROSS, 1, ACROSS, PATCH)
    for maps in (images.reshape(CLASSES, SIDE, SIDE), weights.reshape(CLASSES, ACROSS, SIDE)):
        shades = (maps / maps.amax(dim=(1, 2), keepdim=True) * (len(SHADES) - 1)).round().long()
        print()
        for row in range(shades.shape[1]):
            print("   ".join("".join(SHADES[shade] for shade in line) for line in shades[:, row].tolist()))


if __name__ == "__main__":
    show(run())
