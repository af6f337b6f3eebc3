"""Pre-training: what it learns, what it writes, and options that do not fit."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from pt_core.errors import ConfigError, UserError
from pt_timeseries.adapters.encoder import PatchEncoder
from pt_timeseries.adapters.files import write_backbone
from pt_timeseries.backbones import load_backbone
from pt_timeseries.options import PretrainOptions
from pt_timeseries.pretrain import macro_f1, options_of, pretrain, run
from torch import nn

from tests.timeseries.common import LABELS, close, tiny, waves

QUICK = PretrainOptions(
    patch=8, patch_stride=4, dim=12, depth=1, heads=2, hidden=16, epochs=12, batch_size=12, lr=5e-3, dropout=0.0
)


def test_pretraining_learns_and_its_file_gives_the_same_classifier(tmp_path):
    train, val = waves(per_class=10), waves(per_class=4, seed=1)
    report = pretrain(QUICK, train, val, progress=False)
    assert report.train_loss < 0.8
    assert report.val_macro_f1 > 0.6
    out = tmp_path / "e.safetensors"
    write_backbone(report.backbone, "patch", report.config, {}, out)
    again = load_backbone(f"file:{out}")
    close(again(val.values).tokens, report.backbone(val.values).tokens, 0.02)  # stored as fp16
    assert again.head.classes == tuple(LABELS)
    assert not any(p.requires_grad for p in again.module.parameters())
    assert json.loads(out.with_suffix(".json").read_text())["architecture"] == "patch"


def test_masked_patches_come_first_where_asked_for():
    train = waves(per_class=4)
    plain = pretrain(replace(QUICK, epochs=0.1), train, None, progress=False)
    masked = pretrain(replace(QUICK, epochs=0.1, masked_epochs=2), train, None, progress=False)
    assert (plain.backbone.module.position - masked.backbone.module.position).abs().max() > 1e-3
    with pytest.raises(ConfigError, match="needs architecture='patch'"):
        pretrain(replace(QUICK, masked_epochs=1, architecture="tsai:TST"), train, None, progress=False)


def test_the_same_seed_gives_the_same_encoder():
    first, again, other = (pretrain(replace(QUICK, epochs=0.5, seed=s), waves(), None, False) for s in (0, 0, 1))
    same = [
        torch.equal(a, b)
        for a, b in zip(first.backbone.module.parameters(), again.backbone.module.parameters(), strict=True)
    ]
    assert all(same)
    assert not torch.equal(first.backbone.module.position, other.backbone.module.position)


def test_macro_f1_counts_absent_classes_that_are_predicted():
    backbone, data = tiny(), waves(per_class=4)
    head = nn.Linear(12, 3)
    nn.init.zeros_(head.weight)
    head.bias.data = torch.tensor([0.0, 1.0, 0.0])
    assert macro_f1(backbone, head, data) == pytest.approx((0 + 0.5 + 0) / 3)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"dim": 0}, "dim=0"),
        ({"architecture": "tsai:TTS"}, "architecture='tsai:TTS'"),
        ({"mask_ratio": 1.5}, "mask_ratio=1.5"),
    ],
)
def test_pretraining_options_are_checked(values, message):
    with pytest.raises(ConfigError, match=message):
        options_of(values)


def test_pretraining_names_its_file(tmp_path):
    with pytest.raises(UserError, match="must end in .safetensors"):
        run(QUICK, tmp_path / "encoder.pt")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_tsai_networks_are_pretrained_like_the_others():
    report = pretrain(
        replace(QUICK, architecture="tsai:TST", epochs=6), waves(per_class=6), waves(seed=1), progress=False
    )
    assert report.val_macro_f1 > 0.4
    assert isinstance(report.backbone.module, nn.Module)
    assert not isinstance(report.backbone.module, PatchEncoder)
