"""Every method passes the conformance suite of pt-core."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pt_audio.methods.acoustic_apt import AcousticAPT
from pt_audio.methods.projector import Projector
from pt_core.errors import ConfigError
from pt_core.testing import CHECKS, SLOW_CHECKS

from tests.audio import tiny
from tests.audio.tiny import DEPTH, INNER, POSITIONS, TEXT_VOCABULARY, VIT, D, H

A = VIT.dim
FFN = 2 * H * INNER + INNER + H + 2 * H
LAYER = 4 * (H * H + H) + 2 * H + 2 * FFN
CROSS = 2 * (H * H + H) + 2 * (A * H + H) + 2 * H
V = TEXT_VOCABULARY + 1
EMBEDDINGS = (V + POSITIONS) * H + 2 * H
ALIGNER = EMBEDDINGS + DEPTH * LAYER + 2 * CROSS + 3 * H + 2 * A + H * D + D + D
ALIGNMENT = 2 * (H * 256 + 256) + 2 * H + 2 + 1 + H * H + H + 2 * H + V
BLIND = 2 * H + DEPTH * (LAYER - FFN) + 2 * CROSS + 3 * H + 2 * A + H * D + D + D
ENCODER = sum(p.numel() for p in tiny.encoder().module.parameters())


def test_an_unknown_task_weight_is_refused():
    with pytest.raises(ConfigError, match="taging.*did you mean 'tagging'"):
        tiny.make(task_weights=("taging=1",))
    with pytest.raises(ConfigError, match="is not TASK=NUMBER"):
        tiny.make(task_weights=("tagging=much",))
    with pytest.raises(ConfigError, match="align_steps needs instruct"):
        tiny.make(align_steps=1, instruct=False)


CASES = {
    "plain": tiny.case(AcousticAPT, ALIGNER),
    "episodes": tiny.case(AcousticAPT, ALIGNER, (*tiny.EPISODES, *tiny.RECORDS[:4])),
    "two_stages": tiny.case(AcousticAPT, ALIGNER + ALIGNMENT, align_steps=3, align_lr=0.01),
    "dropout": tiny.case(AcousticAPT, ALIGNER, dropout=0.3),
    "episodes_dropout": tiny.case(AcousticAPT, ALIGNER, (*tiny.EPISODES, *tiny.RECORDS[:4]), dropout=0.3),
    "no_instruction": tiny.case(AcousticAPT, BLIND, instruct=False),
    "tuned_encoder": tiny.case(AcousticAPT, ALIGNER + ENCODER, tune_encoder=True),
    "projector": tiny.case(Projector, A * D + D + 2 * A + D, positions=2),
}
SLOW = ("episodes_dropout", "no_instruction", "tuned_encoder")
IDLE = {
    # Norm and head of the encoder belong to the checkpoint; prompts read neither.
    "tuned_encoder": ("claimed.norm*", "claimed.head*"),
    # The text part of the last layer is read by nobody in stage 2: only queries are.
    "plain": ("aligner.qformer.layers.3.text*",),
    "episodes": ("aligner.qformer.layers.3.text*",),
    "dropout": ("aligner.qformer.layers.3.text*",),
    "episodes_dropout": ("aligner.qformer.layers.3.text*",),
}


def conformance():
    found = []
    for name, one in CASES.items():
        one = replace(one, idle=IDLE.get(name, ()) + (IDLE["plain"] if name == "tuned_encoder" else ()))
        for check, run in {**CHECKS, **SLOW_CHECKS}.items():
            late = name in SLOW or check in SLOW_CHECKS or (check == "reload" and name != "plain")
            found.append(pytest.param(one, run, id=f"{name}-{check}", marks=[pytest.mark.slow] if late else []))
    return found


@pytest.mark.parametrize(("one", "check"), conformance())
def test_conformance(one, check, tmp_path):
    check(one, tmp_path)
