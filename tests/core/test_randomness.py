"""Draws keyed by sample: equal to a loop over rows written by hand, the same however a batch is cut, and spread as they should be."""

import math

import numpy as np
import pytest
import torch
from pt_core.data import Batch, stable_seed, take
from pt_core.prompts import PromptTokens, normal as gaussian
from pt_core.randomness import (
    Dropout,
    apart,
    bernoulli,
    dropout,
    keyed,
    mixed,
    normal,
    part_keys,
    rekeyed,
    row_keys,
    sampled_by,
    shared_rng,
    uniform,
)
from pt_core.recompute import recomputed
from torch.nn import functional as F

MASK = (1 << 64) - 1


def splitmix(z):
    """The finaliser on unsigned 64-bit integers of Python."""
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def unsigned(value):
    return int(value) & MASK


def hashes(key, purpose, count):
    """`count` hashes of one row."""
    start = splitmix(unsigned(key) ^ stable_seed("draw", purpose))
    return [splitmix((start + (i + 1) * 0x9E3779B97F4A7C15) & MASK) for i in range(count)]


def test_keys_and_draws_equal_a_loop_over_rows():
    index = torch.tensor([3, 0, 7, 123456789])
    keys = row_keys(index, 5, "step", 2)
    for row, key in zip(index.tolist(), keys, strict=True):
        assert unsigned(key) == splitmix(splitmix(row) ^ stable_seed(5, "step", 2))
    values, zeros = uniform(keys, (2, 5), "u"), bernoulli(keys, (7,), 0.3, "b")
    for row, key in enumerate(keys):
        halves = [part for z in hashes(key, "u", 5) for part in ((z >> 8) & 0xFFFFFF, z >> 40)]
        assert values[row].flatten().tolist() == [part / 2**24 for part in halves]
        quarters = [(z >> shift) & 0xFFFF for z in hashes(key, "b", 2) for shift in (0, 16, 32, 48)]
        signed = [part - 2**16 if part >= 2**15 else part for part in quarters]
        assert zeros[row].tolist() == [part < round(0.3 * 2**16) - 2**15 for part in signed[:7]]


def test_the_finaliser_is_the_published_one():
    """First outputs of SplitMix64 from state 1234567, as its author's reference program prints them."""
    state, got = 1234567, []
    for step in range(1, 4):
        z = torch.tensor((state + step * 0x9E3779B97F4A7C15 + 2**63) % 2**64 - 2**63)
        got.append(unsigned(mixed(z[None])[0]))
    assert got == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_moments_and_correlations():
    keys = row_keys(torch.arange(2000), 1, "x")
    values = uniform(keys, (200,), "u")
    assert abs(float(values.mean()) - 0.5) < 5 / math.sqrt(12 * values.numel())
    assert 0 <= float(values.min()) < 1e-4 < 1 - 1e-4 < float(values.max()) < 1
    neighbours = np.corrcoef(values[:, 0], values[:, 1])[0, 1], np.corrcoef(values[0], values[1])[0, 1]
    assert max(map(abs, neighbours)) < 0.35
    assert abs(float(bernoulli(keys, (200,), 0.1, "d").float().mean()) - 0.1) < 5 * 0.3 / math.sqrt(400_000)
    gauss = normal(keys, (200,), "g")
    assert abs(float(gauss.mean())) < 0.01
    assert abs(float(gauss.std()) - 1) < 0.01
    assert float(gauss.abs().max()) > 4


def test_purpose_sample_step_and_seed_all_change_a_draw():
    base = uniform(row_keys(torch.tensor([4]), 0, "s", 1), (8,), "p")
    others = [
        uniform(row_keys(torch.tensor([5]), 0, "s", 1), (8,), "p"),
        uniform(row_keys(torch.tensor([4]), 1, "s", 1), (8,), "p"),
        uniform(row_keys(torch.tensor([4]), 0, "s", 2), (8,), "p"),
        uniform(row_keys(torch.tensor([4]), 0, "s", 1), (8,), "q"),
    ]
    assert all(not torch.equal(base, other) for other in others)
    assert torch.equal(base, uniform(row_keys(torch.tensor([9, 4]), 0, "s", 1), (8,), "p")[1:])


def batch(rows):
    rows = torch.tensor(rows)
    return Batch(rows.float(), None, rows, [str(row) for row in rows.tolist()])


def test_a_part_of_a_batch_has_the_keys_of_the_whole():
    whole = keyed(batch([5, 2, 9, 4]), 0, "step", 3)
    part = keyed(batch([9, 4]), 0, "step", 3)
    assert torch.equal(whole.keys[2:], part.keys)
    assert torch.equal(take(whole, [2, 3]).keys, part.keys)
    assert whole.to("cpu").keys is not None
    assert torch.equal(rekeyed(whole, "second").keys[2:], rekeyed(part, "second").keys)
    assert not torch.equal(rekeyed(whole, "second").keys, whole.keys)
    assert rekeyed(batch([1]), "x").keys is None


def test_what_all_samples_of_a_step_share_is_drawn_alike_in_every_part():
    whole, part = keyed(batch([5, 2, 9, 4]), 0, "step", 3), keyed(batch([9, 4]), 0, "step", 3)

    def drawn(one, *purpose):
        return int(torch.randint(10**9, (1,), generator=shared_rng(one, *purpose)))

    assert drawn(whole, "box") == drawn(part, "box") == drawn(take(whole, [2]), "box") == drawn(part.to("cpu"), "box")
    others = [keyed(batch([9, 4]), 0, "step", 4), rekeyed(part, "second")]
    assert drawn(part, "box") not in [drawn(part, "other"), *(drawn(other, "box") for other in others)]
    assert drawn(rekeyed(whole, "second"), "box") == drawn(others[1], "box")
    assert shared_rng(batch([1]), "box") is None


def test_a_layer_that_runs_twice_in_a_step_has_masks_of_its_own():
    x, keys = torch.ones(3, 64), row_keys(torch.tensor([5, 2, 9]), 0)
    with sampled_by(keys):
        first = dropout(x, 0.5, True, "d")
        with apart("again"):
            second = dropout(x, 0.5, True, "d")
        assert torch.equal(dropout(x, 0.5, True, "d"), first)
    assert not torch.equal(first, second)
    with sampled_by(keys[1:]), apart("again"):
        assert torch.equal(dropout(x[1:], 0.5, True, "d"), second[1:])
    with apart("again"):
        torch.manual_seed(0)
        got = dropout(x, 0.4, True, "d")
    torch.manual_seed(0)
    assert torch.equal(got, F.dropout(x, 0.4, True))


@pytest.mark.parametrize(("shape", "axis", "shared"), [((4, 6), 0, ()), ((3, 4, 5), 1, ()), ((4, 6, 3, 3), 0, (2, 3))])
def test_dropout_does_not_depend_on_the_cut(shape, axis, shared):
    x = torch.randn(shape)
    keys = row_keys(torch.tensor([5, 2, 9, 4]), 0)
    with sampled_by(keys):
        whole = dropout(x, 0.4, True, "d", axis=axis, shared=shared)
    parts = []
    for rows in (slice(0, 1), slice(1, 4)):
        with sampled_by(keys[rows]):
            parts.append(dropout(x.movedim(axis, 0)[rows].movedim(0, axis), 0.4, True, "d", axis=axis, shared=shared))
    assert torch.equal(torch.cat(parts, axis), whole)
    kept = whole != 0
    torch.testing.assert_close(whole[kept], (x / 0.6)[kept])
    if shared:
        flat = kept.flatten(2)
        assert bool((flat.all(-1) | ~flat.any(-1)).all()), "whole channels"


def test_views_of_the_same_samples_have_masks_of_their_own():
    x, keys = torch.ones(6, 64), row_keys(torch.tensor([5, 2, 9]), 0)
    with sampled_by(keys):
        both = dropout(x, 0.5, True, "d")
    assert not torch.equal(both[:3], both[3:])
    with sampled_by(keys[1:2]):
        assert torch.equal(dropout(torch.ones(2, 64), 0.5, True, "d"), both[[1, 4]])
    with sampled_by(keys), pytest.raises(ValueError, match=r"dropout 'd' of shape \(4, 64\) does not have 3 rows"):
        dropout(torch.ones(4, 64), 0.5, True, "d")


def test_without_keys_it_is_torchs_own():
    x = torch.randn(4, 6)
    torch.manual_seed(0)
    got = dropout(x, 0.4, True, "d")
    torch.manual_seed(0)
    assert torch.equal(got, F.dropout(x, 0.4, True))
    assert dropout(x, 0.4, False, "d") is x
    assert dropout(x, 0.0, True, "d") is x


def test_the_layer_is_off_in_evaluation_and_drops_channels_where_asked():
    layer, x = Dropout(0.5, "head", channels=True), torch.ones(3, 8, 2, 2)
    with sampled_by(row_keys(torch.arange(3), 0)):
        assert torch.equal(layer(x), dropout(x, 0.5, True, "head", shared=(2, 3)))
        assert layer.eval()(x) is x
    assert repr(layer) == "Dropout(p=0.5, name='head', channels=True)"


def test_parts_of_a_sample_follow_their_owner():
    """Nodes of graphs: what a node draws depends on its graph's key and its place in it."""
    keys = row_keys(torch.tensor([5, 2]), 0)
    owner, place = torch.tensor([0, 0, 1, 1, 1]), torch.tensor([0, 1, 0, 1, 2])
    nodes = part_keys(keys[owner], place)
    assert len(set(nodes.tolist())) == 5
    assert torch.equal(part_keys(keys[[1, 1, 1]], torch.arange(3)), nodes[2:])


def test_prompts_draw_one_mask_per_sample_whatever_the_cut():
    prompts = PromptTokens(2, 3, 8, gaussian(1.0), dropout=0.3)
    keys = row_keys(torch.arange(5), 0, "step")
    with sampled_by(keys):
        whole = prompts(5)
    with sampled_by(keys[3:]):
        assert torch.equal(prompts(2), whole[:, 3:])
    assert not torch.equal(whole[:, 0], whole[:, 1])


def test_recomputation_draws_the_same_again():
    x = torch.randn(4, 6, requires_grad=True)
    keys = row_keys(torch.arange(4), 0)

    def run(x):
        return (dropout(x, 0.5, True, "d") ** 2).sum()

    with sampled_by(keys):
        kept, again = run(x), recomputed(run, x)
    with sampled_by(row_keys(torch.arange(4), 99)):  # what surrounds the backward pass does not matter
        assert torch.equal(torch.autograd.grad(again, x)[0], torch.autograd.grad(kept, x)[0])
