"""The small examples do what they say: they learn, and models of Transformers do not notice our attention."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")

from examples import image_patches, rnn_states  # noqa: E402 - behind the lines that may skip


def test_drawn_questions_have_the_answer_that_stands_behind_the_letter() -> None:
    tokens, lengths, questions, answers, places = rnn_states.draw(200, torch.Generator().manual_seed(1))
    rows = torch.arange(200)
    assert torch.equal(tokens[rows, places], answers + rnn_states.LETTERS)
    assert torch.equal(tokens[rows, places - 1], questions)
    assert (places < lengths).all()
    assert set(lengths.tolist()) == {6, 8, 10, 12, 14, 16}
    assert (tokens[:, ::2].sort(dim=-1).values.diff(dim=-1) > 0).all()  # no letter comes twice


@pytest.mark.parametrize("has_attention", [False, True], ids=["last state", "attention"])
def test_what_is_behind_the_end_of_a_sequence_is_not_read(has_attention: bool) -> None:
    torch.manual_seed(3)
    model = rnn_states.Recall(has_attention=has_attention)
    tokens, lengths, questions, _, _ = rnn_states.draw(5, torch.Generator().manual_seed(2))
    others = torch.where(torch.arange(tokens.shape[1]) < lengths[:, None], tokens, 0)
    assert not torch.equal(tokens, others)
    assert torch.equal(model(tokens, lengths, questions), model(others, lengths, questions))


def test_attention_over_states_recalls_what_the_last_state_forgot(capsys: pytest.CaptureFixture[str]) -> None:
    found = rnn_states.run(steps=100)
    assert found["attention"] > 0.97
    assert found["reads the answer"] > 0.97
    assert 0.25 < found["last state"] < 0.6
    rnn_states.show(found)
    assert "by attention:        100%" in capsys.readouterr().out


def test_patches_are_cut_row_by_row() -> None:
    patches = image_patches.cut(torch.arange(64.0).reshape(1, 8, 8))
    assert patches.shape == (1, 16, 4)
    assert patches[0, 1].tolist() == [2.0, 3.0, 10.0, 11.0]
    assert patches[0, 4].tolist() == [16.0, 17.0, 24.0, 25.0]


@pytest.mark.parametrize("has_positions", [False, True])
def test_only_positions_give_patches_an_order(has_positions: bool) -> None:
    torch.manual_seed(3)
    model = image_patches.PatchReader(has_positions=has_positions).eval()
    patches = torch.rand(3, 16, 4)
    shuffled = patches[:, torch.randperm(16)]
    difference = (model(patches) - model(shuffled)).abs().max()
    assert (difference > 1e-4) == has_positions


def test_digits_are_read_from_their_patches(capsys: pytest.CaptureFixture[str]) -> None:
    found = image_patches.run(epochs=4)
    assert found["with positions"] > 0.6
    assert found["with positions"] > found["without positions"] + 0.15
    torch.testing.assert_close(found["weights"].sum(dim=-1), torch.ones(10))
    image_patches.show(found)
    assert len(capsys.readouterr().out.splitlines()) == 2 + 2 + 1 + 8 + 1 + 4


def test_models_of_transformers_give_the_same_with_our_attention(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("transformers")
    from examples import hugging_face

    hugging_face.main()
    bert, gpt, generated = capsys.readouterr().out.splitlines()
    for line, name in ((bert, "BertModel"), (gpt, "GptOssForCausalLM")):
        assert line.startswith(f"{name}: differs from eager by ")
        assert float(line.split()[5]) < 1e-5
    assert generated == "the same 12 tokens are generated: True"
