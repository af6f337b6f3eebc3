"""Networks of equal weights that do something else are told apart by the features of a fixed probe; copies and reloads are not."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pt_vision
import pytest
import torch
from pt_core.errors import BackboneMismatch
from pt_core.fingerprint import TOLERANCE, Fingerprint
from pt_vision.adapters import adapt
from pt_vision.adapters.base import VisionBackbone
from pt_vision.networks.mit import MitNetwork
from timm.models.convnext import ConvNeXt
from timm.models.resnet import BasicBlock, ResNet
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from tests.vision import nets
from tests.vision.segmentation.common import tiny as tiny_mit

DATA = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "crop_pct": 1.0, "crop_mode": "center"}
CONV: dict[str, Callable[[], nn.Module]] = {
    "resnet": partial(ResNet, BasicBlock, (1, 1, 1, 1), channels=(8, 16, 16, 32), num_classes=0),
    "convnext": partial(ConvNeXt, depths=(1, 1, 1, 1), dims=(8, 8, 16, 32), num_classes=0),
}
MAKERS = {**nets.ALL, **CONV}


class QuickGELU(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(1.702 * x)


def build(name: str) -> nn.Module:
    return nets.randomise(MAKERS[name]())


def backbone(module: nn.Module, side: int = 32) -> VisionBackbone:
    return adapt(module, f"tiny:{type(module).__name__}", {**DATA, "input_size": [3, side, side]})


def copied(module: nn.Module) -> VisionBackbone:
    """Networks without tokens look at 64 px, of which more than one cell is left."""
    return backbone(copy.deepcopy(module), 64 if isinstance(module, (ResNet, ConvNeXt)) else 32)


def seen(module: nn.Module) -> Fingerprint:
    return copied(module).fingerprint()


def other_activation(module: nn.Module) -> None:
    changed = 0
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if "GELU" in type(child).__name__:
                setattr(parent, name, QuickGELU())
                changed += 1
    assert changed


def other_epsilon(module: nn.Module, value: float) -> None:
    for part in module.modules():
        if isinstance(getattr(part, "eps", None), float):
            part.eps = value


def told_apart(one: nn.Module, other: nn.Module) -> None:
    first, second = seen(one), seen(other)
    assert first.exact == second.exact, "the weights are equal"
    assert first.compare(second) == second.compare(first) == "behaviour"


@pytest.mark.parametrize("name", MAKERS)
def test_a_reload_is_the_same_and_a_recast_copy_a_copy(name: str) -> None:
    module = build(name)
    first = seen(module)
    assert first.behaviour == seen(module).behaviour
    assert first.compare(seen(module)) == "same"
    assert len(first.behaviour) == 64
    for dtype in (torch.bfloat16, torch.float16):
        low = copied(module)
        low.to("cpu", dtype)
        assert first.compare(low.fingerprint()) == "recast"
        assert first.distance(low.fingerprint()) < TOLERANCE[str(dtype).removeprefix("torch.")] / 3


@pytest.mark.parametrize("name", ["class", "mae", "siglip", "eva", "dinov3", "swin_shifted", "swin_odd"])
def test_another_activation(name: str) -> None:
    """GELU against its approximation by a sigmoid moves features by some 1.5 %, in half precision too."""
    module = build(name)
    other = copy.deepcopy(module)
    other_activation(other)
    told_apart(module, other)
    assert seen(module).distance(seen(other)) > 3e-3


def test_networks_without_tokens_and_pyramids_too() -> None:
    plain = build("resnet")
    other = copy.deepcopy(plain)
    for block in (other.layer1, other.layer4):
        block[0].act2 = nn.GELU()
    told_apart(plain, other)
    encoder = tiny_mit()
    for change in (other_activation, lambda module: other_epsilon(module, 1e-3)):
        changed = tiny_mit()
        change(changed.module.encoder)
        assert encoder.fingerprint().compare(changed.fingerprint()) == "behaviour"
    decoder = tiny_mit()
    decoder.module.decoder.linear_fuse.act = nn.Identity()
    assert encoder.fingerprint().compare(decoder.fingerprint()) == "behaviour", "the decoder is looked at"
    bare = MitNetwork(tiny_mit().module.encoder)
    assert len(type(encoder)(bare, "bare", encoder.preprocessing).fingerprint().behaviour) == 64


def test_another_norm_epsilon_where_it_matters() -> None:
    """The tolerance is on features. In a network whose embedded patches have small variances (position embeddings of 0.02) 1e-6 for 1e-5
    moves them by a percent; in one with large ones by 1e-5, which nothing that was tuned on it can notice."""
    torch.manual_seed(0)
    fresh = VisionTransformer(**nets.SIZE)
    for module, told in ((fresh, True), (build("class"), False)):
        other = copy.deepcopy(module)
        other_epsilon(other, 1e-5)
        first, second = seen(module), seen(other)
        assert first.compare(second) == ("behaviour" if told else "same")
        other_epsilon(other, 1e-2)
        assert first.compare(seen(other)) == "behaviour"
        assert 0 < first.distance(second) < 0.05


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"global_pool": "token"}, {"global_pool": "avg", "fc_norm": False}),
        ({"global_pool": "avg", "fc_norm": False}, {"global_pool": "max", "fc_norm": False}),
        ({"global_pool": "max", "fc_norm": False}, {"global_pool": "avgmax", "fc_norm": False}),
        ({"global_pool": "avg"}, {"global_pool": "max"}),
        ({"global_pool": "avg"}, {"global_pool": "avg", "pool_include_prefix": True}),
        ({"num_heads": 4}, {"num_heads": 2}),
    ],
    ids=str,
)  # fmt: skip
def test_another_pooling_or_number_of_heads(one: dict[str, object], other: dict[str, object]) -> None:
    """fc_norm and norm hold equal tensors under other names: where the norm stands shows in the features."""
    networks = [nets.randomise(VisionTransformer(**{**nets.SIZE, **options})) for options in (one, other)]
    told_apart(*networks)


@pytest.mark.parametrize("name", ["swin_shifted", "resnet", "convnext"])
def test_another_pooling_of_windows_and_maps(name: str) -> None:
    told_apart(*(nets.randomise(MAKERS[name](global_pool=pool)) for pool in ("avg", "max")))


def test_another_stride() -> None:
    plain, other = build("no_position"), build("no_position")
    other.patch_embed.proj.stride = (4, 4)
    told_apart(plain, other)
    dilated = ResNet(BasicBlock, (1, 1, 1, 1), channels=(8, 16, 16, 32), num_classes=0, output_stride=16)
    told_apart(build("resnet"), nets.randomise(dilated))
    finer = tiny_mit()
    finer.module.encoder.patch_embed.proj.stride = (2, 2)
    assert tiny_mit().fingerprint().compare(finer.fingerprint()) == "behaviour"


def test_another_size() -> None:
    """Rotary positions have no tensors that tell the size; position embeddings have."""
    rotary = partial(nets.OTHER["eva_rope"], use_abs_pos_emb=False)
    told_apart(nets.randomise(rotary()), nets.randomise(rotary(img_size=48)))


def test_an_input_of_another_size_is_said_to_be_one(tmp_path: Path) -> None:
    def network(side: int) -> nn.Module:
        return nets.randomise(nets.OTHER["eva_rope"](use_abs_pos_emb=False, img_size=side))

    pt_vision.wrap(network(32), "vpt", classes=3).save(tmp_path / "tuned")
    with pytest.raises(
        BackboneMismatch, match=r"tuned with preprocessing .*'input_size': \[3, 32, 32\].*, the backbone has"
    ):
        pt_vision.load(tmp_path / "tuned", backbone=network(48))


def test_what_was_tuned_refuses_the_other_network(tmp_path: Path) -> None:
    def network(**options: object) -> nn.Module:
        return nets.randomise(VisionTransformer(**nets.SIZE, **options))

    pt_vision.wrap(network(), "vpt", classes=3).save(tmp_path / "tuned")
    pt_vision.load(tmp_path / "tuned", backbone=network(), device="cpu")
    for other in (network(act_layer=QuickGELU), network(global_pool="avg", fc_norm=False)):
        with pytest.raises(BackboneMismatch, match="has the weights of .* in another network: features .* differ by"):
            pt_vision.load(tmp_path / "tuned", backbone=other)
    assert pt_vision.load(tmp_path / "tuned", backbone=other, allow_backbone_mismatch=True).notes


def test_the_probe_is_two_faint_pictures_of_the_networks_size() -> None:
    probe = backbone(build("swin_odd")).probe()
    assert probe.shape == (2, 3, 28, 28)
    assert probe[0].unique().numel() == 1
    assert float(probe.abs().max()) < 0.051
    assert abs(float(probe[1].mean())) < 1e-3
    grey = adapt(VisionTransformer(**nets.SIZE, in_chans=1), "grey", {**DATA, "input_size": [1, 32, 32]})
    assert grey.probe().shape == (2, 1, 32, 32)
    assert grey.fingerprint().behaviour is not None
