"""A method on one's own timm network as a plain module: in a bare loop, HF Trainer and Lightning Fabric; moved, copied, saved, loaded."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pt_vision
import pytest
import timm
import torch
from pt_core.artifact import read_artifact
from pt_core.errors import ConfigError, UserError
from pt_core.run.use.wrap import Wrapped
from pt_vision.adapters import adapt
from timm.models.convnext import ConvNeXt
from timm.models.deit import VisionTransformerDistilled
from timm.models.pvt_v2 import PyramidVisionTransformerV2
from timm.models.resnet import BasicBlock, ResNet
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from tests.loops import Columns, by_fabric, by_trainer
from tests.vision import nets
from tests.vision.methods.classification.common import Pictures

DATA = Pictures(24, 1)
X, Y = DATA.pixels, DATA.targets
NETWORKS: dict[str, Callable[[int], nn.Module]] = {
    "vit": lambda n: VisionTransformer(**{**nets.SIZE, "num_classes": n}),
    "deit": lambda n: VisionTransformerDistilled(**{**nets.SIZE, "num_classes": n}),
    "eva": lambda n: nets.OTHER["eva_rope"](num_classes=n),
    "swin": lambda n: nets.SWIN["shifted"](num_classes=n),
    "resnet": lambda n: ResNet(BasicBlock, (1, 1, 1, 1), channels=(8, 16, 16, 32), num_classes=n),
    "convnext": lambda n: ConvNeXt(depths=(1, 1, 1, 1), dims=(8, 8, 16, 32), num_classes=n),
    "pvt": lambda n: PyramidVisionTransformerV2(embed_dims=(8, 8, 16, 16), depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2), num_classes=n),
}  # fmt: skip


def network(name: str = "vit", classes: int = 7) -> nn.Module:
    torch.manual_seed(0)
    return NETWORKS[name](classes).eval()


def wrapped(method: str = "vpt", name: str = "vit", **options: Any) -> Wrapped:
    return pt_vision.wrap(network(name), method, classes=3, **options)


def accuracy(module: nn.Module) -> float:
    with torch.no_grad():
        return float((module.eval()(X).argmax(-1) == Y).float().mean())


# ---- the network -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_seen_without_its_classifier_and_keeps_it(name: str) -> None:
    own = network(name)
    x = X[:2] if name in ("vit", "deit", "eva", "swin") else torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        before = own(x)
    module = pt_vision.wrap(own, "linear", classes=3)
    backbone = module.method.backbone
    bare = network(name, 0)
    shared = {key: tensor for key, tensor in own.state_dict().items() if key in bare.state_dict()}
    bare.load_state_dict(shared)
    assert backbone.fingerprint() == adapt(bare, "bare", backbone.preprocessing).fingerprint()
    assert module(x).shape == (2, 3)
    with torch.no_grad():
        assert torch.equal(own(x), before)
    assert not {id(p) for p in backbone.module.parameters()} - {id(p) for p in own.parameters()}, "nothing is copied"


def test_pictures_are_prepared_as_the_pretrained_network_wants_them() -> None:
    own = timm.create_model("test_vit")
    prepared = pt_vision.wrap(own, "vpt", classes=3).method.backbone.preprocessing
    config = timm.data.resolve_model_data_config(own)
    assert prepared["input_size"] == list(config["input_size"]) == [3, 160, 160]
    assert prepared["mean"] == list(config["mean"])
    assert prepared["std"] == list(config["std"])
    assert prepared["interpolation"] == config["interpolation"]
    assert prepared["crop_pct"] == config["crop_pct"]


# ---- loops -----------------------------------------------------------------------------------------------------------------


def frozen(module: Wrapped) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.method.backbone.module.state_dict().items()}


def unchanged(module: Wrapped, before: dict[str, Tensor]) -> bool:
    return all(torch.equal(before[name], tensor) for name, tensor in module.method.backbone.module.state_dict().items())


@pytest.mark.parametrize("method", ["vpt", "dvpt", "vpt_pixel", "linear", "full"])
def test_a_bare_loop_trains_every_method(method: str) -> None:
    module = wrapped(method, **({"prompt_length": 3} if method == "dvpt" else {}))
    before, start = frozen(module), accuracy(module)
    optimiser = torch.optim.Adam(module.parameters(), lr=3e-3 if method == "full" else 0.02)
    module.train()
    assert not module.method.backbone.module.training
    for _ in range(60):
        optimiser.zero_grad()
        F.cross_entropy(module(X), Y).backward()
        optimiser.step()
    assert accuracy(module) > max(0.6, start)
    assert unchanged(module, before)


def test_hf_trainer_trains_it_by_its_own_names(tmp_path: Path) -> None:
    columns = {"pixel_values": X, "labels": Y}
    module = wrapped()
    before, start = frozen(module), accuracy(module)
    trainer = by_trainer(module, columns, tmp_path, 80, 24, learning_rate=0.1)
    assert accuracy(module) > max(0.6, start)
    assert unchanged(module, before)
    assert trainer.predict(Columns(columns)).predictions.shape == (24, 3)


def test_lightning_fabric_trains_it() -> None:
    module = wrapped()
    start = accuracy(module)
    module = by_fabric(module, lambda prepared: F.cross_entropy(prepared(X), Y), 60, 0.02)
    assert accuracy(module) > max(0.6, start)


def test_it_is_a_part_of_another_network() -> None:
    """What is frozen is neither among the parameters nor in the state."""
    whole = nn.Sequential(wrapped(prompt_length=2), nn.Linear(3, 2))
    assert sum(p.numel() for p in whole.parameters()) == 3 * 2 * 32 + 3 * 33 + 8
    assert set(whole.state_dict()) == {
        *(f"0.method.{name}" for name in ("sets.0.tokens", "head.weight", "head.bias")),
        "1.weight",
        "1.bias",
    }
    whole(X[:2]).sum().backward()
    assert all(p.grad is not None for p in whole.parameters())


# ---- moved, copied, saved --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["vpt", "dvpt", "vpt_pixel", "linear", "full"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_network_and_method_change_precision_as_one(method: str, dtype: torch.dtype) -> None:
    options = {"prompt_length": 3} if method == "dvpt" else {}
    module = wrapped(method, **options).eval()
    with torch.no_grad():
        want = module(X[:4])
    module.to(dtype=dtype)
    assert {p.dtype for p in [*module.parameters(), *module.method.backbone.module.parameters()]} == {dtype}
    result = module(X[:4].to(dtype), labels=Y[:4])
    assert result["logits"].dtype == dtype
    nets.close(result["logits"].detach().float(), want, {torch.float64: 1e-5, torch.float16: 1e-2}.get(dtype, 6e-2))
    result["loss"].backward()
    assert all(bool(p.grad.isfinite().all()) for p in module.parameters())


def test_copies_share_the_frozen_network_and_devices_are_one() -> None:
    module = wrapped().eval()
    other = copy.deepcopy(module)
    assert other.method.backbone is module.method.backbone
    with torch.no_grad():
        assert torch.equal(other(X), module(X))
        other.method.sets[0].tokens.add_(1)
        assert not torch.equal(other(X), module(X))
    own = network()
    moved = pt_vision.wrap(own, "vpt", classes=3).to("meta")
    assert {p.device.type for p in [*moved.parameters(), *moved.method.backbone.module.parameters()]} == {"meta"}
    assert own.blocks[0].attn.qkv.weight.device.type == "meta", "it is the same network"


@pytest.mark.parametrize("name", ["vit", "swin", "resnet"])
def test_saved_it_loads_on_ones_network_and_gives_the_same_logits(name: str, tmp_path: Path) -> None:
    method = "vpt" if name != "resnet" else "linear"
    module = wrapped(method, name).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        want = module(X)
    module.save(tmp_path / "tuned", {"accuracy": 0.5})
    card = read_artifact(tmp_path / "tuned").card
    assert card["backbones"]["backbone"]["source"].startswith("module:")
    predictor = pt_vision.load(tmp_path / "tuned", backbone=network(name), device="cpu")
    assert predictor.notes == []
    with torch.no_grad():
        assert torch.equal(predictor.module()(X), want)
    record = predictor.predict([torch.zeros(3, 40, 50, dtype=torch.uint8)])[0]
    assert record["predicted"] in ("0", "1", "2")
    with pytest.raises(UserError, match="of your own: pass that network as backbone="):
        pt_vision.load(tmp_path / "tuned")


def test_a_spec_or_a_loaded_backbone_may_stand_for_the_network(tmp_path: Path) -> None:
    module = pt_vision.wrap("builtin:vit_glyphs", "vpt", classes=["cat", "dog"])
    module.save(tmp_path / "tuned")
    assert pt_vision.load(tmp_path / "tuned", device="cpu").module()(X[:2]).shape == (2, 2)
    backbone = pt_vision.load_backbone("builtin:vit_glyphs")
    assert pt_vision.wrap(backbone, "linear", classes=2).method.backbone is backbone


# ---- masks, and what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "options"),
    [("linear_seg", {}), ("source_only", {"head_width": 8}), ("source_only", {"head_width": 8, "hrda": False})],
)
def test_masks_are_learned_where_the_task_is_given(method: str, options: dict[str, Any], tmp_path: Path) -> None:
    task = pt_vision.Segmentation(["sky", "road", "car"])
    module = pt_vision.wrap(network("pvt"), method, classes=task, crop_size=64, **options).train()
    x, y = torch.randn(2, 3, 64, 64), torch.randint(3, (2, 64, 64))
    result = module(x, labels=y)
    assert result["logits"].shape == (2, 3, 64, 64)
    result["loss"].backward()
    module.eval().save(tmp_path / "tuned")
    again = pt_vision.load(tmp_path / "tuned", backbone=network("pvt"), device="cpu").module()
    with torch.no_grad():
        assert torch.equal(again(x), module(x))
        assert module.half()(x.half()).dtype == torch.float16


@pytest.mark.parametrize(
    ("method", "name", "options", "said"),
    [
        ("coda", "pvt", {}, "'coda' needs the data roles target besides 'train'; train it with `fit`"),
        ("self_training", "pvt", {}, "'self_training' needs the data roles target besides 'train'; train it with `fit`"),
        ("source_only", "pvt", {}, r"needs one per image: add --task segmentation \(wrap: classes=pt_vision.Segmentation\(NAMES\)\)"),
        ("vpt", "vit", {"init": "class_means"}, r"'vpt' has stages, jobs or steps of its own \(init, train\); train it with `fit`"),
        ("vpt", "resnet", {}, "is a ResNet, which has no token sequence to put prompts into"),
        ("vpt", "vit", {"promt_length": 3}, r"unknown option 'promt_length' \(did you mean 'prompt_length'\?\)"),
    ],
)  # fmt: skip
def test_what_cannot_be_wrapped_says_why_in_one_line(
    method: str, name: str, options: dict[str, Any], said: str
) -> None:
    with pytest.raises((UserError, ConfigError), match=said) as caught:
        wrapped(method, name, **options)
    assert "\n" not in str(caught.value)


def test_other_inputs_and_networks_are_named() -> None:
    module = wrapped()
    for inputs, named in (((X, X), {}), ((), {}), ((), {"images": X}), ((X,), {"pixel_values": X})):
        with pytest.raises(
            TypeError, match="takes one tensor of images, .* as pixel_values .*remove_unused_columns=False"
        ):
            module(*inputs, **named)
    with pytest.raises(UserError, match=r"images must be \(batch, 3, rows, columns\), got \(3, 32, 32\)"):
        module(X[0])
    with pytest.raises(UserError, match="is a Linear, for which there is no adapter; choose one of"):
        pt_vision.wrap(nn.Linear(2, 2), "vpt", classes=3)
