"""Severity and the prompts and adapters it routes."""

from __future__ import annotations

import pytest
import torch
from pt_core.errors import ConfigError
from pt_vision.networks.mit import preprocessing
from pt_vision.segmentation.prompts import SeverityPrompts
from pt_vision.segmentation.severity import dark_share, high_severity, severity_panels, split_by_severity

from tests.vision.nets import close
from tests.vision.segmentation.common import DATA, images, make, seeded_make, shades

SETTINGS = preprocessing(64)


def high(image: torch.Tensor) -> bool:
    return bool(high_severity(image, SETTINGS)[0])


def test_threshold_of_severity():
    assert not high(shades(39, dark_share=0.049, side=100))
    assert high(shades(39, dark_share=0.051, side=100))
    assert high(shades(39, dark_share=0.05, side=100))
    assert not high(shades(40, dark_share=1.0, side=100))
    assert not high(shades(41, dark_share=1.0, side=100))


def test_severity_is_invariant_to_flips_and_takes_no_part_in_gradients():
    image = shades(39, 220, dark_share=0.3).requires_grad_()
    for flipped in (image.flip(2), image.flip(3), image.flip(2, 3)):
        assert torch.equal(dark_share(flipped, SETTINGS), dark_share(image, SETTINGS))
    assert not dark_share(image, SETTINGS).requires_grad


def test_luma_weights_red_and_blue_and_the_released_code_exchanges_them():
    mean, std = (torch.tensor(SETTINGS[key]).view(3, 1, 1) for key in ("mean", "std"))
    red = ((torch.tensor([120.0, 0.0, 0.0]).view(3, 1, 1) / 255 - mean) / std).expand(3, 8, 8)[None]
    assert float(dark_share(red, SETTINGS)) == 1.0  # 0.299 * 120 = 36
    blue = ((torch.tensor([0.0, 0.0, 200.0]).view(3, 1, 1) / 255 - mean) / std).expand(3, 8, 8)[None]
    assert float(dark_share(blue, SETTINGS)) == 1.0  # 0.114 * 200 = 23
    assert float(dark_share(blue, SETTINGS, official=True)) == 0.0  # 0.299 * 200 = 60


def test_split_and_panels():
    shares = torch.tensor([0.0, 0.049, 0.05, 0.9])
    assert split_by_severity(shares) == ([0, 1], [2, 3])
    bars, pictures = severity_panels(shares, DATA["target"])
    assert sum(bars["data"].values()) == 4
    assert sum(n for band, n in bars["data"].items() if band.endswith("high")) == 2
    assert [item["predicted"] for item in pictures["data"]["items"]] == [
        "0.0% dark",
        "4.9% dark",
        "5.0% dark",
        "90.0% dark",
    ]


def test_published_counts():
    def count(**options):
        return sum(p.numel() for p in SeverityPrompts(64, 512, SETTINGS, **options).parameters())

    assert count() == 122_880 + 4_256
    assert count(gate=True) == 122_880 + 4_256 + 1_154 + 256


def test_overlapping_blocks_are_refused():
    with pytest.raises(ConfigError, match="overlap below 192 px"):
        SeverityPrompts(8, 128, SETTINGS, size=64)
    assert SeverityPrompts(8, 192, SETTINGS, size=64).corners() == [(0, 0), (0, 128), (128, 0), (128, 128), (64, 64)]
    assert SeverityPrompts(8, 512, SETTINGS).corners() == [(0, 0), (0, 448), (448, 0), (448, 448), (224, 224)]
    with pytest.raises(ConfigError, match="overlap"):
        make("coda", prompt_size=20)


def test_zero_prompts_and_up_projection_change_nothing():
    method = seeded_make("coda")
    network, savpt = method.network.eval(), method.network.prompts
    views = torch.cat([shades(200, 20), images(1, 32)])
    with torch.no_grad():
        for branch in savpt.branches:
            branch.up.zero_()
            branch.up_bias.zero_()
        plain = network.head(network.maps(views))
        assert torch.equal(network.head(network.maps(views, savpt)), plain)
        savpt.branches[1].prompts.add_(1.0)
        moved = network.head(network.maps(views, savpt))
    assert torch.equal(moved[0], plain[0])  # bright: the other branch
    assert not torch.equal(moved[1], plain[1])


def touched(savpt: SeverityPrompts) -> list[bool]:
    return [all(p.grad is not None and bool(p.grad.any()) for p in branch.parameters()) for branch in savpt.branches]


def untouched(savpt: SeverityPrompts) -> list[bool]:
    return [all(p.grad is None for p in branch.parameters()) for branch in savpt.branches]


@pytest.mark.parametrize(("level", "number"), [(200, 0), (20, 1)])
def test_only_the_branch_of_the_image_gets_gradient(level, number):
    method = seeded_make("coda", stochastic=False)
    savpt = method.network.prompts
    with torch.no_grad():
        for branch in savpt.branches:
            branch.prompts.normal_()
    method.network.head(method.network.maps(shades(level, level), savpt)).square().sum().backward()
    assert touched(savpt)[number]
    assert untouched(savpt)[1 - number]


def test_a_mixed_batch_is_routed_per_image_whatever_its_order():
    method = seeded_make("coda", stochastic=False)
    savpt = method.network.prompts
    with torch.no_grad():
        for branch in savpt.branches:
            for parameter in branch.parameters():
                parameter.normal_(std=0.3)
        views = torch.cat([shades(200, 20), images(2, 32)])
        method.network.eval()
        whole = method.network.maps(views, savpt)[0]
        order = torch.tensor([3, 1, 0, 2])
        close(method.network.maps(views[order], savpt)[0], whole[order], 1e-5)
        for n in range(4):
            close(method.network.maps(views[n : n + 1], savpt)[0], whole[n : n + 1], 1e-5)
    method.network.head(method.network.maps(views, savpt)).square().sum().backward()
    assert touched(savpt) == [True, True]


def test_prompts_live_in_five_squares_and_the_callers_image_stays():
    method = seeded_make("coda")
    savpt = method.network.prompts
    views = shades(200, 20)
    before = views.clone()
    edit = savpt.edits(views)["pixels"]
    added = edit.fn(views, None)
    assert torch.equal(views, before)
    inside = torch.zeros(32, 32, dtype=torch.bool)
    for row, column in savpt.corners():
        inside[row : row + savpt.size, column : column + savpt.size] = True
    weights = torch.randn(added.shape)
    (added * weights).sum().backward()
    for view, branch in enumerate(savpt.branches):
        for block, (row, column) in enumerate(savpt.corners()):
            want = weights[view, :, row : row + 4, column : column + 4]
            assert torch.equal(branch.prompts.grad[block], want)
    with torch.no_grad():
        for branch in savpt.branches:
            branch.prompts.fill_(1.0)
        again = savpt.edits(views)["pixels"].fn(views, None)
    assert torch.equal(again[0, 0].bool(), inside)
    with pytest.raises(ConfigError, match="made for views of 32 px"):
        savpt.edits(torch.zeros(1, 3, 64, 64))


def test_adapter_and_gate_equal_loops():
    torch.manual_seed(0)
    savpt = SeverityPrompts(8, 32, SETTINGS, gate=True).double()
    with torch.no_grad():
        for parameter in savpt.parameters():
            parameter.normal_(std=0.5)
    views = shades(200, 20).double()
    first = torch.randn(2, 8, 8, 8).double()
    savpt.edits(views)
    have = savpt.adapt(first)
    for n, branch in enumerate(savpt.branches):
        a = torch.zeros(8, 8, 8).double()
        for row in range(8):
            for column in range(8):
                f = first[n, :, row, column]
                hidden = (branch.down @ f + branch.down_bias[:, 0]).relu()
                a[:, row, column] = f + branch.up @ hidden + branch.up_bias[:, 0]
        gate = torch.nn.functional.conv2d(a[None], branch.gate.weight, branch.gate.bias, padding=1)[0]
        gated = a * gate.softmax(-1)
        centred = gated - gated.mean(-1, keepdim=True)
        want = centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * savpt.norm.weight + savpt.norm.bias
        close(have[n], want, 1e-10)
