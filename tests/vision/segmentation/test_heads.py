"""Counts and values of the decoders: published sizes, stages from the last to the first, and those of the extra."""

from __future__ import annotations

import pytest
from pt_core.errors import MissingExtra
from pt_vision.networks.mit import SIZES
from pt_vision.networks.segformer import SegFormerHead
from pt_vision.segmentation.heads import DAFormerHead, ScaleAttentionHead

from tests.vision.segmentation.common import DIMS, WIDTH, images, make, on_meta, seeded_make, size, tiny

B5 = SIZES["b5"]["embed_dims"]


def test_published_sizes():
    assert size(on_meta(lambda: DAFormerHead(B5, 19))) == 3_712_275
    assert size(on_meta(lambda: ScaleAttentionHead(B5, 19))) == 530_707


def test_segformer_head_counts_and_reads_stages_from_the_last():
    head = SegFormerHead(DIMS, 3, WIDTH)
    e = WIDTH
    assert size(head) == sum(d * e + e for d in DIMS) + 4 * e * e + 2 * e + 3 * e + 3
    maps = tiny()(images(2)).extra["maps"]
    assert head(maps).shape == (2, 3, 16, 16)


@pytest.mark.parametrize("kind", ["fpn", "upernet"])
def test_decoders_of_the_library(kind):
    network = seeded_make("source_only", head=kind, head_width=32).network.train()
    out = network.scales(images(2), (0, 8))
    assert out.logits.shape == (2, 3, 64, 64)
    out.logits.square().mean().backward()
    reached = [name for name, p in network.head.named_parameters() if p.grad is not None and bool(p.grad.any())]
    assert "classifier.weight" in reached
    assert len(reached) > 10


def test_a_missing_library_is_named(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    with pytest.raises(MissingExtra, match=r"pip install 'pt-vision\[segmentation\]'"):
        make("source_only", head="fpn")
