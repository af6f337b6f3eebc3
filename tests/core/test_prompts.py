"""Prompt tensors: shapes, initial values, dropout per sample, projection, banks; always float32."""

import math

import pytest
import torch
from pt_core.errors import UserError
from pt_core.prompts import PromptBank, PromptTokens, from_vectors, normal, uniform, vpt_bound


def seeded(fn):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return fn()


def test_vpt_bound_is_the_xavier_bound_of_the_patch_embedding():
    assert vpt_bound((16, 16), 768) == pytest.approx(math.sqrt(6 / (3 * 16 * 16 + 768)))
    assert vpt_bound((4, 8), 96, channels=1) == pytest.approx(math.sqrt(6 / (4 * 8 + 96)))


def test_uniform_fills_its_interval():
    values = seeded(lambda: uniform(0.25)((100, 100)))
    assert values.abs().max() <= 0.25
    assert values.min() < -0.24 < 0.24 < values.max()
    assert values.std() == pytest.approx(0.25 / math.sqrt(3), rel=0.02)


@pytest.mark.parametrize("truncate", [False, True])
def test_normal_has_its_deviation(truncate):
    values = seeded(lambda: normal(0.02, truncate)((100, 100)))
    assert (values.abs().max() <= 0.04) == truncate
    assert values.std() == pytest.approx(0.02 * (0.88 if truncate else 1), rel=0.03)


def test_given_vectors_are_repeated_over_prompts_and_layers():
    vectors = torch.arange(6.0).reshape(3, 2)
    values = from_vectors(vectors)((4, 5, 2))
    assert torch.equal(values[0], values[3])
    assert torch.equal(values[0], vectors[[0, 1, 2, 0, 1]])
    values.zero_()
    assert vectors.sum() == 15, "the caller's tensor was changed"
    with pytest.raises(UserError, match=r"\(3, 2\).*\(n, 7\)"):
        from_vectors(vectors)((1, 5, 7))


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("length", [0, 1, 4])
@pytest.mark.parametrize("rank", [None, 2])
def test_shapes_and_parameter_count(layers, length, rank):
    prompt = PromptTokens(layers, length, 6, normal(0.1), rank=rank)
    assert prompt(9).shape == (layers, length, 6)
    count = layers * length * (rank or 6) + (rank * 6 + 6 if rank else 0)
    assert sum(p.numel() for p in prompt.parameters()) == count
    assert prompt.length == length


def test_prompts_are_float32_whatever_the_initialiser_gives():
    assert PromptTokens(1, 2, 4, lambda shape: torch.zeros(shape, dtype=torch.bfloat16)).tokens.dtype == torch.float32


def test_projection_is_shared_by_all_layers():
    prompt = PromptTokens(3, 2, 5, normal(1.0), rank=4)
    expected = prompt.tokens @ prompt.projection.weight.T + prompt.projection.bias
    torch.testing.assert_close(prompt(1), expected)


def test_dropout_gives_every_sample_its_own_mask_in_training_only():
    prompt = PromptTokens(2, 8, 16, lambda shape: torch.ones(shape), dropout=0.5)
    drawn = seeded(lambda: prompt(4))
    assert drawn.shape == (2, 4, 8, 16)
    assert set(drawn.unique().tolist()) == {0.0, 2.0}
    assert not torch.equal(drawn[:, 0], drawn[:, 1])
    assert torch.equal(prompt.eval()(4), torch.ones(2, 8, 16))


def test_bank_stacks_in_order_and_finds_rows_by_name():
    tensors = {name: torch.full((2, 3, 4), float(number)) for number, name in enumerate("abc")}
    bank = PromptBank(tensors)
    assert bank.stack.shape == (3, 2, 3, 4)
    assert len(bank) == 3
    index = bank.index(["c", "a", "c"])
    assert bank.stack[index][:, 0, 0, 0].tolist() == [2, 0, 2]


def test_bank_refuses_unknown_names_unequal_shapes_and_nothing():
    bank = PromptBank({"a": torch.ones(1, 2), "b": torch.ones(1, 2)})
    with pytest.raises(UserError, match="unknown prompt 'x', 'y'; known: a, b"):
        bank.index(["a", "y", "x", "y"])
    with pytest.raises(UserError, match=r"'b' has shape \(2, 2\), 'a' has \(1, 2\)"):
        PromptBank({"a": torch.ones(1, 2), "b": torch.ones(2, 2)})
    with pytest.raises(UserError, match="at least one"):
        PromptBank({})
