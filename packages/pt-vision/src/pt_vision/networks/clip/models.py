"""open_clip's models by name or from a folder: built, filled with weights, with preprocessing and tokenizer."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
from pt_core.errors import UserError
from pt_core.weights import check_finite
from torch import nn

from pt_vision.networks.clip.names import check_clip, folder_config, folder_weights
from pt_vision.networks.clip.weights import load_clip_weights, read_clip_weights


@dataclass(frozen=True)
class Pair:
    """A network of two towers as its library gives it.

    Attributes:
        module: `encode_image`, `encode_text`, logit_scale and, in sigmoid models, logit_bias.
        preprocessing: how images are prepared, JSON-able.
        tokenizer: texts -> ids (text, length).
    """

    module: nn.Module
    preprocessing: Mapping[str, Any]
    tokenizer: Any


def open_clip_pair(spec: str, weights: Path | None, device: torch.device | str) -> Pair:
    """`open_clip:NAME[@TAG]`, or a folder in open_clip's hub layout.

    Raises:
        UserError: weights that are missing, cannot be fetched or do not fit, or were trained with the other kind of GELU.
    """
    check_clip(spec)
    kind, _, name = spec.partition(":")
    meta = str(device) == "meta"
    if kind != "open_clip":
        folder_config(Path(name))
        if weights is not None:
            raise UserError(f"backbone {spec!r} brings its own weights; leave out weights")
        return _built(spec, f"local-dir:{name}", None, folder_weights(Path(name)), meta)
    architecture, _, tag = name.partition("@")
    if tag and weights is not None:
        raise UserError(f"backbone {spec!r} names weights; leave out @{tag}, or --weights")
    if not tag and weights is None and not meta:
        tags = open_clip.list_pretrained_tags_by_model(architecture)
        raise UserError(
            f"backbone {spec!r} needs weights: a file with --weights FILE, or a tag as open_clip:{architecture}@TAG"
            + (f" ({', '.join(tags[:6])}{' ...' if len(tags) > 6 else ''})" if tags else "")
        )
    return _built(spec, architecture, tag or None, weights, meta)


def image_settings(module: Any) -> dict[str, Any]:
    """A model's preprocessing as JSON-able values, in the words of open_clip's `image_transform`."""
    config = asdict(open_clip.transform.PreprocessCfg(**open_clip.get_model_preprocess_cfg(module)))
    size = config["size"]
    rows, columns = (size, size) if isinstance(size, int) else size
    return {
        "input_size": [3, int(rows), int(columns)],
        "mean": [float(value) for value in config["mean"]],
        "std": [float(value) for value in config["std"]],
        "interpolation": str(config["interpolation"]),
        "resize_mode": str(config["resize_mode"]),
        "fill_color": int(config["fill_color"]),
    }


def _built(spec: str, name: str, tag: str | None, file: Path | None, meta: bool) -> Pair:
    build = {"load_weights": not meta and file is None, "pretrained_text": False}
    with _told(spec), torch.device("meta") if meta else contextlib.nullcontext():
        module = open_clip.create_model(name, tag, device="meta" if meta else "cpu", **build)
    if file is not None and not meta:
        load_clip_weights(module, read_clip_weights(file), str(file))
    elif not meta:
        check_finite(module, spec)
    with _told(spec):
        tokenizer = open_clip.get_tokenizer(name)
    return Pair(module, image_settings(module), tokenizer)


@contextlib.contextmanager
def _told(spec: str) -> Iterator[None]:
    """open_clip's failures as one line, and its warning that a tag's weights were trained with another activation as a refusal."""
    before = logging.root.manager.disable
    logging.disable(max(before, logging.WARNING))  # that a network without weights yet has none
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
    except (
        RuntimeError,
        OSError,
        ValueError,
        TypeError,
        AssertionError,
        LookupError,
        ArithmeticError,
        ImportError,
    ) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
        raise UserError(
            f"open_clip cannot give {spec!r} ({reason}); check the network, or give a local file with --weights FILE"
        ) from None
    finally:
        logging.disable(before)
    if any("QuickGELU mismatch" in str(warning.message) for warning in caught):
        architecture, _, tag = spec.partition(":")[2].partition("@")
        other = architecture.removesuffix("-quickgelu") if "quickgelu" in architecture else f"{architecture}-quickgelu"
        raise UserError(
            f"the weights {tag!r} were trained with the other kind of GELU than {architecture!r} computes; use open_clip:{other}@{tag}"
        )
