"""Backbones by name: hub layout, local weights, folders, own files; what does not fit is refused by name."""

from __future__ import annotations

import argparse
import ast
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image
from pt_core.errors import UserError
from pt_vision import adapters, load_backbone
from pt_vision.adapters import adapt, conv, eva, key_values, swin, vit, windows
from pt_vision.adapters.base import VisionBackbone
from pt_vision.backbones import list_backbones, problem
from pt_vision.classification.pretrain.config import PretrainConfig
from pt_vision.classification.pretrain.run import pretrain
from pt_vision.methods.classification.full import FullFineTuning
from pt_vision.methods.classification.linear import LinearProbe
from pt_vision.methods.classification.vpt import VPT
from pt_vision.methods.classification.vpt_pixel import VPTPixel, VPTPixelConfig
from pt_vision.networks.names import builtin_names
from pt_vision.networks.weights import read_weights
from safetensors.torch import load_file, save_file
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from tests.vision.methods.classification.common import task
from tests.vision.nets import ALL, PLAIN, close, network, randomise

WEIGHTS_OF_A_FOLDER = "model.safetensors (or pytorch_model.bin, pytorch_model.pth, model.pth)"
NAME = "test_vit.r160_in1k"  # 0.4 M parameters, 160 px: made by timm for tests


@pytest.fixture(scope="module")
def model() -> nn.Module:
    """With the head of its 1,000 classes."""
    return randomise(timm.create_model("test_vit")).eval()


@pytest.fixture
def weights(model: nn.Module, tmp_path: Path) -> Path:
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def pictures(backbone: VisionBackbone, seed: int = 0) -> Tensor:
    return torch.randn(2, 3, *backbone.image_size, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def feature(backbone: VisionBackbone, x: Tensor) -> Tensor:
    return backbone.pool(backbone(x))


@torch.no_grad()
def pre_logits(model: nn.Module, x: Tensor) -> Tensor:
    return model.forward_head(model.forward_features(x), pre_logits=True)


# ---- the hub, and local weights ------------------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path: Path, model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache as the hub's client leaves it, and no network."""
    from huggingface_hub import constants

    repository = tmp_path / "hub" / f"models--timm--{NAME}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    save_file(model.state_dict(), snapshot / "model.safetensors")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return snapshot


def test_hub_weights_come_through_timms_own_loader(hub: Path, model: nn.Module) -> None:
    for spec in (f"timm:{NAME}", "timm:test_vit"):
        backbone = load_backbone(spec)
        assert (backbone.source, backbone.image_size, backbone.notes) == (spec, (160, 160), ())
        x = pictures(backbone)
        close(feature(backbone, x), pre_logits(model, x), 1e-5)
        assert not any(p.requires_grad for p in backbone.module.parameters())
    config = timm.get_pretrained_cfg(NAME)
    assert backbone.preprocessing["mean"] == list(config.mean)
    assert backbone.preprocessing["crop_pct"] == config.crop_pct


def test_weights_that_the_hub_lacks_are_one_line(hub: Path) -> None:
    shutil.rmtree(hub)
    with pytest.raises(UserError, match=rf"the weights of 'timm:{NAME}' cannot be fetched .*--weights FILE") as caught:
        load_backbone(f"timm:{NAME}")
    assert "\n" not in str(caught.value)


def test_a_broken_file_of_the_hub_is_refused(hub: Path) -> None:
    tensors = load_file(hub / "model.safetensors")
    tensors["norm.weight"][0] = float("nan")
    save_file(tensors, hub / "model.safetensors")
    with pytest.raises(UserError, match="norm.weight holds NaN or infinite values"):
        load_backbone(f"timm:{NAME}")


@pytest.mark.parametrize("form", ["safetensors", "half", "pth", "wrapped", "parallel", "training", "folder"])
def test_local_weights_in_every_usual_form_give_one_network(form: str, model: nn.Module, tmp_path: Path) -> None:
    state = model.state_dict()
    path = tmp_path / ("model.safetensors" if form in ("safetensors", "half", "folder") else "model.pth")
    if form in ("safetensors", "folder"):
        save_file(state, path)
    elif form == "half":
        save_file({name: tensor.half() for name, tensor in state.items()}, path)
    else:
        content: Any = {
            "pth": state,
            "wrapped": {"model": state, "epoch": 3},
            "parallel": {"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}},
            "training": {"model": state, "args": argparse.Namespace(lr=0.1), "optimizer": {"lr": 0.1}},
        }[form]
        torch.save(content, path)
    backbone = load_backbone("timm:test_vit", tmp_path if form == "folder" else path)
    x = pictures(backbone)
    close(feature(backbone, x), pre_logits(model, x), 1e-2 if form == "half" else 1e-5)
    assert backbone.dtype == torch.float32
    assert "left out head weights of" in backbone.notes[0]
    assert "head.weight" in backbone.notes[0]


def test_a_head_of_any_size_is_left_out_and_fc_norm_is_none(weights: Path, tmp_path: Path) -> None:
    state = load_file(weights)
    state["head.weight"], state["head.bias"] = torch.zeros(7, 64), torch.zeros(7)
    save_file(state, tmp_path / "seven.safetensors")
    assert load_backbone("timm:test_vit", tmp_path / "seven.safetensors").notes
    without = {name: tensor for name, tensor in state.items() if not name.startswith("head.")}
    save_file(without, tmp_path / "none.safetensors")
    assert load_backbone("timm:test_vit", tmp_path / "none.safetensors").notes == ()
    save_file({**without, "fc_norm.weight": torch.ones(64)}, tmp_path / "norm.safetensors")
    with pytest.raises(UserError, match="has unknown fc_norm.weight"):
        load_backbone("timm:test_vit", tmp_path / "norm.safetensors")


def test_weights_of_another_network_name_what_differs(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model.safetensors.*check the model name"):
        load_backbone("timm:test_vit2", weights)
    state = load_file(weights)
    state["blocks.0.norm1.weight"] = torch.ones(65)
    save_file(state, tmp_path / "wide.safetensors")
    with pytest.raises(UserError, match=r"blocks.0.norm1.weight has shape \(65,\), the model needs \(64,\)"):
        load_backbone("timm:test_vit", tmp_path / "wide.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "test_vit2"}))
    with pytest.raises(
        UserError, match="holds weights of 'test_vit2', not of 'test_vit'; use timm:test_vit2 or local:"
    ):
        load_backbone("timm:test_vit", tmp_path)


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_file_that_would_run_code_is_refused_before_it_runs(tmp_path: Path) -> None:
    torch.save({"state_dict": {"a": torch.ones(1)}, "hook": Bomb(tmp_path / "boom")}, tmp_path / "evil.pth")
    with pytest.raises(UserError, match="loading it would run code, which is refused"):
        read_weights(tmp_path / "evil.pth")
    assert not (tmp_path / "boom").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.safetensors", b"\x10\x00", "is not a readable safetensors file"),
        ("a.pth", b"", "cannot be read|damaged"),
        ("a.onnx", b"x", "of no known type; give a .safetensors"),
    ],
)
def test_damaged_weight_files(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_weights(tmp_path / name)


def test_files_without_weights(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "none.pth")
    with pytest.raises(UserError, match="none.pth holds no weights"):
        read_weights(tmp_path / "none.pth")
    with pytest.raises(UserError, match="has no weight file; expected model.safetensors"):
        load_backbone("timm:test_vit", tmp_path)


# ---- sizes ---------------------------------------------------------------------------------------------------------------


def test_another_image_size_resamples_the_positions(weights: Path, model: nn.Module, tmp_path: Path) -> None:
    larger = load_backbone("timm:test_vit", weights, image_size=192)
    assert (larger.image_size, larger.grid) == ((192, 192), (12, 12))
    assert larger.preprocessing["input_size"] == [3, 192, 192]
    want = timm.create_model("test_vit", num_classes=0, img_size=192).eval()
    want.load_state_dict(
        timm.models.vision_transformer.checkpoint_filter_fn(
            {n: t for n, t in model.state_dict().items() if not n.startswith("head.")}, want
        )
    )
    x = pictures(larger)
    close(feature(larger, x), pre_logits(want, x), 1e-5)
    wide = load_backbone("timm:test_vit", weights, image_size=(160, 192))
    assert wide.grid == (10, 12)
    for size, message in ((100, "not a multiple of the patch size 16x16"), (0, "image_size=0 must be at least 1")):
        with pytest.raises(UserError, match=message):
            load_backbone("timm:test_vit", weights, image_size=size)


def test_the_own_file_takes_another_size_too() -> None:
    small, large = load_backbone("builtin:vit_glyphs"), load_backbone("builtin:vit_glyphs", image_size=64)
    assert (small.grid, large.grid) == ((4, 4), (8, 8))
    assert large.preprocessing["input_size"] == [3, 64, 64]
    positions = resample_abs_pos_embed(small.module.pos_embed, new_size=[8, 8], num_prefix_tokens=1)
    close(large.module.pos_embed, positions, 1e-6)
    with pytest.raises(UserError, match="images are 32x32, backbone 'builtin:vit_glyphs' takes 64x64"):
        large(torch.zeros(1, 3, 32, 32))
    assert small.fingerprint().exact != large.fingerprint().exact


def test_meta_networks_are_built_without_weights() -> None:
    backbone = load_backbone("timm:vit_base_patch16_224", device="meta")
    assert all(tensor.is_meta for tensor in backbone.frozen_tensors())
    assert sum(tensor.numel() for tensor in backbone.frozen_tensors()) == 85_798_656


# ---- names ---------------------------------------------------------------------------------------------------------------


def test_what_is_listed_can_be_loaded() -> None:
    rows = dict(list_backbones())
    listed = [spec for spec in rows if spec.startswith("builtin:")]
    assert sorted(listed) == [f"builtin:{name}" for name in builtin_names()]
    for name in builtin_names():
        assert load_backbone(f"builtin:{name}").depth > 0
    found = dict(list_backbones("test_vit*"))
    assert found["timm:test_vit"] == "hub weights"
    assert all(spec.startswith("timm:test_vit") for spec in found)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "vit",
            "of no known kind; use timm:NAME, open_clip:NAME@TAG, mit:b0, segformer:b0, local:FOLDER, file:FILE or builtin:NAME",
        ),
        ("file:", "of no known kind"),
        ("builtin:glyphs", "known: mit_shapes, vit_glyphs"),
        ("timm:vit_smal_patch16_224", r"did you mean 'vit_small_patch16_224'"),
        ("timm:test_vit.augreg", "known: r160_in1k"),
        ("local:nowhere", "nowhere has no config.json"),
        ("file:nowhere.safetensors", "make it with: pt-vision pretrain"),
        ("mit:b9", "no MiT 'b9'.*known: b0"),
    ],
)
def test_unknown_names_are_told_before_anything_is_loaded(spec: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_backbone(spec)
    assert problem(spec) == str(caught.value)


def test_names_that_can_be_loaded_have_no_problem(tmp_path: Path) -> None:
    folder = tmp_path / "net"
    folder.mkdir()
    (folder / "config.json").write_text("no JSON")
    assert problem(f"local:{folder}") == f"folder {folder} has no weight file; expected {WEIGHTS_OF_A_FOLDER}"
    (folder / "model.safetensors").write_bytes(b"no weights")
    for spec in (f"local:{folder}", f"file:{folder}/model.safetensors", "builtin:vit_glyphs", f"timm:{NAME}", "mit:b5"):
        assert problem(spec) is None, spec


def test_own_names_do_not_wait_for_torch() -> None:
    specs = ("builtin:vit_glyph", "file:nowhere.safetensors", "local:nowhere", "vit")
    code = f"import sys; from pt_vision.backbones import problem; print([problem(s) for s in {specs}], 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.count("'") >= 8
    assert done.stdout.endswith("False\n")


# ---- folders: config.json is input from elsewhere ------------------------------------------------------------------------


def test_a_folder_in_the_hubs_layout_sets_sizes_and_preprocessing(tmp_path: Path) -> None:
    arguments = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "reg_tokens": 3}
    net = randomise(timm.create_model("vit_small_patch16_224", num_classes=0, **arguments)).eval()
    config = {
        "architecture": "vit_small_patch16_224",
        "model_args": arguments,
        "pretrained_cfg": {"mean": [0.1, 0.2, 0.3], "std": [1.0, 1.0, 1.0], "crop_pct": 1.0, "custom_load": "x"},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file({name: t.float() for name, t in net.state_dict().items()}, tmp_path / "model.safetensors")
    backbone = load_backbone(f"local:{tmp_path}")
    assert (backbone.dim, backbone.depth, backbone.num_prefix) == (32, 2, 4)
    assert backbone.preprocessing["mean"] == [0.1, 0.2, 0.3]
    x = pictures(backbone)
    close(feature(backbone, x), pre_logits(net, x), 1e-5)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "is not readable JSON"),
        ("[]", "does not hold a JSON object"),
        ('{"model_args": {}}', "names no timm architecture"),
        ('{"architecture": "test_vit", "model_args": {"weight_init": "x"}}', "weight_init"),
        ('{"architecture": "test_vit", "model_args": {"embed_dim": 1e12}}', "embed_dim"),
        ('{"architecture": "test_vit", "model_args": {"depth": 99999999}}', "depth"),
        ('{"architecture": "test_vit", "model_args": {"norm_layer": "os.system"}}', "norm_layer|cannot build"),
        ('{"architecture": "test_vit", "pretrained_cfg": {"std": [0, 0, 0]}}', "sets std="),
        ('{"architecture": "os"}', "timm has no model 'os'"),
    ],
)
def test_a_folder_cannot_ask_for_anything_else(config: str, message: str, tmp_path: Path, weights: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    shutil.copy(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(config)
    with pytest.raises(UserError, match=message) as caught:
        load_backbone(f"local:{folder}")
    assert "\n" not in str(caught.value)


# ---- own files -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = PretrainConfig(img_size=16, patch_size=8, embed_dim=16, depth=1, num_heads=2, steps=1, batch_size=4)
    path = tmp_path_factory.mktemp("own") / "own.safetensors"
    data = [(Image.new("RGB", (16, 16), colour), label) for label, colour in enumerate(("red", "blue"))] * 3
    pretrain(config, path, data, progress=False)
    return path


def test_an_own_file_loads_as_its_card_says(own: Path) -> None:
    backbone = load_backbone(f"file:{own}")
    assert (backbone.dim, backbone.depth, backbone.image_size, backbone.grid) == (16, 1, (16, 16), (2, 2))
    assert backbone.preprocessing["mean"] == [0.5, 0.5, 0.5]
    assert backbone.dtype == torch.float32
    assert feature(backbone, pictures(backbone)).shape == (2, 16)
    with pytest.raises(UserError, match="brings its own weights"):
        load_backbone(f"file:{own}", own)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda card: None, "has no pt_vision metadata; use timm:NAME --weights FILE"),
        (lambda card: card | {"format_version": 2}, "has format 2, this version reads 1; update pt-vision"),
        (lambda card: card | {"model": card["model"] | {"depth": 2}}, "weights and metadata do not fit"),
        (lambda card: card | {"model": card["model"] | {"embed_dim": 10**9}}, "weights and metadata do not fit"),
        (lambda card: card | {"model": {"depth": 1}}, "weights and metadata do not fit"),
    ],
)
def test_own_files_that_do_not_fit(change: Any, message: str, own: Path, tmp_path: Path) -> None:
    card = change(json.loads(own.with_suffix(".json").read_text()))
    metadata = {} if card is None else {"pt_vision": json.dumps(card)}
    save_file(load_file(own), tmp_path / "x.safetensors", metadata=metadata)
    with pytest.raises(UserError, match=message):
        load_backbone(f"file:{tmp_path / 'x.safetensors'}")


# ---- networks without tokens ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext"])
def test_convolutional_networks_carry_pixels_linear_and_full(name: str) -> None:
    net = timm.create_model(name, num_classes=0).eval()
    backbone = adapt(net, f"timm:{name}")
    x = pictures(backbone)
    with torch.no_grad():
        close(feature(backbone, x), net(x), 1e-6)
    assert backbone(x).layout.grid == backbone.grid
    for cls in (LinearProbe, FullFineTuning):
        method = cls(cls.Config(), {"backbone": backbone}, task())
        assert torch.allclose(
            method.eval()(_batch(x)), nn.functional.linear(net(x), method.head.weight, method.head.bias), atol=1e-5
        )
    pixel = VPTPixel(VPTPixelConfig(prompt_length=3), {"backbone": backbone}, task())
    side = backbone.image_size[0]
    assert pixel.parameter_count() == 6 * 3 * (side + side - 2 * 3) + 3 * backbone.feature_dim + 3
    pixel(_batch(x)).sum().backward()
    assert pixel.across.grad.abs().max() > 0
    assert all(p.grad is None for p in net.parameters())


def test_prompts_of_tokens_are_refused_on_them_with_the_method_that_works() -> None:
    backbone = adapt(timm.create_model("test_resnet", num_classes=0), "timm:test_resnet")
    message = "'timm:test_resnet' is a ResNet, which has no token sequence.*vpt_pixel --location pad"
    with pytest.raises(UserError, match=message):
        VPT(VPT.Config(), {"backbone": backbone}, task())
    with pytest.raises(UserError, match="use location='pad'"):
        VPTPixel(VPTPixelConfig(location="prepend_pixel"), {"backbone": backbone}, task())
    with pytest.raises(UserError, match="has no site 'tokens"):
        backbone(pictures(backbone), {"tokens[0]": object()})
    with pytest.raises(UserError, match="unknown pooling 'class'; known: default, token"):
        backbone.pool(backbone(pictures(backbone)), "class")


def test_other_networks_are_refused_with_what_there_is() -> None:
    for name in ("test_mambaout", "test_efficientnet"):
        if timm.is_model(name):
            with pytest.raises(
                UserError, match=rf"'timm:{name}' is a \w+, for which there is no adapter; choose one of"
            ):
                adapt(timm.create_model(name, num_classes=0), f"timm:{name}")


def _batch(x: Tensor) -> Any:
    from pt_core import Batch

    return Batch(x, torch.zeros(len(x), dtype=torch.long), torch.arange(len(x)), [str(n) for n in range(len(x))])


# ---- what the adapters use of timm ---------------------------------------------------------------------------------------


def used(path: Path, owners: dict[str, str]) -> Iterator[tuple[str, str]]:
    """(owner, attribute) of `self.module.x`, `module.x`, `block.x`, `attn.x` ... in an adapter."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute):
            value = node.value
            name = value.id if isinstance(value, ast.Name) else value.attr if isinstance(value, ast.Attribute) else ""
            if name in owners:
                yield owners[name], node.attr


OWNERS = {
    "module": "network",
    "block": "block",
    "attn": "attention",
    "embed": "patch_embed",
    "patch_embed": "patch_embed",
}
OURS = {
    # Properties of nn.Module and attributes of our own backbone that go by the same names.
    *("training", "eval", "train", "parameters", "requires_grad_", "state_dict", "to"),
}
OPTIONAL = {
    # Looked up with a default, or behind a check of the class.
    *("gate", "norm", "attn_pool", "dist_token", "pool_include_prefix", "strict_img_size", "dynamic_img_pad"),
}


@pytest.mark.parametrize(
    ("adapter", "name"),
    [
        *((vit, "class"), (eva, "eva_rope"), (eva, "dinov3"), (swin, "swin_shifted"), (swin, "swin_padded")),
        *((windows, "swin_shifted"), (windows, "swin_padded"), (key_values, "class"), (key_values, "swin_shifted")),
    ],
)
def test_every_attribute_that_an_adapter_uses_exists_in_the_installed_timm(adapter: Any, name: str) -> None:
    """A release of timm that renames one fails here, by name, and not as a wrong number elsewhere."""
    network_ = ALL[name]()
    blocks = list(network_.blocks) if hasattr(network_, "blocks") else [b for s in network_.layers for b in s.blocks]
    objects = {
        "network": network_,
        "block": blocks[-1],
        "attention": blocks[-1].attn,
        "patch_embed": network_.patch_embed,
    }
    found = set(used(Path(adapter.__file__), OWNERS))
    assert len(found) > 3
    missing = [
        f"{owner}.{attribute}"
        for owner, attribute in sorted(found)
        if attribute not in OURS | OPTIONAL and not hasattr(objects[owner], attribute)
    ]
    assert missing == [], f"timm {timm.__version__} lacks what {adapter.__name__} reads"


def test_every_attribute_of_convolutional_networks_exists_too() -> None:
    for name in ("test_resnet", "test_convnext"):
        net = timm.create_model(name, num_classes=0)
        for owner, attribute in used(Path(conv.__file__), {"module": "network"}):
            assert hasattr(net, attribute), f"{owner}.{attribute} of {name}"


def test_every_family_has_an_adapter_of_its_own() -> None:
    kinds = {name: type(network(name)).__name__ for name in ("class", "eva", "swin_shifted")}
    assert kinds == {"class": "VitBackbone", "eva": "EvaBackbone", "swin_shifted": "SwinBackbone"}
    assert all(type(network(name)).__name__ == "VitBackbone" for name in PLAIN)
    for family in adapters.SUPPORTED.split(", "):
        assert family
