"""IAPT's generators against a slow loop, masking, bi-level steps, caching, and the number of generator calls while decoding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pt_core import Batch
from pt_core.bridges.answers import IGNORED
from pt_core.errors import ConfigError, DataError
from pt_core.kernels import reference_kernels
from pt_core.testing._support import train
from pt_language.kernels.rational import rational_reference
from pt_language.methods.iapt import IAPT
from pt_language.methods.icl import InContext
from pt_language.tasks.generation import LanguageModelling

from tests.language.common import batch, case, close, make, tiny, unpadded


def strong(**options: Any) -> Any:
    """A method whose prompts matter: larger weights than the initial ones."""
    torch.manual_seed(3)
    method: Any = make(IAPT, bottleneck=6, **options)
    with torch.no_grad():
        for tensor in (method.down, method.query, method.up):
            tensor.copy_(torch.randn_like(tensor) * 0.4)
    return method


def test_the_generator_is_a_slow_loop_over_tokens():
    method = strong()
    hidden = torch.randn(2, 5, 32)
    mask = torch.tensor([[0, 1, 1, 1, 1], [1, 1, 1, 1, 1]])
    have = method.generate_prompt(1, hidden, mask)
    for row in range(2):
        tokens = [hidden[row, t] @ method.down[1] for t in range(5) if mask[row, t]]
        for slot in range(4):
            scores = torch.stack([token @ method.query[1][:, slot] for token in tokens])
            weights = (scores - scores.max()).exp()
            pooled = sum(w * token for w, token in zip(weights / weights.sum(), tokens, strict=True))
            want = rational_reference(pooled, method.numerator[1], method.denominator[1]) @ method.up[1]
            close(have[row, slot], want)


def test_padding_and_the_answer_have_no_influence():
    method = strong()
    prompts: list[torch.Tensor] = []
    plain = method.generate_prompt
    method.generate_prompt = lambda *a: prompts.append(plain(*a)) or prompts[-1]
    one = batch()
    method.training_step(one)
    first, prompts = prompts[:], []
    changed = {**one.extra, "answer": torch.where(one.extra["answer"] == IGNORED, IGNORED, one.extra["answer"] + 7)}
    ids = torch.where(one.inputs["mask"] == 1, one.inputs["ids"], 99)
    method.generate_prompt = lambda *a: prompts.append(plain(*a)) or prompts[-1]
    method.training_step(Batch({**one.inputs, "ids": ids}, one.target, one.index, one.ids, changed))
    for before, after in zip(first, prompts, strict=True):
        close(after, before, 1e-6)


def test_a_ragged_batch_equals_its_rows():
    method, one = strong().eval(), batch()
    with torch.no_grad(), reference_kernels():
        whole = method.backbone.prefill(one.inputs, method.edits(one)).extra["logits"]
        for row in range(len(one)):
            inputs = unpadded(one, row)
            alone = Batch(inputs, None, torch.arange(1), ["x"])
            close(whole[row], method.backbone.prefill(inputs, method.edits(alone)).extra["logits"][0])


@pytest.mark.parametrize("beams", [1, 3])
def test_decoding_with_a_cache_equals_full_recomputation_and_runs_the_generators_once(beams):
    method, one = strong().eval(), batch(chosen=(0, 1, 5))
    counts = []
    with torch.no_grad():
        for new in (1, 4, 9):
            method._known.clear()
            method.calls = 0
            tokens = method.generate(one, new, {"num_beams": beams, "do_sample": False, "eos_token_id": None})
            counts.append(method.calls)
        assert counts == [2, 2, 2], "once per layer, however many tokens are written"
        if beams > 1:
            return
        for row in range(3):
            inputs = unpadded(one, row)
            for place in range(9):
                target = tokens[row : row + 1, : place + 1]
                alone = Batch(inputs, None, torch.arange(1), ["x"], {"answer": target})
                logits = method.target_logits(alone)[0, -1]
                assert int(logits.argmax()) == int(tokens[row, place])


def test_known_instructions_reuse_their_prompts():
    method, one = strong().eval(), batch()
    with torch.no_grad():
        first = method.choice_scores(one, method.task.choices)
        calls = method.calls
        again = method.choice_scores(one, method.task.choices)
        assert method.calls == calls
        close(again, first)
        method.up.mul_(2.0)
        method.choice_scores(one, method.task.choices)
        assert method.calls > calls, "changed weights make new prompts"


@pytest.mark.parametrize(
    ("stream", "moves"), [("train", ("down", "query", "up")), ("val", ("numerator", "denominator"))]
)
def test_training_batches_move_the_generators_and_validation_batches_the_activations(stream, moves, tmp_path):
    one = case(IAPT, 0, bottleneck=6, activation_lr=0.1)
    method: Any = one.make()
    before = {name: tensor.detach().clone() for name, tensor in method.named_parameters()}
    updates: list[tuple[str, list[str]]] = []

    class Context:
        def gradients(self, loss: Any, name: str) -> dict[str, torch.Tensor]:
            value, _ = loss({"train": batch(), "val": batch(chosen=(5, 6))})
            value.backward()
            found = {n: p.grad for n, p in method.named_parameters() if p.grad is not None}
            method.zero_grad(set_to_none=True)
            return found

        def apply(self, gradients: dict[str, torch.Tensor], name: str) -> None:
            updates.append((name, list(gradients)))

    method.bilevel_step(Context())
    number = 0 if stream == "train" else 1
    assert updates[number][0] == ("generator" if stream == "train" else "activation")
    assert sorted(updates[number][1]) == sorted(moves)
    assert before.keys() == dict(method.named_parameters()).keys()


def test_bilevel_training_changes_both_sets(tmp_path):
    one = case(IAPT, 0, bottleneck=6, activation_lr=0.1)
    start = one.make()
    method = train(one, tmp_path / "run", one.make())
    for name, tensor in method.named_parameters():
        assert not torch.equal(tensor, dict(start.named_parameters())[name]) or name in ("query", "down", "up")
    assert not torch.equal(method.numerator, start.numerator)


def test_no_slots_are_the_frozen_model():
    with torch.no_grad():
        close(make(IAPT, prompt_length=0, bottleneck=4)(batch()), make(InContext, examples=0)(batch()))


def test_a_closed_bottleneck_makes_the_prompt_constant():
    method = strong()
    with torch.no_grad():
        method.down.zero_()
        prompts = method.generate_prompt(0, torch.randn(3, 4, 32), torch.ones(3, 4))
        want = method.numerator[0, 0] * method.up[0].sum(0)
    close(prompts, want.expand_as(prompts))


@pytest.mark.parametrize(("share", "groups"), [(1, 2), (2, 1), (5, 1)])
def test_counts_with_shared_generators(share, groups):
    method = make(IAPT, bottleneck=6, share_every=share)
    assert method.parameter_count() == groups * (2 * 32 * 6 + 6 * 4) + 12 * 2


def test_the_count_of_llama_2_7b():
    depth, dim, width, slots = 32, 4096, 320, 4
    assert depth * (2 * dim * width + width * slots + 12) == 83_927_424


def test_gradient_reaches_the_first_generator():
    method = strong()
    method.training_step(batch()).loss.backward()
    assert float(method.down.grad[0].abs().max()) > 0


def test_rows_without_an_instruction_and_running_text_are_refused():
    method, one = strong(), batch()
    empty = one.inputs["mask"].clone()
    empty[1] = 0
    with pytest.raises(DataError, match=r"row 'row-0-1' \(number 1 of the batch\) has no instruction token"):
        method.edits(Batch({**one.inputs, "mask": empty}, None, one.index, one.ids))
    with pytest.raises(ConfigError, match="running text has none"):
        IAPT(method.config, {"backbone": tiny("llama")}, LanguageModelling("{text}"))
    with pytest.raises(ConfigError, match="bilevel=true.*--data val=PATH or --bilevel false"):
        method.adopt({"train": object()})  # type: ignore[dict-item]
