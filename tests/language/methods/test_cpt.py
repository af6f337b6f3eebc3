"""CPT does what its paper and the released code say: codes, balls, weights, gradients, and PEFT's training step by step."""

from __future__ import annotations

import copy
from typing import Any

import peft
import pytest
import torch
from pt_core.errors import ConfigError, DataError, UserError
from pt_core.kernels import reference_kernels
from pt_core.testing._support import train
from pt_language.context import build_context, check_codes, choose
from pt_language.data.templates import Tokens
from pt_language.data.tokens import TextSample
from pt_language.methods.cpt import CPT
from pt_language.methods.icl import InContext
from pt_language.methods.prompt_tuning import PromptTuning
from torch.nn import functional as F

from tests.language.common import batch, case, close, data, make


def sample(label: int, roles: tuple[int, ...] = (1, 1, 2, 2, 0, 3)) -> TextSample:
    return TextSample(Tokens(tuple(range(10, 10 + len(roles))), roles), Tokens((30 + label,), (4,)), label)


def test_type_codes_are_those_of_the_worked_example():
    context = build_context([sample(0), sample(1)], end=0)
    assert context.codes.tolist() == [1, 1, 2, 2, 0, 3, 4, 0, 5, 5, 6, 6, 0, 7, 8, 0]
    assert context.ids[[6, 14]].tolist() == [30, 31]
    method: Any = make(CPT, adopt=3, gamma=0.5, epsilon_input=0.3, epsilon_format=0.2)
    method.set_context(context.ids, context.codes)
    scale = (32 / 2048) ** 0.5
    assert method.movable.tolist() == [c in (1, 2, 3, 5, 6, 7) for c in context.codes.tolist()]
    want = [0.2 if c in (1, 3, 5, 7) else 0.3 if c in (2, 6) else 0.0 for c in context.codes.tolist()]
    close(method.radii, torch.tensor(want) * scale)
    weights = method.label_weights()
    assert weights[[6, 14]].tolist() == [0.25, 0.5]
    assert float(weights.sum()) == 0.75


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        ([1, 2, 3, 3], "highest type code is 3, it must be a multiple of 4"),
        ([1, 2, 3, 4, 5, 6], "highest type code is 6"),
        ([0, 0, 0], "highest type code is 0"),
        ([5, 6, 1, 4], "rise with the examples"),
        ([1, -2, 4, 4], "0 or rise"),
    ],
)
def test_codes_under_which_a_template_would_become_a_label_are_refused(codes, message):
    with pytest.raises(ValueError, match=message):
        check_codes(torch.arange(len(codes)), torch.tensor(codes))
    with pytest.raises(ValueError, match="one length"):
        check_codes(torch.arange(3), torch.tensor([1, 2, 3, 4]))


def test_before_training_cpt_is_in_context_learning():
    one = batch()
    cpt, icl = make(CPT, adopt=3).eval(), make(InContext, adopt=3).eval()
    with torch.no_grad():
        close(cpt(one), icl(one))
        row = 1
        whole = torch.cat([icl.context, one.inputs["ids"][row][one.inputs["mask"][row].bool()]])[None]
        plain = cpt.backbone.module(whole).logits[0, -1]
        close(icl(one)[row, 0], plain)


def test_radius_zero_stays_in_context_learning(tmp_path):
    one = case(CPT, 0, adopt=3, epsilon_input=0.0, epsilon_format=0.0)
    method = train(one, tmp_path / "run")
    assert not method.delta.any()


def test_rows_stay_in_their_balls_and_labels_never_move(tmp_path):
    seen: list[float] = []
    one = case(CPT, 0, adopt=3, epsilon_input=0.5, epsilon_format=0.2)
    method: Any = one.make()

    def look(stage: str, step: int) -> None:
        seen.append(float((method.delta.detach().norm(dim=1) - method.radii * (1 + 1e-6)).max()))

    train(one, tmp_path / "run", method, on_step=look)
    assert len(seen) == 6
    assert max(seen) <= 1e-7
    share = method.delta.detach().norm(dim=1)[method.movable] / method.radii[method.movable]
    assert float(share.max()) > 0.999, "some rows reach the surface of their balls"
    fixed = ~method.movable
    assert torch.equal(method.prompt()[fixed], method.backbone.embed(method.ids).float()[fixed])


def test_the_projection_leaves_rows_inside_bit_for_bit():
    method: Any = make(CPT, adopt=3)
    with torch.no_grad():
        method.delta.copy_(torch.randn_like(method.delta) * method.movable[:, None])
        method.delta[::2] *= 1e-4
    before = method.delta.detach().clone()
    inside = before.norm(dim=1) <= method.radii
    method.project()
    assert torch.equal(method.delta[inside], before[inside])
    assert bool((method.delta.norm(dim=1) <= method.radii * (1 + 1e-6)).all())
    once = method.delta.detach().clone()
    method.project()
    close(method.delta, once, 1e-6)


@pytest.mark.parametrize("weighting", ["decay", "none"])
def test_the_loss_is_a_slow_loop_over_rows_and_labels(weighting):
    one = batch()
    method: Any = make(CPT, adopt=3, gamma=0.7, weighting=weighting)
    loss = method.training_step(one)
    total, count = 0.0, 0
    for row in range(len(one)):
        own = one.inputs["ids"][row][one.inputs["mask"][row].bool()]
        answer = one.extra["answer"][row]
        answer = answer[answer >= 0]
        ids = torch.cat([method.ids, own, answer])
        logits = method.backbone.module(
            inputs_embeds=torch.cat([method.prompt(), method.backbone.embed(torch.cat([own, answer]))])[None]
        ).logits[0]
        for position in range(1, len(ids)):
            if position < len(method.ids):
                code = int(method.codes[position])
                if code == 0 or code % 4:
                    continue
                age = 3 - code // 4 + 1
            elif position >= len(ids) - len(answer):
                age = 0
            else:
                continue
            weight = 0.7**age if weighting == "decay" else 1.0
            total += weight * F.cross_entropy(logits[position - 1], ids[position]).item()
            count += 1
    assert loss.count == count
    close(loss.loss.detach(), torch.tensor(total / count), 2e-5)


def test_gradients_of_moving_rows_are_right_and_of_the_others_zero():
    one = batch("gpt2", chosen=(0, 1))
    method: Any = make(CPT, "gpt2", adopt=3).double()  # its norms keep double precision
    method.backbone.to("cpu", torch.float64)
    method.training_step(one).loss.backward()
    gradient = method.delta.grad
    assert not gradient[~method.movable].any()
    rows = method.movable.nonzero().flatten()[[0, 7, -1]]
    for row in rows.tolist():
        with torch.no_grad():
            ends = []
            for step in (1e-4, -1e-4):
                method.delta[row, 3] += step
                ends.append(float(method.training_step(one).loss))
                method.delta[row, 3] -= step
        assert abs((ends[0] - ends[1]) / 2e-4 - float(gradient[row, 3])) < 1e-4 * float(gradient.abs().max())


def test_shared_context_equals_a_context_per_row():
    one = batch()
    method: Any = make(CPT, adopt=3)
    method.training_step(one).loss.backward()
    fast = method.delta.grad.clone()
    method.delta.grad = None
    with reference_kernels():
        slow = method.training_step(one).loss
        slow.backward()
    close(fast, method.delta.grad, 2e-5)


def test_the_callers_tensors_stay_as_they_are_and_two_passes_agree():
    one = batch()
    before = {name: value.clone() for name, value in {**one.inputs, **one.extra}.items()}
    method = make(CPT, adopt=3)
    first, second = method.training_step(one).loss, method.training_step(one).loss
    assert torch.equal(first, second)
    assert all(torch.equal(value, before[name]) for name, value in {**one.inputs, **one.extra}.items())


def test_examples_can_be_kept_out_of_the_queries():
    method: Any = make(CPT, examples=3, queries="others")
    inside, outside = batch(chosen=method.rows), batch(chosen=[r for r in range(15) if r not in method.rows][:3])
    assert method.training_step(inside).count == 0
    both = batch(chosen=[*method.rows, *outside.index.tolist()])
    close(method.training_step(both).loss.detach(), method.training_step(outside).loss.detach(), 2e-5)
    with pytest.raises(ConfigError, match="leaves no training query"):
        make(CPT, adopt=3, queries="others")


def test_examples_are_spread_over_the_classes():
    part = data()["train"]
    for count in (3, 6, 9):
        labels = [part.labels[row] for row in choose(part, count, 0)]
        assert sorted(labels) == sorted([0, 1, 2] * (count // 3))


def test_a_context_beyond_the_window_names_both_lengths():
    with pytest.raises(
        UserError, match=r"prompt of \d+ tokens and text of \d+ tokens exceed the context window of 256"
    ):
        make(CPT)


def test_heads_and_empty_contexts_are_refused():
    with pytest.raises(ConfigError, match="no classification head"):
        make(CPT, scoring="head", adopt=3)
    with pytest.raises(DataError, match="at least one example"):
        build_context([], 0)


def test_prompt_tuning_from_the_same_text_is_the_unbounded_limit():
    """No ball, no context labels in the loss, all rows trainable: the gradient of prompt tuning that starts from the context."""
    one = batch()
    cpt: Any = make(CPT, adopt=3)
    plain: Any = make(PromptTuning, prompt_length=len(cpt.ids))
    with torch.no_grad():
        plain.prompt.copy_(cpt.prompt())
    plain.training_step(one).loss.backward()
    prefix, _ = cpt.backbone.run_prefix(cpt.prompt()[None])
    logits = cpt.backbone.target_logits(one.inputs, one.extra["answer"], prefix=prefix)
    loss, _ = cpt.task.loss(logits, one)
    loss.backward()
    moving = cpt.movable
    close(cpt.delta.grad[moving], plain.prompt.grad[moving])


@pytest.mark.parametrize("weighting", ["decay", "none"])
def test_cpt_trains_as_peft_does(weighting):
    """Loss and delta after three AdamW steps, from the same context and query."""
    method: Any = make(CPT, adopt=3, weighting=weighting, gamma=0.9)
    part = data(train=3)["train"]
    one = part.collate([1], [part.sample(1, epoch=None, seed=0)])
    config = peft.CPTConfig(
        task_type="CAUSAL_LM",
        cpt_token_ids=method.ids.tolist(),
        cpt_mask=[1] * len(method.ids),
        cpt_tokens_type_mask=method.codes.tolist(),
        opt_weighted_loss_type=weighting,
        opt_loss_decay_factor=0.9,
        opt_projection_epsilon=0.1,
        opt_projection_format_epsilon=0.1,
        tokenizer_name_or_path=None,
        num_virtual_tokens=len(method.ids),
    )
    model: Any = peft.get_peft_model(copy.deepcopy(method.backbone.module), config).eval()
    ids = torch.cat([one.inputs["ids"], one.extra["answer"]], 1)
    types = torch.cat([one.inputs["roles"], torch.full_like(one.extra["answer"], 4)], 1)
    theirs = model.prompt_encoder["default"].delta_embedding.weight
    ours = torch.optim.AdamW([method.delta], lr=0.01, weight_decay=0.0)
    other = torch.optim.AdamW([theirs], lr=0.01, weight_decay=0.0)
    for step in range(3):
        result = model(
            input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids.clone(), input_type_mask=types.clone()
        )
        mine = method.training_step(one).loss
        close(mine.detach(), result.loss.detach(), 1e-6)
        for optimiser, loss in ((ours, mine), (other, result.loss)):
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        method.project()
        model.get_prompt(batch_size=1)  # there the projection runs with the next forward pass
        difference = (method.delta - theirs).detach().abs().max()
        assert float(difference) <= 1e-6, f"delta differs after step {step}"
