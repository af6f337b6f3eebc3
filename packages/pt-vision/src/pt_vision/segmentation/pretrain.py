"""Pretraining of the built-in segmenter: a small MiT with SegFormer's head on drawn shapes, and the file it is kept in."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Ge, Lt
from pt_core.data import stable_seed
from pt_core.errors import ConfigError, UserError
from pt_core.run.declare.fields import PeakRate, Seed, Steps, WeightDecay
from pt_core.run.pretrain.loop import decayed, descend, last_tenth, warm_cosine
from pt_core.run.pretrain.recipe import versions
from pt_core.weights import FORMAT_VERSION, write_network
from torch import Tensor, nn
from torch.nn import functional as F

from pt_vision.networks.files import PACKAGE, SEGMENTER
from pt_vision.networks.mit import build_encoder, preprocessing
from pt_vision.networks.segformer import SegFormerHead, resize
from pt_vision.segmentation.metrics import confusion, mean_iou
from pt_vision.segmentation.shapes import CLASSES, SIDE, shape_scene

HELD_OUT = 128


@dataclass(frozen=True)
class SegmenterConfig:
    """The recipe; its defaults made `builtin:mit_shapes`."""

    embed_dims: tuple[int, ...] = (16, 32, 64, 128)
    """Widths of the four stages."""
    depths: tuple[int, ...] = (2, 2, 2, 2)
    """Blocks of the stages."""
    num_heads: tuple[int, ...] = (1, 2, 4, 8)
    """Attention heads of the stages."""
    decoder_width: int = 64
    """E of SegFormer's head."""
    crop: int = 128
    """Side of the crops that the network reads later; it is trained on whole scenes."""
    steps: Steps = 800
    batch_size: Annotated[int, Ge(2)] = 16
    """Scenes per step."""
    lr: PeakRate = 2e-3
    weight_decay: WeightDecay = 0.02
    """Weight decay of matrices."""
    warmup: Annotated[float, Ge(0), Lt(1)] = 0.05
    """Share of the steps in which the learning rate rises."""
    seed: Seed = 0

    def __post_init__(self) -> None:
        problems = [
            f"{name}={getattr(self, name)} must be above 0" for name in ("steps", "lr") if not getattr(self, name) > 0
        ]
        if self.batch_size < 2:
            problems.append(f"batch_size={self.batch_size} must be at least 2")
        if len({len(self.embed_dims), len(self.depths), len(self.num_heads), 4}) != 1:
            problems.append("embed_dims, depths and num_heads need four values each")
        elif any(dim % heads for dim, heads in zip(self.embed_dims, self.num_heads, strict=True)):
            problems.append(f"embed_dims={self.embed_dims} are not divisible by num_heads={self.num_heads}")
        if problems:
            raise ConfigError(problems)


def scenes(seed: int, purpose: str, number: int, size: int) -> tuple[Tensor, Tensor]:
    """Batch `number`: (size, 3, SIDE, SIDE) normalised, (size, SIDE, SIDE) classes."""
    rng = np.random.default_rng(stable_seed(seed, "shapes", purpose, number))
    drawn = [shape_scene(rng) for _ in range(size)]
    settings = preprocessing(SIDE)
    mean, std = (torch.tensor(settings[key]).view(3, 1, 1) for key in ("mean", "std"))
    images = torch.from_numpy(np.stack([pixels for pixels, _ in drawn])).permute(0, 3, 1, 2).float() / 255
    return (images - mean) / std, torch.from_numpy(np.stack([mask for _, mask in drawn])).long()


class _Segmenter(nn.Module):
    def __init__(self, config: SegmenterConfig) -> None:
        super().__init__()
        self.encoder = build_encoder(config.embed_dims, config.depths, config.num_heads)
        self.decoder = SegFormerHead(config.embed_dims, len(CLASSES), config.decoder_width)

    def forward(self, images: Tensor) -> Tensor:
        hidden: Any = self.encoder.patch_embed(images)
        maps: list[Tensor] = []
        for stage in self.encoder.stages:
            hidden = stage(hidden)
            maps.append(hidden)
        return resize(self.decoder(maps), images.shape[2:])


def pretrain_segmenter(config: SegmenterConfig, out: Path, progress: bool = True) -> dict[str, Any]:
    """Train and write `out` (safetensors) with its card beside it; returns the card.

    Raises:
        UserError: `out` is not a .safetensors file name.
        NonFiniteError: the loss became NaN or infinite.
    """
    if out.suffix != ".safetensors":
        raise UserError(f"{out} must end in .safetensors")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = _Segmenter(config).train()
        optimiser = torch.optim.AdamW(decayed(model.named_parameters(), config.weight_decay), lr=config.lr)
        warm, begin = max(1, int(config.warmup * config.steps)), time.monotonic()

        def rate(step: int) -> float:
            return config.lr * ((step + 1) / warm if step < warm else warm_cosine(step, config.steps, warm))

        def loss_of(step: int) -> Tensor:
            images, masks = scenes(config.seed, "train", step, config.batch_size)
            return F.cross_entropy(model(images), masks)

        title = "pretrain" if progress else None
        losses = descend(loss_of, optimiser, config.steps, rate=rate, clip=(model.parameters(), 1.0), title=title)
        seconds = time.monotonic() - begin
    model.eval()
    matrix = torch.zeros(len(CLASSES), len(CLASSES), dtype=torch.long)
    with torch.inference_mode():
        for number in range(HELD_OUT // 16):
            images, masks = scenes(config.seed, "held out", number, 16)
            matrix += confusion(model(images).argmax(1), masks, len(CLASSES))
    results = {
        "train_loss": round(last_tenth(losses), 4),
        "held_out_miou": round(mean_iou(matrix), 4),
        "held_out_scenes": HELD_OUT,
    }
    kept = {name: tensor for name, tensor in model.state_dict().items() if "linear_pred" not in name}
    card = _card(config, results, sum(p.numel() for name, p in model.named_parameters() if name in kept))
    write_network(out, PACKAGE, kept, card)
    return {**card, "seconds": seconds}


def _card(config: SegmenterConfig, results: dict[str, Any], parameters: int) -> dict[str, Any]:
    model = {name: getattr(config, name) for name in ("embed_dims", "depths", "num_heads", "decoder_width")}
    return {
        "format_version": FORMAT_VERSION,
        "kind": SEGMENTER,
        "model": {name: list(v) if isinstance(v, tuple) else v for name, v in model.items()},
        "preprocessing": preprocessing(config.crop),
        "parameters": parameters,
        "data": "drawn shapes and textures (pt_vision.segmentation.shapes), no streets and no weather",
        "class_names": list(CLASSES),
        "recipe": {name: value for name, value in asdict(config).items() if name not in model},
        "results": results,
        "versions": versions("torch", "timm", "numpy", "pillow"),
    }
