"""Stage 1: the three losses against slow references."""

from __future__ import annotations

import torch
from pt_audio.qformer.aligner import Aligner
from pt_audio.qformer.alignment import Alignment, contrastive, negatives, similarities
from torch.nn import functional as F

from tests.audio.qformer.test_qformer import SMALL
from tests.audio.tiny import close


def test_the_contrastive_loss_equals_loops() -> None:
    g = torch.Generator().manual_seed(0)
    z = F.normalize(torch.randn(4, 3, 8, generator=g), dim=-1)
    w = F.normalize(torch.randn(4, 8, generator=g), dim=-1)
    have = contrastive(similarities(z, w) / 0.07)
    total = 0.0
    for i in range(4):
        rows = torch.stack([max(z[i, q] @ w[j] for q in range(3)) for j in range(4)]) / 0.07
        columns = torch.stack([max(z[j, q] @ w[i] for q in range(3)) for j in range(4)]) / 0.07
        for scores in (rows, columns):
            target = torch.full((4,), 0.1 / 4)
            target[i] += 0.9
            total -= float((target * scores.log_softmax(0)).sum()) / 8
    close(have, torch.tensor(total))


def test_negatives_are_never_the_pair_itself_and_follow_the_similarity() -> None:
    similarity = torch.tensor([[9.0, 8.0, 0.0], [0.0, 9.0, 0.0], [0.0, 8.0, 9.0]])
    g = torch.Generator().manual_seed(0)
    audio_of, text_of = zip(*(negatives(similarity, g) for _ in range(200)), strict=True)
    audio, text = torch.stack(audio_of), torch.stack(text_of)
    diagonal = torch.arange(3)
    assert not bool((audio == diagonal).any())
    assert not bool((text == diagonal).any())
    assert (text[:, 0] == 1).float().mean() > 0.9  # audio 0 is most like text 1
    assert set(text[:, 1].tolist()) == {0, 2}  # equal ones are drawn alike
    assert set(audio[:, 1].tolist()) == {0, 2}


def test_all_three_losses_reach_queries_and_text() -> None:
    torch.manual_seed(0)
    aligner, heads = Aligner(SMALL, 3, 8).eval(), Alignment(16, 40)
    vectors = torch.randn(4, 5, 12)
    captions = [(1, 5, 9, 2), (1, 7, 2), (1, 5, 6, 8, 2), (1, 3, 2)]
    losses = heads.losses(aligner, vectors, captions)
    assert list(losses) == ["atc", "atm", "lm"]
    for name, loss in losses.items():
        grads = torch.autograd.grad(
            loss, [aligner.queries, aligner.qformer.word.weight], retain_graph=True, allow_unused=True
        )
        for gradient in grads:
            assert gradient is not None, name
            assert float(gradient.abs().max()) > 0, name
    projection = torch.autograd.grad(
        sum(losses.values()),
        list(aligner.llm_proj.parameters()),
        allow_unused=True,  # type: ignore[arg-type]
    )
    assert projection == (None, None)  # the language model takes no part


def test_the_caption_loss_shifts_by_one_and_starts_with_dec() -> None:
    torch.manual_seed(1)
    aligner, heads = Aligner(SMALL, 3, 8).eval(), Alignment(16, 40)
    vectors, ids = torch.randn(2, 5, 12), torch.tensor([[1, 5, 9, 2], [1, 7, 2, 0]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    past = aligner.qformer(aligner.queries.expand(2, -1, -1), audio=aligner.ln_audio(vectors)).past
    have = heads.caption_loss(aligner, past, ids, mask)
    total, count = 0.0, 0
    for row in range(2):
        line = ids[row][mask[row].bool()].tolist()
        for place in range(1, len(line)):
            read = torch.tensor([[39, *line[1:place]]])
            own = [(k[row : row + 1], v[row : row + 1]) for k, v in past]
            hidden = aligner.qformer(None, read, torch.ones_like(read), past=own, causal=True).text[:, -1]
            hidden = heads.norm(F.gelu(heads.transform(hidden)))
            logits = hidden @ aligner.qformer.word.weight.T + heads.word_bias
            total += F.cross_entropy(logits, torch.tensor([line[place]]), label_smoothing=0.1).item()
            count += 1
    close(have, torch.tensor(total / count))
