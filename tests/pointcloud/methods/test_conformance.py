"""Every method through the conformance suite of pt-core, with the counts of its formula."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pt_pointcloud.methods.full import FullFineTuning
from pt_pointcloud.methods.idpt import IDPT
from pt_pointcloud.methods.idpt_seg import IDPTSeg
from pt_pointcloud.methods.linear import LinearProbe
from pt_pointcloud.methods.linear_seg import LinearSegProbe
from pt_pointcloud.methods.vpt import VPT

from tests.pointcloud.common import OPTIONS, case, conformance, head_values, network

C, L = 16, 3
DGCNN = 9 * C * C + 8 * C
CLASS = 2 * C
PART_HEAD = (
    (3 + 3 * C) * 4 * C
    + 4 * C * 3
    + 4 * C * 1024
    + 1024 * 3
    + (1024 + 6 * C + 64) * 512
    + 512 * 3
    + 512 * 256
    + 256 * 3
    + 256 * 6
    + 6
)
NET = sum(p.numel() for p in network().parameters())

CASES = {
    "idpt": case(IDPT, DGCNN + CLASS + head_values(3 * C), neighbours=5),
    "idpt_fixed_class": case(IDPT, DGCNN + head_values(3 * C), neighbours=5, train_class_token=False),
    "idpt_early_mlp": case(
        IDPT,
        C * C + 2 * C + C + CLASS + head_values(2 * C),
        prompt_layer=1,
        prompt_module="mlp",
        head_input="class_points",
        train_prompt_position=True,
    ),
    "idpt_published": case(
        IDPT, DGCNN + CLASS + head_values(3 * C), neighbours=5, backbone_mode="published", clip="published"
    ),
    "vpt": case(VPT, 2 * L * 10 * C + CLASS + head_values(2 * C), class_token=True),
    "linear": case(LinearProbe, 3 * 2 * C + 3),
    "full": case(FullFineTuning, NET + head_values(2 * C)),
    "idpt_seg": case(IDPTSeg, 3 * (C * C + 2 * C) + C + 3 * 64 + 128 + PART_HEAD),
    "linear_seg": case(LinearSegProbe, (3 + 6 * C + 3) * 6 + 6),
}


CASES["idpt_published"] = replace(CASES["idpt_published"], options=replace(OPTIONS, clip_norm=10.0))
for name in ("vpt", "full"):  # biases in front of a BatchNorm get gradients of rounding only
    CASES[name] = replace(CASES[name], tolerance=3e-4)
BRIEF = {
    "idpt_early_mlp": ("declarations", "parameter_count", "fast_path"),
    "idpt_published": ("declarations", "parameter_count", "resume"),
    "idpt_seg": ("declarations", "parameter_count", "wrong_backbone", "fast_path", "independence"),
}


@pytest.mark.parametrize(("one", "check"), conformance(CASES, ("idpt",), BRIEF))
def test_conformance(one, check, tmp_path):
    check(one, tmp_path)
