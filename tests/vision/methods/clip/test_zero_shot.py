"""Zero-shot: templates and ensembles as plain open_clip computes them, descriptions, a set-up without data."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from pt_core.errors import ConfigError
from pt_core.run.declare.options import build_all
from pt_core.run.tasks.classification import Classification
from pt_core.testing import BadInput
from pt_vision.methods.clip.zero_shot import SEVEN, ZeroShot, ZeroShotConfig
from torch.nn import functional as F

from tests.vision.clip.networks import pair
from tests.vision.methods.clip.common import DATA, case, conformance, make

NAMES = ["cat", "golden_retriever"]
BAD = (
    BadInput("no place", lambda: build_all({"config": ZeroShotConfig}, {"template": "a photo"}), "once"),
    BadInput("no texts", lambda: make(ZeroShot, descriptions=True)(DATA["val"].batch()), "has no text"),
)
CASES = {"clip": replace(case(ZeroShot, "clip", 0), bad_inputs=BAD), "siglip": case(ZeroShot, "siglip", 0)}


@pytest.mark.parametrize(("one", "check"), conformance(CASES))
def test_conformance(one, check, tmp_path):
    check(one, tmp_path)


@pytest.mark.parametrize(
    ("options", "templates"),
    [
        ({}, ["a photo of a {}."]),
        ({"template": "a {}, a type of pet."}, ["a {}, a type of pet."]),
        ({"template": "one {}|two {}"}, ["one {}", "two {}"]),
        ({"ensemble": "seven"}, ["a photo of a {}.", *SEVEN]),
    ],
)
def test_logits_are_those_of_plain_open_clip(options, templates):
    network, batch = pair(), DATA["val"].batch()
    method = make(ZeroShot, names=NAMES, **options).eval()
    with torch.no_grad():
        each = [
            network.module.encode_text(
                network.tokenizer([text.format(name.replace("_", " ")) for name in NAMES], context_length=16),
                normalize=True,
            )
            for text in templates
        ]
        texts = F.normalize(torch.stack(each).mean(0), dim=-1)
        images = network.module.encode_image(batch.inputs, normalize=True)
        want = network.module.logit_scale.exp() * images @ texts.T
        torch.testing.assert_close(method(batch), want, rtol=1e-4, atol=1e-4)


def test_descriptions_are_averaged_per_class():
    network, task = pair(), Classification(NAMES)
    texts = {"cat": ["a small pet", "it purrs"], "golden_retriever": ["a dog"]}
    method = make(ZeroShot, names=NAMES, descriptions=True).retarget(task.with_classes(NAMES, texts))
    with torch.no_grad():
        vectors = network.module.encode_text(network.tokenizer(texts["cat"], context_length=16), normalize=True)
        torch.testing.assert_close(
            method.class_vectors()[0], F.normalize(vectors.mean(0), dim=-1), rtol=1e-4, atol=1e-5
        )
    missing = method.retarget(task.with_classes(NAMES, {"cat": ["a pet"]}))
    with pytest.raises(ConfigError, match="'golden_retriever' has no text"):
        missing.class_vectors()
