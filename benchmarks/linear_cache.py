"""Epochs of a linear probe: the first computes the frozen features, later ones read them from the cache.

    python -m benchmarks.linear_cache [--threads 1]

Through the parts that `fit` runs, on the built-in digits: a run with an empty cache, a second run that finds the features
of the first on disk, and one epoch that goes through the network as without a cache. A small ViT with random weights
(ViT-S/16 at 224 pixels) and the built-in one; values do not change the time.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch
from pt_core.data import Dataset
from pt_core.randomness import seeded
from pt_core.run.data.cache import FeatureCache
from pt_core.run.fit import prepare as fit
from pt_core.run.train.features import with_features
from pt_core.run.train.rundir import RunDir
from pt_core.run.train.trainer import Trainer
from pt_core.run.train.world import World
from pt_vision.adapters import adapt
from pt_vision.adapters.base import VisionBackbone
from pt_vision.backbones import load_backbone
from pt_vision.modality import Vision

from benchmarks._harness import load, machine, seconds, write

EPOCHS = 20
SMALL = "timm:vit_small_patch16_224"
BUILTIN = "builtin:vit_glyphs"


def network(name: str) -> VisionBackbone:
    if name == SMALL:
        with seeded(0, "backbone"):
            return adapt(timm.create_model(SMALL.partition(":")[2], num_classes=0), SMALL)
    return load_backbone(name)


def measure(name: str, shots: int | None, threads: int) -> dict[str, Any]:
    torch.set_num_threads(threads)
    options = {"data": ("builtin:digits",), "shots": shots, "batch_size": 32, "epochs": EPOCHS, "device": "cpu"}
    spec = fit.resolve(Vision(), "linear", options)
    prepared = fit.prepare(Vision(), spec, lambda text: None, network(name))
    world, train = World(spec.train), {"train": prepared.data["train"]}

    def epochs(data: Mapping[str, Dataset], count: int) -> float:
        """Seconds per epoch of a training run."""
        chosen = replace(spec.train, epochs=count)
        with tempfile.TemporaryDirectory() as folder, RunDir(Path(folder) / "run").open() as run:
            return seconds(lambda: Trainer(prepared.method, data, chosen, run, world).fit()) / count

    with tempfile.TemporaryDirectory() as folder:
        cache = FeatureCache(Path(folder))

        def features() -> dict[str, Dataset]:
            key = {"backbone": prepared.method.backbone.fingerprint().exact, "data": train["train"].identity()}
            return {
                "train": with_features(
                    prepared.method,
                    train["train"],
                    world,
                    spec.train.batch_size,
                    lambda what, data, compute: cache.features({**key, "what": what}, len(data), compute, print),
                )
            }

        filling = seconds(features)
        finding = seconds(features)
        later = epochs(features(), EPOCHS)
    uncached = epochs(train, 1)
    return {
        "backbone": name,
        "images": len(train["train"]),
        "threads": threads,
        "first_epoch_s": round(filling + later, 3),
        "later_epoch_s": round(later, 4),
        "speedup": round((filling + later) / later, 1),
        "uncached_epoch_s": round(uncached, 3),
        "second_run_finds_features_s": round(finding, 4),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(arguments)
    before = load()
    rows = [measure(name, shots, args.threads) for name, shots in ((SMALL, 16), (BUILTIN, None))]
    for row in rows:
        print(
            f"{row['backbone']:28} {row['images']:5} images  first epoch {row['first_epoch_s']:7.3f} s  later "
            f"{row['later_epoch_s']:.4f} s  {row['speedup']:.1f}x  (uncached {row['uncached_epoch_s']:.3f} s)"
        )
    head = {"machine": machine(), "load": [before, load()], "settings": {"epochs": EPOCHS, "batch_size": 32}}
    print(write("linear_cache", head, rows, args.out))


if __name__ == "__main__":
    main()
