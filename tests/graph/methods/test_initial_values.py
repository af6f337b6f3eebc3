"""Where prompts start: inside of the published bounds, and all over them; a longer prompt keeps what an earlier one learned."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from pt_graph.methods.all_in_one import AllInOne
from pt_graph.methods.full import FullFineTuning
from pt_graph.methods.gpf import GPF
from pt_graph.methods.gpf_plus import GPFPlus
from pt_graph.methods.graph_prompt import GraphPrompt
from pt_graph.methods.supt import SUPT
from torch import Tensor

from tests.graph.methods.common import DIM, make

WIDE = 5


def fills(values: Tensor, bound: float) -> None:
    """Uniform in +-bound: within it, near both ends, with its deviation."""
    assert float(values.abs().max()) <= bound
    assert float(values.max()) > 0.95 * bound
    assert float(values.min()) < -0.95 * bound
    assert float(values.std()) == pytest.approx(bound / math.sqrt(3), rel=0.1)


def many(cls: Any, name: str, count: int = 60, **options: Any) -> Tensor:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = [make(cls, "shapes", **options) for _ in range(count)]
    return torch.stack([dict(one.named_parameters())[name].detach() for one in made])


def test_prompts_of_graphs_start_in_xaviers_bounds() -> None:
    fills(many(GPF, "prompt"), math.sqrt(6 / (1 + WIDE)))
    fills(many(GPFPlus, "prompt", bases=4), math.sqrt(6 / (4 + WIDE)))
    fills(many(SUPT, "prompt", bases=4), math.sqrt(6 / (4 + WIDE)))
    fills(many(SUPT, "score.weight", bases=4), math.sqrt(6 / (4 + WIDE)))
    assert not many(SUPT, "bias", 1).any()
    fills(many(GraphPrompt, "prompt"), math.sqrt(6 / (1 + DIM)))
    fills(many(AllInOne, "tokens", tokens=4), math.sqrt(6 / (1 + 0.01**2) / WIDE))
    fills(many(AllInOne, "tokens", 20, mode="light", tokens=4), math.sqrt(6 / (1 + 0.01**2) / WIDE))


def test_numbers_of_vectors_and_tokens() -> None:
    assert make(SUPT, "shapes").prompt.shape == (10, WIDE)
    assert make(SUPT, "shapes", variant="hard").prompt.shape == (5, WIDE)
    assert make(AllInOne, "shapes").tokens.shape == (1, 10, WIDE)
    assert make(AllInOne, "shapes", mode="light").tokens.shape == (3, 100, WIDE)
    assert (make(AllInOne, "shapes").inner, make(AllInOne, "shapes", mode="light").inner) == (0.3, 0.01)
    assert make(AllInOne, "shapes", inner_prune=0.0).inner == 0.0


@pytest.mark.parametrize(
    ("cls", "options", "names"),
    [
        (GPFPlus, "bases", {"prompt": 0, "attention.weight": 0, "attention.bias": 0}),
        (SUPT, "bases", {"prompt": 0, "score.weight": 0, "bias": 0}),
        (AllInOne, "tokens", {"tokens": 1}),
    ],
)
def test_a_longer_prompt_keeps_what_the_shorter_one_learned(cls: Any, options: str, names: dict[str, int]) -> None:
    few, more = make(cls, "shapes", **{options: 3}), make(cls, "shapes", **{options: 5})
    for name, axis in names.items():
        own = dict(more.named_parameters())[name].detach()
        found = more.resized(name, dict(few.named_parameters())[name].detach(), own.shape)
        assert torch.equal(found.narrow(axis, 0, 3), dict(few.named_parameters())[name])
        assert torch.equal(found.narrow(axis, 3, 2), own.narrow(axis, 3, 2))
    assert more.resized("head.0.weight", torch.zeros(3, 2), torch.Size((3, DIM))) is None


def test_everything_of_the_network_is_tuned_with_its_statistics() -> None:
    method = make(FullFineTuning, "molecules")
    names = {name for name, _ in method.claimed.named_parameters()}
    assert len(names) == len(list(method.backbone.module.parameters()))
    assert {n.replace("/", ".") for n, _ in method.claimed.named_buffers()} == {
        n for n, _ in method.backbone.module.named_buffers()
    }
