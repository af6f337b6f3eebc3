"""The information estimates against their slow references, and on Gaussians whose mutual information is known."""

from __future__ import annotations

import math

import pytest
import torch
from pt_core.errors import DataError
from pt_timeseries.pond.information import (
    distinction,
    infonce,
    kernel,
    leave_one_out,
    pair_by_class,
    slow_infonce,
    slow_leave_one_out,
)
from torch import Tensor

from tests.timeseries.common import close


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize(("count", "dim"), [(1, 3), (2, 3), (7, 5), (32, 64)])
@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_infonce_is_its_double_loop(count, dim, temperature):
    u, v = normal(count, dim), normal(count, dim, seed=1)
    close(infonce(u, v, temperature), slow_infonce(u, v, temperature), 1e-10)


@pytest.mark.parametrize("count", [2, 8, 32])
def test_infonce_of_identical_pairs_is_at_most_log_k(count):
    u = normal(count, 64)
    value = float(infonce(u, u))
    assert value <= math.log(count) + 1e-12
    assert value > 0.9 * math.log(count)
    assert float(infonce(10 * u, 0.1 * u)) == pytest.approx(value)  # both sides are normalised


def test_infonce_of_independent_samples_is_about_zero():
    values = [float(infonce(normal(256, 64, seed=n), normal(256, 64, seed=1000 + n), 1.0)) for n in range(20)]
    assert abs(sum(values) / 20) < 0.05


def test_infonce_does_not_depend_on_the_order_of_the_batch():
    u, v, order = normal(16, 8), normal(16, 8, seed=1), torch.randperm(16)
    close(infonce(u[order], v[order]), infonce(u, v), 1e-12)
    assert abs(float(infonce(u, v[order]) - infonce(u, v))) > 1e-3  # pairs, not samples


def test_infonce_bounds_the_information_of_gaussians_from_below():
    """With the optimal critic log p(v|u) the bound holds; cosines of a linear map are no better."""
    rho = 0.9
    truth = -0.5 * math.log(1 - rho**2)
    u = normal(512, 1)
    v = rho * u + math.sqrt(1 - rho**2) * normal(512, 1, seed=1)
    angle = lambda x: torch.cat([x.cos(), x.sin()], 1)  # noqa: E731
    assert 0.2 < float(infonce(angle(u), angle(v), 0.3)) < truth


@pytest.mark.parametrize("count", [2, 3, 9, 40])
def test_leave_one_out_is_its_double_loop(count):
    log_q = normal(count, count)
    close(leave_one_out(log_q), slow_leave_one_out(log_q), 1e-10)


def gaussian_log_q(a: Tensor, b: Tensor, rho: float) -> Tensor:
    """log N(a_j; rho b_k, 1 - rho^2) up to a constant."""
    return -((a[:, None] - rho * b[None]) ** 2) / (2 * (1 - rho**2))


@pytest.mark.parametrize("rho", [0.3, 0.6, 0.9])
def test_leave_one_out_with_the_true_conditional_is_an_upper_bound_within_a_fifth_of_a_nat(rho):
    truth = -0.5 * math.log(1 - rho**2)
    values = []
    for seed in range(60):
        b = normal(256, seed=seed)
        a = rho * b + math.sqrt(1 - rho**2) * normal(256, seed=1000 + seed)
        values.append(float(leave_one_out(gaussian_log_q(a, b, rho))))
    mean = sum(values) / len(values)
    error = torch.tensor(values).std() / math.sqrt(len(values))
    assert mean >= truth - 2 * float(error)
    assert mean - truth < 0.2


def test_leave_one_out_of_independent_samples_is_about_zero():
    """With a known conditional that hardly depends on b; the kernel, which is none, errs on the low side by a Jensen gap."""
    known = [
        float(leave_one_out(gaussian_log_q(normal(256, seed=n), normal(256, seed=900 + n), 0.1))) for n in range(20)
    ]
    assert abs(sum(known) / 20) < 0.05
    values = [float(distinction(normal(256, 4, seed=n), normal(256, 4, seed=1000 + n))) for n in range(20)]
    assert -0.1 < sum(values) / 20 < 0.0
    shared = normal(256, 4)
    assert float(distinction(shared, shared + 0.1 * normal(256, 4, seed=1))) > 0.5


def test_one_sample_leaves_nothing_out():
    with pytest.raises(DataError, match="at least 2 samples, got 1"):
        leave_one_out(torch.zeros(1, 1))
    with pytest.raises(DataError, match="got 3 and 2"):
        infonce(torch.ones(3, 2), torch.ones(2, 2))


def test_equal_samples_give_a_flat_kernel_and_no_nan_gradient():
    a = torch.zeros(5, 3, requires_grad=True)
    value = distinction(a, torch.zeros(5, 3))
    value.backward()
    assert float(value.detach()) == 0.0
    assert a.grad.isfinite().all()


def test_the_kernel_has_the_median_as_width_and_does_not_see_a_common_scale():
    a, b = normal(20, 3), normal(20, 3, seed=1)
    squares = torch.cdist(a, b).square()
    close(kernel(a, b), -squares / (2 * squares.median()), 1e-10)
    close(distinction(1e-3 * a, 1e-3 * b), distinction(a, b), 1e-10)


def test_pairs_share_their_class_where_classes_allow_it():
    left, right = torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([2, 1, 0, 0, 1, 1])
    order = pair_by_class(left, right, torch.Generator().manual_seed(0))
    assert sorted(order.tolist()) == list(range(6))
    assert (right[order] == left).tolist().count(True) == 5  # 2 of class 0, 2 of class 1, 1 of class 2
    others = {tuple(pair_by_class(left, right, torch.Generator().manual_seed(s)).tolist()) for s in range(20)}
    assert len(others) > 1
