"""The head of VPT's released code: what its hidden layers draw belongs to the sample."""

from __future__ import annotations

import torch
from pt_core.randomness import Dropout, row_keys, sampled_by
from pt_vision.classification.heads import build_head


def test_hidden_layers_draw_by_sample_and_each_for_itself() -> None:
    head, x, keys = build_head(8, 3, 2).train(), torch.ones(4, 8), row_keys(torch.arange(4), "step")
    layers = [module for module in head.modules() if isinstance(module, Dropout)]
    with sampled_by(keys):
        whole = [layer(x) for layer in layers]
    with sampled_by(keys[1:3]):
        assert all(torch.equal(layer(x[1:3]), seen[1:3]) for layer, seen in zip(layers, whole, strict=True))
    assert [layer.p for layer in layers] == [0.1, 0.1]
    assert not torch.equal(*whole)
