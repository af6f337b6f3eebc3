"""Learned rational activations R(x) = P(x) / Q(x), P = sum_j a_j x^j, Q = 1 + |sum_i b_i x^i| with i from 1 (Molina et al., ICLR 2020; Q of
the absolute sum, "version B").

`rational` evaluates both polynomials by Horner's rule, in float32 at least (x^6 leaves the range of half precision), and has its own
backward pass: nothing but x is kept, and the coefficients' gradients are sums in float32. The derivative of |S| at S = 0 is taken as 0.
"""

from __future__ import annotations

from typing import Any

import torch
from pt_core.kernels._mode import fast_paths_enabled, transforming
from torch import Tensor

GELU_WIDE = (
    (-0.0021165, 0.5254319, 0.4512056, 0.1404097, 0.0185908, 0.000934, 1.45e-05),
    (0.2077602, 0.0612772, 0.0960563, -0.0169069, 0.0013569),
)
"""(a, b) of orders (6, 5) that fit GeLU on [-5, 5] within 3.8e-3; well behaved outside."""
GELU_NARROW = (
    (2.82e-05, 0.5, 0.3984984, 0.162451, 0.0641776, 0.0183507, 0.0021033),
    (-2.1e-06, 0.3249038, -3e-07, 0.0367013, 0.0),
)
"""(a, b) of orders (6, 5) that fit GeLU on [-3, 3] within 1.1e-4; grows faster than GeLU outside."""


def horner(x: Tensor, coefficients: Tensor) -> Tensor:
    """sum_j c_j x^j."""
    value = coefficients[-1].expand_as(x)
    for c in coefficients.flip(0)[1:]:
        value = value * x + c
    return value


def rational_reference(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """P / Q written with powers, differentiated by autograd."""
    powers = torch.stack([x**j for j in range(max(len(a), len(b) + 1))])
    numerator = torch.tensordot(a, powers[: len(a)], 1)
    inner = torch.tensordot(b, powers[1 : len(b) + 1], 1)
    return numerator / (1 + inner.abs())


def rational(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """R(x), element-wise.

    Args:
        x: any shape.
        a: (m + 1,) coefficients of the numerator.
        b: (n,) coefficients of the denominator, from x^1 on.

    Returns:
        the shape and dtype of x.
    """
    work = torch.promote_types(x.dtype, torch.float32)
    wide = [tensor.to(work) for tensor in (x, a, b)]
    with torch.autocast(x.device.type, enabled=False):
        if not fast_paths_enabled() or transforming():
            return rational_reference(*wide).to(x.dtype)
        result: Tensor = _Rational.apply(*wide)
        return result.to(x.dtype)


class _Rational(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(x, a, b)
        return horner(x, a) / (1 + (horner(x, b) * x).abs())

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, a, b = ctx.saved_tensors
        numerator, inner = horner(x, a), horner(x, b) * x
        sign, down = inner.sign(), 1 + inner.abs()
        orders_a = torch.arange(1, len(a), device=x.device, dtype=x.dtype)
        orders_b = torch.arange(1, len(b) + 1, device=x.device, dtype=x.dtype)
        slope_up = horner(x, a[1:] * orders_a) if len(a) > 1 else torch.zeros_like(x)
        slope_down = sign * horner(x, b * orders_b)
        grad_x = grad * (slope_up * down - numerator * slope_down) / down**2
        to_a, to_b = grad / down, -grad * sign * numerator / down**2
        grad_a, grad_b = [], []
        power = torch.ones_like(x)
        for order in range(max(len(a), len(b) + 1)):
            if order < len(a):
                grad_a.append((to_a * power).sum())
            if 0 < order <= len(b):
                grad_b.append((to_b * power).sum())
            power = power * x
        return grad_x, torch.stack(grad_a), torch.stack(grad_b)
