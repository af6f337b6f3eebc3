"""Epochs of IDPT with a fixed class token: the first computes the tokens before the last block, later ones read them.

    uv run --group bench python -m benchmarks.pointcloud.cached_epochs

Through the parts that `fit` runs, from an empty cache on disk, without augmentation, on a Point-MAE of the published size (C = 384, 12
blocks; its values do not change the time) and the built-in one. Results: benchmarks/results/pointcloud_epochs.json.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from pt_core.data import Dataset
from pt_core.run.data.cache import FeatureCache
from pt_core.run.fit import prepare as fit
from pt_core.run.train.features import with_features
from pt_core.run.train.rundir import RunDir
from pt_core.run.train.trainer import Trainer
from pt_core.run.train.world import World
from pt_pointcloud.backbones import load_backbone
from pt_pointcloud.modality import PointClouds
from pt_pointcloud.networks.backbone import PointBackbone
from pt_pointcloud.networks.transformer import PointConfig, PointTransformer, init_weights

from benchmarks._harness import load, machine, seconds, write

BUILTIN = "builtin:point_mae_shapes"
PUBLISHED = "Point-MAE, C = 384, 12 blocks"
EPOCHS = 5


def network(name: str) -> PointBackbone:
    if name == BUILTIN:
        return load_backbone(BUILTIN)
    torch.manual_seed(0)
    net = PointTransformer(PointConfig())
    init_weights(net)
    return PointBackbone(net, "random")


def measure(name: str) -> dict[str, Any]:
    options = {"data": ("builtin:shapes",), "shots": 4, "batch_size": 16, "epochs": EPOCHS, "device": "cpu"}
    spec = fit.resolve(PointClouds(), "idpt", {**options, "train_class_token": False, "augment": "none"})
    prepared = fit.prepare(PointClouds(), spec, lambda text: None, {"backbone": network(name)})
    world, train = World(spec.train), {"train": prepared.data["train"]}

    def epochs(data: Mapping[str, Dataset], count: int) -> float:
        """Seconds per epoch of a training run."""
        chosen = replace(spec.train, epochs=count)
        with tempfile.TemporaryDirectory() as folder, RunDir(Path(folder) / "run").open() as run:
            return seconds(lambda: Trainer(prepared.method, data, chosen, run, world).fit()) / count

    with tempfile.TemporaryDirectory() as folder:
        cache = FeatureCache(Path(folder))
        key = {"backbone": prepared.method.backbone.fingerprint().exact, "data": train["train"].identity()}
        found: dict[str, Dataset] = {}

        def fill() -> None:
            found["train"] = with_features(
                prepared.method,
                train["train"],
                world,
                spec.train.batch_size,
                lambda what, data, compute: cache.features({**key, "what": what}, len(data), compute, print),
            )

        filling = seconds(fill)
        later = epochs(found, EPOCHS)
    uncached = epochs(train, 1)
    return {
        "backbone": name,
        "clouds": len(train["train"]),
        "first_epoch_s": round(filling + later, 3),
        "later_epoch_s": round(later, 3),
        "speedup": round((filling + later) / later, 2),
        "uncached_epoch_s": round(uncached, 3),
    }


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    torch.set_num_threads(1)
    before = load()
    rows = [measure(name) for name in (PUBLISHED, BUILTIN)]
    for row in rows:
        print(row, flush=True)
    settings = {"epochs": EPOCHS, "batch_size": 16}
    print(write("pointcloud_epochs", {"machine": machine(), "load": [before, load()], "settings": settings}, rows))


if __name__ == "__main__":
    main()
