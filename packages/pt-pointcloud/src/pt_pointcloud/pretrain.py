"""`pt-pointcloud pretrain`: a Point-MAE on generated shapes (the recipe of the built-in backbone) or on a user's meshes and clouds.

The built-in backbone was made by `pt-pointcloud pretrain --out point_mae_shapes.safetensors`; the JSON beside the file has the recipe.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, fields
from importlib import metadata
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from pt_core.data import generator
from pt_core.errors import DataError, NonFiniteError, UserError
from torch import Tensor
from tqdm import tqdm

from pt_pointcloud.data.augment import scale_translate
from pt_pointcloud.networks.mae import PointMAE
from pt_pointcloud.networks.saved import FORMAT_VERSION, save_backbone
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


def rate(step: int, steps: int, warmup: float) -> float:
    """Linear warm-up over a share of the steps, then half a cosine to 0."""
    warm = int(warmup * steps)
    if step < warm:
        return (step + 1) / (warm + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def train(
    options: PretrainOptions, source: Source, device: torch.device, progress: bool
) -> tuple[PointMAE, list[float]]:
    """AdamW on the Chamfer loss of the masked patches; step k depends on (seed, k) and the weights only."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        model = PointMAE(point_config(options), options.decoder_depth, options.mask_ratio)
    model.to(device).train()
    kept = [p for n, p in model.named_parameters() if not n.startswith("net.cls_")]
    decay, plain = [p for p in kept if p.ndim > 1], [p for p in kept if p.ndim < 2]
    groups = [{"params": decay, "weight_decay": options.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=options.lr)
    losses: list[float] = []
    with (
        tqdm(total=options.steps, desc="pretrain", unit="step", mininterval=5, disable=not progress) as bar,
        torch.random.fork_rng(),
    ):
        for step in range(options.steps):
            rng = generator(options.seed, "pretrain", step)
            torch.manual_seed(options.seed + step)  # drop-path
            points = scale_translate(source.batch(options.batch_size, rng, step * options.batch_size), rng)
            for group in optimiser.param_groups:
                group["lr"] = options.lr * rate(step, options.steps, options.warmup)
            loss = model(points.to(device), rng)[0]
            losses.append(loss.item())
            if not math.isfinite(losses[-1]):
                raise NonFiniteError(f"the loss became {losses[-1]} at step {step}; lower --lr {options.lr:g}")
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(kept, 10.0)
            optimiser.step()
            bar.update()
            if step % 20 == 19:
                bar.set_postfix(chamfer=f"{1e3 * np.mean(losses[-20:]):.3f}e-3")
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
    tail = float(np.mean(losses[-max(1, len(losses) // 10) :]))
    unseen = held_out_loss(model, options, source, where)
    parameters = sum(p.numel() for n, p in model.net.named_parameters() if not n.startswith("cls_"))
    recipe = {f.name: getattr(options, f.name) for f in fields(options) if not hasattr(PointConfig, f.name)}
    card = {
        "format_version": FORMAT_VERSION,
        "model": asdict(model.config),
        "preprocessing": {"normalise": "unit_sphere", "points": options.points},
        "parameters": parameters,
        "data": source.name,
        "recipe": {k: v for k, v in recipe.items() if k != "data"},
        "results": {"train_chamfer": round(tail, 6), "held_out_chamfer": None if unseen is None else round(unseen, 6)},
        "versions": {name: metadata.version(name) for name in ("torch", "numpy")},
    }
    save_backbone(model.net, card, out)
    return PretrainReport(out, parameters, tail, unseen, seconds)


def user_clouds(spec: str) -> list[Tensor]:
    """Normalised clouds of all training data behind a path; labels are not read."""
    from pt_pointcloud.data.load import load_clouds
    from pt_pointcloud.data.normalise import normalise

    train = next(iter(load_clouds(spec).values()))
    return [torch.from_numpy(normalise(cloud, "unit_sphere")) for cloud in train.clouds]
