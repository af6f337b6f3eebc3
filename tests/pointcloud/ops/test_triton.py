"""The CUDA kernels without a GPU: their values through Triton's interpreter, and their compilation for sm_90. With a GPU: on it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from pt_pointcloud.ops import ball_query, furthest_point_sample, knn, three_interpolate, three_nn

INTERPRETED = """
import numpy as np, torch
from pt_pointcloud.ops import _cpu, _cuda
torch.manual_seed(0)
def same(a, b): assert torch.equal(a, torch.from_numpy(b)), (a, b)
x, at = 0.4 * torch.randn(2, 90, 3), torch.tensor([0, 5])
x[:, 7] = 0.01
lattice = torch.stack(torch.meshgrid(*[torch.arange(4.0)] * 3, indexing="ij"), -1).reshape(1, 64, 3)
for skip, tree in ((True, True), (False, False)):
    same(_cuda.fps(x, 12, at, skip, tree), _cpu.fps(x.numpy(), 12, at.numpy(), skip, tree))
    same(_cuda.fps(lattice, 20, at[:1], skip, tree), _cpu.fps(lattice.numpy(), 20, at[:1].numpy(), skip, tree))
assert _cuda.fps(torch.full((1, 9, 3), 0.001), 3, at[1:], True, True).tolist() == [[5, 0, 0]]
q = x[:, :9].contiguous()
for k in (1, 6):
    for a, b in zip(_cuda.nearest(x, q, k), _cpu.nearest(x.numpy(), q.numpy(), k)): same(a, b)
three = lattice[:, :3].contiguous()
for a, b in zip(_cuda.nearest(lattice, three, 7), _cpu.nearest(lattice.numpy(), three.numpy(), 7)): same(a, b)
for a, b in zip(_cuda.nearest(q[:, :2].contiguous(), x, 3), _cpu.nearest(q.numpy()[:, :2], x.numpy(), 3)): same(a, b)
few = lattice[:, :6].contiguous()
for radius, inclusive in ((1.0, True), (1.0, False), (0.001, False)):
    same(_cuda.ball(lattice, few, radius, 6, inclusive), _cpu.ball(lattice.numpy(), few.numpy(), radius, 6, inclusive))
    same(_cuda.ball(x, q, radius, 90, inclusive), _cpu.ball(x.numpy(), q.numpy(), radius, 90, inclusive))
dist, idx = _cuda.nearest(q, x, 3)
f, w, g = torch.randn(2, 5, 9), torch.rand_like(dist), torch.randn(2, 5, 90)
same(_cuda.interpolate(f, idx, w), _cpu.interpolate(f.numpy(), idx.numpy(), w.numpy()))
back = torch.from_numpy(_cpu.interpolate_backward(g.numpy(), idx.numpy(), w.numpy(), 9))
assert (_cuda.interpolate_backward(g, idx, w, 9) - back).abs().max() < 1e-4
v, near, up = torch.randn(1, 9, 140), torch.randint(9, (1, 9, 4), dtype=torch.int32), torch.rand(140) > 0.4
for a, b in zip(_cuda.extreme(v, near, up), _cpu.extreme(v.numpy(), near.numpy(), up.numpy())): same(a, b)
print("fine")
"""


@pytest.mark.slow
def test_kernels_give_the_values_of_the_cpu_in_the_interpreter():
    pytest.importorskip("triton", reason="triton has wheels for Linux only")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", INTERPRETED], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "fine", done.stderr[-2000:]


def types(**named: str) -> dict[str, str]:
    """`f` and `i` are pointers, `n` is a number."""
    return {
        name: {"f": "*fp32", "i": "*i32", "l": "*i64", "b": "*i8", "n": "i32", "x": "fp32"}[kind]
        for name, kind in named.items()
    }


KERNELS = {
    "_fps_kernel": (
        types(xyz="f", start="l", order="i", nearest="f", out="i", n="n", m="n", near="x", far="x"),
        {"SKIP": True, "BLOCK": 1024},
    ),
    "_nearest_kernel": (types(ref="f", query="f", dist="f", idx="i", n="n", g="n"), {"K": 32, "BLOCK": 256, "ROWS": 4}),
    "_ball_kernel": (
        types(xyz="f", centres="f", out="i", n="n", m="n", limit="x", NSAMPLE="n"),
        {"INCLUSIVE": False, "BLOCK": 256},
    ),
    "_interpolate_kernel": (
        types(features="f", idx="i", weight="f", out="f", c="n", m="n", n="n"),
        {"BACKWARD": True, "BLOCK": 256},
    ),
    "_extreme_kernel": (
        types(values="f", idx="i", largest="b", best="f", chosen="i", g="n", c="n", K="n"),
        {"BLOCK": 128},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", KERNELS)
def test_kernels_compile_for_a_gpu_without_fused_multiply_adds(name):
    triton = pytest.importorskip("triton", reason="triton has wheels for Linux only")
    from pt_pointcloud.ops import _cuda
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel, (arguments, constants) = getattr(_cuda, name), KERNELS[name]
    signature = {**arguments, **dict.fromkeys(constants, "constexpr")}
    places = {(kernel.arg_names.index(key),): value for key, value in constants.items()}
    source = ASTSource(kernel, signature=signature, constexprs=places)
    built = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=dict(_cuda.EXACT))
    assert "fma.rn.f32" not in built.asm["ptx"]


@pytest.mark.gpu
def test_the_gpu_gives_the_indices_of_the_cpu():
    x = 0.4 * torch.randn(4, 2048, 3, generator=torch.Generator().manual_seed(0))
    y = x.cuda()
    assert torch.equal(furthest_point_sample(y, 128).cpu(), furthest_point_sample(x, 128))
    for a, b in zip(knn(y, y[:, :128], 32), knn(x, x[:, :128], 32), strict=True):
        torch.testing.assert_close(a.cpu(), b, rtol=1e-6, atol=0)
    assert torch.equal(ball_query(0.3, 32, y, y[:, :64]).cpu(), ball_query(0.3, 32, x, x[:, :64]))
    (dist, idx), f = three_nn(x, x[:, :64]), torch.randn(4, 8, 64)
    torch.testing.assert_close(
        three_interpolate(f.cuda(), idx.cuda(), dist.cuda()).cpu(), three_interpolate(f, idx, dist)
    )


@pytest.mark.gpu
def test_pointnet2_ops_agrees_where_it_is_installed():
    published = pytest.importorskip("pointnet2_ops.pointnet2_utils")
    x = 0.4 * torch.randn(4, 1000, 3, generator=torch.Generator().manual_seed(0)).cuda()
    x[:, :5] = 0.01
    assert torch.equal(published.furthest_point_sample(x, 64), furthest_point_sample(x, 64))
    assert torch.equal(published.ball_query(0.3, 16, x, x[:, :50].contiguous()), ball_query(0.3, 16, x, x[:, :50]))
    for a, b in zip(published.three_nn(x, x[:, :50].contiguous()), three_nn(x, x[:, :50]), strict=True):
        assert torch.equal(a, b)
