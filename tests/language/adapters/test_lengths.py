"""Rows of different lengths in one batch get what they get alone, also from networks to which padding matters: every method, every task."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pt_core import Batch
from pt_core.data import take
from pt_core.errors import UserError
from pt_core.randomness import keyed, sampled_by
from pt_language.adapters.lengths import by_length, unpadded
from pt_language.backbones import adapt
from pt_language.methods.cpt import CPT
from pt_language.methods.iapt import IAPT
from pt_language.methods.icl import InContext
from pt_language.methods.lora import LoRA
from pt_language.methods.p_tuning import PTuning
from pt_language.methods.prefix import Prefix
from pt_language.methods.prompt_tuning import PromptTuning
from pt_language.tasks.generation import Generation
from torch import Tensor

from tests.language.adapters.families import build
from tests.language.common import TEMPLATE, close, rows, task, tokenizer, with_labels

NETWORKS = ("mpt", "bart", "qwen3_next")
METHODS: dict[str, tuple[Any, dict[str, Any]]] = {
    "prompt_tuning": (PromptTuning, {"prompt_length": 4}),
    "p_tuning": (PTuning, {"prompt_length": 3}),
    "prefix": (Prefix, {"prompt_length": 3, "init_std": 0.5}),
    "prefix_dropout": (Prefix, {"prompt_length": 3, "init_std": 0.5, "dropout": 0.4}),
    "iapt": (IAPT, {"prompt_length": 2, "bottleneck": 4}),
    "cpt": (CPT, {"examples": 3}),
    "icl": (InContext, {"examples": 3}),
    "lora": (LoRA, {"rank": 2, "dropout": 0.3}),
}


def network(family: str) -> Any:
    return adapt(build(family, gain=2.0, vocab_size=300, **longer(family)), tokenizer(), f"tiny:{family}")


def longer(family: str) -> dict[str, int]:
    return {"mpt": {"max_seq_len": 256}}.get(family, {"max_position_embeddings": 256})


def made(name: str, family: str, what: Any = None) -> tuple[Any, Batch]:
    """A method with values of its own and a ragged batch in training form."""
    cls, options = METHODS[name]
    if name == "lora":
        names = {"mpt": "Wqkv", "qwen3_next": "o_proj"}
        options = {**options, "targets": (names.get(family, "v_proj"),)}
    backbone, what = network(family), what or task()
    torch.manual_seed(3)
    method = cls(cls.Config(**options), {"backbone": backbone}, what)
    data = {
        role: part.bind(backbone, what) for role, part in with_labels({"train": rows(15), "val": rows(6, 2)}).items()
    }
    method.adopt(data)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    part = data["train"]
    whole = part.collate([0, 1, 2, 3], [part.sample(i, epoch=None, seed=0) for i in range(4)])
    assert len(set(whole.inputs["mask"].sum(1).tolist())) > 2, "a ragged batch"
    return method, keyed(whole, "test")


def single(batch: Batch, row: int) -> Batch:
    part = take(batch, [row])
    return unpadded(part, int(part.inputs["mask"].sum()))


def gradients(method: Any) -> Tensor:
    found = torch.cat([p.grad.flatten() for p in method.parameters() if p.grad is not None])
    method.zero_grad(set_to_none=True)
    return found


def stepped(method: Any, batch: Batch) -> tuple[Tensor, int]:
    with sampled_by(batch.keys):
        output = method.training_step(batch)
    return output.loss, output.count


@pytest.mark.parametrize("family", NETWORKS)
@pytest.mark.parametrize("name", [name for name in METHODS if name != "icl"])
def test_a_training_step_on_a_ragged_batch_is_that_of_its_rows(name, family):
    if family == "qwen3_next" and name.startswith("prefix"):
        with pytest.raises(
            UserError, match="does not keep keys and values alone, as a prefix is made of: use prompt_tuning"
        ):
            made(name, family)
        return
    method, batch = made(name, family)
    method.train()
    loss, count = stepped(method, batch)
    (loss * count).backward()
    have = gradients(method)
    total, number = torch.zeros(()), 0
    for row in range(len(batch)):
        part, units = stepped(method, single(batch, row))
        (part * units).backward()
        total, number = total + part.detach() * units, number + units
    want = gradients(method)
    assert number == count
    close(loss * count, total, 2e-5)
    close(have, want, 1e-4)


@pytest.mark.parametrize("family", NETWORKS)
@pytest.mark.parametrize("name", ["prompt_tuning", "iapt", "cpt", "icl"])
@torch.no_grad()
def test_classes_and_written_answers_are_those_of_the_rows(name, family):
    method, batch = made(name, family)
    method.eval()
    have = method.choice_scores(batch, method.text_task.choices)
    writes, wbatch = made(name, family, Generation(TEMPLATE, 5))
    tokens = writes.eval().generate(wbatch, 5, {"do_sample": False, "num_beams": 2, "eos_token_id": None})
    assert tokens.shape == (4, 5)
    for row in range(len(batch)):
        close(have[row], method.choice_scores(single(batch, row), method.text_task.choices)[0], 2e-5)
        alone = writes.generate(single(wbatch, row), 5, {"do_sample": False, "num_beams": 2, "eos_token_id": None})
        assert alone[0].tolist() == tokens[row].tolist()


@pytest.mark.parametrize("family", NETWORKS)
@torch.no_grad()
def test_a_head_and_mixed_prompts(family):
    method, batch = made("prompt_tuning", family, task("head"))
    have = method.eval().head_logits(batch)
    for row in range(len(batch)):
        close(have[row], method.head_logits(single(batch, row))[0], 2e-5)
    first, batch = made("prompt_tuning", family, task(words=("c", "h", "w")))
    second = type(first)(first.config, {"backbone": first.backbone}, first.task)
    run = PromptTuning.mixed([first.eval(), second.eval()])
    assert run is not None
    found = run(batch, torch.tensor([0, 1, 0, 1]))
    for row, method in enumerate((first, second, first, second)):
        alone = method.predict_step(single(batch, row), lambda purpose: torch.Generator())
        close(found[row]["logits"], alone["logits"], 2e-5)


def test_results_come_back_in_the_order_of_the_batch_with_their_copies():
    class Apart:
        def runs_apart(self, mask: Tensor, places: int) -> bool:
            return True

    ids = torch.tensor([[0, 0, 7], [1, 2, 3], [0, 0, 9], [0, 4, 5]])
    batch = Batch({"ids": ids, "mask": (ids > 0).long()}, None, torch.arange(4), list("abcd"))
    seen = []

    def twice(part: Batch) -> Tensor:
        seen.append(part.inputs["ids"].tolist())
        return part.inputs["ids"].repeat_interleave(2, 0)

    have = by_length(Apart(), batch, 0, twice, -1)  # type: ignore[arg-type]
    assert seen == [[[7], [9]], [[4, 5]], [[1, 2, 3]]]
    assert have[::2].tolist() == have[1::2].tolist() == [[7, -1, -1], [1, 2, 3], [9, -1, -1], [4, 5, -1]]


def test_padding_is_looked_at_once_and_only_for_ragged_batches():
    method, batch = made("prompt_tuning", "llama")
    method.eval().target_logits(single(batch, 0))
    assert "padding" not in method.backbone.seen
    method.target_logits(batch)
    assert method.backbone.seen["padding"]
    calls = []
    method.backbone._ignores_padding = lambda network: calls.append(1)
    method.target_logits(batch)
    assert not calls
