"""What methods keep between calls and where their values start: caches that follow the tensors, first values, ranks, lengths."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pt_core.errors import UserError
from pt_language.methods.cpt import CPT
from pt_language.methods.iapt import IAPT
from pt_language.methods.icl import InContext
from pt_language.methods.lora import LoRA
from pt_language.methods.p_tuning import PTuning
from pt_language.methods.prefix import Prefix
from pt_language.methods.prompt_tuning import PromptTuning

from tests.language.common import batch, close, make


def counted(method: Any) -> list[int]:
    """The lengths of what runs through the network in front of something."""
    runs, plain = [], method.backbone.run_prefix
    method.backbone.run_prefix = lambda embeds, *a, **k: runs.append(embeds.shape[1]) or plain(embeds, *a, **k)
    return runs


@pytest.mark.parametrize("cls", [CPT, InContext])
def test_the_context_runs_once_until_it_changes(cls: Any) -> None:
    method, one = make(cls, adopt=3).eval(), batch()
    runs, contexts = counted(method), []

    def call() -> torch.Tensor:
        before = len(runs)
        found = method(one)
        contexts.append(sum(length == len(method.ids if cls is CPT else method.context) for length in runs[before:]))
        return found

    with torch.no_grad():
        first = call()
        assert torch.equal(call(), first)
        if cls is CPT:
            method.delta.add_(0.5)
        else:
            method.context.copy_(method.context.flip(0))
        changed = call()
        assert not torch.allclose(changed, first)
        call()
        assert contexts == [1, 0, 1, 0]
        if cls is CPT:
            fresh = make(CPT, adopt=3).eval()
            fresh.delta.copy_(method.delta)
            close(changed, fresh(one))
            method.set_context(method.ids, method.codes)
            close(method(one), first)


def test_a_label_without_a_token_before_it_is_not_predicted() -> None:
    method: Any = make(CPT, adopt=3)
    method.set_context(torch.tensor([20, 21, 22, 23]), torch.tensor([4, 4, 6, 8]))
    assert method.labelled.tolist() == [False, True, False, True]


def test_examples_of_the_context_are_not_measured_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """All examples together fit the window; every one of them behind all of them does not."""
    seen: list[list[str]] = []
    plain = PromptTuning.__mro__[1].adopt
    monkeypatch.setattr(
        "pt_language.method.LanguageMethod.adopt", lambda self, found: seen.append(list(found)) or plain(self, found)
    )
    make(InContext, examples=3)
    make(InContext, examples=0)
    assert seen == [["val"], ["train", "val"]]
    assert make(InContext, examples=3).has_class_tensors()
    assert not make(InContext, examples=0).has_class_tensors()
    with pytest.raises(UserError, match="exceed the context window"):
        make(InContext, adopt=15)


def test_first_values() -> None:
    torch.manual_seed(0)
    method = make(IAPT, bottleneck=40)
    for tensor in (method.down, method.query, method.up):
        assert float(tensor.detach().std()) == pytest.approx(0.02, rel=0.15)
        assert abs(float(tensor.detach().mean())) < 0.005
    prefix = make(Prefix, prompt_length=30, init="normal", init_std=0.3).prompt.detach()
    assert float(prefix.std()) == pytest.approx(0.3, rel=0.1)
    assert float(make(PTuning, prompt_length=30).tokens.detach().std()) == pytest.approx(1.0, rel=0.1)


@pytest.mark.parametrize(("cls", "name", "axis"), [(PromptTuning, "prompt", 0), (IAPT, "query", 2)])
def test_a_longer_prompt_repeats_the_shorter_one(cls: Any, name: str, axis: int) -> None:
    few, more = make(cls, prompt_length=2), make(cls, prompt_length=5)
    tensor = dict(few.named_parameters())[name].detach()
    found = more.resized(name, tensor, dict(more.named_parameters())[name].shape)
    assert torch.equal(found, tensor.index_select(axis, torch.tensor([0, 1, 0, 1, 0])))
    assert more.resized("up", tensor, tensor.shape) is None


def test_ranks_keep_the_product() -> None:
    """The same rank keeps A and B; a higher one is the nearest matrix of this rank, a lower one the same function."""
    one = make(LoRA, rank=2)
    rng = torch.Generator().manual_seed(0)
    names = list(one.own_tensors())
    downs = [name for name in names if "lora_A" in name]
    assert len(downs) > 1
    for rank in (1, 2, 4):
        tensors = {}
        for name in downs:
            other = name.replace("lora_A", "lora_B")
            shapes = one.own_tensors()[name].shape, one.own_tensors()[other].shape
            tensors[name] = torch.randn(rank, shapes[0][1], generator=rng)
            tensors[other] = torch.randn(shapes[1][0], rank, generator=rng)
        tensors["updates.alone_lora_A"] = torch.zeros(1)  # without its B: left as it is
        found = one._fitted({**tensors}, 3.0)
        for name in downs:
            other = name.replace("lora_A", "lora_B")
            whole = 3.0 * tensors[other] @ tensors[name]
            u, s, v = torch.linalg.svd(whole, full_matrices=False)
            close(found[other] @ found[name], (u[:, :2] * s[:2]) @ v[:2], 1e-4)
            assert found[name].shape[0] == found[other].shape[1] == 2
            if rank == 2:
                assert torch.equal(found[name], tensors[name])
                assert torch.equal(found[other], 3.0 * tensors[other])
    first = {"updates.alone_lora_A": torch.zeros(1), **tensors}
    assert {name: t.shape for name, t in one._fitted(first, 1.0).items() if name in downs} == {
        name: one.own_tensors()[name].shape for name in downs
    }


@pytest.mark.parametrize("cls", [PromptTuning, PTuning])
def test_a_bank_stacks_prompts_of_one_length(cls: Any) -> None:
    three = [make(cls, prompt_length=3) for _ in range(2)]
    bank = cls.bank(three)
    assert torch.equal(bank["input"].tokens, torch.stack([one.prompt_rows() for one in three]))
    assert cls.bank([*three, make(cls, prompt_length=4)]) is None
