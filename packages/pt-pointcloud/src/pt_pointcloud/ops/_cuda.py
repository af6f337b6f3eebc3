"""CUDA kernels in Triton. Distances are computed in the order of the CPU kernels and multiply-adds are not fused, so indices are those
of the CPU; forward passes have no atomics.

Tested on the CPU through Triton's interpreter (TRITON_INTERPRET=1), and compiled for sm_90.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from pt_pointcloud.ops._cpu import _tie_order
from pt_pointcloud.ops.reference import FAR, NEAR_ORIGIN

EXACT = {"enable_fp_fusion": False}


@triton.jit
def _fps_kernel(xyz, start, order, nearest, out, n, m, near, far, SKIP: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """One program per cloud; xyz (b, 3, n) in the order of preference among ties, so the first position of the maximum is taken."""
    b = tl.program_id(0).to(tl.int64)
    xyz += b * 3 * n
    nearest += b * n
    out += b * m
    last = tl.load(start + b).to(tl.int32)
    origin = 0  # position of index 0, which is taken where nothing is eligible
    for low in range(0, n, BLOCK):
        k = low + tl.arange(0, BLOCK)
        inside = k < n
        x = tl.load(xyz + k, mask=inside, other=0.0)
        y = tl.load(xyz + n + k, mask=inside, other=0.0)
        z = tl.load(xyz + 2 * n + k, mask=inside, other=0.0)
        begin = tl.full([BLOCK], far, tl.float32)
        if SKIP:
            begin = tl.where(x * x + y * y + z * z <= near, -1.0, begin)
        tl.store(nearest + k, begin, mask=inside)
        index = tl.load(order + k, mask=inside, other=1)
        origin = tl.maximum(origin, tl.max(tl.where(index == 0, k, 0), 0))
    tl.store(out, tl.load(order + last))
    for j in range(1, m):
        lx = tl.load(xyz + last)
        ly = tl.load(xyz + n + last)
        lz = tl.load(xyz + 2 * n + last)
        best = -1.0
        chosen = origin
        for low in range(0, n, BLOCK):
            k = low + tl.arange(0, BLOCK)
            inside = k < n
            dx = tl.load(xyz + k, mask=inside, other=0.0) - lx
            dy = tl.load(xyz + n + k, mask=inside, other=0.0) - ly
            dz = tl.load(xyz + 2 * n + k, mask=inside, other=0.0) - lz
            t = tl.minimum(tl.load(nearest + k, mask=inside, other=-1.0), dx * dx + dy * dy + dz * dz)
            tl.store(nearest + k, t, mask=inside)
            top = tl.max(t, 0)
            where = tl.min(tl.where(t == top, k, n), 0)
            chosen = tl.where(top > best, where, chosen)
            best = tl.maximum(best, top)
        last = chosen
        tl.store(out + j, tl.load(order + last))


@triton.jit
def _nearest_kernel(ref, query, dist, idx, n, g, K: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr):  # type: ignore[no-untyped-def]
    """ROWS queries per program. The K best so far are kept sorted; every block of points offers its best until none is better."""
    b = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    valid = row < g
    ref += b * 3 * n
    query += b * g * 3
    qx = tl.load(query + row * 3, mask=valid, other=0.0)[:, None]
    qy = tl.load(query + row * 3 + 1, mask=valid, other=0.0)[:, None]
    qz = tl.load(query + row * 3 + 2, mask=valid, other=0.0)[:, None]
    place = tl.arange(0, K)[None, :]
    best = tl.full([ROWS, K], float("inf"), tl.float32)
    kept = tl.zeros([ROWS, K], tl.int32)
    for low in range(0, n, BLOCK):
        k = low + tl.arange(0, BLOCK)
        inside = k < n
        dx = qx - tl.load(ref + k, mask=inside, other=0.0)[None, :]
        dy = qy - tl.load(ref + n + k, mask=inside, other=0.0)[None, :]
        dz = qz - tl.load(ref + 2 * n + k, mask=inside, other=0.0)[None, :]
        d = tl.where(inside[None, :], dx * dx + dy * dy + dz * dz, float("inf"))
        more = True
        while more:
            least = tl.min(d, 1)
            at = tl.min(tl.where(d == least[:, None], k[None, :], n), 1)
            worst = tl.max(tl.where(place == K - 1, best, -1.0), 1)
            better = least < worst
            # Behind all kept ones that are not larger: an earlier index stays first among equals.
            rank = tl.sum((best <= least[:, None]).to(tl.int32), 1)[:, None]
            shifted = _shift(best, place, K)
            shifted_index = _shift(kept, place, K)
            new = tl.where(place < rank, best, tl.where(place == rank, least[:, None], shifted))
            new_index = tl.where(place < rank, kept, tl.where(place == rank, at[:, None], shifted_index))
            best = tl.where(better[:, None], new, best)
            kept = tl.where(better[:, None], new_index, kept)
            d = tl.where(better[:, None] & (k[None, :] == at[:, None]), float("inf"), d)
            more = tl.max(better.to(tl.int32), 0) > 0
    target = (b * g + row)[:, None] * K + place
    tl.store(dist + target, best, mask=valid[:, None])
    tl.store(idx + target, kept, mask=valid[:, None])


@triton.jit
def _shift(values, place, K: tl.constexpr):  # type: ignore[no-untyped-def]
    """Column c gets what column c - 1 held."""
    before = tl.maximum(place - 1, 0)
    return tl.gather(values, tl.broadcast_to(before, values.shape), 1)


@triton.jit
def _ball_kernel(xyz, centres, out, n, m, limit, INCLUSIVE: tl.constexpr, NSAMPLE, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """One program per centre; a running count places the hits of a block."""
    b = tl.program_id(1).to(tl.int64)
    row = b * m + tl.program_id(0)
    xyz += b * 3 * n
    cx = tl.load(centres + row * 3)
    cy = tl.load(centres + row * 3 + 1)
    cz = tl.load(centres + row * 3 + 2)
    count = 0
    first = n
    low = 0
    while (low < n) & (count < NSAMPLE):
        k = low + tl.arange(0, BLOCK)
        inside = k < n
        dx = cx - tl.load(xyz + k, mask=inside, other=0.0)
        dy = cy - tl.load(xyz + n + k, mask=inside, other=0.0)
        dz = cz - tl.load(xyz + 2 * n + k, mask=inside, other=0.0)
        d = dx * dx + dy * dy + dz * dz
        hit = inside & ((d <= limit) if INCLUSIVE else (d < limit))
        place = count + tl.cumsum(hit.to(tl.int32), 0) - 1
        tl.store(out + row * NSAMPLE + place, k, mask=hit & (place < NSAMPLE))
        first = tl.minimum(first, tl.min(tl.where(hit, k, n), 0))
        count += tl.sum(hit.to(tl.int32), 0)
        low += BLOCK
    fill = tl.where(first == n, -1, first)
    for begin in range(0, NSAMPLE, BLOCK):
        s = begin + tl.arange(0, BLOCK)
        tl.store(out + row * NSAMPLE + s, tl.zeros([BLOCK], tl.int32) + fill, mask=(s >= count) & (s < NSAMPLE))


@triton.jit
def _interpolate_kernel(features, idx, weight, out, c, m, n, BACKWARD: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """One program per (block of points, batch * channel). Backward: `features` is the gradient (b, c, n), added to `out` (b, c, m)."""
    row = tl.program_id(1).to(tl.int64)
    b = row // c
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < n
    at = (b * n + i) * 3
    total = tl.zeros([BLOCK], tl.float32)
    for t in range(3):
        j = tl.load(idx + at + t, mask=inside, other=0)
        w = tl.load(weight + at + t, mask=inside, other=0.0)
        if BACKWARD:
            g = tl.load(features + row * n + i, mask=inside, other=0.0)
            tl.atomic_add(out + row * m + j, g * w, mask=inside)
        else:
            total += tl.load(features + row * m + j, mask=inside, other=0.0) * w
    if not BACKWARD:
        tl.store(out + row * n + i, total, mask=inside)


@triton.jit
def _extreme_kernel(values, idx, largest, best, chosen, g, c, K, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """One program per (batch * token, block of channels)."""
    row = tl.program_id(0).to(tl.int64)
    b = row // g
    ch = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = ch < c
    up = tl.load(largest + ch, mask=inside, other=1) != 0
    j = tl.load(idx + row * K)
    top = tl.load(values + (b * g + j) * c + ch, mask=inside, other=0.0)
    who = tl.zeros([BLOCK], tl.int32) + j
    for t in range(1, K):
        j = tl.load(idx + row * K + t)
        v = tl.load(values + (b * g + j) * c + ch, mask=inside, other=0.0)
        better = tl.where(up, v > top, v < top)
        top = tl.where(better, v, top)
        who = tl.where(better, j, who)
    tl.store(best + row * c + ch, top, mask=inside)
    tl.store(chosen + row * c + ch, who, mask=inside)


def fps(xyz: Tensor, m: int, start: Tensor, skip_origin: bool, tree: bool) -> Tensor:
    batch, n, _ = xyz.shape
    order = (
        torch.from_numpy(_tie_order(n)).to(xyz.device)
        if tree
        else torch.arange(n, dtype=torch.int32, device=xyz.device)
    )
    position = torch.empty(n, dtype=torch.int64, device=xyz.device)
    position[order.long()] = torch.arange(n, device=xyz.device)
    clouds = xyz[:, order.long()].transpose(1, 2).contiguous()
    out = torch.empty(batch, m, dtype=torch.int32, device=xyz.device)
    nearest = torch.empty(batch, n, dtype=torch.float32, device=xyz.device)
    block = min(4096, triton.next_power_of_2(n))
    _fps_kernel[(batch,)](
        clouds,
        position[start],
        order,
        nearest,
        out,
        n,
        m,
        NEAR_ORIGIN,
        FAR,
        SKIP=skip_origin,
        BLOCK=block,
        num_warps=8,
        **EXACT,
    )
    return out


def nearest(ref: Tensor, query: Tensor, k: int) -> tuple[Tensor, Tensor]:
    batch, count, _ = query.shape
    wide = triton.next_power_of_2(k)
    dist = torch.empty(batch, count, wide, dtype=torch.float32, device=ref.device)
    idx = torch.empty(batch, count, wide, dtype=torch.int32, device=ref.device)
    rows = 4
    _nearest_kernel[(triton.cdiv(count, rows), batch)](
        ref.transpose(1, 2).contiguous(),
        query.contiguous(),
        dist,
        idx,
        ref.shape[1],
        count,
        K=wide,
        BLOCK=256,
        ROWS=rows,
        **EXACT,
    )
    return dist[..., :k].contiguous(), idx[..., :k].contiguous()


def ball(xyz: Tensor, centres: Tensor, radius: float, nsample: int, inclusive: bool) -> Tensor:
    batch, count, _ = centres.shape
    out = torch.empty(batch, count, nsample, dtype=torch.int32, device=xyz.device)
    limit = float(torch.tensor(radius, dtype=torch.float32).square())
    points = xyz.transpose(1, 2).contiguous()
    _ball_kernel[(count, batch)](
        points,
        centres.contiguous(),
        out,
        xyz.shape[1],
        count,
        limit,
        INCLUSIVE=inclusive,
        NSAMPLE=nsample,
        BLOCK=256,
        **EXACT,
    )
    return out


def interpolate(features: Tensor, idx: Tensor, weight: Tensor) -> Tensor:
    batch, channels, m = features.shape
    n = idx.shape[1]
    out = torch.empty(batch, channels, n, dtype=torch.float32, device=features.device)
    grid = (triton.cdiv(n, 256), batch * channels)
    _interpolate_kernel[grid](features, idx, weight, out, channels, m, n, BACKWARD=False, BLOCK=256, **EXACT)
    return out


def interpolate_backward(grad: Tensor, idx: Tensor, weight: Tensor, m: int) -> Tensor:
    """Sums with atomics: the order of additions, and so the last bit, may change from run to run."""
    batch, channels, n = grad.shape
    out = torch.zeros(batch, channels, m, dtype=torch.float32, device=grad.device)
    _interpolate_kernel[(triton.cdiv(n, 256), batch * channels)](
        grad, idx, weight, out, channels, m, n, BACKWARD=True, BLOCK=256, **EXACT
    )
    return out


def extreme(values: Tensor, idx: Tensor, largest: Tensor) -> tuple[Tensor, Tensor]:
    batch, tokens, channels = values.shape
    best = torch.empty_like(values)
    chosen = torch.empty(values.shape, dtype=torch.int32, device=values.device)
    grid = (batch * tokens, triton.cdiv(channels, 128))
    _extreme_kernel[grid](values, idx, largest.to(torch.int8), best, chosen, tokens, channels, idx.shape[2], BLOCK=128)
    return best, chosen
