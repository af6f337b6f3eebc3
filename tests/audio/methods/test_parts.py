"""Judging tags by hand, first values, and longer queries."""

from __future__ import annotations

import pytest
import torch
from pt_audio.methods.acoustic_apt import AcousticAPT
from pt_audio.methods.projector import Projector
from torch.nn import functional as F

from tests.audio import tiny
from tests.audio.tiny import close

NAMES = ("high tone", "low", "mid", "a dog that barks", "rain", "q")
SAID = (
    "a tone",
    "barking dogs outside",
    "x",
    "it rains again and again",
    "zz z",
    "quite a loud noise, i think",
    "drip",
)


@pytest.mark.parametrize("seed", range(3))
def test_an_answer_means_the_name_nearest_to_one_of_its_words(seed: int) -> None:
    method = tiny.tuned(seed=seed)

    def words(text: str) -> torch.Tensor:
        ids = torch.tensor([method.text.tokens(text, 64)])
        return method.aligner.qformer(None, ids, torch.ones_like(ids)).text[0, 1:-1]

    means = [words(name).mean(0) for name in NAMES]
    want = []
    for text in SAID:
        scores = [max(float(F.cosine_similarity(w, mean, dim=0).detach()) for w in words(text)) for mean in means]
        want.append(scores.index(max(scores)))
    assert len(set(want)) > 1, "or the test says nothing"
    have, own = method._embedded(SAID, torch.device("cpu"))
    for row, text in enumerate(SAID):
        close(have[row][own[row].bool()], words(text), 1e-4)
    assert method.tag(SAID, NAMES).tolist() == want
    assert [method.tag([text], NAMES).tolist()[0] for text in SAID] == want
    assert method.tag([SAID[0], "mid", " ", SAID[1]], NAMES).tolist() == [want[0], 2, -1, want[1]]


def test_first_values() -> None:
    torch.manual_seed(0)
    made = [
        tiny.make(cls).indicator if cls is Projector else tiny.make(cls).aligner.indicator
        for cls in (AcousticAPT, Projector)
    ]
    for indicator in made:
        assert 0.01 < float(indicator.detach().std()) < 0.03
        assert abs(float(indicator.detach().mean())) < 0.015


def test_the_projector_by_hand() -> None:
    """Segments of 3 vectors spread over 2 positions: means of vectors 0..1 and 1..2, through the map, behind the clip's indicator."""
    one = tiny.tuned(Projector, positions=2)
    vectors = torch.randn(3, 3, 16, generator=torch.Generator().manual_seed(0))
    blocks = one.make_blocks(vectors, [1, 2], [(), ()])
    assert [len(block) for block in blocks] == [1 + 2, 1 + 4]
    for block, segments in zip(blocks, ([0], [1, 2]), strict=True):
        rows = [one.indicator[0, 0]]
        for n in segments:
            x = F.layer_norm(vectors[n], (16,), one.ln_audio.weight, one.ln_audio.bias)
            rows += [one.llm_proj((x[a] + x[a + 1]) / 2) for a in (0, 1)]
        close(block, torch.stack(rows))


def test_further_queries_start_as_the_first_ones() -> None:
    few, more = tiny.make(queries=2), tiny.make(queries=5)
    tensor, shape = few.aligner.queries.detach(), more.aligner.queries.shape
    found = more.resized("aligner.queries", tensor, shape)
    assert torch.equal(found, tensor[:, [0, 1, 0, 1, 0]])
    assert more.resized("aligner.queries", tensor[..., :3], shape) is None
    assert more.resized("aligner.indicator", tensor, shape) is None
