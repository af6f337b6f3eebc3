"""Furthest point sampling against fpsample's exact sampler, nearest neighbours against torch.cdist + topk, on the CPU.

    uv run --group bench python -m benchmarks.pointcloud.operators

Needs fpsample. Clouds have no point within 0.0316 of the origin, start index 0. Results: benchmarks/results/pointcloud_operators.json.
"""

from __future__ import annotations

import argparse
from importlib.metadata import version

import fpsample
import numpy as np
import torch
from pt_pointcloud.ops import furthest_point_sample, knn

from benchmarks._harness import alternate, machine, write

SAMPLING = ((32, 1024, 64), (32, 2048, 128), (8, 8192, 512))
NEIGHBOURS = ((32, 1024, 64, 32), (32, 2048, 128, 32), (1, 100_000, 4096, 16))


def cloud(batch: int, n: int) -> torch.Tensor:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(batch, n, 3))
    points *= rng.uniform(0.1, 1, (batch, n, 1)) / np.linalg.norm(points, axis=-1, keepdims=True)
    return torch.from_numpy(points.astype(np.float32))


def naive(xyz: torch.Tensor, m: int) -> torch.Tensor:
    """The usual loop of torch operators over the samples."""
    batch, n, _ = xyz.shape
    chosen = torch.zeros(batch, m, dtype=torch.long)
    nearest, last, rows = torch.full((batch, n), 1e10), torch.zeros(batch, dtype=torch.long), torch.arange(batch)
    for j in range(m):
        chosen[:, j] = last
        nearest = torch.minimum(nearest, (xyz - xyz[rows, last][:, None]).square().sum(-1))
        last = nearest.argmax(-1)
    return chosen


def sampling(rounds: int) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for batch, n, m in SAMPLING:
        x = cloud(batch, n)
        array = x.numpy()
        contenders = {
            "ours": lambda x=x, m=m: furthest_point_sample(x, m),
            "fpsample exact": lambda a=array, m=m: np.stack([fpsample.fps_sampling(c, m, start_idx=0) for c in a]),
            "torch loop": lambda x=x, m=m: naive(x, m),
        }
        same = all(np.array_equal(np.asarray(run()), np.asarray(contenders["ours"]())) for run in contenders.values())
        times = alternate(contenders, rounds)
        rows.append(
            {
                "operator": "furthest_point_sample",
                "case": f"{batch} x {n} -> {m}",
                "identical_indices": same,
                "milliseconds": {name: round(1e3 * times.median(name), 2) for name in contenders},
                "ratio_to_fpsample": round(times.ratio("ours", "fpsample exact"), 3),
                "torch_loop_to_ours": round(times.ratio("torch loop", "ours"), 1),
                "spread": round(times.spread("ours", "fpsample exact"), 3),
            }
        )
        print(rows[-1], flush=True)
    return rows


def neighbours(rounds: int) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for batch, n, g, k in NEIGHBOURS:
        x = cloud(batch, n)
        q = x[:, :g].contiguous()
        contenders = {
            "ours": lambda x=x, q=q, k=k: knn(x, q, k),
            "cdist + topk": lambda x=x, q=q, k=k: torch.cdist(q, x).topk(k, largest=False),
        }
        agree = (contenders["ours"]()[1] == contenders["cdist + topk"]().indices).float().mean().item()
        times = alternate(contenders, rounds)
        rows.append(
            {
                "operator": "knn",
                "case": f"{batch} x {g} queries among {n}, k = {k}",
                "share_of_equal_indices": round(agree, 6),
                "milliseconds": {name: round(1e3 * times.median(name), 2) for name in contenders},
                "ratio_to_cdist": round(times.ratio("ours", "cdist + topk"), 3),
                "spread": round(times.spread("ours", "cdist + topk"), 3),
            }
        )
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = sampling(arguments.rounds) + neighbours(arguments.rounds)
    where = {**machine(), "fpsample": version("fpsample"), "numba": version("numba"), "threads": 1}
    write("pointcloud_operators", {"settings": {"rounds": arguments.rounds}, "machine": where}, rows)


if __name__ == "__main__":
    main()
