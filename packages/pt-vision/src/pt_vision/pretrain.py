"""Train a small ViT from scratch, on drawn pictures or on the user's labelled images, and store it as a backbone file.

The built-in backbone `vit_glyphs` is made by this file with nothing but defaults:

    from pt_vision.pretrain import PretrainConfig, builtin_path, pretrain
    pretrain(PretrainConfig(), builtin_path("vit_glyphs"))

A backbone file is a safetensors file: the weights as fp16 under timm's names, without the classification head, and one metadata
entry `pt_vision` (JSON) with everything needed to build, feed and make the network again. The same JSON lies beside it to be read.

With equal versions and an equal number of threads the same configuration gives the same bytes on a CPU.
"""

from __future__ import annotations

import json
import math
import os
import platform
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from pt_core.errors import ConfigError, DataError, NonFiniteError, UserError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm

from pt_vision import augment
from pt_vision.augment import Warp

FORMAT_VERSION = 1
MEAN = STD = (0.5, 0.5, 0.5)
MODEL_FIELDS = ("img_size", "patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio")
IMAGE_WARP = Warp(rotate=10, scale=(1.0, 1.6), aspect=0.2, shift=0.25)


@dataclass(frozen=True)
class PretrainConfig:
    """The network and its training. The defaults make the built-in backbone.

    Attributes:
        img_size: rows and columns of the input, in pixels.
        patch_size: rows and columns of a patch, in pixels; divides img_size.
        embed_dim: width d; a multiple of num_heads.
        depth: number of blocks, >= 1.
        num_heads: attention heads.
        mlp_ratio: hidden width of the MLP over d.
        steps: optimiser steps, >= 1.
        batch_size: images per step, >= 2.
        lr: peak learning rate of AdamW, > 0; linear warm-up, then a half cosine to 0.
        weight_decay: on matrices only, not on biases, norms, position embeddings and the class token.
        warmup: share of the steps spent warming up, in [0, 1).
        label_smoothing: in [0, 1).
        clip: largest gradient norm, > 0.
        flip: mirror user images left to right at random (drawn pictures are never mirrored).
        holdout: share of the user's images kept out of training to measure accuracy, in [0, 0.5].
        precision: "fp32", or "bf16" for autocast.
        seed: of initialisation, drawing and augmentation.
    """

    img_size: int = 32
    patch_size: int = 8
    embed_dim: int = 160
    depth: int = 6
    num_heads: int = 5
    mlp_ratio: float = 4.0
    steps: int = 2000
    batch_size: int = 256
    lr: float = 1.5e-3
    weight_decay: float = 0.05
    warmup: float = 0.08
    label_smoothing: float = 0.1
    clip: float = 1.0
    flip: bool = True
    holdout: float = 0.1
    precision: Literal["fp32", "bf16"] = "fp32"
    seed: int = 0

    def __post_init__(self) -> None:
        problems = []
        for name in ("img_size", "patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio", "steps", "lr", "clip"):
            if not getattr(self, name) > 0:
                problems.append(f"{name}={getattr(self, name)} must be above 0")
        if self.batch_size < 2:
            problems.append(f"batch_size={self.batch_size} must be at least 2")
        if self.seed < 0 or self.weight_decay < 0:
            problems.append(f"seed={self.seed} and weight_decay={self.weight_decay} must not be negative")
        if self.patch_size > 0 and self.img_size % self.patch_size:
            problems.append(f"img_size={self.img_size} is not a multiple of patch_size={self.patch_size}")
        if self.num_heads > 0 and self.embed_dim % self.num_heads:
            problems.append(f"embed_dim={self.embed_dim} is not a multiple of num_heads={self.num_heads}")
        for name, top in (("warmup", 1.0), ("label_smoothing", 1.0), ("holdout", 0.5)):
            value = getattr(self, name)
            if not 0 <= value < top and not (name == "holdout" and value == top):
                problems.append(f"{name}={value} is outside [0, {top:g}{']' if name == 'holdout' else ')'}")
        if self.precision not in ("fp32", "bf16"):
            problems.append(f"precision={self.precision!r} must be 'fp32' or 'bf16'")
        if problems:
            raise ConfigError(problems)


@dataclass(frozen=True)
class PretrainReport:
    """What came out.

    Attributes:
        out: the backbone file.
        parameters: weights in the file, the head not counted.
        classes: number of classes it was trained on.
        train_loss: mean over the last tenth of the steps.
        held_out_accuracy: on images that were not trained on, in [0, 1]; None where none were held out.
        seconds: wall time of the training.
    """

    out: Path
    parameters: int
    classes: int
    train_loss: float
    held_out_accuracy: float | None
    seconds: float


class Source(Protocol):
    """Where training images come from."""

    class_names: tuple[str, ...]

    def batch(self, size: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Augmented images (batch, 3, row, column) in [0, 1] and labels (batch,), a function of `rng` alone."""
        ...

    def held_out(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of the same form that training never draws."""
        ...


class ImageSource:
    """The user's labelled images, held in memory at 1.15 times the training size (uint8).

    Raises:
        DataError: no images, labels that do not fit the class names, or fewer than two classes.
    """

    def __init__(
        self,
        data: Iterable[tuple[Image.Image, int]],
        config: PretrainConfig,
        class_names: Sequence[str] | None = None,
    ) -> None:
        stored = math.ceil(config.img_size * 1.15)
        arrays, labels = [], []
        for image, label in tqdm(data, desc="reading images", unit="image", leave=False, delay=2):
            small = image.convert("RGB").resize((stored, stored), Image.Resampling.BICUBIC, reducing_gap=3.0)
            arrays.append(np.asarray(small))
            labels.append(int(label))
        if not arrays:
            raise DataError("no images to pretrain on; give a folder with one sub-folder of images per class")
        classes = len(class_names) if class_names is not None else max(labels) + 1
        if min(labels) < 0 or max(labels) >= classes:
            raise DataError(f"labels run from {min(labels)} to {max(labels)}, but there are {classes} class names")
        if len(set(labels)) < 2:
            raise DataError("all images have the same label; pretraining needs at least two classes")
        self.class_names = tuple(class_names) if class_names is not None else tuple(map(str, range(classes)))
        self.size, self.chunk = config.img_size, config.batch_size
        self.warp = Warp(**{**asdict(IMAGE_WARP), "flip": 0.5 if config.flip else 0.0})
        self.images = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)
        self.labels = torch.tensor(labels)
        order = torch.randperm(len(labels), generator=keyed(config.seed, 0, "holdout"))
        kept_out = int(config.holdout * len(labels))
        self.out_rows, self.train_rows = order[:kept_out], order[kept_out:]

    def batch(self, size: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """See `Source.batch`."""
        rows = self.train_rows[torch.randint(len(self.train_rows), (size,), generator=rng)]
        images = augment.warp(self.images[rows].float() / 255, self.size, self.warp, rng, padding="reflection")
        images = augment.sometimes(images, 0.8, rng, lambda part: augment.colour(part, rng))
        images = augment.sometimes(images, 0.1, rng, augment.blur)
        images = augment.sometimes(images, 0.1, rng, lambda part: augment.low_resolution(part, rng))
        images = augment.sometimes(images, 0.25, rng, lambda part: augment.noise(part, rng, 0.05))
        return images, self.labels[rows]

    def held_out(self) -> Iterator[tuple[Tensor, Tensor]]:
        """See `Source.held_out`: the images as they are, at the training size."""
        for rows in self.out_rows.split(self.chunk):
            images = self.images[rows].float() / 255
            yield F.interpolate(images, size=(self.size,) * 2, mode="bilinear", antialias=True), self.labels[rows]


def keyed(seed: int, step: int, purpose: str = "train") -> torch.Generator:
    """A generator that is a function of (seed, step, purpose), so that step k does not depend on the steps before."""
    key = int(np.random.SeedSequence([seed, step, *purpose.encode()]).generate_state(1, np.uint64)[0])
    return torch.Generator().manual_seed(key >> 1)


def build_vit(model: dict[str, Any], num_classes: int = 0) -> VisionTransformer:
    """timm's ViT with a class token; `model` holds MODEL_FIELDS."""
    return VisionTransformer(**{name: model[name] for name in MODEL_FIELDS}, num_classes=num_classes)


def builtin_path(name: str) -> Path:
    """The file of a built-in backbone, whether or not it exists."""
    return Path(__file__).parent / "assets" / f"{name}.safetensors"


def _parameter_groups(model: VisionTransformer, weight_decay: float) -> list[dict[str, Any]]:
    plain = model.no_weight_decay()
    decay: list[Tensor] = []
    keep: list[Tensor] = []
    for name, parameter in model.named_parameters():
        (keep if parameter.ndim < 2 or name in plain else decay).append(parameter)
    return [{"params": decay, "weight_decay": weight_decay}, {"params": keep, "weight_decay": 0.0}]


def _rate(config: PretrainConfig) -> Any:
    warm = int(config.warmup * config.steps)

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / (warm + 1)
        return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, config.steps - warm)))

    return factor


def _normalise(images: Tensor, device: torch.device) -> Tensor:
    mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (MEAN, STD))
    return (images.to(device) - mean) / std


@torch.inference_mode()
def _accuracy(model: VisionTransformer, source: Source, device: torch.device) -> float | None:
    model.eval()
    right = total = 0
    for images, labels in source.held_out():
        right += int((model(_normalise(images, device)).argmax(1).cpu() == labels).sum())
        total += len(labels)
    return right / total if total else None


def train(
    config: PretrainConfig, source: Source, device: torch.device, progress: bool = True
) -> tuple[VisionTransformer, list[float]]:
    """Supervised training of a new ViT on `source`.

    Returns:
        The model with its head, and the loss of every step.

    Raises:
        NonFiniteError: the loss became NaN or infinite.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = build_vit(asdict(config), num_classes=len(source.class_names))
    model.to(device).train()
    optimiser = AdamW(_parameter_groups(model, config.weight_decay), lr=config.lr, betas=(0.9, 0.98))
    schedule = LambdaLR(optimiser, _rate(config))
    losses: list[float] = []
    with tqdm(total=config.steps, desc="pretrain", unit="step", disable=not progress) as bar:
        for step in range(config.steps):
            images, labels = source.batch(config.batch_size, keyed(config.seed, step))
            with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
                logits = model(_normalise(images, device))
            labels = labels.to(device)
            loss = F.cross_entropy(logits.float(), labels, label_smoothing=config.label_smoothing)
            losses.append(loss.item())
            if not math.isfinite(losses[-1]):
                raise NonFiniteError(f"the loss became {losses[-1]} at step {step}; lower lr={config.lr:g}")
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
            optimiser.step()
            schedule.step()
            bar.update()
            if step % 20 == 19:
                right = (logits.argmax(1) == labels).float().mean().item()
                bar.set_postfix(loss=f"{np.mean(losses[-20:]):.3f}", batch_accuracy=f"{right:.3f}")
    return model, losses


def save_backbone(model: VisionTransformer, card: dict[str, Any], out: Path) -> None:
    """Write the weights without the head as fp16, with `card` as metadata, and `card` again as JSON beside the file."""
    tensors = {
        n: t.detach().half().cpu().contiguous() for n, t in model.state_dict().items() if not n.startswith("head.")
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(card, indent=1, sort_keys=True, ensure_ascii=False)
    beside = out.with_suffix(".json")
    # Both are complete under their names or absent: a killed run leaves no half file that looks like a backbone.
    parts = [path.with_name(f".{path.name}.part") for path in (out, beside)]
    # One entry only: safetensors writes several in random order, and the bytes would differ.
    save_file(tensors, parts[0], metadata={"pt_vision": json.dumps(card, sort_keys=True)})
    parts[1].write_text(text + "\n", encoding="utf-8")
    for part, path in zip(parts, (out, beside), strict=True):
        os.replace(part, path)


def load_backbone(path: Path) -> tuple[VisionTransformer, dict[str, Any]]:
    """Read a backbone file: the network without a head (fp32, eval mode) and its card.

    Raises:
        UserError: the file is missing, damaged, not written by `pretrain`, or of a newer format.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist; make it with: pt-vision pretrain --data DIR --out {path}")
    try:
        with safe_open(path, framework="pt") as file:
            card = json.loads((file.metadata() or {}).get("pt_vision", "null"))
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, ValueError, OSError) as error:
        raise UserError(f"{path} is not a readable safetensors file ({error}); make or fetch it again") from None
    if not isinstance(card, dict) or not isinstance(card.get("model"), dict):
        raise UserError(f"{path} has no pt_vision metadata; use timm:NAME --weights FILE for other weights")
    if card.get("format_version") != FORMAT_VERSION:
        raise UserError(
            f"{path} has format {card.get('format_version')}, this version reads {FORMAT_VERSION}; update pt-vision"
        )
    try:
        # The card is untrusted: an absurd size must fail by name, not by memory.
        with torch.device("meta"):
            model = build_vit(card["model"])
        model.load_state_dict(tensors, strict=True, assign=True)
    except (KeyError, TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise UserError(
            f"{path}: weights and metadata do not fit ({str(error).splitlines()[0]}); make it again"
        ) from None
    return model.requires_grad_(False).eval(), card


def _card(
    config: PretrainConfig, source: Source, drawn: bool, results: dict[str, Any], parameters: int
) -> dict[str, Any]:
    versions = {name: metadata.version(name) for name in ("torch", "timm", "numpy", "pillow", "matplotlib")}
    recipe = {f.name: getattr(config, f.name) for f in fields(config) if f.name not in MODEL_FIELDS}
    return {
        "format_version": FORMAT_VERSION,
        "model": {name: getattr(config, name) for name in MODEL_FIELDS},
        "preprocessing": {"size": config.img_size, "mean": MEAN, "std": STD, "interpolation": "bicubic"},
        "parameters": parameters,
        "data": "drawn pictures (pt_vision.glyphs), no digits among the classes" if drawn else "user images",
        "class_names": list(source.class_names),
        "recipe": recipe,
        "results": results,
        "versions": {**versions, "python": platform.python_version()},
    }


def pretrain(
    config: PretrainConfig,
    out: Path,
    data: Iterable[tuple[Image.Image, int]] | None = None,
    class_names: Sequence[str] | None = None,
    *,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> PretrainReport:
    """Train a ViT and write it to `out` (and a JSON beside it).

    Args:
        config: network and training.
        out: the safetensors file to write.
        data: images with labels 0 .. classes-1, read once; None draws pictures (`pt_vision.glyphs`).
        class_names: names of the classes, in label order; default their numbers.
        device: default: CUDA where there is one, else the CPU.
        progress: show a progress bar.

    Raises:
        UserError: `out` is not a .safetensors file name.
        DataError: see `ImageSource`.
        NonFiniteError: the loss became NaN or infinite.
    """
    if out.suffix != ".safetensors":
        raise UserError(f"{out} must end in .safetensors")
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    source: Source
    if data is None:
        from pt_vision.glyphs import GlyphSource

        source = GlyphSource(config.img_size, config.seed)
    else:
        source = ImageSource(data, config, class_names)
    begin = time.monotonic()
    model, losses = train(config, source, where, progress)
    seconds = time.monotonic() - begin
    accuracy = _accuracy(model, source, where)
    parameters = sum(p.numel() for n, p in model.named_parameters() if not n.startswith("head."))
    train_loss = float(np.mean(losses[-max(1, len(losses) // 10) :]))
    results = {
        "train_loss": round(train_loss, 4),
        "held_out_accuracy": None if accuracy is None else round(accuracy, 4),
    }
    save_backbone(model, _card(config, source, data is None, results, parameters), out)
    return PretrainReport(out, parameters, len(source.class_names), train_loss, accuracy, seconds)
