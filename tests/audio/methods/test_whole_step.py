"""A whole step of APT's first stage against a loop written by hand: the three losses, their gradients, what the log says.

The Q-former is pt's own (it has tests of its own) and is called row by row without padding; everything between is written out here.
"""

from __future__ import annotations

from typing import Any

import torch
from pt_audio.qformer.alignment import negatives
from pt_core.randomness import keyed, sampled_by
from torch import Tensor
from torch.nn import functional as F

from tests.audio import tiny
from tests.audio.tiny import close
from tests.stepping import Stepping, gradients_of, same_gradients

SMOOTH = 0.1


def smoothed(logits: Tensor, right: int) -> Tensor:
    """Cross-entropy of one row against 0.9 on the right class and 0.1 spread over all."""
    log = logits.log_softmax(0)
    return -((1 - SMOOTH) * log[right] + SMOOTH * log.mean())


def by_hand(method: Any, vectors: Tensor, captions: list[tuple[int, ...]], keys: Tensor) -> dict[str, Tensor]:
    aligner, heads, count = method.aligner, method.alignment, len(vectors)
    former, audio = aligner.qformer, F.layer_norm(vectors, (16,), aligner.ln_audio.weight, aligner.ln_audio.bias)
    seen = [former(aligner.queries, audio=audio[n][None]) for n in range(count)]
    ids = [torch.tensor([caption]) for caption in captions]
    said = [former(None, one, torch.ones_like(one)).text[0, 0] for one in ids]
    z = [F.normalize(heads.audio_proj(one.queries[0]), dim=-1) for one in seen]
    w = [F.normalize(heads.text_proj(one), dim=-1) for one in said]
    rows = [torch.stack([torch.stack([q @ w[j] for q in z[i]]).max() for j in range(count)]) for i in range(count)]
    similarity = torch.stack(rows) / heads.temperature
    one_way = [smoothed(similarity[i], i) for i in range(count)]
    other_way = [smoothed(similarity[:, i], i) for i in range(count)]
    found = {"atc": sum(one_way) / count / 2 + sum(other_way) / count / 2}
    with sampled_by(keys):
        audio_of, text_of = negatives(similarity.detach())
    pairs = [(n, n, 1) for n in range(count)] + [(int(audio_of[n]), n, 0) for n in range(count)]
    pairs += [(n, int(text_of[n]), 0) for n in range(count)]
    assert all((a == t) == bool(right) for a, t, right in pairs)
    matched = []
    for a, t, right in pairs:
        joint = former(aligner.queries, ids[t], torch.ones_like(ids[t]), audio[a][None]).queries[0]
        logits = torch.stack([heads.matching(query) for query in joint]).mean(0)
        matched.append(-logits.log_softmax(0)[right])
    found["atm"] = sum(matched) / len(matched)
    words = []
    for n, caption in enumerate(captions):
        read = torch.tensor([[former.sizes.vocabulary - 1, *caption[1:-1]]])  # [DEC] instead of [CLS]
        hidden = former(None, read, torch.ones_like(read), past=seen[n].past, causal=True).text[0]
        hidden = heads.norm(F.gelu(heads.transform(hidden)))
        logits = hidden @ former.word.weight.T + heads.word_bias
        words += [smoothed(logits[place], token) for place, token in enumerate(caption[1:])]
    found["lm"] = sum(words) / len(words)
    return found


def test_a_step_of_the_first_stage() -> None:
    method = tiny.tuned(align_steps=3)
    batch = keyed(tiny.batch(rows=(1, 0, 3, 4)), 0, "sample")
    with torch.no_grad():
        segments = method.vectors(batch.inputs)
    first, place = [], 0  # the first segment of every clip
    for row in batch.inputs.rows:
        place = row.elements[0].segments[0]
        first.append(place)
    assert len(set(first)) == 4
    losses = by_hand(method, segments[first], [tuple(row.caption) for row in batch.inputs.rows], batch.keys)
    total = losses["atc"] + losses["atm"] + losses["lm"]
    want = gradients_of(method, total)
    assert not any("llm_proj" in name or "indicator" in name for name in want)
    ctx = Stepping(method, [{"train": batch}])
    logs = method.align_step(ctx, {"train": batch})
    assert set(logs) == {"loss", "atc", "atm", "lm"}
    for name, value in {**losses, "loss": total}.items():
        close(torch.as_tensor(logs[name]), value, 1e-4)
    ((_, taken),) = ctx.updates
    same_gradients(taken, want, 1e-4)


def test_one_pair_has_no_negative() -> None:
    method = tiny.tuned(align_steps=3)
    batch = keyed(tiny.batch(rows=(0,)), 0, "sample")
    ctx = Stepping(method, [{"train": batch}])
    assert method.align_step(ctx, {"train": batch}) == {}
    assert ctx.updates == []
