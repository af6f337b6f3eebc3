"""Segmentation methods whose batches are cut: but for BatchNorm, which couples images, parts and processes end where a whole batch ends."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from pt_core import Method
from pt_core.randomness import row_keys, sampled_by
from pt_core.testing import CHECKS, SLOW_CHECKS, MethodCase
from torch import Tensor, nn
from torch.nn import functional as F

from tests.vision.segmentation.common import OPTIONS, make, pictures, tiny

DATA = {"train": pictures(6, 1), "target": pictures(6, 2, dark=True, masks=False), "val": pictures(3, 3, dark=True)}
CHAIN = {"chain_length": 3, "chain_cycle": 2, "chain_easy": 1}
PUBLISHED = {"official_gate": True, "official_severity": True, "official_calls": True, "classmix": "batch"}


class FixedNorm(nn.BatchNorm2d):
    """BatchNorm by its running statistics, in training too."""

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)


def uncoupled(name: str, **options: object) -> Method:
    """A method whose norms do not look at the batch, with much dropout."""
    method = make(name, stochastic=False, head_dropout=0.5, **options)
    for module in method.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = FixedNorm
    method.coupled = False
    return method


def case(name: str, **options: object) -> MethodCase:
    return MethodCase(
        partial(uncoupled, name, **options), DATA, replace(OPTIONS, batch_size=3), 0, f"pt-vision/{name}", tiny
    )


CASES = {
    "source_only": case("source_only"),
    "plain_crops": case("source_only", hrda=False, head="segformer"),
    "self_training": case("self_training", thing_classes=("disc",), threshold=0.4),
    "masked_targets": case("self_training", masked="target", hrda=False),
    "coda": case("coda", **CHAIN),
    "coda_published": case("coda", **CHAIN, **PUBLISHED),
}


def rows() -> list[object]:
    fast = ("source_only", "self_training", "coda")
    return [pytest.param(name, marks=[] if name in fast else [pytest.mark.slow]) for name in CASES]


@pytest.mark.parametrize("name", rows())
def test_parts_of_a_batch_end_where_the_whole_ends(name: str, tmp_path: Path) -> None:
    CHECKS["cuts"](CASES[name], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["source_only", "coda"])
def test_two_processes_end_where_one_ends(name: str, tmp_path: Path) -> None:
    SLOW_CHECKS["two_processes"](CASES[name], tmp_path)


def test_the_draws_of_the_cases_matter() -> None:
    """Without keys a step differs from the next, so agreement above is not for lack of draws."""
    method = uncoupled("source_only").train()
    x = torch.randn(2, 3, 64, 64)
    assert not torch.equal(method.network.scales(x, (0, 0)).logits, method.network.scales(x, (0, 0)).logits)


def test_detail_and_context_of_a_crop_have_masks_of_their_own() -> None:
    method, seen = uncoupled("source_only").train(), []
    layer = method.network.head.dropout
    layer.register_forward_pre_hook(lambda _, given: (torch.ones_like(given[0]),))
    layer.register_forward_hook(lambda _, given, out: seen.append(out))
    with sampled_by(row_keys(torch.arange(2), 0)):
        method.network.scales(torch.randn(2, 3, 64, 64), (0, 0))
    assert len(seen) == 2
    assert not torch.equal(seen[0], seen[1])
    for mask in seen:
        assert sorted(mask.unique().tolist()) == [0.0, 2.0]
        assert torch.equal(mask, mask[..., :1, :1].expand_as(mask)), "whole channels"
