"""Supervised training of a new ViT on a source of images."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pt_core.errors import NonFiniteError
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm

from pt_vision.classification.pretrain.config import PretrainConfig
from pt_vision.classification.pretrain.images import Source, keyed
from pt_vision.networks.files import MEAN, STD, build_vit


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
def accuracy_of(model: VisionTransformer, source: Source, device: torch.device) -> float | None:
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
