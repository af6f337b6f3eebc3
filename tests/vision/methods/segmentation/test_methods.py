"""Every segmentation method through the conformance suite, with the counts of its formula."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from pt_core.testing import CHECKS, SLOW_CHECKS, BadInput, MethodCase

from tests.vision.segmentation.common import CROP, DATA, DIMS, OPTIONS, WIDTH, make, tiny

E, K = WIDTH, 3
ENCODER = sum(p.numel() for p in tiny().module.encoder.parameters())
EMBED, CLASSIFIER = sum(d * E + E for d in DIMS), E * K + K
SEPARABLE = 4 * E * 9 + 2 * 4 * E + 4 * E * E + 2 * E
HEAD = EMBED + 4 * E * E + 2 * E + 3 * SEPARABLE + 4 * E * E * 9 + 2 * E + CLASSIFIER
ATTENTION = EMBED + 4 * E * E + 2 * E + CLASSIFIER
NETWORK = ENCODER + HEAD + ATTENTION
PROMPTS = 2 * 5 * 3 * 4 * 4 + 2 * (2 * 16 * DIMS[0] + 16 + DIMS[0])
GATE = 2 * (9 * DIMS[0] + 1) + 2 * (32 // 4)
R = 10
BLOCKS = (8, 8, 8, 16, 16)  # widths of the five blocks
DVPT = (
    sum(4 * d + 1 for d in BLOCKS)
    + sum(2 * d * R + R + d + 1 for d in DIMS)
    + sum(d * R + R + R * E + E + 1 for d in DIMS)
    + K * 4 * E
    + K
)


def case(name: str, parameters: int, **options) -> MethodCase:
    return MethodCase(
        make=partial(make, name, **options),
        data=DATA,
        # With seed 0 a ReLU of CoDA's is within rounding of 0 at a pixel, where gradients jump.
        options=replace(OPTIONS, seed=1) if name == "coda" else OPTIONS,
        parameters=parameters,
        method_id=f"pt-vision/{name}",
        other_backbone=partial(tiny, 5),
        tolerance=3e-4 if name not in ("dvpt_seg", "linear_seg") else 1e-5,
    )


CASES = {
    "source_only": case("source_only", NETWORK),
    "self_training": case("self_training", NETWORK),
    "coda": case("coda", NETWORK + PROMPTS, chain_length=4, chain_cycle=2, chain_easy=1),
    "coda_published": case(
        "coda",
        NETWORK + PROMPTS + GATE,
        chain_length=4,
        chain_cycle=2,
        chain_easy=1,
        official_gate=True,
        official_severity=True,
        official_calls=True,
        classmix="batch",
    ),
    "coda_plain_crops": case(
        "coda",
        ENCODER + HEAD + 2 * 5 * 3 * 8 * 8 + 2 * (2 * 16 * DIMS[0] + 16 + DIMS[0]),
        hrda=False,
        chain=False,
        masked="target",
    ),
    "frozen": case(
        "source_only", EMBED + 4 * E * E + 2 * E + CLASSIFIER, hrda=False, freeze_backbone=True, head="segformer"
    ),
    "dvpt_seg": case("dvpt_seg", DVPT, prompt_length=4),
    "linear_seg": case("linear_seg", K * sum(DIMS) + K),
}
BRIEF = {
    "coda_published": ("declarations", "parameter_count"),
    "coda_plain_crops": ("declarations", "parameter_count"),
    "frozen": ("declarations", "parameter_count"),
    "self_training": ("declarations", "parameter_count"),
    "source_only": ("declarations", "parameter_count", "independence"),
    "linear_seg": ("declarations", "parameter_count", "wrong_backbone"),
}
"""Checks that run by default; the others of these methods are slow ones. `coda` and `dvpt_seg` run all but `reload`."""
CASES["coda"] = replace(
    CASES["coda"],
    bad_inputs=(
        BadInput("margins", partial(make, "coda", margin_top=0.5, margin_bottom=0.5), "leave nothing of the frame"),
        BadInput("things", partial(make, "coda", thing_classes=("unicorn",)), "'unicorn', which is no class"),
        BadInput("crop", partial(make, "coda", crop_size=100), "no multiple of 64"),
        BadInput("typo", partial(make, "coda", chian=False), "did you mean 'chain'"),
        BadInput("range", partial(make, "coda", threshold=1.5), "threshold=1.5"),
    ),
)


def rows():
    for name, one in CASES.items():
        for check, run in {**CHECKS, **SLOW_CHECKS}.items():
            slow = check in SLOW_CHECKS or check == "reload" or check not in BRIEF.get(name, CHECKS)
            yield pytest.param(one, run, id=f"{name}-{check}", marks=[pytest.mark.slow] if slow else [])


@pytest.mark.parametrize(("one", "check"), list(rows()))
def test_conformance(one, check, tmp_path):
    check(one, tmp_path)


@pytest.mark.parametrize("name", ["coda", "self_training", "source_only"])
def test_methods_want_a_pixel_task_and_a_mit(name):
    from pt_core.errors import ConfigError
    from pt_core.run.tasks.classification import Classification
    from pt_vision.modality import Vision

    from tests.vision.nets import network

    cls = Vision.registry.load(name)
    with pytest.raises(ConfigError, match="add --task segmentation"):
        cls(cls.Config(), {"encoder": tiny()}, Classification(["a", "b"]))
    with pytest.raises(ConfigError, match="is no MiT; segmentation takes"):
        cls(cls.Config(), {"encoder": network("class")}, make(name).task)


def test_images_of_several_sizes_are_predicted_one_by_one():
    method = make("source_only").eval()
    one, two = (DATA["val"].sample(n, epoch=None, seed=0)["image"] for n in range(2))
    two = two[:, :40, :50]
    padded = torch.stack([one, torch.nn.functional.pad(two, (0, CROP - 50, 0, CROP - 40))])
    from pt_core import Batch

    size = torch.tensor([[CROP, CROP], [40, 50]])
    with torch.no_grad():
        whole = method.predict_step(Batch(padded, None, torch.arange(2), ["a", "b"], {"size": size}), None)["logits"]
        alone = method(Batch(two[None], None, torch.zeros(1), ["b"]))
    assert torch.allclose(whole[1:, :, :40, :50], alone, atol=1e-5)
