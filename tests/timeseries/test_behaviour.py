"""Encoders of equal tensors that compute something else are told apart, and an artifact refuses them saying so."""

from __future__ import annotations

from typing import Any

import pt_timeseries
import pytest
import torch
from pt_core.errors import BackboneMismatch
from pt_timeseries.adapters.adapt import adapt
from pt_timeseries.adapters.base import SeriesBackbone
from torch import nn

from tests.timeseries.common import tiny


class QuickGELU(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(1.702 * x)


def changed(**sizes: Any) -> SeriesBackbone:
    """The tiny encoder, its activation or the epsilon of its norms replaced."""
    activation, eps = sizes.pop("activation", None), sizes.pop("eps", None)
    backbone = tiny(**sizes)
    for part in backbone.module.modules():
        if activation is not None and isinstance(part, nn.Sequential) and isinstance(part[1], nn.GELU):
            part[1] = activation()
        if eps is not None and isinstance(part, nn.LayerNorm):
            part.eps = eps
    return backbone


class MaxPooled(type(tiny())):
    """The same encoder under another pooling."""

    def pool(self, features: Any, how: str = "all") -> torch.Tensor:
        return features.tokens.max(1).values


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (changed, lambda: changed(activation=nn.ReLU)),
        (changed, lambda: changed(activation=QuickGELU)),
        (changed, lambda: changed(eps=1e-2)),
        (changed, lambda: changed(heads=3)),
        (changed, lambda: MaxPooled(tiny().module, "tiny:0")),
        (lambda: changed(length=16, stride=4), lambda: changed(length=16, stride=5)),  # as many tokens, cut elsewhere
    ],
)
def test_equal_tensors_in_another_encoder_are_told_apart(one, other, tmp_path):
    first, second = one(), other()
    assert first.fingerprint().exact == second.fingerprint().exact
    assert first.fingerprint().compare(second.fingerprint()) == "behaviour"
    assert one().fingerprint().compare(first.fingerprint()) == "same"
    pt_timeseries.wrap(first, "source_only", classes=2).save(tmp_path / "tuned")
    assert pt_timeseries.load(tmp_path / "tuned", backbone=one(), device="cpu").notes == []
    with pytest.raises(BackboneMismatch, match="in another network: features of a fixed probe differ by"):
        pt_timeseries.load(tmp_path / "tuned", backbone=second)


@pytest.mark.parametrize("experts", [0, 2])
def test_a_copy_in_another_precision_is_a_copy(experts):
    for dtype in (torch.bfloat16, torch.float16):
        low = tiny(experts=experts).to("cpu", dtype)
        assert tiny(experts=experts).fingerprint().compare(low.fingerprint()) == "recast"


def test_the_built_in_encoder_is_itself_and_meta_ones_have_no_behaviour():
    state = torch.get_rng_state()
    one, other = (pt_timeseries.load_backbone("builtin:patch_motion").fingerprint() for _ in range(2))
    assert one.compare(other) == "same"
    assert len(one.behaviour or ()) == 64
    assert torch.equal(torch.get_rng_state(), state)
    assert tiny().to("meta").behaviour() is None


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_networks_of_tsais_are_told_apart():
    from tsai.models.InceptionTime import InceptionTime
    from tsai.models.PatchTST import PatchTST
    from tsai.models.TST import TST

    sizes = {"n_layers": 2, "d_model": 12, "n_heads": 2, "d_ff": 16}
    pairs = [
        (lambda: TST(2, 3, 32, **sizes), lambda: TST(2, 3, 32, **sizes, act="relu")),
        (
            lambda: TST(2, 3, 32, kernel_size=8, stride=4, **sizes),
            lambda: TST(2, 3, 56, kernel_size=8, stride=8, **sizes),
        ),
        (
            lambda: PatchTST(2, 3, 32, patch_len=8, stride=4, **sizes),
            lambda: PatchTST(2, 3, 32, patch_len=8, stride=4, **sizes, revin=False),
        ),
        (
            lambda: PatchTST(2, 3, 32, patch_len=8, stride=4, **sizes),
            lambda: PatchTST(2, 3, 32, patch_len=8, stride=4, **sizes, res_attention=False),
        ),
        (lambda: InceptionTime(2, 3, nf=3), lambda: InceptionTime(2, 3, nf=3)),
    ]
    for one, other in pairs:
        first, again, second = one().eval(), one().eval(), other().eval()
        again.load_state_dict(first.state_dict())
        second.load_state_dict(first.state_dict())
        if isinstance(second, InceptionTime):
            second.inceptionblock.inception[0].bn.eps = 0.1
        prints = [adapt(net, "tsai").fingerprint() for net in (first, again, second)]
        assert prints[0].exact == prints[2].exact
        assert prints[0].compare(prints[1]) == "same"
        assert prints[0].compare(prints[2]) == "behaviour"
