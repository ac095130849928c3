"""Attention over the states of a recurrent network: recalling what stood beside a word.

    python -m examples.rnn_states

A GRU reads pairs, one token at a time: a letter, then a digit. Then it is asked for the digit that followed one of the
letters. Its last state is too small to hold all pairs. With key-value attention the question, a letter, is the query,
and the states after every token are keys and values: the network reads the state that it needs (Bahdanau et al. 2015,
there with an additive score). Sequences differ in length; the mask hides what is padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import attnspec.torch as attn

LETTERS, DIGITS, MOST_PAIRS = 10, 6, 8
SIZE = 48


class Recall(nn.Module):
    """A GRU that answers from its last state, or from all of them by attention."""

    def __init__(self, *, has_attention: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(LETTERS + DIGITS, SIZE)
        self.recurrent = nn.GRU(SIZE, SIZE, batch_first=True)
        self.attention = attn.KeyValueAttention(SIZE, query_size=SIZE) if has_attention else None
        self.answer = attn.Linear(2 * SIZE, DIGITS)

    def forward(self, tokens: Tensor, lengths: Tensor, questions: Tensor) -> Tensor:
        """Read tokens (B, T), of which so many are real, and answer the questions (B,): (B, digits)."""
        states, _ = self.recurrent(self.embedding(tokens))
        asked = self.embedding(questions)
        if self.attention is None:
            found = states[torch.arange(len(states)), lengths - 1]
        else:
            found = self.attention(asked, states, states, mask=attn.key_lengths(lengths))
        return self.answer(torch.cat([found, asked], dim=-1))

    def weights(self, tokens: Tensor, lengths: Tensor, questions: Tensor) -> Tensor:
        """Say how much of each state the attention reads, (B, T)."""
        states, _ = self.recurrent(self.embedding(tokens))
        query = self.embedding(questions) @ self.attention.query_weight
        return attn.attention_stages(query[:, None], states, states, mask=attn.key_lengths(lengths)).weights[:, 0]


def draw(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Draw tokens (B, T), their lengths, questions, answers, and the places of the answers, (B,) each."""
    letters = torch.rand(count, LETTERS, generator=generator).argsort(dim=-1)[:, :MOST_PAIRS]
    digits = torch.randint(DIGITS, (count, MOST_PAIRS), generator=generator)
    tokens = torch.stack([letters, LETTERS + digits], dim=-1).flatten(1)
    pairs = torch.randint(3, MOST_PAIRS + 1, (count,), generator=generator)
    asked = (torch.rand(count, generator=generator) * pairs).long()
    rows = torch.arange(count)
    return tokens, 2 * pairs, letters[rows, asked], digits[rows, asked], 2 * asked + 1


def train(model: Recall, steps: int, generator: torch.Generator) -> None:
    """Train on new sequences at every step."""
    optimiser = torch.optim.Adam(model.parameters(), lr=4e-3)
    for _ in range(steps):
        tokens, lengths, questions, answers, _ = draw(64, generator)
        optimiser.zero_grad()
        functional.cross_entropy(model(tokens, lengths, questions), answers).backward()
        optimiser.step()


def run(steps: int = 150) -> dict[str, Any]:
    """Train both models; return their accuracies, and how often the attention reads the right state most."""
    found: dict[str, Any] = {}
    for name in ("last state", "attention"):
        torch.manual_seed(7)
        generator = torch.Generator().manual_seed(7)
        model = Recall(has_attention=name == "attention")
        train(model, steps, generator)
        tokens, lengths, questions, answers, places = draw(1000, generator)
        with torch.inference_mode():
            right = model(tokens, lengths, questions).argmax(dim=-1) == answers
            found[name] = right.double().mean().item()
            if name == "attention":
                weights = model.weights(tokens, lengths, questions)
                found["reads the answer"] = (weights.argmax(dim=-1) == places).double().mean().item()
                found["example"] = (
                    tokens[0, : lengths[0]].tolist(),
                    int(questions[0]),
                    weights[0, : lengths[0]].tolist(),
                )
    return found


def show(found: dict[str, Any]) -> None:
    """Print what was learned."""
    print(f"from the last state: {found['last state']:.0%} of the answers are right; guessing gives {1 / DIGITS:.0%}")
    print(
        f"by attention:        {found['attention']:.0%}; it reads the state behind the answer most in "
        f"{found['reads the answer']:.0%}"
    )
    tokens, question, weights = found["example"]
    print(f"\n{spell([question])}?")
    for token, weight in zip(tokens, weights, strict=True):
        print(f"  {spell([token])} {weight:.2f} {'█' * round(40 * weight)}")


def spell(tokens: Sequence[int]) -> str:
    """Write tokens as letters and digits."""
    return " ".join(chr(ord("a") + token) if token < LETTERS else str(token - LETTERS) for token in tokens)


if __name__ == "__main__":
    show(run())
