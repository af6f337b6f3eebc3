"""The built-in segmenter: made by the committed recipe, no random network, refused where damaged."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from pt_core.errors import ConfigError, UserError
from pt_vision.backbones import load_backbone
from pt_vision.networks.names import ASSETS
from pt_vision.segmentation.pretrain import SegmenterConfig, pretrain_segmenter, scenes
from safetensors import safe_open

SMALL = SegmenterConfig((8, 8, 16, 16), (1, 1, 1, 1), (1, 1, 2, 2), 8, 64, steps=2, batch_size=2)


def test_the_shipped_segmenter_is_what_the_defaults_make():
    path = ASSETS / "mit_shapes.safetensors"
    assert path.stat().st_size < 5_000_000
    card = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    made = {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(SegmenterConfig()).items()}
    assert {**card["recipe"], **card["model"]} == made
    with safe_open(path, framework="pt") as file:
        assert json.loads(file.metadata()["pt_vision"]) == card
    backbone = load_backbone("builtin:mit_shapes")
    assert sum(p.numel() for p in backbone.module.parameters()) == card["parameters"]
    assert backbone.preprocessing["crop"] == 128
    assert "no streets" in card["data"]


def test_the_shipped_features_tell_shapes_apart_and_random_ones_do_less():
    """A ridge classifier per cell on the frozen fusion of the decoder; two thirds of the scenes to fit, the rest to judge."""
    images, masks = scenes(7, "probe", 0, 48)
    goal = torch.nn.functional.one_hot(masks, 12).permute(0, 3, 1, 2).float()
    scores = []
    for shuffled in (False, True):
        backbone = load_backbone("builtin:mit_shapes")
        if shuffled:
            with torch.random.fork_rng():
                torch.manual_seed(0)
                for parameter in backbone.module.parameters():
                    if parameter.ndim > 1:
                        torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
        with torch.no_grad():
            fused = backbone(images, read=["fused"]).extra["fused"]
        cells = torch.nn.functional.avg_pool2d(goal, 4).permute(0, 2, 3, 1).flatten(1, 2)
        x = torch.cat([fused, torch.ones_like(fused[:, :1])], 1).permute(0, 2, 3, 1).flatten(1, 2)
        fit, judge = slice(0, 32), slice(32, 48)
        a, b = x[fit].flatten(0, 1), cells[fit].flatten(0, 1)
        weights = torch.linalg.solve(a.T @ a + 0.1 * torch.eye(a.shape[1]), a.T @ b)
        chosen, truth = (x[judge] @ weights).argmax(-1), cells[judge].argmax(-1)
        shapes = truth > 0
        scores.append(float((chosen == truth)[shapes].float().mean()))
    assert scores[0] > scores[1] + 0.05


def test_equal_recipes_make_equal_files(tmp_path):
    for name in ("a", "b"):
        pretrain_segmenter(SMALL, tmp_path / f"{name}.safetensors", progress=False)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    pretrain_segmenter(replace(SMALL, seed=1), tmp_path / "c.safetensors", progress=False)
    assert (tmp_path / "a.safetensors").read_bytes() != (tmp_path / "c.safetensors").read_bytes()


def damage(path: Path, change) -> Path:
    from safetensors.torch import load_file, save_file

    with safe_open(path, framework="pt") as file:
        card = json.loads(file.metadata()["pt_vision"])
    tensors = load_file(path)
    change(card, tensors)
    save_file(tensors, path, metadata={"pt_vision": json.dumps(card)})
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda card, tensors: card.update(format_version=9), "format 9"),
        (lambda card, tensors: card["model"].update(embed_dims=[8, 8, 16, 32]), "weights and metadata do not fit"),
        (lambda card, tensors: card["model"].update(embed_dims=[10**9] * 4), "weights and metadata do not fit"),
        (lambda card, tensors: card["model"].pop("depths"), "weights and metadata do not fit"),
        (lambda card, tensors: tensors.pop("encoder.patch_embed.proj.bias"), "weights and metadata do not fit"),
        (lambda card, tensors: tensors["encoder.patch_embed.proj.bias"].fill_(torch.nan), "NaN"),
    ],
)
def test_damaged_files_are_refused(tmp_path, change, message):
    path = tmp_path / "x.safetensors"
    pretrain_segmenter(SMALL, path, progress=False)
    with pytest.raises(UserError, match=message):
        load_backbone(f"file:{damage(path, change)}")


def test_impossible_recipes_name_every_problem(tmp_path):
    with pytest.raises(ConfigError, match="batch_size=1.*not divisible"):
        SegmenterConfig(embed_dims=(9, 8, 8, 8), num_heads=(2, 1, 1, 1), batch_size=1)
    with pytest.raises(UserError, match="must end in .safetensors"):
        pretrain_segmenter(SMALL, tmp_path / "x.pth")
    assert os.listdir(tmp_path) == []
