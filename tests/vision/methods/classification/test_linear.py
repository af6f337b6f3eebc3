"""Linear probing: exact count, any pooling, and the cached feature in place of the picture."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from pt_core.data import Batch
from pt_core.run.declare.options import build_all
from pt_core.run.train.features import with_features
from pt_core.run.train.world import World
from pt_core.testing import BadInput
from pt_core.testing._support import train
from pt_vision.methods.classification.linear import LinearConfig, LinearProbe

from tests.vision.methods.classification.common import DATA, OPTIONS, case, conformance, on_large, seeded_make

BAD = (
    BadInput("unknown pool", lambda: build_all({"config": LinearConfig}, {"pool": "prompt"}), "pool='prompt'"),
    BadInput("no class token", lambda: seeded_make(LinearProbe, "no_class", pool="class")(DATA["val"].batch()), "no class"),
)  # fmt: skip
CASES = {
    "class": replace(case(LinearProbe, "class", 3 * 32 + 3), bad_inputs=BAD),
    "swin": case(LinearProbe, "swin_shifted", 3 * 32 + 3),
    "map": case(LinearProbe, "siglip", 3 * 32 + 3),
}


@pytest.mark.parametrize(("one", "check"), conformance(CASES))
def test_conformance(one, check, tmp_path):
    check(one, tmp_path)


@pytest.mark.parametrize(("name", "count"), [("vit_base_patch16_224", 7_690), ("swin_base_patch4_window7_224", 10_250)])
def test_counts_of_published_networks(name, count):
    assert on_large(LinearProbe, name, 10).parameter_count() == count


@pytest.mark.parametrize("pool", ["default", "class", "token", "all_but_class"])
def test_reads_the_pooling_it_names(pool):
    method, batch = seeded_make(LinearProbe, "registers", pool=pool), DATA["val"].batch()
    hidden = method.backbone(batch.inputs).tokens
    parts = {"class": hidden[:, :1], "token": hidden[:, 4:], "all_but_class": hidden[:, 1:]}
    want = parts["class" if pool == "default" else pool].mean(1)
    torch.testing.assert_close(method(batch), method.head(want))


def test_training_on_cached_features_gives_the_same_head(tmp_path):
    want = train(CASES["class"], tmp_path / "pixels").head.weight
    method, world, asked = seeded_make(LinearProbe), World(OPTIONS), []

    def store(key, dataset, compute):
        asked.append(key)
        return torch.cat(list(compute(range(len(dataset)))))

    data = {role: with_features(method, dataset, world, 8, store) for role, dataset in DATA.items()}
    assert asked == ["pooled/default"] * 2
    method.backbone.module.forward = None  # the network is not needed any more
    method.frozen_part = None
    have = train(replace(CASES["class"], data=data), tmp_path / "features", method).head.weight
    torch.testing.assert_close(have, want, rtol=1e-5, atol=1e-6)


def test_features_of_two_poolings_have_two_names():
    keys = {seeded_make(LinearProbe, pool=pool).frozen_key() for pool in ("default", "class", "token")}
    assert len(keys) == 3


def test_augmented_pictures_are_not_cached():
    class Augmented(type(DATA["train"])):
        augmented = True

    data = Augmented(6, 1)
    assert with_features(seeded_make(LinearProbe), data, World(OPTIONS), 8, None) is data


def test_a_cached_feature_replaces_the_picture():
    method, batch = seeded_make(LinearProbe), DATA["val"].batch()
    with torch.no_grad():
        feature = method.frozen_part(batch)
        blind = Batch(None, batch.target, batch.index, batch.ids, {"frozen": feature})
        assert torch.equal(method(blind), method(batch))
