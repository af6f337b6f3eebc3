"""Sampling and neighbour search against plain loops: indices to the last one, both conventions, ties, padding, bad input."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from pt_core.data import generator
from pt_core.errors import DataError
from pt_pointcloud.ops import KNN, ball_query, furthest_point_sample, knn, reference
from torch import Tensor


def cloud(n: int, seed: int = 0, batch: int = 2) -> Tensor:
    return 0.4 * torch.randn(batch, n, 3, generator=generator("cloud", n, seed))


LATTICE = torch.stack(torch.meshgrid(*[torch.arange(4.0)] * 3, indexing="ij"), -1).reshape(1, 64, 3)
"""Many equal distances; the first point is the origin."""


@pytest.mark.parametrize("n", [5, 33, 300, 700])
@pytest.mark.parametrize("ties", ["tree", "lowest"])
@pytest.mark.parametrize("skip", [True, False])
def test_furthest_points_are_those_of_the_loop(n, ties, skip):
    x = cloud(n)
    x[:, 3] = 0.01  # near the origin
    m, start = min(n, 12), torch.tensor([0, 4])
    have = furthest_point_sample(x, m, start=start, ties=ties, skip_origin=skip)
    assert have.dtype == torch.int32
    assert torch.equal(have, reference.furthest_point_sample(x, m, start.tolist(), skip, ties))


@pytest.mark.parametrize("ties", ["tree", "lowest"])
def test_equally_far_points_are_taken_in_the_published_order(ties):
    have = furthest_point_sample(LATTICE, 64, ties=ties)
    assert torch.equal(have, reference.furthest_point_sample(LATTICE, 64, None, True, ties))
    assert have[0, :2].tolist() == [0, 63]
    other = furthest_point_sample(LATTICE, 64, ties="lowest" if ties == "tree" else "tree")
    assert not torch.equal(have, other)


def test_order_of_threads_is_that_of_a_tree():
    """Four threads merge 0 with 2, 1 with 3, then 0 with 1: 0, 2, 1, 3."""
    assert sorted(range(4), key=lambda k: reference.tree_rank(k, 4)) == [0, 2, 1, 3]
    assert [reference.threads(n) for n in (1, 2, 3, 511, 512, 5000)] == [1, 2, 2, 256, 512, 512]
    assert sorted(range(6), key=lambda k: reference.tree_rank(k, 6)) == [0, 4, 2, 1, 5, 3]


def test_points_near_the_origin_are_skipped_but_for_the_start():
    x = cloud(40)
    x[:, :5] = 0.015
    chosen = furthest_point_sample(x, 40)
    assert chosen[:, 0].tolist() == [0, 0]
    assert not ((chosen[:, 1:] > 0) & (chosen[:, 1:] < 5)).any()
    assert len(set(chosen[0].tolist())) == 36  # 35 eligible ones and the start; then chosen ones repeat
    everything = furthest_point_sample(x, 40, skip_origin=False)
    assert (everything < 5).sum() > 2


def test_nothing_eligible_repeats_index_0():
    assert furthest_point_sample(torch.full((1, 9, 3), 0.001), 4, start=3).tolist() == [[3, 0, 0, 0]]


@pytest.mark.parametrize("convention", ["pointnet2", "pytorch"])
def test_first_indices_do_not_depend_on_the_number(convention):
    x, options = cloud(200), {"convention": convention, "start": 0}
    whole = furthest_point_sample(x, 64, **options)
    for m in (1, 2, 17, 63):
        assert torch.equal(furthest_point_sample(x, m, **options), whole[:, :m])
    radius = [
        torch.cdist(x, x.gather(1, whole[:, :m, None].long().expand(-1, -1, 3))).amin(2).amax() for m in range(1, 64)
    ]
    assert all(after <= before for before, after in pairwise(radius))


def test_the_pytorch_convention_starts_anywhere_and_skips_nothing():
    x = torch.full((200, 9, 3), 0.001)
    x[:, 4] = 5.0
    starts = furthest_point_sample(x, 1, convention="pytorch", generator=generator("a"))[:, 0]
    assert set(starts.tolist()) == set(range(9))
    assert torch.equal(starts, furthest_point_sample(x, 1, convention="pytorch", generator=generator("a"))[:, 0])
    assert furthest_point_sample(x[:1], 2, convention="pytorch", start=0).tolist() == [[0, 4]]


@pytest.mark.parametrize("k", [1, 3, 32])
def test_nearest_points_are_those_of_the_loop(k):
    x, q = cloud(300), cloud(7, 1)
    dist, idx = knn(x, q, k)
    want, where = reference.knn(x, q, k)
    assert idx.dtype == torch.int64
    assert torch.equal(idx, where)
    assert torch.equal(dist, want)
    assert (dist.diff(dim=2) >= 0).all()
    torch.testing.assert_close(dist, torch.cdist(q, x).topk(k, largest=False).values, rtol=1e-5, atol=1e-5)


def test_equal_distances_keep_the_earlier_index():
    x = torch.tensor([[[1.0, 0, 0], [0, 1, 0], [-1, 0, 0], [0, 0, 1], [2, 0, 0]]])
    dist, idx = knn(x, torch.zeros(1, 1, 3), 4)
    assert idx.tolist() == [[[0, 1, 2, 3]]]
    assert dist.tolist() == [[[1.0, 1.0, 1.0, 1.0]]]


def test_differences_are_exact_where_the_expanded_formula_is_not():
    x = torch.tensor([[[1000.0, 0, 0], [1000.01, 0, 0], [1000.02, 0, 0]]])
    assert knn(x, x, 2)[1][0, :, 0].tolist() == [0, 1, 2]
    assert knn(x, x[:, :1], 3)[0][0, 0].tolist() == pytest.approx([0, 0.01, 0.02], abs=1e-4)


def test_memory_of_a_large_search_is_bounded():
    """100,000 points: a distance matrix would need 40 GB for all queries, 1.6 GB for these."""
    x = cloud(100_000, batch=1)
    dist, idx = knn(x, x[:, :4000], 4)
    assert torch.equal(idx[0, :, 0], torch.arange(4000))
    assert (dist[..., 0] == 0).all()


def test_the_class_takes_either_layout():
    x, q = cloud(50), cloud(6, 1)
    want = knn(x, q, 5)
    for have in (
        KNN(5, transpose_mode=True)(x, q),
        [t.transpose(1, 2) for t in KNN(5)(x.transpose(1, 2), q.transpose(1, 2))],
    ):
        assert torch.equal(have[0], want[0])
        assert torch.equal(have[1], want[1])


@pytest.mark.parametrize("inclusive", [True, False])
@pytest.mark.parametrize("radius", [0.2, 0.5, 3.0])
def test_balls_hold_what_the_loop_finds(radius, inclusive):
    x, q = cloud(120), cloud(9, 1)
    have = ball_query(radius, 6, x, q, inclusive=inclusive)
    assert have.dtype == torch.int32
    assert torch.equal(have, reference.ball_query(radius, 6, x, q, inclusive))


def test_a_ball_is_padded_with_its_first_hit_and_an_empty_one_with_0():
    x = torch.tensor([[[5.0, 0, 0], [0.1, 0, 0], [6, 0, 0], [0.2, 0, 0]]])
    centres = torch.tensor([[[0.0, 0, 0], [50, 0, 0]]])
    assert ball_query(1.0, 3, x, centres).tolist() == [[[1, 3, 1], [0, 0, 0]]]
    assert ball_query(1.0, 1, x, centres).tolist() == [[[1], [0]]]


def test_points_at_the_radius_count_in_one_convention():
    x, centre = torch.tensor([[[0.5, 0, 0], [0.25, 0, 0]]]), torch.zeros(1, 1, 3)
    assert ball_query(0.5, 2, x, centre).tolist() == [[[1, 1]]]
    assert ball_query(0.5, 2, x, centre, convention="pytorch").tolist() == [[[0, 1]]]
    assert ball_query(0.5, 2, x, centre, inclusive=True).tolist() == [[[0, 1]]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_inputs_are_cast_and_made_contiguous(dtype):
    x = cloud(40)
    single = x.to(dtype).float()
    strided = x.to(dtype).transpose(1, 2).contiguous().transpose(1, 2)
    assert not strided.is_contiguous()
    assert torch.equal(furthest_point_sample(strided, 9), furthest_point_sample(single, 9))
    assert torch.equal(knn(strided, strided[:, :3], 4)[1], knn(single, single[:, :3], 4)[1])


def test_threads_share_the_batch_and_change_nothing():
    x = cloud(2000, batch=5)
    one = furthest_point_sample(x, 100), knn(x, x[:, :50], 8)[1]
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        many = furthest_point_sample(x, 100), knn(x, x[:, :50], 8)[1]
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(one, many, strict=True))


def test_duplicated_points_are_allowed():
    x = torch.ones(1, 10, 3)
    x[0, 5] = 2.0
    assert furthest_point_sample(x, 3)[0, :2].tolist() == [0, 5]
    assert np.unique(knn(x, x[:, :1], 9)[1]).tolist() == [0, 1, 2, 3, 4, 6, 7, 8, 9]


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda: furthest_point_sample(torch.zeros(2, 5, 2), 3), r"\(2, 5, 2\).*\(batch, point, 3\)"),
        (lambda: furthest_point_sample(torch.zeros(5, 3), 3), r"\(5, 3\)"),
        (lambda: furthest_point_sample(torch.zeros(1, 0, 3), 3), "no points"),
        (lambda: furthest_point_sample(torch.zeros(1, 5, 3), 0), "m=0"),
        (lambda: furthest_point_sample(torch.zeros(1, 5, 3), 2, start=5), "start=5 lies outside the 5 points"),
        (lambda: furthest_point_sample(torch.zeros(2, 5, 3), 2, start=torch.tensor([0, 9])), "outside the 5 points"),
        (lambda: furthest_point_sample(torch.zeros(1, 5, 3), 2, start="first"), "start='first'"),
        (lambda: furthest_point_sample(torch.zeros(1, 5, 3), 2, ties="highest"), "ties='highest'"),
        (lambda: furthest_point_sample(torch.zeros(1, 5, 3), 2, convention="open3d"), "convention='open3d'"),
        (lambda: knn(torch.zeros(1, 5, 3), torch.zeros(1, 2, 3), 6), r"k=6 .*1\.\.5"),
        (lambda: knn(torch.zeros(2, 5, 3), torch.zeros(1, 2, 3), 2), "2 clouds, query 1"),
        (lambda: ball_query(0.0, 3, torch.zeros(1, 5, 3), torch.zeros(1, 2, 3)), "radius=0.0"),
        (lambda: ball_query(1.0, 0, torch.zeros(1, 5, 3), torch.zeros(1, 2, 3)), "nsample=0"),
        (
            lambda: ball_query(0.1, 3, torch.ones(1, 5, 3), torch.zeros(1, 2, 3), convention="pytorch"),
            "no point within radius=0.1",
        ),
    ],
)
def test_bad_input_is_refused(run, message):
    with pytest.raises(DataError, match=message):
        run()
