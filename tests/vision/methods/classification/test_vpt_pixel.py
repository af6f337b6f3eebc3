"""The pixel placements of VPT: counts, and each place against the picture or the tokens built by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from pt_core.errors import ConfigError
from pt_core.run.declare.options import build_all
from pt_core.testing import BadInput
from pt_vision.classification.heads import BIAS
from pt_vision.methods.classification.linear import LinearProbe
from pt_vision.methods.classification.vpt_pixel import VPTPixel, VPTPixelConfig
from torch import nn
from torch.nn import functional as F

from tests.vision.methods.classification.common import (
    DATA,
    case,
    conformance,
    double,
    on_large,
    seeded_make,
    task,
    tiny,
)
from tests.vision.nets import close

HEAD = 3 * 32 + 3
SWIN = "swin_shifted"


def refuse(**options: Any) -> Any:
    return lambda: build_all({"config": VPTPixelConfig}, options)


BAD = (
    BadInput("no pixels", refuse(prompt_length=0), "prompt_length=0"),
    BadInput("unknown place", refuse(location="prepend"), "location='prepend'.*'prepend_pixel'"),
    BadInput("deep pixels", refuse(mode="deep"), "unknown option 'mode'"),
    BadInput("frame without a picture", lambda: seeded_make(VPTPixel, prompt_length=16), "prompt_length=16 leaves nothing of the 32x32"),
    BadInput("strip on Swin", lambda: seeded_make(VPTPixel, SWIN, location="prepend_pixel"), "swin_shifted' is none: use location='pad'"),
    BadInput("channels on Swin", lambda: seeded_make(VPTPixel, SWIN, location="below"), "use location='pad'"),
    BadInput("another size", lambda: frame_of(36), "pictures of 32x32, got 36x36"),
)  # fmt: skip
CASES = {
    "pad": replace(case(VPTPixel, "class", 6 * 3 * (64 - 6) + HEAD, prompt_length=3), bad_inputs=BAD),
    "pad_swin": case(VPTPixel, SWIN, 6 * 3 * (64 - 6) + HEAD, prompt_length=3),
    "strip": case(VPTPixel, "registers", 3 * 64 * 3 + HEAD, prompt_length=3, location="prepend_pixel"),
    "below": case(VPTPixel, "no_class", 2 * 1024 + 5 * 64 * 32 + 32 + HEAD, prompt_length=2, location="below"),
}


def frame_of(side: int) -> None:
    method = seeded_make(VPTPixel)
    method(replace(DATA["val"].batch(), inputs=torch.zeros(9, 3, side, side)))


@pytest.mark.parametrize(("one", "check"), conformance(CASES))
def test_conformance(one, check, tmp_path):
    check(one, tmp_path)


@pytest.mark.parametrize(
    ("location", "count"),
    [
        ("pad", 3 * (224 * 224 - 214 * 214)),
        ("prepend_pixel", 3 * 16 * 16 * 5),
        ("below", 5 * 224 * 224 + (3 + 5) * 256 * 768 + 768),
    ],
)
def test_counts_on_vit_b(location, count):
    method = on_large(VPTPixel, "vit_base_patch16_224", 10, location=location, prompt_length=5)
    assert method.parameter_count() == count + 7_690
    assert torch.equal(method.head.bias, torch.full((10,), BIAS))


def test_the_frame_surrounds_the_shrunk_picture():
    method, x = seeded_make(VPTPixel, prompt_length=3), DATA["val"].batch().inputs
    framed = method.frame(x, None)
    assert framed.shape == x.shape
    small = F.interpolate(x, (26, 26), mode="bilinear", antialias=True)
    torch.testing.assert_close(framed[:, :, 3:-3, 3:-3], small)
    mean, std = (torch.tensor(method.backbone.preprocessing[k]).view(3, 1, 1) for k in ("mean", "std"))
    border = torch.ones(32, 32, dtype=torch.bool)
    border[3:-3, 3:-3] = False
    values = (framed * std + mean)[:, :, border]
    assert torch.equal(framed[0][:, border], framed[5][:, border])  # the same frame around every picture
    assert values.min() >= -1e-6
    assert values.max() <= 1 + 1e-6
    assert values.std().item() == pytest.approx(12**-0.5, rel=0.1)  # U(0, 1)
    tuned = torch.cat([method.across.flatten(), method.along.flatten()])
    torch.testing.assert_close(values[0].flatten().sort().values, tuned.sort().values, rtol=1e-4, atol=1e-5)


def test_every_pixel_of_the_frame_is_used():
    method = seeded_make(VPTPixel, prompt_length=3)
    method.training_step(DATA["val"].batch()).loss.backward()
    assert (method.across.grad != 0).all()
    assert (method.along.grad != 0).all()


def test_the_strip_is_patches_without_position():
    method = double(VPTPixel, location="prepend_pixel", prompt_length=3)
    net, x = method.backbone.module, DATA["val"].batch().inputs.double()
    hidden = torch.cat([net.cls_token.expand(9, -1, -1), net.patch_embed(x)], 1) + net.pos_embed
    squares = [method.strip[:, :, 8 * n : 8 * n + 8] for n in range(3)]
    tokens = torch.stack(
        [(net.patch_embed.proj.weight * s).sum((1, 2, 3)) + net.patch_embed.proj.bias for s in squares]
    )
    hidden = torch.cat([hidden[:, :1], tokens.expand(9, -1, -1), hidden[:, 1:]], 1)
    for block in net.blocks:
        hidden = block(hidden)
    batch = replace(DATA["val"].batch(), inputs=x)
    features = method.backbone(x, method.edits(batch))
    assert features.layout.segments == (("class", 1), ("prompt", 3), ("token", 16))
    close(features.tokens, net.norm(hidden))


@pytest.mark.parametrize("start", ["random", "pretrained"])
def test_channels_below_go_through_the_own_convolution(start):
    method = seeded_make(VPTPixel, location="below", prompt_length=2, patch_init=start)
    net, batch = method.backbone.module, DATA["val"].batch()
    with torch.no_grad():
        x = torch.cat([batch.inputs, method.channels.expand(9, -1, -1, -1)], 1)
        patches = F.conv2d(x, method.patch.weight, method.patch.bias, stride=8).flatten(2).transpose(1, 2)
        hidden = torch.cat([net.cls_token.expand(9, -1, -1), patches], 1) + net.pos_embed
        for block in net.blocks:
            hidden = block(hidden)
        torch.testing.assert_close(method.backbone(batch.inputs, method.edits(batch)).tokens, net.norm(hidden))
    bound = (6 / (3 * 64 + 32)) ** 0.5
    assert method.channels.abs().max() <= bound
    assert method.patch.weight[:, 3:].abs().max() <= bound
    assert torch.equal(method.patch.weight[:, :3], net.patch_embed.proj.weight) is (start == "pretrained")
    assert bool(method.patch.bias.any()) is (start == "pretrained")


def test_pretrained_colours_and_empty_channels_are_linear_probing():
    method = seeded_make(VPTPixel, location="below", prompt_length=2, patch_init="pretrained")
    probe, batch = seeded_make(LinearProbe), DATA["val"].batch()
    probe.head.load_state_dict(method.head.state_dict())
    with torch.no_grad():
        method.channels.zero_()
    torch.testing.assert_close(method(batch), probe(batch), rtol=1e-5, atol=1e-5)


def test_a_network_without_a_patch_convolution_takes_the_frame_only():
    backbone = tiny("class")
    backbone.module.patch_embed.proj = nn.Linear(3, 32)
    with pytest.raises(ConfigError, match="is none: use location='pad'"):
        VPTPixel(VPTPixelConfig(location="below"), {"backbone": backbone}, task())


@pytest.mark.parametrize("location", ["pad", "prepend_pixel", "below"])
def test_a_half_precision_network_leaves_pixels_in_float32(location):
    method, batch = seeded_make(VPTPixel, location=location), DATA["val"].batch()
    method.backbone.to("cpu", torch.bfloat16)
    method.training_step(batch).loss.backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in method.parameters())


@pytest.mark.parametrize("name", ["dinov2", "mae", "siglip", "clip", "eva_rope", "dinov3"])
@pytest.mark.parametrize("location", ["pad", "prepend_pixel", "below"])
def test_every_kind_of_vit_gives_the_pixels_gradient(name, location):
    method = seeded_make(VPTPixel, name, location=location)
    method.training_step(DATA["val"].batch()).loss.backward()
    for parameter in method.parameters():
        assert parameter.grad.isfinite().all()
        assert parameter.grad.abs().max() > 0
