"""Supervised training of a new ViT on a source of images."""

from __future__ import annotations

from dataclasses import asdict

import torch
import torch.nn.functional as F
from pt_core.run.pretrain.loop import decayed, descend, warm_cosine
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.optim import AdamW

from pt_vision.classification.pretrain.config import PretrainConfig
from pt_vision.classification.pretrain.images import Source, keyed
from pt_vision.networks.files import MEAN, STD, build_vit


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
    groups = decayed(model.named_parameters(), config.weight_decay, model.no_weight_decay())
    optimiser = AdamW(groups, lr=config.lr, betas=(0.9, 0.98))
    warm = int(config.warmup * config.steps)
    shown: dict[str, Tensor] = {}

    def loss_of(step: int) -> Tensor:
        images, labels = source.batch(config.batch_size, keyed(config.seed, step))
        with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            logits = model(_normalise(images, device))
        labels = labels.to(device)
        shown["batch accuracy"] = (logits.argmax(1) == labels).float().mean()
        return F.cross_entropy(logits.float(), labels, label_smoothing=config.label_smoothing)

    losses = descend(
        loss_of,
        optimiser,
        config.steps,
        rate=lambda step: config.lr * warm_cosine(step, config.steps, warm),
        clip=(model.parameters(), config.clip),
        shown=shown,
        title="pretrain" if progress else None,
    )
    return model, losses
