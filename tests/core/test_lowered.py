"""What is kept between calls is computed again when a tensor behind it may have changed, however it was changed."""

import copy

import pytest
import torch
from pt_core import Insert, LoweredEdits
from pt_core.lowered import Watch
from pt_core.testing.tiny import TinyBackbone
from torch import nn


def test_lowered_edits_are_computed_again_only_when_a_tensor_changed():
    class Counting(TinyBackbone):
        lowered = 0

        def lower(self, edits):
            self.lowered += 1
            return edits

    backbone, prompt, kept = Counting(), nn.Parameter(torch.ones(2, 8)), LoweredEdits()

    def get():
        return kept.get(backbone, [prompt], lambda: {"tokens[0]": Insert(prompt.detach().clone())})

    assert get() is get()
    assert backbone.lowered == 1
    with torch.no_grad():
        prompt.add_(1)
    assert get()["tokens[0]"].tokens[0, 0] == 2
    backbone.to("cpu", torch.bfloat16)
    get()
    assert backbone.lowered == 3


def step(prompt, **options):
    optimiser = torch.optim.AdamW([prompt], lr=0.1, **options)
    prompt.sum().backward()
    optimiser.step()
    optimiser.zero_grad()


def through_data(prompt):
    prompt.sum().backward()
    prompt.data.sub_(prompt.grad)
    prompt.grad = None


WAYS = {
    "fused": lambda prompt: step(prompt, fused=True),
    "foreach": lambda prompt: step(prompt, foreach=True),
    "data": through_data,
}


@pytest.mark.parametrize("way", WAYS)
def test_no_step_of_an_optimiser_goes_unseen(way):
    backbone, prompt, kept = TinyBackbone(), nn.Parameter(torch.ones(2, 8)), LoweredEdits()

    def get():
        return kept.get(backbone, [prompt], lambda: {"tokens[0]": Insert(prompt.detach().clone())})["tokens[0]"].tokens

    for _ in range(3):
        get()
        WAYS[way](prompt)
        torch.testing.assert_close(get(), prompt.detach())
        assert get() is get()
    prompt.sum().backward()  # and one that is looked at while its gradient waits
    before = get()
    prompt.data.sub_(1)
    torch.testing.assert_close(get(), before - 1)


def test_copies_watch_for_themselves():
    prompt, watch = nn.Parameter(torch.ones(2)), Watch()
    assert not watch.same([prompt], "state")
    assert watch.same([prompt], "state")
    assert not copy.deepcopy(watch).same([prompt], "state")
    assert not watch.same([prompt], "other")
    assert not watch.same([prompt, torch.ones(1)], "other")
