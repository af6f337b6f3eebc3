"""Point-MAE pretraining: the Chamfer loss, the masks, a loss that falls, and files that are complete or refused."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from pt_core.data import generator
from pt_core.errors import DataError, UserError
from pt_pointcloud.data.augment import rotate_y, scale_translate
from pt_pointcloud.networks.mae import PointMAE, chamfer_l2
from pt_pointcloud.networks.saved import load_backbone
from pt_pointcloud.networks.transformer import PointConfig
from pt_pointcloud.options import PretrainOptions
from pt_pointcloud.pretrain import pretrain

from tests.pointcloud.common import SIZES

SMALL = PretrainOptions(
    points=48,
    groups=8,
    group_size=6,
    dim=16,
    depth=2,
    heads=2,
    first=4,
    decoder_depth=1,
    steps=20,
    batch_size=8,
    lr=5e-3,
)


def test_chamfer_distance_is_the_loop():
    a, b = torch.rand(3, 5, 3, generator=generator("a")), torch.rand(3, 7, 3, generator=generator("b"))
    total = 0.0
    for x, y in ((a, b), (b, a)):
        near = [min(float((p - q).square().sum()) for q in y[n]) for n in range(3) for p in x[n]]
        total += sum(near) / len(near)
    assert float(chamfer_l2(a, b)) == pytest.approx(total, rel=1e-5)
    assert float(chamfer_l2(a, a)) == 0


def test_the_published_share_of_patches_is_masked():
    model = PointMAE(PointConfig(**{**SIZES, "groups": 10}), decoder_depth=1)
    assert model.masked == 6
    loss, predicted, target = model(torch.rand(4, 48, 3), generator("mask"))
    assert predicted.shape == target.shape == (4, 6, 6, 3)
    assert loss.ndim == 0
    other = model(torch.rand(4, 48, 3), generator("other"))[2]
    assert not torch.equal(target, other)
    with torch.device("meta"):
        assert PointMAE(PointConfig()).masked == 38  # of 64; 26 stay visible
    with pytest.raises(ValueError, match="mask_ratio=0.01 masks 0 of 10"):
        PointMAE(PointConfig(**{**SIZES, "groups": 10}), mask_ratio=0.01)


def test_pretraining_learns_and_its_file_loads(tmp_path):
    out = tmp_path / "net.safetensors"
    report = pretrain(SMALL, out, progress=False)
    assert report.held_out_loss < 0.1
    first = pretrain(replace(SMALL, steps=1), tmp_path / "first.safetensors", progress=False)
    assert report.train_loss < 0.8 * first.train_loss
    net, card = load_backbone(out)
    assert card["recipe"]["steps"] == 20
    assert card == json.loads(out.with_suffix(".json").read_text())
    assert net.config.points == 48
    assert report.parameters == sum(p.numel() for n, p in net.named_parameters() if not n.startswith("cls_"))
    again = pretrain(SMALL, tmp_path / "again.safetensors", progress=False)
    assert again.train_loss == report.train_loss


def test_user_clouds_are_drawn_from(tmp_path):
    clouds = [torch.rand(80, 3, generator=generator("user", n)) for n in range(5)]
    report = pretrain(replace(SMALL, steps=3), tmp_path / "net.safetensors", clouds, progress=False)
    assert report.held_out_loss is None
    assert load_backbone(report.out)[1]["data"] == "user data"
    with pytest.raises(DataError, match="5 clouds have fewer than points=90"):
        pretrain(replace(SMALL, points=90), tmp_path / "x.safetensors", clouds, progress=False)


def test_augmentation_has_the_published_ranges():
    points = torch.ones(500, 2, 3)
    moved = scale_translate(points, generator("a"))
    assert moved.min() >= 2 / 3 - 0.2
    assert moved.max() <= 1.5 + 0.2
    assert (moved[:, 0] == moved[:, 1]).all()
    assert float(moved[:, 0].std(0).min()) > 0.1
    turned = rotate_y(torch.tensor([[[1.0, 0.5, 0.0]]]).expand(500, 1, 3), generator("b"))
    torch.testing.assert_close(turned[:, :, 1], torch.full((500, 1), 0.5))
    torch.testing.assert_close(turned[:, 0, ::2].norm(dim=1), torch.ones(500))
    assert float(turned[:, 0, 0].min()) < -0.9


def test_damaged_files_are_refused(tmp_path):
    out = tmp_path / "net.safetensors"
    pretrain(replace(SMALL, steps=1), out, progress=False)
    content = out.read_bytes()
    for name, data, message in [
        ("short", content[: len(content) // 2], "not a readable safetensors file"),
        ("text", b"no tensors", "not a readable safetensors file"),
        (
            "newer",
            content.replace(b'\\"format_version\\": 1', b'\\"format_version\\": 9'),
            "has format 9, this version reads 1",
        ),
        ("sizes", content.replace(b'\\"dim\\": 16', b'\\"dim\\": 32'), "do not fit"),
    ]:
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(data)
        with pytest.raises(UserError, match=message):
            load_backbone(path)
    with pytest.raises(UserError, match="must end in .safetensors"):
        pretrain(SMALL, tmp_path / "net.pth")
