"""The probe of language models: short texts of unequal length whose scores tell what a model does with equal weights."""

from __future__ import annotations

import torch
from pt_core.bridges.transformers.probe import PROBE, probe_texts, scores


def test_texts_are_of_unequal_length_and_inside_vocabulary_and_limit():
    for vocabulary, limit in ((64, None), (7, 3), (50_000, 1)):
        for left in (True, False):
            found = probe_texts(vocabulary, limit, left)
            tokens = PROBE if limit is None else min(limit, PROBE)
            assert found["ids"].shape == found["mask"].shape == (2, tokens)
            assert int(found["ids"].min()) >= 0
            assert int(found["ids"].max()) < vocabulary
            assert found["mask"][0].all()
            assert int(found["mask"][1].sum()) == tokens - tokens // 3
            assert found["mask"][1, -1 if left else 0] == 1
    assert torch.equal(probe_texts(64)["ids"], probe_texts(64)["ids"])


def test_scores_leave_padding_and_constants_out():
    logits, mask = torch.randn(2, 3, 5), torch.tensor([[1, 1, 1], [0, 1, 1]])
    found = scores(logits, mask)
    assert found.shape == (5, 5)
    changed = logits + 7.0
    changed[1, 0] = 100.0
    torch.testing.assert_close(scores(changed, mask), found, rtol=0, atol=1e-5)
