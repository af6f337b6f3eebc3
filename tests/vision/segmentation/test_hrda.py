"""HRDA: fusion against loops, attention outside the crop, windows."""

from __future__ import annotations

import pytest
import torch
from pt_core.data import generator
from pt_core.errors import ConfigError
from pt_vision.segmentation.hrda import (
    average_windows,
    context_view,
    cut_windows,
    detail_view,
    double,
    draw_box,
    fuse,
    window_corners,
)
from pt_vision.segmentation.sliding import slide

from tests.vision.nets import close
from tests.vision.segmentation.common import CROP, images, make, seeded_make


def test_fusion_equals_a_slow_reference():
    rng = generator("fuse")
    c, h = (torch.randn(2, 3, 8, 8, generator=rng).double() for _ in range(2))
    a = torch.rand(2, 3, 8, 8, generator=rng).double()
    box = (16, 8)  # pixels of a 64 px crop: cells (2, 1) of the context's 8 x 8 grid, (4, 2) of the crop's 16 x 16 grid
    masked, inserted = torch.zeros_like(a), torch.zeros(2, 3, 16, 16).double()
    for row in range(8):
        for column in range(8):
            if 2 <= row < 6 and 1 <= column < 5:
                masked[:, :, row, column] = a[:, :, row, column]
            inserted[:, :, 4 + row, 2 + column] = h[:, :, row, column]
    want = double((1 - masked) * c) + double(masked) * inserted
    close(fuse(c, a, h, box), want, 1e-12)
    # Where the enlarged attention is 0 the detail has no say.
    outside = double(masked) == 0
    assert bool(outside.any())
    changed = fuse(c, a, h + 5, box)
    assert torch.equal(changed[outside], fuse(c, a, h, box)[outside])


def test_boxes_lie_on_both_grids():
    boxes = {draw_box(128, generator("box", n)) for n in range(300)}
    assert {v % 8 for box in boxes for v in box} == {0}
    assert {box[0] for box in boxes} == {box[1] for box in boxes} == set(range(0, 65, 8))


def test_windows_cover_and_average():
    assert window_corners(100, 40, 20) == [0, 20, 40, 60]
    assert window_corners(90, 40, 20) == [0, 20, 40, 50]
    assert window_corners(40, 40, 20) == window_corners(30, 40, 20) == [0]
    x = torch.randn(2, 1, 48, 64)
    windows, boxes = cut_windows(x, 32, 16)
    assert len(windows) == 2 * len(boxes) == 2 * 2 * 3
    close(average_windows(windows, boxes, 48, 64), x, 1e-6)
    total, count = torch.zeros(2, 1, 48, 64), torch.zeros(48, 64)
    for n, (row, column) in enumerate(boxes):
        total[:, :, row : row + 32, column : column + 32] += n * windows[2 * n : 2 * n + 2]
        count[row : row + 32, column : column + 32] += 1
    scaled = torch.cat([n * part for n, part in enumerate(windows.split(2))])
    close(average_windows(scaled, boxes, 48, 64), total / count, 1e-6)


def test_sliding_with_one_window_is_a_plain_forward():
    network = seeded_make("source_only").network.eval()
    x = images(2)
    with torch.no_grad():
        assert torch.equal(network(x), network.windows(x))
        wide = torch.cat([x, images(2, seed=6)], 3)
        have = network(wide)
        parts = [network.windows(wide[:, :, :, left : left + CROP]) for left in (0, CROP // 2, CROP)]
        close(have[..., : CROP // 2], parts[0][..., : CROP // 2], 1e-5)
        close(have[..., CROP // 2 : CROP], (parts[0][..., CROP // 2 :] + parts[1][..., : CROP // 2]) / 2, 1e-5)
        close(slide(network.windows, wide, CROP, at_once=2), have, 1e-5)
        small = x[:, :, :40, :50]
        padded = torch.nn.functional.pad(small, (0, 14, 0, 24))
        close(network(small), network(padded)[:, :, :40, :50], 1e-6)


def test_windows_equal_a_loop_over_details():
    network = seeded_make("source_only").network.eval()
    x = images(2)
    with torch.no_grad():
        far = network.maps(context_view(x))
        total, count = torch.zeros(2, 3, 16, 16), torch.zeros(16, 16)
        for row in (0, 16, 32):
            for column in (0, 16, 32):
                logits = network.head(network.maps(detail_view(x, (row, column))))
                total[:, :, row // 4 : row // 4 + 8, column // 4 : column // 4 + 8] += logits
                count[row // 4 : row // 4 + 8, column // 4 : column // 4 + 8] += 1
        want = fuse(network.head(far), network.attention(far), total / count)
        close(network.windows(x), torch.nn.functional.interpolate(want, (64, 64), mode="bilinear"), 1e-5)


def test_both_scales_of_a_training_forward_are_those_of_single_calls():
    network = seeded_make("source_only").network.eval()
    x, box = images(2), (8, 24)
    with torch.no_grad():
        out = network.scales(x, box)
        far, near = network.maps(context_view(x)), network.maps(detail_view(x, box))
        want = fuse(network.head(far), network.attention(far), network.head(near), box)
        close(out.logits, torch.nn.functional.interpolate(want, (64, 64), mode="bilinear"), 1e-5)
        close(out.features, far[-1], 1e-5)
        assert out.detail.shape == (2, 3, 32, 32)


def test_sizes_that_views_cannot_have():
    with pytest.raises(ConfigError, match="crop_size=96 is no multiple of 64"):
        make("source_only", crop_size=96)
    assert make("source_only", crop_size=96, hrda=False).network.view_size == 96
    assert make("source_only").network.view_size == 32
