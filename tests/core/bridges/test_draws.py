"""Dropout inside a padded batch belongs to tokens: neither the width nor the side of padding, nor the cut of a batch, moves a draw."""

from __future__ import annotations

import pytest
import torch
from pt_core.bridges.transformers.draws import TokenDropout, placed, token_keys
from pt_core.bridges.transformers.model import packed_positions
from pt_core.randomness import row_keys, sampled_by

KEYS = row_keys(torch.arange(3), "step", 4)
LENGTHS = (5, 2, 4)


def layer(p: float = 0.4) -> TokenDropout:
    found = TokenDropout(p, "layer")
    found.on = True
    return found


def ragged(left: int, right: int, rows: tuple[int, ...] = (0, 1, 2)) -> tuple[torch.Tensor, torch.Tensor]:
    """Ones (row, tokens, 8) and the mask, with this much padding around the longest text."""
    width = max(LENGTHS[row] for row in rows)
    mask = torch.zeros(len(rows), left + width + right, dtype=torch.long)
    for number, row in enumerate(rows):
        mask[number, left + width - LENGTHS[row] : left + width] = 1
    return torch.ones(*mask.shape, 8), mask


def drawn(x: torch.Tensor, mask: torch.Tensor, keys: torch.Tensor = KEYS) -> list[torch.Tensor]:
    """What the real tokens of every row became."""
    with sampled_by(keys), placed(packed_positions(mask)):
        result = layer()(x)
    return [result[row][mask[row].bool()] for row in range(len(mask))]


def test_padding_moves_no_draw():
    plain = drawn(*ragged(0, 0))
    torch.testing.assert_close(torch.cat(plain).unique(), torch.tensor([0.0, 1 / 0.6]))
    for left, right in ((3, 0), (0, 4), (2, 5)):
        for have, want in zip(drawn(*ragged(left, right)), plain, strict=True):
            assert torch.equal(have, want)
    assert not torch.equal(plain[0][:2], plain[1]), "rows draw for themselves"
    assert not torch.equal(plain[0][0], plain[0][1]), "so do tokens"


def test_cuts_move_no_draw():
    plain = drawn(*ragged(0, 0))
    for rows in ((1,), (0, 2), (2, 1)):
        for have, row in zip(drawn(*ragged(0, 0, rows), KEYS[list(rows)]), rows, strict=True):
            assert torch.equal(have, plain[row])


def test_without_places_tokens_are_where_they_stand_and_flattened_tokens_draw_the_same():
    x = torch.ones(3, 5, 8)
    with sampled_by(KEYS):
        whole = layer()(x)
        assert torch.equal(layer()(x[:, :2]), whole[:, :2])
        assert torch.equal(layer()(x.reshape(15, 8)), whole.reshape(15, 8))
        with placed(packed_positions(torch.ones(3, 9, dtype=torch.long))):
            last = layer()(torch.ones(3, 9, 8))[:, -2:]
            assert torch.equal(layer()(torch.ones(3, 2, 8)), last), "the last positions keep their places"


def test_a_row_that_occurs_several_times_draws_each_time():
    with sampled_by(KEYS):
        result = layer()(torch.ones(6, 4, 8)).view(3, 2, 4, 8)
    assert not torch.equal(result[:, 0], result[:, 1])
    with pytest.raises(ValueError, match=r"shape \(4, 5\) does not hold the tokens of 3 rows"):
        token_keys(KEYS, torch.Size((4, 5)))


def test_it_draws_by_its_own_switch_and_without_keys_as_torch_does():
    x, off = torch.ones(3, 40, 8), TokenDropout(0.5, "layer").train()
    assert off(x) is x
    torch.manual_seed(0)
    have = layer(0.5).eval()(x)
    torch.manual_seed(0)
    assert torch.equal(have, torch.nn.functional.dropout(x, 0.5, True))
    assert layer(0.0)(x) is x


def test_the_share_of_zeros():
    with sampled_by(row_keys(torch.arange(50), "many")):
        result = layer(0.3)(torch.ones(50, 40, 32))
    assert float((result == 0).float().mean()) == pytest.approx(0.3, abs=0.01)
