"""Published checkpoints: their layouts read without running code, complete or refused; specs, and what is recorded."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from pt_core.errors import ConfigError, UserError
from pt_core.weights import check_finite, read_weights
from pt_pointcloud.backbones import list_backbones, load_backbone
from pt_pointcloud.networks.published import WRAPPERS, encoder_state, load_published
from pt_pointcloud.networks.transformer import PointConfig, PointTransformer
from safetensors.torch import save_file

from tests.pointcloud.common import SIZES, network

CONFIG = PointConfig(**SIZES)


def mae(net: PointTransformer) -> dict:
    """As `runner_pretrain` of Point-MAE saves it, from several GPUs."""
    own = {f"module.MAE_encoder.{n}": t for n, t in net.state_dict().items() if not n.startswith("cls_")}
    beside = {
        "module.mask_token": torch.zeros(1, 1, 16),
        "module.MAE_decoder.norm.weight": torch.zeros(16),
        "module.increase_dim.0.bias": torch.zeros(9),
    }
    return {"base_model": own | beside, "epoch": 300}


def bert(net: PointTransformer) -> dict:
    own = {f"module.transformer_q.{n}": t for n, t in net.state_dict().items()}
    beside = {
        "module.transformer_q.lm_head.weight": torch.zeros(4, 16),
        "module.transformer_k.norm.weight": torch.zeros(16),
        "module.queue": torch.zeros(3),
    }
    return {"base_model": own | beside}


def saved(path: Path, content: dict) -> Path:
    torch.save(content, path)
    return path


def test_point_mae_checkpoints_have_no_class_token(tmp_path):
    net = network(3)
    loaded, notes = load_published("pointmae", CONFIG, saved(tmp_path / "pretrain.pth", mae(net)))
    assert not loaded.class_token_trained
    assert float(loaded.cls_token.detach().abs().max()) == 0
    for name, tensor in net.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor) or name.startswith("cls_")
    assert notes == ()


def test_point_bert_checkpoints_have_one_and_a_reduce_layer(tmp_path):
    config = PointConfig(**SIZES, encoder_dim=12)
    net = network(3, encoder_dim=12)
    with torch.no_grad():
        net.cls_token.fill_(0.5)
    loaded, notes = load_published("pointbert", config, saved(tmp_path / "bert.pth", bert(net)))
    assert loaded.class_token_trained
    assert torch.equal(loaded.cls_token, net.cls_token)
    assert torch.equal(loaded.reduce_dim.weight, net.reduce_dim.weight)
    assert "lm_head" in notes[0]
    with pytest.raises(UserError, match="no class token: it is no Point-BERT checkpoint"):
        load_published("pointbert", config, saved(tmp_path / "mae.pth", mae(net)))


def test_fine_tuned_files_and_safetensors_are_read(tmp_path):
    net = network(3)
    tuned = {f"module.{n}": t.clone() for n, t in net.state_dict().items()} | {
        "module.cls_head_finetune.0.weight": torch.zeros(2, 2)
    }
    loaded, notes = load_published("pointmae", CONFIG, saved(tmp_path / "best.pth", {"base_model": tuned}))
    assert loaded.class_token_trained
    assert "cls_head_finetune" in notes[0]
    plain = {
        n: t.clone()
        for n, t in net.state_dict().items()
        if not n.endswith("num_batches_tracked") and not n.startswith("cls_")
    }
    save_file(plain, tmp_path / "x.safetensors")
    again, _ = load_published("pointmae", CONFIG, tmp_path / "x.safetensors")
    assert torch.equal(again.norm.weight, net.norm.weight)


def test_only_the_encoder_is_taken():
    tensors = {"module.MAE_encoder.norm.weight": torch.ones(1), "module.MAE_decoder.norm.weight": torch.zeros(1)}
    assert list(encoder_state(tensors)) == ["norm.weight"]


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_files_that_run_code_are_refused(tmp_path):
    saved(tmp_path / "evil.pth", {"base_model": Evil(tmp_path / "marker")})
    with pytest.raises(UserError, match="would run code, which is refused"):
        read_weights(tmp_path / "evil.pth", WRAPPERS)
    assert not (tmp_path / "marker").exists()


def broken(change) -> dict:
    content = mae(network(3))
    change(content["base_model"])
    return content


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("module.MAE_encoder.norm.bias"), "lacks norm.bias"),
        (lambda s: s.update({"module.MAE_encoder.extra": torch.zeros(1)}), "has unknown extra"),
        (
            lambda s: s.update({"module.MAE_encoder.norm.bias": torch.zeros(17)}),
            r"norm.bias has shape \(17,\), pointmae needs \(16,\)",
        ),
    ],
)
def test_incomplete_checkpoints_are_refused(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        load_published("pointmae", CONFIG, saved(tmp_path / "x.pth", broken(change)))


def test_values_that_are_not_finite_are_refused(tmp_path):
    net = network()
    with torch.no_grad():
        net.norm.bias[0] = float("nan")
    with pytest.raises(UserError, match="norm.bias holds NaN"):
        check_finite(net, "x")


def test_changes_of_the_grouping_are_part_of_the_source():
    backbone = load_backbone("pointmae:scanobjectnn,points=1024,groups=64", normalise="as_stored", device="meta")
    assert backbone.source == "pointmae:scanobjectnn,points=1024,groups=64,normalise=as_stored"
    assert backbone.preprocessing == {"points": 1024, "groups": 64, "group_size": 32, "normalise": "as_stored"}
    again = load_backbone(backbone.source, device="meta")
    assert again.preprocessing == backbone.preprocessing
    assert load_backbone("pointbert:modelnet", device="meta").config.encoder_dim == 256


def test_what_can_be_loaded_is_listed():
    specs = [spec for spec, _ in list_backbones()]
    assert "builtin:point_mae_shapes" in specs
    assert any(spec.startswith("pointbert:") for spec in specs)


@pytest.mark.parametrize(
    ("run", "error", "message"),
    [
        (
            lambda: load_backbone("pointmae:modelnet40"),
            UserError,
            "no layout 'modelnet40' \\(did you mean 'modelnet'\\?\\)",
        ),
        (lambda: load_backbone("pointmae:modelnet"), UserError, "needs --weights FILE"),
        (lambda: load_backbone("pointmae:modelnet", "nowhere.pth"), UserError, "nowhere.pth does not exist"),
        (lambda: load_backbone("builtin:point_mae"), UserError, "no built-in backbone 'point_mae'"),
        (lambda: load_backbone("builtin:point_mae_shapes", "x.pth"), UserError, "brings its own weights"),
        (lambda: load_backbone("file:nowhere.safetensors"), UserError, "does not exist; make it with"),
        (lambda: load_backbone("timm:vit"), UserError, "is of no known kind"),
        (lambda: load_backbone("pointmae:modelnet,group=3"), UserError, "did you mean 'groups'"),
        (lambda: load_backbone("pointmae:modelnet,groups=-3"), UserError, "groups='-3' is no number"),
        (lambda: load_backbone("pointmae:modelnet,normalise=no"), UserError, "normalise='no' is unknown"),
        (
            lambda: load_backbone("pointmae:modelnet,points=32,groups=64", device="meta"),
            ConfigError,
            "needs at least G points",
        ),
        (lambda: read_weights(Path("nowhere.pth"), WRAPPERS), UserError, "does not exist"),
    ],
)
def test_bad_input_is_refused(run, error, message):
    with pytest.raises(error, match=message):
        run()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no zip", b"\x80\x04N."])
def test_damaged_files_are_refused(tmp_path, content):
    for suffix in (".pth", ".safetensors"):
        (tmp_path / f"x{suffix}").write_bytes(content)
        with pytest.raises(UserError, match=r"x\.(pth|safetensors)"):
            read_weights(tmp_path / f"x{suffix}", WRAPPERS)
