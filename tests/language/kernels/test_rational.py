"""The rational activation: against the naive fraction, finite differences and GeLU; coefficient gradients in half precision."""

from __future__ import annotations

import pytest
import torch
from pt_core.kernels import reference_kernels
from pt_language.kernels.rational import GELU_NARROW, GELU_WIDE, horner, rational, rational_reference
from torch.nn import functional as F

from tests.language.common import close


def coefficients(m: int, n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return (torch.randn(k, generator=rng, dtype=torch.float64).requires_grad_() for k in (m + 1, n))  # type: ignore[return-value]


@pytest.mark.parametrize(("m", "n"), [(6, 5), (5, 4), (2, 1), (1, 3), (0, 1)])
def test_equals_the_fraction_with_powers_in_value_and_gradients(m, n):
    a, b = coefficients(m, n)
    x = torch.linspace(-2, 2, 41, dtype=torch.float64).requires_grad_()
    weight = torch.randn(41, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    results = []
    for fn in (rational, rational_reference):
        y = fn(x, a, b)
        results.append([y.detach(), *torch.autograd.grad((y * weight).sum(), (x, a, b))])
    for have, want in zip(*results, strict=True):
        close(have, want, 1e-10)


def test_gradients_are_finite_differences_away_from_the_kink():
    a, b = coefficients(6, 5, 2)
    x = torch.tensor([0.3, -0.7, 1.1], dtype=torch.float64, requires_grad=True)
    assert float((horner(x, b) * x).detach().abs().min()) > 1e-3
    assert torch.autograd.gradcheck(rational, (x, a, b))


def test_the_derivative_at_the_kink_takes_the_sign_zero():
    a, b = torch.tensor([1.0, 2.0]), torch.tensor([3.0], requires_grad=True)
    x = torch.zeros(1, requires_grad=True)
    rational(x, a, b).sum().backward()
    assert (float(x.grad), float(b.grad)) == (2.0, 0.0)  # type: ignore[arg-type]


@pytest.mark.parametrize(("fit", "reach", "error"), [(GELU_NARROW, 3.0, 1e-3), (GELU_WIDE, 5.0, 4e-3)])
def test_the_initial_values_are_gelu(fit, reach, error):
    x = torch.linspace(-reach, reach, 2001)
    difference = rational(x, torch.tensor(fit[0]), torch.tensor(fit[1])) - F.gelu(x)
    assert float(difference.abs().max()) < error


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_sums_coefficient_gradients_in_float32(dtype):
    a, b = (torch.tensor(c, requires_grad=True) for c in GELU_WIDE)
    x = torch.randn(4096, generator=torch.Generator().manual_seed(0)).to(dtype)
    y = rational(x, a, b)
    assert y.dtype == dtype
    y.float().sum().backward()
    wide = [torch.tensor(c, dtype=torch.float64, requires_grad=True) for c in GELU_WIDE]
    rational_reference(x.double(), *wide).sum().backward()
    for have, want in zip((a, b), wide, strict=True):
        close(have.grad.double(), want.grad, 1e-2 if dtype == torch.bfloat16 else 1e-3)


def test_reference_kernels_switch_to_the_reference():
    a, b = (torch.tensor(c, requires_grad=True) for c in GELU_WIDE)
    x = torch.randn(8, requires_grad=True)
    with reference_kernels():
        (slope,) = torch.autograd.grad(rational(x, a, b).sum(), x, create_graph=True)
        assert torch.autograd.grad(slope.sum(), x)[0].shape == x.shape  # a second derivative
