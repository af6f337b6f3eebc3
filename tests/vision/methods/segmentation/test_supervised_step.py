"""A whole step of the methods that learn from masks alone against a loop written by hand: losses and gradients."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from pt_core import Batch
from pt_core.randomness import keyed, shared_rng
from pt_vision.bottleneck import quick_gelu
from torch import Tensor

from tests.stepping import gradients_of, same_gradients
from tests.vision.nets import close
from tests.vision.segmentation.common import CROP, DATA, LABELS, seeded_make

IGNORE = 255


def drawn(count: int = 2) -> Batch:
    rows = list(range(count))
    return keyed(DATA["train"].collate(rows, [DATA["train"].sample(n, epoch=None, seed=0) for n in rows]), 0, "sample")


def moved(method: Any) -> Any:
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=rng))
    return method.train()


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum over labelled pixels of -log p[y], divided by all pixels."""
    log = logits.log_softmax(1)
    return -sum((log[:, c][labels == c].sum() for c in range(logits.shape[1])), torch.zeros(())) / labels.numel()


def dice(logits: Tensor, labels: Tensor) -> Tensor:
    """1 - mean over classes of 2 sum p y / (sum p^2 + sum y^2), over labelled pixels."""
    p, found = logits.softmax(1), []
    for c in range(logits.shape[1]):
        own, y = p[:, c][labels != IGNORE], (labels[labels != IGNORE] == c).float()
        found.append((2 * (own * y).sum() + 1e-5) / ((own**2).sum() + (y**2).sum() + 1e-5))
    return 1 - sum(found) / len(found)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_step_of_dvpt(share: float) -> None:
    method, batch = moved(seeded_make("dvpt_seg", prompt_length=4, dice_weight=share)), drawn()
    assert bool((batch.target == IGNORE).any())
    logits = method.logits(batch.inputs)
    assert logits.shape == (2, len(LABELS), CROP, CROP)
    loss = (1 - share) * cross_entropy(logits, batch.target) + share * dice(logits, batch.target)
    output = method.training_step(batch)
    assert output.count == 2
    close(output.loss.detach(), loss.detach(), 1e-5)
    same_gradients(gradients_of(method, output.loss), gradients_of(method, loss), 1e-4)


@pytest.mark.parametrize("hrda", [False, True])
def test_a_step_of_supervised_training(hrda: bool) -> None:
    """With HRDA 0.7 of the fused logits' loss and 0.3 of the detail window's, whose corner is the batch's own draw."""
    options = {"hrda": hrda, "detail_weight": 0.3, "stochastic": False, "head_dropout": 0.0}
    method, batch = moved(seeded_make("source_only", **options)), drawn()
    box = None
    if hrda:
        row, column = (8 * torch.randint(5, (2,), generator=shared_rng(batch, "box"))).tolist()  # 0, 8, .. 32 of 64 px
        box = (int(row), int(column))
    out = method.network.scales(batch.inputs, box)
    loss = cross_entropy(out.logits, batch.target)
    if box is not None:
        own = batch.target[:, box[0] : box[0] + 32, box[1] : box[1] + 32]
        assert out.detail.shape[2:] == own.shape[1:]
        loss = 0.7 * loss + 0.3 * cross_entropy(out.detail, own)
    output = method.training_step(batch)
    assert output.count == 2
    close(output.loss.detach(), loss.detach(), 1e-5)
    same_gradients(gradients_of(method, output.loss), gradients_of(method, loss), 1e-4)


def test_images_without_a_labelled_pixel_teach_nothing() -> None:
    method = moved(seeded_make("dvpt_seg", prompt_length=4, dice_weight=0.0))
    batch = replace(drawn(), target=torch.full((2, CROP, CROP), IGNORE))
    output = method.training_step(batch)
    assert float(output.loss.detach()) == 0
    assert not any(bool(gradient.any()) for gradient in gradients_of(method, output.loss).values())


@pytest.mark.parametrize("features", ["stages", "decoder"])
def test_a_step_of_the_linear_probe(features: str) -> None:
    method, batch = moved(seeded_make("linear_seg", features=features)), drawn()
    extra = method.backbone(batch.inputs, read=["decoder"] if features == "decoder" else None).extra
    if features == "decoder":
        read = extra["decoder"]
    else:
        maps = [torch.nn.functional.interpolate(m, (CROP // 4, CROP // 4), mode="bilinear") for m in extra["maps"][1:]]
        read = torch.cat([extra["maps"][0], *maps], 1)
    weight = method.classifier.weight[:, :, 0, 0]
    small = torch.einsum("kc,bcij->bkij", weight, read.detach()) + method.classifier.bias[:, None, None]
    logits = torch.nn.functional.interpolate(small, (CROP, CROP), mode="bilinear")
    loss = cross_entropy(logits, batch.target)
    output = method.training_step(batch)
    close(output.loss.detach(), loss.detach(), 1e-5)
    same_gradients(gradients_of(method, output.loss), gradients_of(method, loss), 1e-4)
    assert method.crop == CROP
    assert seeded_make("linear_seg", crop_size=32).crop == 32


def test_the_activation_of_bottlenecks() -> None:
    x = torch.tensor([-2.0, -0.5, 0.0, 1.0, 3.0])
    close(quick_gelu(x), torch.tensor([v / (1 + math.exp(-1.702 * v)) for v in x.tolist()]), 1e-6)
