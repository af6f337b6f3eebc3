"""The operators as plain loops, one scalar at a time: slow, and what the fast paths are tested against.

Shapes and meaning are those of the functions of the same names in `pt_pointcloud.ops`; all tensors here are on the CPU. Single
precision is kept throughout (numpy scalars of float32), so that a fast path can agree to the last bit on distances and indices.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

NEAR_ORIGIN = 1e-3
"""pointnet2_ops skips points with x^2 + y^2 + z^2 at or below this, i.e. within 0.0316 of the origin."""
FAR = 1e10
"""Initial distance of every point in furthest point sampling."""


def threads(points: int) -> int:
    """Threads per cloud of the published CUDA kernel: min(512, 2^floor(log2 n))."""
    return int(min(512, 2 ** math.floor(math.log2(max(points, 1)))))


def tree_rank(index: int, points: int) -> tuple[int, int]:
    """Order in which the published kernel prefers tied points: bit-reversed thread, then the smaller index within a thread.

    Thread t scans points t, t + T, t + 2T ... and keeps the first of equal values; threads are then merged pairwise with strides
    T/2, T/4, ..., 1, where the left one wins a tie.
    """
    count = threads(points)
    bits = count.bit_length() - 1
    thread = index % count
    reversed_thread = int(f"{thread:0{bits}b}"[::-1], 2) if bits else 0
    return reversed_thread, index


def _square(a: np.ndarray, b: np.ndarray) -> np.float32:
    dx, dy, dz = (np.float32(a[i]) - np.float32(b[i]) for i in range(3))
    return np.float32(np.float32(dx * dx + dy * dy) + dz * dz)


def furthest_point_sample(
    xyz: Tensor, m: int, start: list[int] | None = None, skip_origin: bool = True, ties: str = "tree"
) -> Tensor:
    clouds = xyz.detach().cpu().numpy().astype(np.float32)
    batch, n, _ = clouds.shape
    out = np.zeros((batch, m), dtype=np.int32)
    for b, cloud in enumerate(clouds):
        skipped = [skip_origin and bool(_square(p, np.zeros(3)) <= np.float32(NEAR_ORIGIN)) for p in cloud]
        nearest = np.full(n, FAR, dtype=np.float32)
        out[b, 0] = 0 if start is None else start[b]
        for j in range(1, m):
            best, chosen = np.float32(-1), 0
            for k in range(n):
                if skipped[k]:
                    continue
                nearest[k] = min(nearest[k], _square(cloud[k], cloud[out[b, j - 1]]))
                first = tree_rank(k, n) < tree_rank(chosen, n) if ties == "tree" else k < chosen
                if nearest[k] > best or (nearest[k] == best and first):
                    best, chosen = nearest[k], k
            out[b, j] = chosen
    return torch.from_numpy(out)


def gather_operation(features: Tensor, idx: Tensor) -> Tensor:
    batch, channels, _ = features.shape
    rows = [
        torch.stack([torch.stack([features[b, c, int(i)] for i in idx[b]]) for c in range(channels)])
        for b in range(batch)
    ]
    return torch.stack(rows)


def knn(ref: Tensor, query: Tensor, k: int) -> tuple[Tensor, Tensor]:
    refs, queries = (t.detach().cpu().numpy().astype(np.float32) for t in (ref, query))
    batch, n, _ = refs.shape
    dist = np.zeros((batch, queries.shape[1], k), dtype=np.float32)
    index = np.zeros(dist.shape, dtype=np.int64)
    for b in range(batch):
        for g, point in enumerate(queries[b]):
            found = sorted((float(_square(point, refs[b, i])), i) for i in range(n))[:k]
            dist[b, g] = [d for d, _ in found]
            index[b, g] = [i for _, i in found]
    return torch.from_numpy(dist).sqrt(), torch.from_numpy(index)


def ball_query(radius: float, nsample: int, xyz: Tensor, new_xyz: Tensor, inclusive: bool = False) -> Tensor:
    """No hit leaves index 0."""
    points, centres = (t.detach().cpu().numpy().astype(np.float32) for t in (xyz, new_xyz))
    limit = np.float32(radius) * np.float32(radius)
    out = np.zeros((*centres.shape[:2], nsample), dtype=np.int32)
    for b in range(points.shape[0]):
        for g, centre in enumerate(centres[b]):
            hits = 0
            for k, point in enumerate(points[b]):
                d2 = _square(centre, point)
                if d2 < limit or (inclusive and d2 == limit):
                    if hits == 0:
                        out[b, g] = k
                    out[b, g, hits] = k
                    hits += 1
                    if hits == nsample:
                        break
    return torch.from_numpy(out)


def grouping_operation(features: Tensor, idx: Tensor) -> Tensor:
    batch, m, s = idx.shape
    return gather_operation(features, idx.reshape(batch, m * s)).reshape(batch, features.shape[1], m, s)


def three_nn(unknown: Tensor, known: Tensor, power: int = 1) -> tuple[Tensor, Tensor]:
    points, centres = (t.detach().cpu().numpy().astype(np.float32) for t in (unknown, known))
    dist = np.full((*points.shape[:2], 3), np.inf, dtype=np.float32)
    index = np.zeros(dist.shape, dtype=np.int32)
    for b in range(points.shape[0]):
        for i, point in enumerate(points[b]):
            for k, centre in enumerate(centres[b]):
                d2 = _square(point, centre)
                for place in range(3):
                    if d2 < dist[b, i, place]:  # strict: the lower index wins a tie
                        dist[b, i, place + 1 :], index[b, i, place + 1 :] = (
                            dist[b, i, place:2].copy(),
                            index[b, i, place:2].copy(),
                        )
                        dist[b, i, place], index[b, i, place] = d2, k
                        break
    values = torch.from_numpy(dist)
    return values.sqrt() if power == 1 else values, torch.from_numpy(index)


def three_interpolate(features: Tensor, idx: Tensor, weight: Tensor) -> Tensor:
    batch, channels, _ = features.shape
    rows = []
    for b in range(batch):
        values = [
            [
                torch.stack([features[b, c, int(idx[b, i, t])] * weight[b, i, t] for t in range(3)]).sum()
                for i in range(idx.shape[1])
            ]
            for c in range(channels)
        ]
        rows.append(torch.stack([torch.stack(row) for row in values]))
    return torch.stack(rows)


def neighbour_extreme(values: Tensor, idx: Tensor, largest: Tensor) -> tuple[Tensor, Tensor]:
    values = values.detach()
    batch, tokens, channels = values.shape
    best = torch.zeros(batch, tokens, channels)
    chosen = torch.zeros(batch, tokens, channels, dtype=torch.int32)
    for b in range(batch):
        for i in range(tokens):
            for c in range(channels):
                seen = [float(values[b, int(j), c]) for j in idx[b, i]]
                place = seen.index(max(seen) if largest[c] else min(seen))
                best[b, i, c], chosen[b, i, c] = seen[place], int(idx[b, i, place])
    return best, chosen
