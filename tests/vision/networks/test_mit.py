"""MiT and SegFormer's decoder: published sizes, published key layout, agreement with timm, and edits that reach their sites."""

from __future__ import annotations

import re

import pytest
import torch
from pt_core import Add, Replace
from pt_core.errors import UserError
from pt_vision.adapters.mit import MitBackbone
from pt_vision.backbones import load_backbone
from pt_vision.networks.mit import MitNetwork, build_encoder, build_mit, load_published, preprocessing
from safetensors.torch import save_file
from torch import nn

from tests.vision.nets import close
from tests.vision.segmentation.common import DEPTHS, DIMS, WIDTH, images, on_meta, size, tiny


def test_published_sizes():
    assert size(on_meta(lambda: build_mit("b5", False))) == 81_443_008
    assert size(on_meta(lambda: build_mit("b2", False))) == 24_196_288


def test_layer_norms_have_the_published_eps():
    encoder = on_meta(lambda: build_mit("b5", False)).encoder
    eps = {name: module.eps for name, module in encoder.named_modules() if isinstance(module, nn.LayerNorm)}
    small = {name for name, value in eps.items() if value == 1e-6}
    assert {eps[name] for name in eps if name not in small} == {1e-5}
    assert all(re.search(r"(norm[12]|stages\.\d\.norm)$", name) for name in small)
    assert all(re.search(r"(patch_embed|downsample|attn)\.norm$", name) for name in eps if name not in small)
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for stage in encoder.stages for block in stage.blocks]
    assert rates[0] == 0
    assert rates[-1] == pytest.approx(0.1)
    assert rates == sorted(rates)


def published(network) -> dict[str, torch.Tensor]:
    """Our state dict under the names of the released files."""
    out = {}
    for name, tensor in network.state_dict().items():
        if name.startswith("decoder."):
            out["decode_head." + name.removeprefix("decoder.")] = tensor
            continue
        name = name.removeprefix("encoder.")
        name = name.replace("patch_embed.", "patch_embed1.")
        name = re.sub(r"stages\.(\d)\.downsample\.", lambda m: f"patch_embed{int(m[1]) + 1}.", name)
        name = re.sub(r"stages\.(\d)\.blocks\.(\d+)", lambda m: f"block{int(m[1]) + 1}.{m[2]}", name)
        name = re.sub(r"stages\.(\d)\.norm", lambda m: f"norm{int(m[1]) + 1}", name)
        out["backbone." + name.replace("dwconv.", "dwconv.dwconv.")] = tensor
    return out


def test_published_key_layout_loads(tmp_path):
    torch.manual_seed(0)
    network = build_mit("b0", decoder=True)
    state = published(network)
    assert {"backbone.block1.0.mlp.dwconv.dwconv.weight", "backbone.patch_embed4.proj.weight"} <= set(state)
    assert {"decode_head.linear_c1.proj.weight", "decode_head.linear_fuse.bn.running_var"} <= set(state)
    state["decode_head.linear_pred.weight"] = torch.zeros(150, 256, 1, 1)
    save_file(state, tmp_path / "segformer.safetensors")
    loaded = load_backbone("segformer:b0", tmp_path / "segformer.safetensors")
    for name, tensor in network.state_dict().items():
        assert torch.equal(loaded.module.state_dict()[name], tensor), name
    # A bare encoder as published for ImageNet: no prefix, and a classifier.
    bare = {k.removeprefix("backbone."): v for k, v in state.items() if k.startswith("backbone.")}
    torch.save({"state_dict": {**bare, "head.weight": torch.zeros(1000, 256)}}, tmp_path / "mit.pth")
    encoder = load_backbone("mit:b0", tmp_path / "mit.pth")
    x = torch.randn(1, 3, 64, 64)
    for a, b in zip(encoder(x).extra["maps"], loaded(x).extra["maps"], strict=True):
        assert torch.equal(a, b)
    with pytest.raises(UserError, match="no SegFormer decoder"):
        _ = encoder.decoder


def test_weights_that_do_not_fit_are_refused(tmp_path):
    torch.manual_seed(0)
    network = build_mit("b0", decoder=False)
    state = network.state_dict()
    with pytest.raises(UserError, match="lacks encoder.patch_embed.proj.bias"):
        load_published(network, {k: v for k, v in state.items() if k != "encoder.patch_embed.proj.bias"}, "FILE")
    with pytest.raises(UserError, match="has shape"):
        load_published(network, {**state, "encoder.patch_embed.proj.bias": torch.zeros(5)}, "FILE")
    broken = {**state, "encoder.patch_embed.proj.bias": torch.full((32,), torch.nan)}
    with pytest.raises(UserError, match="NaN"):
        load_published(network, broken, "FILE")
    with pytest.raises(UserError, match="needs --weights"):
        load_backbone("mit:b0", None)
    with pytest.raises(UserError, match="no MiT 'b9'.*known: b0"):
        load_backbone("mit:b9", None)


def test_maps_equal_those_of_timm():
    torch.manual_seed(1)
    encoder = build_encoder(DIMS, DEPTHS, (1, 1, 2, 2), (4, 2, 1, 1))
    backbone = MitBackbone(MitNetwork(encoder), "tiny", preprocessing(64))
    x = images(2)
    features = backbone(x)
    _, want = encoder.forward_intermediates(x)
    for have, reference in zip(features.extra["maps"], want, strict=True):
        close(have, reference, 1e-6)
    assert [tuple(m.shape[1:]) for m in features.extra["maps"]] == [(8, 16, 16), (8, 8, 8), (16, 4, 4), (16, 2, 2)]
    assert features.layout.grid == (2, 2)
    close(backbone.pool(features), encoder(x), 1e-6)
    assert [backbone.token_count(layer) for layer in range(5)] == [64, 16, 16, 4, 1]


def test_edits_reach_their_sites():
    backbone = tiny()
    x = images(2)
    plain = backbone(x, read=["decoder", "fused"]).extra
    assert plain["decoder"].shape == (2, 4 * WIDTH, 16, 16)
    assert plain["fused"].shape == (2, WIDTH, 16, 16)
    for site in ("pixels", "tokens[3]", "attn_out[0]", "mid[2]", "mlp_in[4]"):
        moved = backbone(
            x, {site: Add(lambda h, layout: torch.linspace(0, 1, h.shape[-1]).expand_as(h))}, read=["decoder"]
        ).extra
        assert not torch.equal(moved["maps"][3], plain["maps"][3]), site
        same = backbone(x, {site: Add(lambda h, layout: torch.zeros_like(h))}, read=["decoder"]).extra
        close(same["decoder"], plain["decoder"], 1e-6)
    moved = backbone(x, {"decoder[1]": Replace(lambda h, layout: torch.zeros(*h.shape[:2], WIDTH))}, read=["decoder"])
    assert torch.equal(moved.extra["maps"][3], plain["maps"][3])
    difference = (moved.extra["decoder"] - plain["decoder"]).abs().amax((0, 2, 3)) > 0
    assert (
        difference.tolist() == [False] * 2 * WIDTH + [True] * WIDTH + [False] * WIDTH
    )  # from the last stage to the first


def test_token_methods_say_what_works_on_mit():
    with pytest.raises(UserError, match="dvpt_seg and coda"):
        tiny().require_tokens()
    with pytest.raises(UserError, match="images must be normalised floats"):
        tiny()(torch.zeros(1, 1, 64, 64))
