"""From an RGB image to the tensor a backbone reads, and the augmentations of the training view.

The evaluation view is timm's own for the backbone's data config. The training views end in the same normalisation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from PIL import Image
from pt_core.errors import DataError
from torch import Tensor

Augment = Literal["none", "flip", "standard", "medical"]
Transform = Callable[[Image.Image], Tensor]


def evaluation_transform(preprocessing: Mapping[str, Any]) -> Transform:
    """RGB image -> (channel, row, column) float32: resize, centre crop and normalise.

    `preprocessing` has keys of timm's `resolve_model_data_config`: input_size (channel, row, column), mean, std, and
    optionally interpolation (default bicubic), crop_pct (default 1: no border is cut) and crop_mode (center, squash or
    border); those of open_clip have resize_mode instead and go through open_clip's transform. With one channel the image is
    made grey, and means and deviations given for three are averaged.

    Raises:
        DataError: a number of channels other than 1 and 3.
    """
    from timm.data.transforms_factory import create_transform
    from torchvision.transforms import v2

    if "resize_mode" in preprocessing:
        return _open_clip(preprocessing)
    channels, rows, columns = _size(preprocessing)
    transform: Any = create_transform(
        (channels, rows, columns),
        interpolation=_interpolation(preprocessing),
        mean=_per_channel(preprocessing["mean"], channels),
        std=_per_channel(preprocessing["std"], channels),
        crop_pct=float(preprocessing.get("crop_pct") or 1.0),
        crop_mode=preprocessing.get("crop_mode"),
    )
    result: Transform = v2.Compose([v2.Grayscale(1), transform]) if channels == 1 else transform
    return result


def training_transform(preprocessing: Mapping[str, Any], augment: Augment) -> Transform:
    """RGB image -> (channel, row, column) float32, drawn anew at each call from torch's CPU generator.

    ========== ===================================================================================================
    none       the evaluation view
    flip       left-right flip with probability 1/2, then the evaluation view
    standard   crop of 8 to 100 % of the area with ratio 3/4 to 4/3, resized to the input size; left-right flip
    medical    DVPT's: crop of 87 to 100 % of the area with ratio 0.7 to 1.3, left-right and upside-down flips, colour
               jitter (brightness 0.2, contrast 0.2, saturation 0.1, hue 0.1), any rotation and shifts by up to 10 %,
               with black outside. Its code asks for areas up to 115 %, which torchvision refuses draw by draw, so they
               are left out here; its inputs are not normalised, here they are, as the backbone expects.
    ========== ===================================================================================================
    """
    from torchvision.transforms import v2

    if augment == "none":
        return evaluation_transform(preprocessing)
    flip = v2.RandomHorizontalFlip()
    steps: list[Any] = [flip]
    size = _size(preprocessing)[1:]
    mode = v2.InterpolationMode(_interpolation(preprocessing))
    if augment == "standard":
        steps = [v2.RandomResizedCrop(size, interpolation=mode), flip]
    elif augment == "medical":
        steps = [
            v2.RandomResizedCrop(size, scale=(0.87, 1.0), ratio=(0.7, 1.3), interpolation=mode),
            flip,
            v2.RandomVerticalFlip(),
            v2.ColorJitter(0.2, 0.2, 0.1, 0.1),
            v2.RandomAffine(180, translate=(0.1, 0.1), interpolation=v2.InterpolationMode.BILINEAR),
        ]
    if len(steps) > 1:  # a crop of the input size: the evaluation view must not cut it again
        whole = (
            {"resize_mode": "squash"} if "resize_mode" in preprocessing else {"crop_pct": 1.0, "crop_mode": "squash"}
        )
        preprocessing = {**preprocessing, **whole}
    result: Transform = v2.Compose([*steps, evaluation_transform(preprocessing)])
    return result


def _open_clip(preprocessing: Mapping[str, Any]) -> Transform:
    """open_clip's own evaluation view; its words are input_size, mean, std, interpolation, resize_mode and fill_color."""
    from open_clip.transform import image_transform

    sides = _size(preprocessing)[1:]
    result: Transform = image_transform(
        sides[0] if sides[0] == sides[1] else sides,
        is_train=False,
        mean=tuple(preprocessing["mean"]),
        std=tuple(preprocessing["std"]),
        resize_mode=str(preprocessing["resize_mode"]),
        interpolation=_interpolation(preprocessing),
        fill_color=int(preprocessing["fill_color"]),
    )
    return result


def _size(preprocessing: Mapping[str, Any]) -> tuple[int, int, int]:
    channels, rows, columns = (int(value) for value in preprocessing["input_size"])
    if channels not in (1, 3):
        raise DataError(f"the backbone reads {channels} channels; images are given to networks with 1 or 3")
    return channels, rows, columns


def _interpolation(preprocessing: Mapping[str, Any]) -> str:
    mode = str(preprocessing.get("interpolation") or "bicubic")
    return "bicubic" if mode == "random" else mode


def _per_channel(values: Any, channels: int) -> tuple[float, ...]:
    numbers = tuple(float(value) for value in values)
    if len(numbers) == channels:
        return numbers
    return (sum(numbers) / len(numbers),) * channels
