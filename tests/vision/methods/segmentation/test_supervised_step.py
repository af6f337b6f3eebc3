"""A whole step of the methods that learn from masks alone against a loop written by hand: losses and gradients."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from pt_core import Batch
from pt_core.data import generator
from pt_core.randomness import keyed, shared_rng
from pt_vision.bottleneck import quick_gelu
from pt_vision.networks.mit import preprocessing
from pt_vision.segmentation.mixing import colour_and_blur, dice_loss
from pt_vision.segmentation.pairs import Whole, paired
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from tests.stepping import gradients_of, same_gradients
from tests.vision.methods.segmentation.test_coda import Recorder, batches
from tests.vision.nets import close
from tests.vision.segmentation.common import CROP, DATA, LABELS, images, seeded_make

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


def test_a_class_that_is_nowhere_is_right() -> None:
    logits = torch.full((1, 3, 4, 4), -100.0)
    logits[:, 0] = 100.0
    assert float(dice_loss(logits, torch.zeros(1, 4, 4, dtype=torch.long))) == pytest.approx(0, abs=1e-5)


def test_a_batch_is_blurred_where_its_second_draw_exceeds_a_half() -> None:
    x, keys, seen = images(2, 16), torch.arange(2), set()
    for n in range(30):
        jitter, blur, sigma = torch.rand(3, generator=generator("blur", n)).tolist()
        if jitter > 0.2:
            continue
        found = colour_and_blur(x, preprocessing(CROP), generator("blur", n), keys)
        width = 2 * math.ceil(3 * (0.15 + sigma)) + 1
        want = gaussian_blur(x, [width, width], [0.15 + sigma] * 2) if blur > 0.5 else x
        close(found, want, 1e-5)
        seen.add(blur > 0.5)
    assert seen == {True, False}


def test_one_pair_is_masked_and_a_half_of_several() -> None:
    for size, half in ((1, 1), (2, 1), (3, 1), (4, 2), (5, 2)):
        parts = batches(size=size)
        part = {name: keyed(batch, 0, name) for name, batch in parts.items()}
        whole = Whole.of([paired(part)], "source_target", False, Recorder(None, parts, 1))
        assert whole.half == frozenset(range(half))
        assert (whole.pairs, float(whole.calls)) == (size, 3)
