"""What the segmentation tests share: a tiny MiT, small pictures with masks by day and in the dark, and methods on them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from pt_core import Method
from pt_core.data import generator
from pt_core.randomness import seeded
from pt_core.run.declare.options import TrainOptions, build_all
from pt_vision.adapters.mit import MitBackbone
from pt_vision.modality import Vision
from pt_vision.networks.mit import MitNetwork, build_encoder, preprocessing
from pt_vision.networks.segformer import SegFormerHead
from pt_vision.segmentation.data.dataset import SegmentationDataset
from pt_vision.segmentation.data.masks import ArrayMasks
from pt_vision.segmentation.task import Segmentation
from torch import nn

DIMS, DEPTHS = (8, 8, 16, 16), (1, 2, 1, 1)
CROP, WIDTH = 64, 8
LABELS = ["ground", "disc", "car"]
OPTIONS = TrainOptions(steps=4, batch_size=2, lr=0.01, optimizer="sgd", eval_every=2, device="cpu")


def tiny(seed: int = 0) -> MitBackbone:
    """A MiT with a decoder of width 8, random weights, crops of 64 px."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = MitNetwork(build_encoder(DIMS, DEPTHS, (1, 1, 2, 2), (4, 2, 1, 1)), SegFormerHead(DIMS, 0, WIDTH))
        with torch.no_grad():
            for parameter in network.parameters():
                if parameter.ndim > 1:
                    parameter.copy_(torch.randn(parameter.shape) * parameter[0].numel() ** -0.5)
                else:
                    parameter.add_(0.1 * torch.randn(parameter.shape))
    return MitBackbone(network, f"tiny:{seed}", preprocessing(CROP))


def pictures(size: int, seed: int, dark: bool = False, masks: bool = True, side: int = CROP) -> SegmentationDataset:
    """Bright discs and squares on a ground; every second image is dark where `dark`."""
    rng = np.random.default_rng(seed)
    images, classes = [], []
    y, x = np.mgrid[:side, :side]
    for number in range(size):
        mask = np.zeros((side, side), dtype=np.uint8)
        centre = rng.uniform(0.25, 0.75, 2) * side
        mask[(y - centre[0]) ** 2 + (x - centre[1]) ** 2 < (side / 5) ** 2] = 1
        corner = rng.integers(0, side // 2, 2)
        mask[corner[0] : corner[0] + side // 3, corner[1] : corner[1] + side // 3] = 2
        mask[-3:] = 255
        colours = np.array([[120, 130, 110], [220, 90, 70], [80, 110, 220]])[np.where(mask == 255, 0, mask)]
        pixels = colours + rng.normal(0, 10, colours.shape)
        if dark and number % 2:
            pixels = pixels * 0.2
        images.append(pixels.clip(0, 255).astype(np.uint8))
        classes.append(mask)
    names = ["night" if dark and n % 2 else "day" for n in range(size)]
    return SegmentationDataset(
        images,
        [f"picture-{seed}-{n}" for n in range(size)],
        ArrayMasks(classes) if masks else None,
        list(LABELS),
        names,
        preprocessing=preprocessing(CROP),
    )


DATA = {"train": pictures(5, 1), "target": pictures(6, 2, dark=True, masks=False), "val": pictures(4, 3, dark=True)}


def task() -> Segmentation:
    return Segmentation(LABELS)


def make(name: str, seed: int = 0, **options: Any) -> Method:
    """A method by its id on the tiny backbone; options are validated as the command line does."""
    cls = Vision.registry.load(name)
    known = set(cls.Config.__dataclass_fields__)
    config = build_all({"config": cls.Config}, {**({"head_width": WIDTH} if "head_width" in known else {}), **options})[
        "config"
    ]
    return cls(config, {"encoder": tiny(seed)}, task())


def seeded_make(name: str, seed: int = 0, **options: Any) -> Any:
    with seeded(seed, "init"):
        return make(name, **options)


def images(batch: int, side: int = CROP, seed: int = 5) -> torch.Tensor:
    return torch.randn(batch, 3, side, side, generator=generator("images", seed))


def shades(*levels: float, side: int = 32, dark_share: float | None = None) -> torch.Tensor:
    """Grey normalised images; a level is the 8-bit value of all pixels, or of `dark_share` of them (others: 200)."""
    settings = preprocessing(CROP)
    mean, std = (torch.tensor(settings[key]).view(3, 1, 1) for key in ("mean", "std"))
    out = []
    for level in levels:
        values = torch.full((side * side,), 200.0 if dark_share is not None else level)
        if dark_share is not None:
            values[: round(dark_share * side * side)] = level
        out.append((values.view(1, side, side).expand(3, -1, -1) / 255 - mean) / std)
    return torch.stack(out)


def size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def on_meta(make: Callable[[], Any]) -> Any:
    with torch.device("meta"):
        return make()
