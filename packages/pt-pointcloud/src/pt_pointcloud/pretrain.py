"""`pt-pointcloud pretrain`: a Point-MAE on generated shapes (the recipe of the built-in backbone) or on a user's meshes and clouds.

The built-in backbone was made by `pt-pointcloud pretrain --out point_mae_shapes.safetensors`; the JSON beside the file has the recipe.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from pt_core.data import generator
from pt_core.errors import DataError, UserError
from pt_core.run.pretrain.loop import decayed, descend, last_tenth, warm_cosine
from pt_core.run.pretrain.recipe import versions
from pt_core.weights import FORMAT_VERSION
from torch import Tensor

from pt_pointcloud.data.augment import scale_translate
from pt_pointcloud.networks.mae import PointMAE
from pt_pointcloud.networks.saved import save_backbone
from pt_pointcloud.networks.transformer import PointConfig
from pt_pointcloud.options import PretrainOptions
from pt_pointcloud.shapes import pretraining_shape

HELD_OUT = 10**9
"""Numbers from here on are generated shapes that training never draws."""


class Source(Protocol):
    name: str

    def batch(self, rows: int, rng: torch.Generator, first: int) -> Tensor:
        """(rows, N, 3); `first` numbers the samples drawn so far."""
        ...


class Generated:
    """Fresh generated shapes in every batch; none of the families of `builtin:shapes`."""

    name = "generated shapes: random assemblies and families that are not among the classes of builtin:shapes"

    def __init__(self, points: int, seed: int) -> None:
        self.points, self.seed = points, seed

    def batch(self, rows: int, rng: torch.Generator, first: int) -> Tensor:
        clouds = [pretraining_shape(first + row, self.points, self.seed) for row in range(rows)]
        return torch.from_numpy(np.stack(clouds))


class Clouds:
    """A user's clouds (sample, point, 3): N of their points at random for every draw."""

    name = "user data"

    def __init__(self, clouds: list[Tensor], points: int) -> None:
        short = [len(cloud) for cloud in clouds if len(cloud) < points]
        if short:
            raise DataError(
                f"{len(short)} clouds have fewer than points={points} points (the smallest has {min(short)})"
            )
        self.clouds, self.points = clouds, points

    def batch(self, rows: int, rng: torch.Generator, first: int) -> Tensor:
        chosen = torch.randint(len(self.clouds), (rows,), generator=rng).tolist()
        clouds = [self.clouds[row] for row in chosen]
        return torch.stack([c[torch.randperm(len(c), generator=rng)[: self.points]] for c in clouds])


@dataclass(frozen=True)
class PretrainReport:
    """What came out: file, weights in it, mean loss of the last tenth of the steps, loss on shapes never drawn, seconds."""

    out: Path
    parameters: int
    train_loss: float
    held_out_loss: float | None
    seconds: float


def point_config(options: PretrainOptions) -> PointConfig:
    return PointConfig(**{f.name: getattr(options, f.name) for f in fields(PointConfig) if hasattr(options, f.name)})


def train(
    options: PretrainOptions, source: Source, device: torch.device, progress: bool
) -> tuple[PointMAE, list[float]]:
    """AdamW on the Chamfer loss of the masked patches; step k depends on (seed, k) and the weights only."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        model = PointMAE(point_config(options), options.decoder_depth, options.mask_ratio)
    model.to(device).train()
    kept = [(n, p) for n, p in model.named_parameters() if not n.startswith("net.cls_")]
    optimiser = torch.optim.AdamW(decayed(kept, options.weight_decay), lr=options.lr)
    warm = int(options.warmup * options.steps)

    def loss_of(step: int) -> Tensor:
        rng = generator(options.seed, "pretrain", step)
        torch.manual_seed(options.seed + step)  # drop-path
        points = scale_translate(source.batch(options.batch_size, rng, step * options.batch_size), rng)
        loss: Tensor = model(points.to(device), rng)[0]
        return loss

    with torch.random.fork_rng():
        losses = descend(
            loss_of,
            optimiser,
            options.steps,
            rate=lambda step: options.lr * warm_cosine(step, options.steps, warm),
            clip=((tensor for _, tensor in kept), 10.0),
            title="pretrain" if progress else None,
        )
    return model, losses


@torch.no_grad()
def held_out_loss(model: PointMAE, options: PretrainOptions, source: Source, device: torch.device) -> float | None:
    if not isinstance(source, Generated):
        return None
    model.eval()
    found = []
    for part in range(4):
        points = source.batch(64, generator(0), HELD_OUT + 64 * part).to(device)
        found.append(float(model(points, generator(options.seed, "held out", part))[0]))
    return float(np.mean(found))


def pretrain(
    options: PretrainOptions,
    out: Path,
    clouds: list[Tensor] | None = None,
    *,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> PretrainReport:
    """Train a Point-MAE and write its encoder to `out` (and a JSON beside it).

    Args:
        clouds: (point, 3) each, normalised; None generates shapes.
        device: default: CUDA where there is one, else the CPU.

    Raises:
        UserError: `out` is not a .safetensors name.
        DataError: a cloud has too few points.
        NonFiniteError: the loss became NaN or infinite.
    """
    if out.suffix != ".safetensors":
        raise UserError(f"{out} must end in .safetensors")
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    source: Source = Generated(options.points, options.seed) if clouds is None else Clouds(clouds, options.points)
    begin = time.monotonic()
    model, losses = train(options, source, where, progress)
    seconds = time.monotonic() - begin
    tail = last_tenth(losses)
    unseen = held_out_loss(model, options, source, where)
    parameters = sum(p.numel() for n, p in model.net.named_parameters() if not n.startswith("cls_"))
    recipe = {f.name: getattr(options, f.name) for f in fields(options) if not hasattr(PointConfig, f.name)}
    card = {
        "format_version": FORMAT_VERSION,
        "model": asdict(model.config),
        "preprocessing": {"normalise": "unit_sphere", "points": options.points},
        "parameters": parameters,
        "data": source.name,
        "recipe": {k: v for k, v in recipe.items() if k not in ("data", "variant")},
        "results": {"train_chamfer": round(tail, 6), "held_out_chamfer": None if unseen is None else round(unseen, 6)},
        "versions": versions("torch", "numpy"),
    }
    save_backbone(model.net, card, out)
    return PretrainReport(out, parameters, tail, unseen, seconds)


def user_clouds(spec: str, variant: str | None = None) -> list[Tensor]:
    """Normalised clouds of all training data behind a path; labels are not read."""
    from pt_pointcloud.data.load import load_clouds
    from pt_pointcloud.data.normalise import normalise
    from pt_pointcloud.options import DataOptions

    train = next(iter(load_clouds(spec, DataOptions(variant=variant)).values()))
    return [torch.from_numpy(normalise(cloud, "unit_sphere")) for cloud in train.clouds]
