"""Gathering, grouping and interpolation against plain loops and autograd of indexing."""

from __future__ import annotations

import pytest
import torch
from pt_core.data import generator
from pt_core.errors import DataError
from pt_core.kernels import reference_kernels
from pt_pointcloud.ops import (
    QueryAndGroup,
    ball_query,
    gather_operation,
    grouping_operation,
    interpolation_weights,
    neighbour_extreme,
    reference,
    three_interpolate,
    three_nn,
)
from torch import Tensor


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator("features", seed, *shape))


def indices(high: int, *shape: int) -> Tensor:
    return torch.randint(high, shape, generator=generator("indices", *shape), dtype=torch.int32)


def gradient(output: Tensor, inputs: Tensor) -> Tensor:
    return torch.autograd.grad(output, inputs, randn(*output.shape, seed=5))[0]


def test_gathering_and_its_gradient():
    f, idx = randn(2, 4, 9).requires_grad_(), indices(9, 2, 6)
    have, want = gather_operation(f, idx), reference.gather_operation(f, idx)
    assert torch.equal(have, want)
    torch.testing.assert_close(gradient(have, f), gradient(want, f))


def test_grouping_and_its_gradient():
    f, idx = randn(2, 4, 9).requires_grad_(), indices(9, 2, 3, 5)
    have, want = grouping_operation(f, idx), reference.grouping_operation(f, idx)
    assert have.shape == (2, 4, 3, 5)
    assert torch.equal(have, want)
    torch.testing.assert_close(gradient(have, f), gradient(want, f))


@pytest.mark.parametrize("power", [1, 2])
def test_three_nearest_are_those_of_the_loop(power):
    points, known = randn(2, 50, 3), randn(2, 11, 3, seed=1)
    dist, idx = three_nn(points, known, power=power)
    want, where = reference.three_nn(points, known, power)
    assert idx.dtype == torch.int32
    assert torch.equal(idx, where)
    assert torch.equal(dist, want)
    assert not dist.requires_grad


def test_missing_neighbours_are_index_0_at_infinity():
    dist, idx = three_nn(torch.zeros(1, 1, 3), torch.tensor([[[3.0, 0, 0], [0, 4, 0]]]))
    assert idx.tolist() == [[[0, 1, 0]]]
    assert dist.tolist() == [[[3.0, 4.0, float("inf")]]]
    with pytest.raises(DataError, match="three neighbours among 2 points"):
        three_nn(torch.zeros(1, 1, 3), torch.zeros(1, 2, 3), convention="pytorch")


def test_the_lower_index_wins_a_tie():
    known = torch.tensor([[[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [-1, 0, 0]]])
    assert three_nn(torch.zeros(1, 1, 3), known)[1].tolist() == [[[0, 1, 2]]]


def test_conventions_differ_in_the_power_of_the_distance():
    points, known = randn(1, 5, 3), randn(1, 7, 3, seed=1)
    plain, squared = three_nn(points, known)[0], three_nn(points, known, convention="pytorch")[0]
    torch.testing.assert_close(plain.square(), squared)
    weights = interpolation_weights(squared)
    torch.testing.assert_close(weights.sum(2), torch.ones(1, 5))
    assert not torch.allclose(weights, interpolation_weights(plain))


def test_a_point_on_a_known_one_gets_its_feature():
    known, f = randn(1, 7, 3), randn(1, 2, 7)
    dist, idx = three_nn(known[:, 2:3], known)
    torch.testing.assert_close(
        three_interpolate(f, idx, interpolation_weights(dist))[0, :, 0], f[0, :, 2], rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("how", ["kernel", "composed", "float64"])
def test_interpolation_and_its_gradient(how):
    dtype = torch.float64 if how == "float64" else torch.float32
    f, idx = randn(2, 4, 9).to(dtype).requires_grad_(), indices(9, 2, 30, 3)
    weight = interpolation_weights(randn(2, 30, 3).abs()).requires_grad_()
    want = reference.three_interpolate(f, idx, weight.detach().to(dtype))
    if how == "composed":
        with reference_kernels():
            have = three_interpolate(f, idx, weight)
    else:
        have = three_interpolate(f, idx, weight)
    torch.testing.assert_close(have, want)
    torch.testing.assert_close(gradient(have, f), gradient(want, f))
    assert torch.autograd.grad(three_interpolate(f, idx, weight).sum(), weight, allow_unused=True) == (None,)


def test_extremes_over_neighbours_and_their_gradient():
    v, idx = randn(2, 9, 6).requires_grad_(), indices(9, 2, 9, 4)
    largest = torch.tensor([True, False, True, True, False, False])
    have = neighbour_extreme(v, idx, largest)
    want, chosen = reference.neighbour_extreme(v, idx, largest)
    assert torch.equal(have, want)
    expected = torch.zeros_like(v).scatter_add(1, chosen.long(), randn(*have.shape, seed=5))
    torch.testing.assert_close(gradient(have, v), expected)
    with reference_kernels():
        again = neighbour_extreme(v, idx, largest)
    assert torch.equal(have, again)


def test_query_and_group_puts_relative_coordinates_before_features():
    xyz, centres, f = randn(2, 40, 3), randn(2, 5, 3, seed=1), randn(2, 4, 40)
    idx = ball_query(1.0, 6, xyz, centres).long()
    have = QueryAndGroup(1.0, 6)(xyz, centres, f)
    assert have.shape == (2, 7, 5, 6)
    rows = torch.arange(2)[:, None, None]
    torch.testing.assert_close(have[:, :3], (xyz[rows, idx] - centres[:, :, None]).permute(0, 3, 1, 2))
    torch.testing.assert_close(have[:, 3:], f.transpose(1, 2)[rows, idx].permute(0, 3, 1, 2))
    assert torch.equal(QueryAndGroup(1.0, 6)(xyz, centres), have[:, :3])
    assert torch.equal(QueryAndGroup(1.0, 6, use_xyz=False)(xyz, centres, f), have[:, 3:])


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda: gather_operation(torch.zeros(3, 4), indices(3, 2, 2)), r"\(3, 4\)"),
        (lambda: gather_operation(torch.zeros(1, 3, 4), indices(3, 2, 2)), r"idx has shape \(2, 2\)"),
        (lambda: grouping_operation(torch.zeros(2, 3, 4), indices(3, 2, 2)), r"\(batch, m, s\)"),
        (
            lambda: three_interpolate(torch.zeros(1, 2, 3), indices(3, 1, 5, 2), torch.zeros(1, 5, 2)),
            r"\(batch, n, 3\)",
        ),
        (lambda: QueryAndGroup(1.0, 2, use_xyz=False)(torch.zeros(1, 4, 3), torch.zeros(1, 2, 3)), "nothing to group"),
    ],
)
def test_bad_input_is_refused(run, message):
    with pytest.raises(DataError, match=message):
        run()


def test_operators_trace_with_fake_tensors():
    """`budget` and torch.export see shapes without values."""
    from torch._subclasses import FakeTensorMode

    with FakeTensorMode():
        points = torch.empty(2, 30, 3)
        dist, idx = three_nn(points, points[:, :5])
        out = three_interpolate(torch.empty(2, 4, 5), idx, dist)
        best = neighbour_extreme(
            torch.empty(2, 9, 6), torch.empty(2, 9, 4, dtype=torch.long), torch.ones(6, dtype=torch.bool)
        )
    assert (tuple(out.shape), tuple(best.shape)) == ((2, 4, 30), (2, 9, 6))
