"""Encoders: patches, prompts in front, experts, files of `pretrain`, and tsai's architectures."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from pt_core.backbone import Add, Insert, Replace
from pt_core.errors import ConfigError, DataError, UserError
from pt_core.run.declare.options import build_all
from pt_timeseries.adapters.base import PretrainedHead
from pt_timeseries.adapters.encoder import EncoderConfig, Experts, cut
from pt_timeseries.adapters.files import ARCHITECTURES, build, write_backbone
from pt_timeseries.backbones import builtin_names, load_backbone
from safetensors.torch import load_file, save_file

from tests.timeseries.common import LABELS, SIZES, close, tiny, waves

TSAI = [name for name in ARCHITECTURES if name != "patch"]


@pytest.mark.parametrize(
    ("steps", "patch", "stride"), [(32, 8, 4), (30, 8, 4), (8, 8, 4), (4, 8, 4), (32, 8, 8), (33, 5, 3)]
)
def test_every_stride_starts_a_patch(steps, patch, stride):
    series = torch.arange(2.0 * steps).view(1, 2, steps)
    found = cut(series, patch, stride)
    assert found.shape == (1, -(-steps // stride), 2 * patch)
    last = series[..., -1:]
    for number in range(found.shape[1]):
        start = number * stride
        own = series[..., start : start + patch]
        want = torch.cat([own, last.expand(1, 2, patch - own.shape[-1])], -1)
        assert torch.equal(found[:, number], want.flatten(1))


def test_the_adapter_is_the_network():
    backbone, x = tiny(), waves().values
    assert torch.equal(backbone(x).tokens, backbone.module(x))
    assert backbone.prompt_tokens(8) == 2


def test_kept_and_dropped_prompts_and_values():
    backbone, x = tiny(), waves().values[:3]
    prompt = torch.randn(2, backbone.dim)
    kept = backbone(x, {"tokens[0]": Insert(prompt, keep_output=True)})
    assert [kept.layout.count(kind) for kind in ("prompt", "token")] == [2, 8]
    dropped = backbone(x, {"tokens[1]": Insert(prompt)})
    assert dropped.layout.count("prompt") == 0
    assert (dropped.tokens - backbone(x).tokens).abs().max() > 1e-4
    bank = backbone(
        x, {"tokens[0]": Insert(torch.stack([prompt, -prompt]), index=torch.tensor([0, 1, 0]), keep_output=True)}
    )
    close(bank.tokens[0], kept.tokens[0])
    assert (bank.tokens[1] - kept.tokens[1]).abs().max() > 1e-4
    doubled = backbone(x, {"series": Add(lambda h, layout: h)})
    close(doubled.tokens, backbone(2 * x).tokens)
    nothing = backbone(
        x, {"attn_out[0]": Replace(lambda h, layout: 0 * h), "features": Replace(lambda h, layout: h + 1)}
    )
    assert (nothing.tokens - backbone(x).tokens).abs().max() > 0.5
    with pytest.raises(UserError, match="kept or prompts that are dropped"):
        backbone(x, {"tokens[0]": [Insert(prompt), Insert(prompt, keep_output=True)]})


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 3, 32), "reads 2 channels, the series have 3"),
        ((2, 2, 40), "positions for 32 steps"),
        ((2, 32), "reads floats"),
    ],
)
def test_other_shapes_are_refused(shape, message):
    with pytest.raises(DataError, match=message):
        tiny()(torch.zeros(shape))


def test_shorter_series_use_the_first_positions():
    assert tiny()(torch.zeros(2, 2, 20)).layout.count("token") == 5


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"heads": 5}, "dim=12 is not a multiple of heads=5"),
        ({"stride": 9}, "stride=9 is larger"),
        ({"patch": 64}, "longer than"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(sizes, message):
    with pytest.raises(ConfigError, match=message):
        build_all({"model": EncoderConfig}, {**vars(SIZES), **sizes})


def test_every_token_takes_one_expert():
    torch.manual_seed(0)
    layer, x = Experts(6, 10, 3, 0.0), torch.randn(4, 5, 6)
    out = layer(x)
    weights = layer.router(x).softmax(-1)
    for row in range(4):
        for token in range(5):
            best = int(weights[row, token].argmax())
            close(out[row, token], layer.layers[best](x[row, token]) * weights[row, token, best])
    assert float(layer.load.detach()) >= 1 - 1e-5
    one = Experts(6, 10, 1, 0.0)
    one(x)
    assert float(one.load.detach()) == pytest.approx(1.0)


def test_experts_train_and_serve_prompts():
    backbone = tiny(experts=2)
    x = waves().values
    edits = backbone.prompt_edits(torch.randn(len(x), 2, 8), torch.zeros(2, backbone.dim))
    assert backbone(x, edits).tokens.isfinite().all()
    assert sum(isinstance(module, Experts) for module in backbone.module.modules()) == 2


# ---- files -----------------------------------------------------------------------------------------------------------------


def test_the_builtin_encoder_has_a_recipe_and_a_classifier():
    assert "patch_motion" in builtin_names()
    backbone = load_backbone("builtin:patch_motion")
    assert (backbone.channels, backbone.length) == (6, 128)
    assert backbone.head.classes == ("rest", "walk", "run", "turn", "jump")
    assert sum(t.numel() for t in backbone.frozen_tensors()) * 2 < 5e6


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("builtin:patch_moton", "did you mean 'patch_motion'"),
        ("timm:vit", "of no known kind; use builtin:NAME or file:FILE"),
        ("file:nowhere.safetensors", "does not exist; make it with: pt-timeseries pretrain"),
    ],
)
def test_backbones_that_do_not_exist(spec, message):
    with pytest.raises(UserError, match=message):
        load_backbone(spec)


def edited(tmp_path, change):
    """A file of `write_backbone` whose tensors or card were changed."""
    out = tmp_path / "e.safetensors"
    backbone = tiny()
    write_backbone(backbone, "patch", SIZES, {}, out)
    tensors, card = load_file(out), json.loads(out.with_suffix(".json").read_text())
    change(tensors, card)
    save_file(tensors, out, metadata={"pt_timeseries": json.dumps(card)})
    return f"file:{out}"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, c: c.update(format_version=9), "has format 9, this version reads 1"),
        (lambda t, c: c["model"].update(dim=10**9), "dim=1000000000 is not a plausible size"),
        (lambda t, c: c["model"].update(width=3), "unknown size .*'width'"),
        (lambda t, c: c["model"].update(depth=3), "weights and metadata do not fit"),
        (lambda t, c: c.update(architecture="tsai:Unknown"), "unknown architecture"),
        (lambda t, c: t["position"].fill_(float("nan")), "'position' has NaN"),
        (lambda t, c: c.update(class_names=["one"]), "its 1 class names do not fit"),
        (lambda t, c: c.pop("model"), "no pt_timeseries metadata"),
    ],
)
def test_files_that_were_tampered_with_are_refused(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        load_backbone(edited(tmp_path, change))


def test_torn_files_are_refused(tmp_path):
    (tmp_path / "e.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match="not a readable safetensors file"):
        load_backbone(f"file:{tmp_path / 'e.safetensors'}")


# ---- tsai ------------------------------------------------------------------------------------------------------------------


def test_tsai_is_imported_only_where_it_is_named():
    code = (
        "import sys, pt_timeseries.cli, pt_timeseries.modality, pt_timeseries.pretrain, pt_timeseries.methods.pond\n"
        "from pt_timeseries.backbones import load_backbone\n"
        "load_backbone('builtin:patch_motion')\n"
        "assert not {'tsai', 'fastai', 'aeon'} & set(sys.modules), 'imported'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", TSAI)
def test_tsai_networks_take_prompts_and_come_back_from_their_files(name, tmp_path):
    x = waves().values
    backbone = build(name, SIZES, "tsai", PretrainedHead(torch.zeros(3, 12), torch.zeros(3), tuple(LABELS)))
    plain = backbone(x)
    series, codes = torch.randn(len(x), 2, 8), torch.randn(backbone.prompt_tokens(8), backbone.dim)
    found = backbone(x, backbone.prompt_edits(series, codes))
    assert found.layout.count("token") == plain.layout.count("token")
    assert found.layout.count("prompt") == (8 if name.endswith("InceptionTime") else 2)
    assert (backbone.pool(found, "data") - backbone.pool(plain)).abs().max() > 1e-4
    assert not backbone.prompt_edits(series[..., :0], codes[:0])
    out = tmp_path / "e.safetensors"
    write_backbone(backbone, name, SIZES, {}, out)
    close(load_backbone(f"file:{out}")(x).tokens, plain.tokens, 0.02)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", TSAI)
def test_tsai_networks_compute_what_tsai_computes(name):
    """Up to our average over time in place of tsai's own classifier."""
    backbone, x = build(name, SIZES, "tsai"), waves().values
    net = backbone.module
    if name == "tsai:InceptionTime":
        close(backbone.pool(backbone(x)), net(x))
    elif name == "tsai:TST":
        close(backbone(x).tokens.transpose(1, 2), net(x))
    else:
        close(backbone(x).tokens.transpose(1, 2), net.model(x).mean(1))
