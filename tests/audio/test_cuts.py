"""The promise of --accumulate, kept by the package's own `fit` with default options (dropout 0.1); draws of the Q-former by record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pt_audio
import pytest
import torch
from pt_audio.methods.acoustic_apt import AcousticAPT
from pt_audio.qformer.alignment import negatives
from pt_audio.qformer.layers import attend
from pt_core.artifact import read_artifact
from pt_core.data import take
from pt_core.randomness import keyed, row_keys, sampled_by
from torch import Tensor
from torch.nn import functional as F

from tests.audio import tiny
from tests.audio.tiny import close

RUN: dict[str, Any] = {
    "data": "builtin:sounds",
    "limit": 12,
    "steps": 3,
    "batch_size": 9,
    "eval_every": 100,
    "max_new_tokens": 1,
    "beams": 1,
    "device": "cpu",
    "quiet": True,
}


def tuned(folder: Path, method: str, **options: Any) -> Mapping[str, Tensor]:
    return read_artifact(pt_audio.fit(method, out=folder, **{**RUN, **options}).path).tensors


def distances(have: Mapping[str, Tensor], want: Mapping[str, Tensor]) -> tuple[float, float]:
    """Relative difference of all tensors as one vector, and the largest of a single tensor. What is added to all keys changes no attention
    weight: its gradient is rounding, of which Adam makes full steps."""
    names = [name for name in want if not name.endswith("key.bias")]
    one, other = (torch.cat([tensors[name].flatten() for name in names]) for tensors in (have, want))
    single = max(float((have[name] - want[name]).norm() / want[name].norm()) for name in names)
    return float((one - other).norm() / other.norm()), single


@pytest.mark.parametrize("method", ["acoustic_apt", pytest.param("projector", marks=pytest.mark.slow)])
def test_micro_batches_of_a_default_run_change_nothing(method: str, tmp_path: Path) -> None:
    whole = tuned(tmp_path / "whole", method)
    for parts in (2, 3):
        together, single = distances(tuned(tmp_path / f"cut-{parts}", method, accumulate=parts), whole)
        assert together < 1e-5
        assert single < 1e-4  # Adam divides rounding by gradients that are nearly 0
    if method == "acoustic_apt":
        assert distances(tuned(tmp_path / "without", method, dropout=0.0), whole)[1] > 1e-3


def losses(method: AcousticAPT, batch: Any, rows: list[int]) -> Tensor:
    """Of each record, in a training step over these rows."""
    part = take(batch, rows)
    with torch.no_grad():
        logits = method(part)
        return F.cross_entropy(logits.transpose(1, 2), part.target["answer"], reduction="none", ignore_index=-100).sum(
            1
        )


def test_a_records_draws_do_not_depend_on_its_neighbours() -> None:
    """Episodes share clips and instructions: without draws they share prompts, with draws each has its own."""
    records = (*tiny.EPISODES, *tiny.RECORDS)
    method = tiny.tuned(dropout=0.4).train()
    batch = keyed(tiny.batch(records), "step", 0)
    whole = losses(method, batch, list(range(len(records))))
    for rows in ([0], [3, 1], [9, 2, 4, 7]):
        close(losses(method, batch, rows), whole[rows], 2e-5)
    other = keyed(tiny.batch(records), "step", 1)
    assert not torch.allclose(losses(method, other, [0, 1]), whole[:2])
    elements = [element for row in batch.inputs.rows for element in row.elements]
    different = {(element.clip, element.asked) for element in elements}
    assert len(method.blocks(batch.inputs)) == len(different)
    with sampled_by(batch.keys):
        assert len(method.blocks(batch.inputs)) == len(elements) > len(different)
        method.eval()
        assert len(method.blocks(batch.inputs)) == len(different)


def test_dropout_of_attention_weights_is_exact_and_blind_to_padding() -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(3, 2, tokens, 4) for tokens in (5, 7, 7))
    mask = torch.ones(3, 1, 1, 7, dtype=torch.bool)
    mask[1, ..., 5:] = False
    keys = row_keys(torch.arange(3), "step")
    weights = ((q @ k.transpose(2, 3)) / 2).masked_fill(~mask, -torch.inf).softmax(-1)
    identity = torch.eye(7).expand(3, 2, 7, 7)
    with sampled_by(keys):
        kept = attend(q, k, identity, mask, 0.3, "layer")
        drawn = attend(q, k, v, mask, 0.3, "layer")
    zero = kept == 0
    torch.testing.assert_close(kept[~zero], (weights / 0.7)[~zero])
    close(drawn, kept @ v)
    close(attend(q, k, v, mask, 0.0, "layer"), F.scaled_dot_product_attention(q, k, v, attn_mask=mask))
    with sampled_by(keys[1:2]):  # one row alone, with less padding behind its text
        close(attend(q[1:2, :, :3], k[1:2, :, :5], v[1:2, :, :5], None, 0.3, "layer"), drawn[1:2, :, :3])
    with sampled_by(keys):  # three passes of the same rows draw three times
        thrice = attend(*(t.repeat(3, 1, 1, 1) for t in (q, k, v)), mask.repeat(3, 1, 1, 1), 0.3, "layer").view(
            3, 3, 2, 5, 4
        )
    assert not torch.equal(thrice[0], thrice[1])


def test_the_share_of_dropped_weights() -> None:
    q = torch.randn(40, 4, 16, 8)
    with sampled_by(row_keys(torch.arange(40), "step")):
        kept = attend(q, q, torch.eye(16).expand(40, 4, 16, 16), None, 0.25, "layer")
    assert float((kept == 0).float().mean()) == pytest.approx(0.25, abs=0.01)


def test_negatives_are_drawn_by_the_pairs_keys_and_never_are_the_pair() -> None:
    similarity = torch.randn(6, 6) * 3
    counts = torch.zeros(6, 6)
    for step in range(400):
        with sampled_by(row_keys(torch.arange(6), "step", step)):
            audio, text = negatives(similarity)
            again = negatives(similarity)
        assert torch.equal(audio, again[0])
        assert torch.equal(text, again[1])
        assert not (audio == torch.arange(6)).any()
        assert not (text == torch.arange(6)).any()
        counts[torch.arange(6), text] += 1
    weights = (similarity.softmax(1) + 1e-4).fill_diagonal_(0)
    close(counts / 400, weights / weights.sum(1, keepdim=True), 0.12)


def test_a_run_of_stage_1_starts_stage_2() -> None:
    from pt_core.artifact import Artifact
    from pt_core.saving import card_of

    earlier = tiny.make(align_steps=1, queries=2)
    later = tiny.make(queries=3)
    card = card_of(earlier, "pt-audio/acoustic_apt")
    artifact = Artifact(None, card, earlier.export("predict"), earlier.export("train"))  # type: ignore[arg-type]
    assert any(name.startswith("alignment") for name in artifact.training or ())
    later.warm_start("", replace(artifact))
    assert torch.equal(later.aligner.queries, earlier.aligner.queries[:, [0, 1, 0]])
    assert torch.equal(later.aligner.llm_proj.weight, earlier.aligner.llm_proj.weight)
