"""ClassMix, weights of pseudo-labels, masks, feature distance, losses, and the teacher's average."""

from __future__ import annotations

import math

import pytest
import torch
from pt_core.data import generator
from pt_core.randomness import row_keys
from pt_vision.networks.mit import preprocessing
from pt_vision.segmentation.mixing import (
    block_mask,
    class_masks,
    colour_and_blur,
    dice_loss,
    feature_distance,
    inside_margins,
    majority_mask,
    mix,
    pseudo_labels,
    weighted_loss,
)
from pt_vision.segmentation.teacher import Teacher
from torch import nn

from tests.vision.nets import close
from tests.vision.segmentation.common import images, seeded_make

SETTINGS = preprocessing(64)


def keys(size: int, *key: int | str) -> torch.Tensor:
    return row_keys(torch.arange(size), "test", *key)


def random_labels(*shape: int, classes: int = 5, seed: int = 0) -> torch.Tensor:
    return torch.randint(classes, shape, generator=generator("labels", seed))


def test_classmix_takes_half_of_each_images_own_classes():
    labels = random_labels(3, 16, 16)
    labels[0][labels[0] > 2] = 0
    labels[1, :4] = 255
    for seed in range(5):
        masks = class_masks(labels, keys(3, seed))
        for own, mask, present in zip(labels, masks, (3, 5, 5), strict=True):
            chosen = own[mask].unique()
            assert len(chosen) == math.ceil(present / 2)
            assert 255 not in chosen
            assert torch.equal(mask, torch.isin(own, chosen))
    # As released: classes of the batch, the ignore label among them.
    drawn = [class_masks(labels, keys(3, seed), labels.unique()) for seed in range(20)]
    assert any(bool(masks[1, 0, 0]) for masks in drawn)


def test_mixed_pixels_come_from_one_source_with_its_label_and_weight():
    source, target = images(2, 16), images(2, 16, seed=9)
    ys, yt = random_labels(2, 16, 16), random_labels(2, 16, 16, seed=1)
    masks = class_masks(ys, keys(2))
    q = torch.tensor(0.3)
    mixed, labels = mix(source, target, masks), mix(ys, yt, masks)
    weights = mix(torch.ones(2, 16, 16), q.expand(2, 16, 16), masks)
    assert 0 < int(masks.sum()) < masks.numel()
    for n in range(2):
        for row in range(16):
            for column in range(16):
                origin, y, w = (source, ys, 1.0) if masks[n, row, column] else (target, yt, 0.3)
                assert torch.equal(mixed[n, :, row, column], origin[n, :, row, column])
                assert int(labels[n, row, column]) == int(y[n, row, column])
                assert float(weights[n, row, column]) == pytest.approx(w)


def test_every_class_is_pasted_as_often_as_the_others():
    labels = torch.arange(4).repeat(16, 4)[None].expand(3000, -1, -1)
    masks = class_masks(labels, keys(3000))
    pairs = masks[:, 0, :4].float()
    assert torch.equal(pairs.sum(1), torch.full((3000,), 2.0))
    assert (pairs.mean(0) - 0.5).abs().max() < 5 * (0.25 / 3000) ** 0.5
    both = torch.stack([(pairs[:, a] * pairs[:, b]).mean() for a, b in ((0, 1), (0, 3), (1, 2), (2, 3))])
    assert (both - 1 / 6).abs().max() < 5 * (5 / 36 / 3000) ** 0.5


def test_what_is_drawn_for_an_image_does_not_depend_on_its_batch():
    labels, x, own = random_labels(4, 16, 16), images(4, 16), keys(4)
    for rows in ([2], [3, 1]):
        assert torch.equal(class_masks(labels[rows], own[rows]), class_masks(labels, own)[rows])
        assert torch.equal(block_mask(x[rows], 4, 0.7, own[rows]), block_mask(x, 4, 0.7, own)[rows])


def test_q_is_one_number_of_the_whole_batch():
    logits = torch.zeros(2, 3, 4, 4)
    logits[0, 1] = 10.0  # image 0 is sure everywhere
    logits[1, 2, :1] = 10.0  # image 1 in its first row
    labels, sure = pseudo_labels(logits, 0.968)
    assert sure.tolist() == [1.0, 0.25]
    assert float(sure.mean()) == pytest.approx((16 + 4) / 32)
    assert labels[0].unique().tolist() == [1]
    _, nothing = pseudo_labels(torch.zeros(1, 3, 2, 2), 0.968)
    assert float(nothing) == 0


def test_without_confident_pixels_only_source_pixels_count():
    logits, labels = torch.randn(1, 3, 8, 8), random_labels(1, 8, 8, classes=3)
    masks = class_masks(labels, keys(1))
    weights = mix(torch.ones(1, 8, 8), torch.zeros(1, 8, 8), masks)
    losses = nn.functional.cross_entropy(logits, labels, reduction="none")
    assert float(weighted_loss(logits, labels, weights)) == pytest.approx(float(losses[masks].sum()) / 64, rel=1e-5)


def test_margins_are_those_of_the_frame_not_of_the_crop():
    # A 1080 x 1920 frame; crops of 8 px at its corners and in its middle.
    box = torch.tensor([[26, 26, 1080, 1920], [836, 1886, 1080, 1920], [500, 900, 1080, 1920]])
    inside = inside_margins(box, (8, 8), (30 / 1080, 240 / 1080, 30 / 1920))
    rows, columns = torch.arange(8)[:, None], torch.arange(8)[None]
    assert torch.equal(inside[0], ((rows + 26 >= 30) & (columns + 26 >= 30)).float())
    assert torch.equal(inside[1], ((rows + 836 < 840) & (columns + 1886 < 1890)).float())
    assert bool((inside[2] == 1).all())


def test_losses_average_over_all_pixels_and_ignored_ones_are_zero():
    logits, labels = torch.randn(2, 3, 4, 4), random_labels(2, 4, 4, classes=3)
    labels[:, :2] = 255
    losses = nn.functional.cross_entropy(logits, labels, ignore_index=255, reduction="none")
    assert float(weighted_loss(logits, labels)) == pytest.approx(float(losses.sum()) / 32)
    everything = torch.full_like(labels, 255)
    logits.requires_grad_()
    loss = weighted_loss(logits, everything)
    loss.backward()
    assert float(loss.detach()) == 0
    assert not logits.grad.any()


def test_feature_mask_keeps_things_that_fill_a_cell():
    labels = torch.zeros(1, 8, 8, dtype=torch.long)
    labels[0, :4, :4] = 1  # a thing, whole cell
    labels[0, :4, 4:] = 1
    labels[0, 0, 4:] = 0
    labels[0, 1, 7] = 0  # 11 of 16 pixels, below 0.75
    labels[0, 4:, :4] = 255
    assert majority_mask(labels, 4, 0.75, [1], 2).tolist() == [[[True, False], [False, False]]]
    labels[0, 1, 7] = 1  # 12 of 16
    assert majority_mask(labels, 4, 0.75, [1], 2).tolist() == [[[True, True], [False, False]]]
    assert not majority_mask(labels, 4, 0.75, [], 2).any()


def test_feature_distance_is_the_mean_norm_and_zero_without_cells():
    a, b = torch.randn(2, 5, 3, 3).requires_grad_(), torch.randn(2, 5, 3, 3)
    mask = random_labels(2, 3, 3, classes=2).bool()
    want = torch.stack([(a[n, :, r, c] - b[n, :, r, c]).norm() for n, r, c in mask.nonzero().tolist()]).mean()
    assert float(feature_distance(a, b, mask).detach()) == pytest.approx(float(want.detach()), rel=1e-5)
    parts = [feature_distance(a[n : n + 1], b[n : n + 1], mask[n : n + 1], mask.sum()) for n in range(2)]
    assert float(sum(parts).detach()) == pytest.approx(float(want.detach()), rel=1e-5)
    empty = feature_distance(a, a.detach(), torch.zeros_like(mask))
    empty.backward()
    assert float(empty.detach()) == 0
    assert bool(torch.isfinite(a.grad).all())


def test_blocks_are_masked_as_wholes_with_the_ratio():
    mask = block_mask(torch.zeros(8, 3, 64, 72), 16, 0.7, keys(8))
    assert mask.shape == (8, 1, 64, 72)
    cells = mask[:, :, ::16, ::16]
    assert torch.equal(cells.repeat_interleave(16, 2).repeat_interleave(16, 3)[..., :72], mask)
    assert float(1 - cells.mean()) == pytest.approx(0.7, abs=0.1)


def test_whether_and_how_much_is_the_batchs_and_factors_are_the_images():
    x = images(1, 16).clamp(-1, 1)
    both = x.repeat(2, 1, 1, 1)
    changed = [colour_and_blur(both, SETTINGS, generator("colour", n), keys(2, n)) for n in range(40)]
    same = sum(torch.equal(out, both) for out in changed)
    blurred = sum(torch.equal(out[0], out[1]) and not torch.equal(out, both) for out in changed)
    assert 1 <= same <= 12  # probability 0.2 * 0.5
    assert 1 <= blurred <= 12  # the same
    assert sum(not torch.equal(out[0], out[1]) for out in changed) == 40 - same - blurred
    # An image's factors do not depend on its neighbours.
    alone = [colour_and_blur(both[1:], SETTINGS, generator("colour", n), keys(2, n)[1:]) for n in range(5)]
    for out, one in zip(changed, alone, strict=False):
        assert torch.equal(out[1:], one)


def test_colours_change_by_the_published_ranges():
    """Each change alone, read off a picture where it can be measured: factors fill 0.8..1.2, hue turns fill +-0.2 of the circle."""
    import colorsys

    mean, std = (torch.tensor(SETTINGS[key]).view(3, 1, 1) for key in ("mean", "std"))
    pure = torch.tensor([0.5, 0.25, 0.25]).view(3, 1, 1).expand(3, 8, 8)  # hue 0, saturation 0.5, value 0.5

    def seen(strength):
        found = []
        for n in range(400):
            normal = ((pure - mean) / std)[None]
            out = colour_and_blur(normal, SETTINGS, generator("ranges", n), keys(1, "ranges", n), strength)
            if not torch.equal(out, normal):
                found.append(colorsys.rgb_to_hsv(*((out[0] * std + mean)[:, 4, 4]).tolist()))
        return found

    def turned(strength):
        return [(hue + 0.5) % 1 - 0.5 for hue, _, _ in seen(strength)]

    hues = turned(0.2)
    assert max(hues) == pytest.approx(0.2, abs=0.02)
    assert min(hues) == pytest.approx(-0.2, abs=0.02)
    values = [value for _, _, value in seen(0.2)]
    assert max(values) > 0.57
    assert min(values) < 0.43
    assert all(abs(hue) < 1e-3 for hue in turned(0.0))


def test_the_order_of_the_changes_is_drawn():
    """The same factors in another order give another picture: brightness that saturates before contrast, or behind it."""
    x = images(1, 16).clamp(-2, 2)
    seen = set()
    for n in range(60):
        out = colour_and_blur(x, SETTINGS, generator("order", n), keys(1, "fixed"), 0.5)
        if not torch.equal(out, x):
            seen.add(round(float(out[0, :, 3, 3].sum()), 4))
    assert len(seen) > 6


def test_dice_counts_labelled_pixels_of_the_batch():
    logits, labels = torch.randn(2, 3, 4, 4), random_labels(2, 4, 4, classes=3)
    labels[0, 0] = 255
    p = logits.softmax(1)
    scores = []
    for c in range(3):
        both = size = 0.0
        for n in range(2):
            for row in range(4):
                for column in range(4):
                    if labels[n, row, column] == 255:
                        continue
                    y = float(labels[n, row, column] == c)
                    both += float(p[n, c, row, column]) * y
                    size += float(p[n, c, row, column]) ** 2 + y
        scores.append((2 * both + 1e-5) / (size + 1e-5))
    assert float(dice_loss(logits, labels)) == pytest.approx(1 - sum(scores) / 3, rel=1e-5)
    perfect = 50.0 * nn.functional.one_hot(random_labels(1, 4, 4, classes=3), 3).permute(0, 3, 1, 2).float()
    assert float(dice_loss(perfect, random_labels(1, 4, 4, classes=3))) == pytest.approx(0, abs=1e-5)


def test_teacher_equals_the_recursion():
    student = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    teacher = Teacher(student, 0.9)
    want = {name: torch.full_like(p, 7.0) for name, p in student.named_parameters()}
    for step in range(15):
        with torch.no_grad():
            for parameter in student.parameters():
                parameter.add_(torch.randn_like(parameter))
        teacher.update(student, step)
        rate = min(1 - 1 / (step + 1), 0.9)  # 0 at the start: a copy
        want = {name: rate * want[name] + (1 - rate) * p.detach() for name, p in student.named_parameters()}
    assert set(teacher.tensors()) == set(want)  # parameters only, no BatchNorm statistics
    for name, tensor in teacher.tensors().items():
        close(tensor, want[name], 1e-6)
        assert not tensor.requires_grad


def test_teacher_runs_without_dropout_and_leaves_the_student_alone():
    method = seeded_make("coda").train()
    network, teacher = method.network, method.teacher
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.1)
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    x = images(2)
    first, second = teacher.run(network, x), teacher.run(network, x)
    assert torch.equal(first, second)
    assert not first.requires_grad
    for name, buffer in network.named_buffers():
        assert torch.equal(buffer, buffers[name]), name
    assert network.training
    assert network.head.dropout.training
    network.eval()
    assert not torch.equal(network(x), first)  # other weights, and the batch's own statistics
