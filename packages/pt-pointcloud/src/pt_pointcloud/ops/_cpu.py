"""CPU kernels, compiled by numba at first use and kept on disk. They release the GIL and work on contiguous float32 / int32 arrays; a
few Python threads (as many as torch may use) share the batch. Distances are differences squared and added in the order x, y, z."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray

from pt_pointcloud.ops.reference import FAR, NEAR_ORIGIN, threads

Array = NDArray[Any]
BLOCK = 256
# No `contract` or `reassoc`: a fused multiply-add would round distances differently from the reference.
FAST = {"nnan", "ninf", "nsz"}
_pools: dict[tuple[int, int], ThreadPoolExecutor] = {}


def jit(function: Callable[..., Any]) -> Callable[..., Any]:
    try:
        return njit(nogil=True, cache=True, fastmath=FAST)(function)
    except RuntimeError:  # no place to keep compiled code (a read-only installation): compile in every process
        return njit(nogil=True, fastmath=FAST)(function)


def spread(run: Callable[[int, int], None], total: int, work: int) -> None:
    """Call run(low, high) over 0..total, in as many threads as torch may use where there is enough work."""
    count = min(torch.get_num_threads(), total)
    if count < 2 or work < 200_000:
        run(0, total)
        return
    key = (os.getpid(), count)  # a forked process has no threads of its parent's pool
    pool = _pools.setdefault(key, ThreadPoolExecutor(count))
    edges = np.linspace(0, total, count + 1).astype(int).tolist()
    for job in [pool.submit(run, low, high) for low, high in itertools.pairwise(edges)]:
        job.result()


@jit
def _fps(clouds, start, order, skip, m, out):  # type: ignore[no-untyped-def]
    """clouds (b, 3, n) already in the order of preference among ties; order (n,) position -> index."""
    batch, _, n = clouds.shape
    nearest = np.empty(n, dtype=np.float32)
    for b in range(batch):
        x, y, z = clouds[b, 0], clouds[b, 1], clouds[b, 2]
        for k in range(n):
            skipped = skip and x[k] * x[k] + y[k] * y[k] + z[k] * z[k] <= np.float32(NEAR_ORIGIN)
            nearest[k] = np.float32(-1.0) if skipped else np.float32(FAR)  # -1 stays below every distance
        last = start[b]
        out[b, 0] = order[last]
        for j in range(1, m):
            lx, ly, lz = x[last], y[last], z[last]
            best, where = np.float32(-1.0), -1
            for low in range(0, n, BLOCK):
                high = min(low + BLOCK, n)
                top = np.float32(-1.0)
                for k in range(low, high):
                    dx, dy, dz = x[k] - lx, y[k] - ly, z[k] - lz
                    d = min(dx * dx + dy * dy + dz * dz, nearest[k])
                    nearest[k] = d
                    top = max(top, d)
                if top > best:
                    best, where = top, low
            chosen = -1
            if where >= 0:
                for k in range(where, min(where + BLOCK, n)):
                    if nearest[k] == best:
                        chosen = k
                        break
            if chosen < 0:  # nothing is eligible: index 0, wherever it was put
                for k in range(n):
                    if order[k] == 0:
                        chosen = k
                        break
            last = chosen
            out[b, j] = order[last]


@jit
def _knn(refs, queries, low, high, k, dist, idx):  # type: ignore[no-untyped-def]
    """Rows low..high of the flattened (batch * queries); refs (b, 3, n), queries (b * g, 3). Squared distances, ascending."""
    n = refs.shape[2]
    per = queries.shape[0] // refs.shape[0]
    buffer = np.empty(BLOCK, dtype=np.float32)
    for row in range(low, high):
        b = row // per
        x, y, z = refs[b, 0], refs[b, 1], refs[b, 2]
        qx, qy, qz = queries[row, 0], queries[row, 1], queries[row, 2]
        worst = np.float32(np.inf)
        for place in range(k):
            dist[row, place] = np.float32(np.inf)
            idx[row, place] = 0
        for begin in range(0, n, BLOCK):
            size = min(BLOCK, n - begin)
            least = np.float32(3e38)
            for t in range(size):
                dx, dy, dz = qx - x[begin + t], qy - y[begin + t], qz - z[begin + t]
                d = dx * dx + dy * dy + dz * dz
                buffer[t] = d
                least = min(least, d)
            if least >= worst:
                continue
            for t in range(size):
                d = buffer[t]
                if d < worst:
                    place = k - 1
                    while place > 0 and d < dist[row, place - 1]:
                        dist[row, place] = dist[row, place - 1]
                        idx[row, place] = idx[row, place - 1]
                        place -= 1
                    dist[row, place] = d
                    idx[row, place] = begin + t
                    worst = dist[row, k - 1]


@jit
def _ball(points, centres, low, high, limit, inclusive, out):  # type: ignore[no-untyped-def]
    n, nsample = points.shape[1], out.shape[1]
    per = centres.shape[0] // points.shape[0]
    for row in range(low, high):
        cloud = points[row // per]
        cx, cy, cz = centres[row, 0], centres[row, 1], centres[row, 2]
        hits = 0
        for k in range(n):
            dx, dy, dz = cx - cloud[k, 0], cy - cloud[k, 1], cz - cloud[k, 2]
            d = dx * dx + dy * dy + dz * dz
            if d < limit or (inclusive and d == limit):
                if hits == 0:
                    out[row, :] = k
                out[row, hits] = k
                hits += 1
                if hits == nsample:
                    break
        if hits == 0:
            out[row, :] = -1


@jit
def _interpolate(features, idx, weight, low, high, out):  # type: ignore[no-untyped-def]
    """Rows low..high of (batch * channels)."""
    channels, n = features.shape[1], idx.shape[1]
    for row in range(low, high):
        b, c = row // channels, row % channels
        source, target = features[b, c], out[b, c]
        for i in range(n):
            value = source[idx[b, i, 0]] * weight[b, i, 0]
            value += source[idx[b, i, 1]] * weight[b, i, 1]
            target[i] = value + source[idx[b, i, 2]] * weight[b, i, 2]


@jit
def _interpolate_backward(grad, idx, weight, low, high, out):  # type: ignore[no-untyped-def]
    channels, n = grad.shape[1], idx.shape[1]
    for row in range(low, high):
        b, c = row // channels, row % channels
        source, target = grad[b, c], out[b, c]
        target[:] = 0
        for i in range(n):
            for t in range(3):
                target[idx[b, i, t]] += source[i] * weight[b, i, t]


@jit
def _extreme(values, idx, largest, low, high, best, chosen):  # type: ignore[no-untyped-def]
    """Tokens low..high of (batch * tokens); values (b, g, c)."""
    tokens, channels, k = values.shape[1], values.shape[2], idx.shape[2]
    for row in range(low, high):
        b, i = row // tokens, row % tokens
        for c in range(channels):
            best[row, c] = values[b, idx[b, i, 0], c]
            chosen[row, c] = idx[b, i, 0]
        for t in range(1, k):
            j = idx[b, i, t]
            for c in range(channels):
                v = values[b, j, c]
                better = v > best[row, c] if largest[c] else v < best[row, c]
                best[row, c] = v if better else best[row, c]
                chosen[row, c] = j if better else chosen[row, c]


def _tie_order(n: int) -> Array:
    """(n,) indices in the order in which the published kernel prefers tied points (`reference.tree_rank`)."""
    count = threads(n)
    bits = count.bit_length() - 1
    thread = np.arange(n) % count
    reverse = np.zeros(n, dtype=np.int64)
    for bit in range(bits):
        reverse |= ((thread >> bit) & 1) << (bits - 1 - bit)
    return np.lexsort((np.arange(n), reverse)).astype(np.int32)


def fps(xyz: Array, m: int, start: Array, skip_origin: bool, tree: bool) -> Array:
    batch, n, _ = xyz.shape
    order = _tie_order(n) if tree else np.arange(n, dtype=np.int32)
    position = np.empty(n, dtype=np.int64)
    position[order] = np.arange(n)
    clouds = np.ascontiguousarray(xyz.transpose(0, 2, 1)[:, :, order] if tree else xyz.transpose(0, 2, 1))
    first, out = position[start], np.empty((batch, m), dtype=np.int32)

    def run(low: int, high: int) -> None:
        _fps(clouds[low:high], first[low:high], order, skip_origin, m, out[low:high])

    spread(run, batch, batch * m * n)
    return out


def nearest(refs: Array, queries: Array, k: int) -> tuple[Array, Array]:
    """Squared distances (b, g, k) float32, ascending, and indices int32; missing ones are (inf, 0)."""
    batch, count, _ = queries.shape
    columns = np.ascontiguousarray(refs.transpose(0, 2, 1))
    flat = np.ascontiguousarray(queries).reshape(-1, 3)
    dist, idx = np.empty((len(flat), k), dtype=np.float32), np.empty((len(flat), k), dtype=np.int32)
    if len(flat):
        spread(lambda low, high: _knn(columns, flat, low, high, k, dist, idx), len(flat), len(flat) * refs.shape[1])
    return dist.reshape(batch, count, k), idx.reshape(batch, count, k)


def ball(xyz: Array, centres: Array, radius: float, nsample: int, inclusive: bool) -> Array:
    """(b, m, nsample) int32; -1 where a ball is empty."""
    batch, count, _ = centres.shape
    flat, out = np.ascontiguousarray(centres).reshape(-1, 3), np.empty((batch * count, nsample), dtype=np.int32)
    limit, points = np.float32(radius) * np.float32(radius), np.ascontiguousarray(xyz)
    if len(flat):
        spread(
            lambda low, high: _ball(points, flat, low, high, limit, inclusive, out),
            len(flat),
            len(flat) * xyz.shape[1],
        )
    return out.reshape(batch, count, nsample)


def interpolate(features: Array, idx: Array, weight: Array) -> Array:
    batch, channels, _ = features.shape
    out = np.empty((batch, channels, idx.shape[1]), dtype=np.float32)
    spread(lambda low, high: _interpolate(features, idx, weight, low, high, out), batch * channels, 3 * out.size)
    return out


def interpolate_backward(grad: Array, idx: Array, weight: Array, m: int) -> Array:
    batch, channels, _ = grad.shape
    out = np.empty((batch, channels, m), dtype=np.float32)
    spread(lambda low, high: _interpolate_backward(grad, idx, weight, low, high, out), batch * channels, 3 * grad.size)
    return out


def extreme(values: Array, idx: Array, largest: Array) -> tuple[Array, Array]:
    batch, tokens, channels = values.shape
    best = np.empty((batch * tokens, channels), dtype=np.float32)
    chosen = np.empty((batch * tokens, channels), dtype=np.int32)
    spread(
        lambda low, high: _extreme(values, idx, largest, low, high, best, chosen),
        batch * tokens,
        idx.size * channels,
    )
    return best.reshape(values.shape), chosen.reshape(values.shape)
