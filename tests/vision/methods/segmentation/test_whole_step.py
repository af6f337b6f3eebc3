"""A whole step of self-training against a loop written by hand: losses, gradients of the student, the teacher's average.

Networks and draws are the method's own (they have tests of their own); everything between them is written out here.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from pt_core.data import generator
from pt_core.randomness import apart, keyed, sampled_by
from pt_vision.segmentation.mixing import block_mask, class_masks, colour_and_blur
from torch import Tensor

from tests.vision.methods.segmentation.test_coda import Recorder, batches
from tests.vision.nets import close
from tests.vision.segmentation.common import CROP, seeded_make

OPTIONS = {
    "hrda": False,
    "stochastic": False,
    "head_dropout": 0.0,
    "thing_classes": ("disc", "car"),
    "feature_weight": 0.3,
    "feature_share": 0.5,
    "masked_weight": 0.7,
    "threshold": 0.4,
    "margin_top": 0.1,
    "margin_bottom": 0.3,
    "margin_side": 0.15,
    "mask_block": 8,
    "teacher_momentum": 0.6,
}
IGNORE = 255


def cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Sum over labelled pixels of -w log p[y], divided by all pixels."""
    log = logits.log_softmax(1)
    total = logits.new_zeros(())
    for c in range(logits.shape[1]):
        total = total - (weights * (labels == c) * log[:, c]).sum()
    return total / labels.numel()


def target_weights(boxes: Tensor, q: Tensor, margins: tuple[float, float, float]) -> Tensor:
    """q, and 0 where the pixel's centre lies in a margin of the frame; pixel by pixel."""
    weights = torch.zeros(len(boxes), CROP, CROP)
    for n, (top, left, high, wide) in enumerate(boxes.tolist()):
        for row in range(CROP):
            for column in range(CROP):
                down, right = (row + 0.5 + top) / high, (column + 0.5 + left) / wide
                inside = margins[0] <= down < 1 - margins[1] and margins[2] <= right < 1 - margins[2]
                weights[n, row, column] = q if inside else 0.0
    return weights


def by_hand(method, drawn, step: int) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """(losses by name, gradient by parameter, teacher's tensors) of a step."""
    config, recorder = method.config, Recorder(method, drawn, step)
    source, slot = keyed(drawn["source"], step, "source"), next(name for name in drawn if name != "source")
    target = keyed(drawn[slot], step, slot)
    rate = min(1 - 1 / (step + 1), config.teacher_momentum)
    student = dict(method.network.named_parameters())
    teacher = {name: rate * old + (1 - rate) * student[name].detach() for name, old in method.teacher.tensors().items()}

    def scales(images, call, keys, visit=None):
        with sampled_by(keys), apart(call):
            return method.network.scales(images, None, visit)

    for name, value in method.teacher.named_buffers():
        value.copy_(teacher[name.replace(":", ".")])
    with torch.no_grad():
        probabilities = method.teacher.run(method.network, target.inputs, method.visit(slot, "pseudo")).softmax(1)
    sure, pseudo = probabilities.max(1)
    q = (sure >= config.threshold).float().mean()
    assert 0 < float(q) < 1, "or the test says nothing"
    margins = (config.margin_top, config.margin_bottom, config.margin_side)
    weights = target_weights(target.extra["box"], q, margins)
    assert 0 < float((weights == 0).float().mean()) < 1

    plain = scales(source.inputs, "source", source.keys)
    losses = {"source": cross_entropy(plain.logits, source.target, torch.ones_like(weights))}
    with torch.no_grad():
        initial = method.backbone(source.inputs).extra["maps"][-1]
    size = CROP // initial.shape[-1]
    distances = []
    for n in range(len(source)):
        for i in range(initial.shape[2]):
            for j in range(initial.shape[3]):
                cell = source.target[n, i * size : (i + 1) * size, j * size : (j + 1) * size]
                shares = [float((cell == c).float().mean()) for c in range(3)]
                if max(shares) >= config.feature_share and shares.index(max(shares)) in method.things:
                    distances.append((plain.features[n, :, i, j] - initial[n, :, i, j]).norm())
    assert 0 < len(distances) < initial[:, 0].numel()
    losses["feature"] = torch.stack(distances).mean()

    pasted = class_masks(source.target, source.keys)
    assert 0 < float(pasted.float().mean()) < 1
    mixed = torch.where(pasted[:, None], source.inputs, target.inputs)
    mixed = colour_and_blur(
        mixed, method.backbone.preprocessing, recorder.rng("colour"), source.keys, config.colour_strength
    )
    labels, own = torch.where(pasted, source.target, pseudo), torch.where(pasted, torch.ones_like(weights), weights)
    losses["mixed"] = cross_entropy(
        scales(mixed, "mixed", source.keys, method.visit(slot, "mixed")).logits, labels, own
    )

    if config.masked == "target":
        pictures = colour_and_blur(
            target.inputs,
            method.backbone.preprocessing,
            recorder.rng("masked colour"),
            target.keys,
            config.colour_strength,
        )
        labels, own, keys = pseudo, weights, target.keys
    else:  # the first half of both
        half = len(source) // 2
        pictures = torch.cat([source.inputs[:half], target.inputs[:half]])
        labels = torch.cat([source.target[:half], pseudo[:half]])
        own = torch.cat([torch.ones_like(weights[:half]), weights[:half]])
        keys = torch.cat([source.keys[:half], target.keys[:half]])
    hidden = pictures * block_mask(pictures, config.mask_block, config.mask_ratio, keys)
    losses["masked"] = cross_entropy(scales(hidden, "masked", keys, method.visit(slot, "masked")).logits, labels, own)

    total = losses["source"] + 0.3 * losses["feature"] + losses["mixed"] + 0.7 * losses["masked"]
    parameters = {name: p for name, p in method.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
    gradients = {name: g for name, g in zip(parameters, found, strict=True) if g is not None}
    return {**losses, "total": total}, gradients, teacher


@pytest.mark.parametrize(("slot", "size"), [("easy", 2), ("hard", 2), ("hard", 4)])
@pytest.mark.parametrize("masked", ["source_target", "target"])
@pytest.mark.parametrize("name", ["self_training", "coda"])
def test_a_step_is_what_it_says(name: str, masked: str, slot: str, size: int) -> None:
    method = seeded_make(name, masked=masked, **OPTIONS).train()
    rng = generator("whole step")
    with (
        torch.no_grad()
    ):  # an earlier teacher, and a student that has left the initial network; both sure of some pixels
        for share, tensors in ((0.05, method.teacher.named_buffers()), (0.02, method.network.named_parameters())):
            for key, tensor in tensors:
                tensor.add_(share * torch.randn(tensor.shape, generator=rng))
                if key.replace(":", ".").endswith(("linear_pred.weight", "classifier.weight")):
                    tensor.mul_(6)
    drawn = batches(slot=slot, size=size)
    labels = drawn["source"].target.clone()
    labels[0, :40, :40] = 1  # a feature cell of a disc
    labels[1, :32, :32] = 0  # and one that a disc fills by half and a pixel
    labels[1, :32, 16:32] = 1
    labels[1, 0, 15] = 1
    drawn["source"] = replace(drawn["source"], target=labels)
    kept = {key: value.clone() for key, value in method.state_dict().items()}
    losses, gradients, teacher = by_hand(method, drawn, 1)
    method.load_state_dict(kept)
    recorder = Recorder(method, drawn, 1)
    logs = method.step(recorder)
    weight = sum(count for _, count in recorder.calls)  # the trainer divides by it
    for own, key in (
        ("source", "loss_source"),
        ("feature", "feature_distance"),
        ("mixed", "loss_mixed"),
        ("masked", "loss_masked"),
    ):
        assert float(logs[key]) == pytest.approx(float(losses[own].detach()), rel=2e-5), own
    assert float(logs["loss"]) == pytest.approx(float(losses["total"].detach()), rel=2e-5)
    taken = {key: p.grad / weight for key, p in method.named_parameters() if p.grad is not None}
    assert set(taken) == set(gradients)
    largest = max(float(g.abs().max()) for g in gradients.values())
    for key, gradient in gradients.items():
        close(taken[key] / largest, gradient / largest, 2e-5)
    for key, value in teacher.items():
        close(method.teacher.tensors()[key], value)
