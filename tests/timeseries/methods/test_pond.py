"""POND does what its card says: the acceptance checks, and every term against a slow form."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pt_core import Batch
from pt_core.errors import ConfigError
from pt_core.run.declare.options import TrainOptions, build_all
from pt_core.testing import CHECKS, SLOW_CHECKS, BadInput
from pt_core.testing._support import train
from pt_timeseries.methods.common_prompt import CommonPrompt
from pt_timeseries.methods.pond import POND, PONDConfig
from pt_timeseries.pond.information import distinction, pair_by_class, slow_infonce, slow_leave_one_out
from pt_timeseries.pond.prompts import generator_values
from pt_timeseries.pond.selection import Evidence, select_source
from pt_timeseries.pond.streams import chunk, domain_plan
from torch import Tensor
from torch.nn import functional as F

from tests.timeseries.common import (
    CHANNELS,
    DATA,
    LENGTH,
    OPTIONS,
    SOURCES,
    batch_of,
    case,
    close,
    make,
    moved,
    seeded_make,
    tiny,
    waves,
)

M, STRIDE, DIM, CLASSES = 3, 4, 12, 3
SMALL: dict[str, Any] = {"prompt_length": 8, "hidden": 6, "critic_dim": 5, "target_epochs": 1, "adapt_epochs": 1}


def information(length: int = 8, critic: int = 5) -> int:
    return critic * CHANNELS * length + critic * (DIM + critic) + CLASSES * critic


def formula(length: int = 8, hidden: int = 6, critic: int = 5, sources: int = M) -> int:
    prompt = CHANNELS * length + length // STRIDE * DIM
    generators = (sources + 1) * generator_values(CHANNELS, hidden)
    head = CLASSES * DIM + CLASSES
    return prompt + generators + head + information(length, critic)


def refuse(**options: Any) -> Any:
    return lambda: build_all({"config": PONDConfig}, options)


BAD = (
    BadInput("length between strides", lambda: make(POND, prompt_length=10), "multiple of the backbone's stride 4; .* 8 and 12"),
    BadInput("negative length", refuse(prompt_length=-4), "prompt_length=-4"),
    BadInput("terms without dP", refuse(generators=False), "generators=False has no dP"),
    BadInput("mix above 1", refuse(mix=1.5), "mix=1.5"),
    BadInput("no temperature", refuse(temperature=0), "temperature=0"),
    BadInput("unknown meta", refuse(meta="maml"), "meta='maml'.*'joint' or 'reptile'"),
    BadInput("no sources", lambda: make(POND, ()), "at least one source"),
    BadInput("other channels", lambda: make(POND)(batch_of(waves(channels=3))), "reads 2 channels, the series have 3"),
    BadInput("too long", lambda: make(POND)(longer()), "positions for 32 steps, the series have 40"),
)  # fmt: skip

CASES = {
    "mean_start": case(POND, formula(), target_start="mean", **SMALL),
    "joint": replace(case(POND, formula(), **SMALL), bad_inputs=BAD),
    "reptile": case(POND, formula(), meta="reptile", inner_steps=2, **SMALL),
    "uninformed": case(
        POND, formula() - information(), fidelity_weight=0, discrimination_weight=0, **SMALL
    ),  # whose loss is a mean over samples
    "data_pool": case(POND, formula(), pool="data", domains_per_step=2, mix=None, **SMALL),
}


def longer() -> Batch:
    batch = batch_of(DATA["val"])
    return replace(batch, inputs=F.pad(batch.inputs, (0, 8)))


@pytest.mark.parametrize("check", [name for name in CHECKS if name not in ("reload", "bf16")])
@pytest.mark.parametrize("name", ["joint", "reptile", "mean_start", "uninformed"])
def test_conformance(name, check, tmp_path):
    CHECKS[check](CASES[name], tmp_path)


@pytest.mark.parametrize("check", ["reload", "two_processes", "bf16"])
@pytest.mark.parametrize("name", CASES)
@pytest.mark.slow
def test_conformance_in_fresh_processes(name, check, tmp_path):
    {**CHECKS, **SLOW_CHECKS}[check](CASES[name], tmp_path)


# ---- 1. what nothing changes -----------------------------------------------------------------------------------------------


def test_no_prompt_is_the_pretrained_classifier_bit_for_bit():
    backbone = tiny()
    method, batch = make(POND, backbone=backbone, prompt_length=0), batch_of(DATA["val"])
    assert method.parameter_count() == CLASSES * DIM + CLASSES
    plain = F.linear(backbone.module(batch.inputs).mean(1), backbone.head.weight, backbone.head.bias)
    assert torch.equal(method(batch), plain)


def test_at_the_start_every_domain_predicts_as_the_common_prompt():
    pond, plain = seeded_make(POND, **SMALL), seeded_make(CommonPrompt, prompt_length=8)
    plain.common.load_state_dict(pond.common.state_dict())
    batch = batch_of(DATA["val"])
    for domain in (*range(M), -1):
        there = replace(batch, extra={"domain": torch.full((len(batch),), domain)})
        close(pond(there), plain(batch))
    assert (pond(batch) - make(POND, prompt_length=0)(batch)).abs().max() > 1e-3  # the prompt does something


def test_without_terms_and_generators_the_objective_is_plain_prompt_tuning():
    pond = moved(seeded_make(POND, prompt_length=8, generators=False, fidelity_weight=0, discrimination_weight=0))
    plain = seeded_make(CommonPrompt, prompt_length=8)
    plain.common.load_state_dict(pond.common.state_dict())
    plain.head.load_state_dict(pond.head.state_dict())
    parts = {i: rows_of(i) for i in range(M)}
    objective, _ = pond.objectives(parts, torch.Generator())
    loss = plain.training_step(batch_of(DATA["train"])).loss
    close(torch.stack(list(objective.values())).mean(), loss)
    ours = torch.autograd.grad(torch.stack(list(objective.values())).mean(), pond.common.series)[0]
    close(ours, torch.autograd.grad(loss, plain.common.series)[0])


def rows_of(domain: int, count: int | None = None) -> Batch:
    rows = [row for row, name in enumerate(DATA["train"].domains) if name == SOURCES[domain]]
    return batch_of(DATA["train"], *rows[:count])


def test_data_tokens_keep_their_positions_and_share_no_patch_with_the_prompt():
    """Blocking attention to the prompt gives the plain features of the data tokens."""
    method, batch = moved(seeded_make(POND, **SMALL)), batch_of(DATA["val"])
    backbone = method.backbone
    edits = backbone.prompt_edits(method.common.series.expand(len(batch), -1, -1), method.common.codes)
    prompt = edits["tokens[0]"].tokens
    assert prompt.shape == (len(batch), 8 // STRIDE, DIM)
    attention = F.scaled_dot_product_attention

    def blocked(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        mask = torch.zeros(q.shape[-2], k.shape[-2])
        mask[2:, :2] = -math.inf
        return attention(q, k, v, attn_mask=mask)

    plain = backbone(batch.inputs).part("token")
    free = backbone(batch.inputs, edits).part("token")
    F.scaled_dot_product_attention = blocked  # type: ignore[assignment]
    try:
        close(backbone(batch.inputs, edits).part("token"), plain)
    finally:
        F.scaled_dot_product_attention = attention
    assert (free - plain).abs().max() > 1e-3


# ---- 2. counts -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("channels", "hidden", "count"), [(9, 32, 6921), (6, 32, 6342), (1, 32, 5377)])
def test_a_generator_has_the_parameters_of_the_card(channels, hidden, count):
    from pt_timeseries.pond.prompts import Generator

    found = Generator(channels, 16, hidden)
    assert sum(p.numel() for p in found.parameters()) == generator_values(channels, hidden) == count
    assert torch.equal(found(torch.randn(2, channels, 50)), torch.zeros(2, channels, 16))


# ---- 3. meta-learning ------------------------------------------------------------------------------------------------------


class Context:
    """A step context without processes: what the trainer's loop does, in a few lines."""

    def __init__(self, method: Any, optimisers: dict[str, torch.optim.Optimizer]) -> None:
        self.method, self.optimisers, self.pending = method, optimisers, 0

    def rng(self, *key: Any) -> torch.Generator:
        return torch.Generator().manual_seed(hash(key) % 1000)

    def backward(self, loss: Tensor, count: int) -> None:
        (loss * count).backward()
        self.pending += count

    def update(self, name: str = "main", clip: bool = True) -> None:
        chosen = self.optimisers[name]
        for group in chosen.param_groups:
            for tensor in group["params"]:
                if tensor.grad is not None:
                    tensor.grad /= self.pending
        chosen.step()
        chosen.zero_grad()
        self.pending = 0


def meta(inner_steps: int, outer: float, kind: str = "sgd", lr: float = 0.1) -> tuple[Any, dict[str, Batch], Context]:
    options = {**SMALL, "inner_steps": inner_steps, "inner_optimizer": kind, "outer_step": outer, "prompt_lr": lr}
    method = moved(seeded_make(POND, meta="reptile", **options), scale=0.1)
    rest = [tensor for name, tensor in method.named_parameters() if name != "common.series"]
    optimisers = {"main": torch.optim.SGD(rest, 0.05), "prompt": torch.optim.SGD([method.common.series], outer)}
    batches = {f"source-{i}": rows_of(i, 4 * inner_steps) for i in range(M)}
    return method, batches, Context(method, optimisers)


def test_one_plain_inner_step_with_beta_1_is_one_step_on_the_mean_objective():
    method, batches, ctx = meta(1, 1.0)
    start = method.common.series.detach().clone()
    objective, _ = method.objectives({i: batches[f"source-{i}"] for i in range(M)}, ctx.rng("pairs", 0))
    gradient = torch.autograd.grad(torch.stack(list(objective.values())).mean(), method.common.series)[0]
    method.meta_step(ctx, batches)
    close(method.common.series.detach(), start - 0.1 * gradient, 1e-6)
    assert (method.common.series - start).abs().max() > 1e-4


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_the_outer_update_is_a_slow_loop_over_sources(kind):
    steps, beta = 3, 0.5
    method, batches, ctx = meta(steps, beta, kind)
    slow, _, _ = meta(steps, beta, kind)
    method.meta_step(ctx, batches)
    start = slow.common.series.detach().clone()
    rest = [tensor for name, tensor in slow.named_parameters() if name != "common.series"]
    main = torch.optim.SGD(rest, 0.05)
    copies = [start.clone().requires_grad_() for _ in range(M)]
    inner = [(torch.optim.Adam if kind == "adam" else torch.optim.SGD)([c], 0.1) for c in copies]
    for number in range(steps):
        parts = {i: chunk(batches[f"source-{i}"], number, steps) for i in range(M)}
        objective, _ = slow.objectives(parts, ctx.rng("pairs", number), dict(enumerate(copies)))
        gradients = [torch.autograd.grad(objective[i], copies[i], retain_graph=True)[0] for i in range(M)]
        (sum(objective.values()) / M).backward()
        for i in range(M):
            copies[i].grad = gradients[i]
            inner[i].step()
        main.step()
        main.zero_grad()
    moves = [c.detach() - start for c in copies]
    close(method.common.series.detach(), start + beta * sum(moves) / M)
    for name, tensor in slow.named_parameters():
        if name != "common.series":
            close(dict(method.named_parameters())[name].detach(), tensor.detach())


def test_beta_decays_linearly_to_zero(tmp_path):
    method = seeded_make(POND, meta="reptile", **SMALL)
    stage = next(iter(method.stages(SimpleNamespace(options=OPTIONS, data=DATA))))
    assert stage.optimisers["prompt"].options["schedule"] == "linear"
    assert stage.optimisers["prompt"].options["lr"] == 0.5


# ---- 4., 5. the terms ------------------------------------------------------------------------------------------------------


def test_the_objective_is_the_sum_of_its_three_terms():
    method = moved(seeded_make(POND, fidelity_weight=0.3, discrimination_weight=0.7, **SMALL))
    parts = {i: rows_of(i, 6) for i in (0, 2)}
    objective, _ = method.objectives(parts, torch.Generator().manual_seed(5))
    rng, close_to = torch.Generator().manual_seed(5), {}
    for i, r in ((0, 2), (2, 0)):
        batch, delta = parts[i], method.generators[i](parts[i].inputs)
        feature = method.feature(batch.inputs, method.common.series + delta)
        u = method.fidelity.prompt(delta.flatten(1))
        v = method.fidelity.data(torch.cat([feature, method.fidelity.label(batch.target)], 1))
        other = method.generators[r](parts[r].inputs).flatten(1)
        other = other[pair_by_class(batch.target, parts[r].target, rng)]
        squares = (delta.flatten(1)[:, None] - other[None]).square().sum(-1)
        estimate = slow_leave_one_out(-squares / (2 * squares.median()))
        ce = F.cross_entropy(method.head(feature), batch.target)
        close_to[i] = ce - 0.3 * slow_infonce(u, v, 0.1) + 0.7 * estimate
    for i in parts:
        close(objective[i], close_to[i], 1e-4)


def test_a_single_window_of_a_domain_has_no_information_terms():
    method = moved(seeded_make(POND, **SMALL))
    objective, logs = method.objectives({0: rows_of(0, 1), 1: rows_of(1, 1)}, torch.Generator())
    assert "fidelity" not in logs
    assert "distinction" not in logs
    close(objective[0], method.training_step(rows_of(0, 1)).loss)


# ---- 6. whose gradient it is -----------------------------------------------------------------------------------------------


def test_the_objective_of_a_source_reaches_its_own_generator_only():
    method = moved(seeded_make(POND, **SMALL))
    objective, _ = method.objectives({i: rows_of(i) for i in range(M)}, torch.Generator())
    objective[1].backward()
    reached = {name for name, p in method.named_parameters() if p.grad is not None and bool(p.grad.any())}
    assert any(name.startswith("generators.1.") for name in reached)
    assert not any(name.startswith(("generators.0.", "generators.2.", "target_generator")) for name in reached)
    assert {"common.series", "common.codes", "head.weight", "fidelity.prompt.weight"} <= reached


# ---- 7. instance dependence ------------------------------------------------------------------------------------------------


def trained(tmp_path: Any, data: Any = None, steps: int = 20, **options: Any) -> POND:
    one = case(POND, 0, **{**SMALL, **options})
    one = replace(
        one, options=replace(OPTIONS, steps=steps, lr=3e-3, optimizer="adam", batch_size=12, eval_every=steps)
    )
    one = replace(one, data=data or DATA)
    tmp_path.mkdir(exist_ok=True)
    method = train(one, tmp_path / "run")
    assert isinstance(method, POND)
    return method.eval()


def probe(method: POND) -> float:
    """Accuracy of nearest domain means of dP, means from one half of the windows and accuracy on the other."""
    data = waves(per_class=12, seed=9)
    with torch.no_grad():
        delta = method.delta(data.values, data.domain_index).flatten(1)
    even = torch.arange(len(data)) % 2 == 0
    means = torch.stack([delta[even & (data.domain_index == i)].mean(0) for i in range(M)])
    found = torch.cdist(delta[~even], means).argmin(1)
    return float((found == data.domain_index[~even]).float().mean())


def test_windows_of_one_domain_have_different_prompts_and_the_domain_can_be_read_from_them(tmp_path):
    method = trained(tmp_path / "with", discrimination_weight=1.0, fidelity_weight=1.0)
    with torch.no_grad():
        first, second = method.generators[0](rows_of(0, 2).inputs)
    assert (first - second).abs().max() > 1e-4
    assert probe(method) > 0.6  # chance is a third


def test_the_discrimination_term_falls_where_it_is_minimised():
    """It takes dependence between paired prompts away. It does not push the means of domains apart: a shift of one side leaves it."""
    method = moved(seeded_make(POND, discrimination_weight=1.0, fidelity_weight=0, **SMALL))
    parts = {i: rows_of(i) for i in range(M)}

    def estimate() -> Tensor:
        rng, values = torch.Generator().manual_seed(0), []
        deltas = {i: method.generators[i](batch.inputs) for i, batch in parts.items()}
        for i in range(M):
            for r in range(M):
                if i != r:
                    values.append(distinction(*method._paired(parts[i], deltas[i], parts[r], deltas[r].detach(), rng)))
        return torch.stack(values).mean()

    before = float(estimate().detach())
    optimiser = torch.optim.Adam(method.generators.parameters(), 3e-3)
    for _ in range(25):
        optimiser.zero_grad()
        estimate().backward()
        optimiser.step()
    assert float(estimate().detach()) < before - 0.01


# ---- 8. the choice of the source -------------------------------------------------------------------------------------------


def evidence(deltas: list[list[float]], fidelity: list[float]) -> Evidence:
    count = len(fidelity)
    return Evidence(torch.tensor(deltas)[:, None], torch.tensor(fidelity), torch.zeros(count, count))


def test_the_most_similar_source_of_sufficient_fidelity_is_chosen():
    deltas = [[1.0, 0.1], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]  # the last is the target's
    assert select_source(evidence(deltas, [1.0, 1.0, 1.0]), 1.0)[0] == 1
    assert select_source(evidence(deltas, [1.0, 0.5, 0.9]), 1.0)[0] == 0  # the best one's prompts carry too little
    _, similarity = select_source(evidence(deltas, [1.0, 1.0, 1.0]), 1.0)
    close(similarity, torch.tensor([1 / math.sqrt(1.01), 1.0, 0.0]))


def test_ties_go_to_the_lowest_index_and_a_single_source_is_taken():
    same = [[1.0, 0.0]] * 4
    assert select_source(evidence(same, [0.0, 0.0, 0.0]), 1.0)[0] == 0
    assert select_source(evidence([[1.0, 0.0], [-1.0, 0.0]], [0.0]), 1.0)[0] == 0


def test_one_source_runs_without_discrimination_and_selection(tmp_path):
    from pt_timeseries.data.dataset import subset

    rows = [row for row, name in enumerate(DATA["train"].domains) if name == "a"]
    held = [row for row, name in enumerate(DATA["val"].domains) if name == "a"]
    data = {**DATA, "train": subset(DATA["train"], rows), "val": subset(DATA["val"], held)}
    data = {role: replace(part, known=["a"]) for role, part in data.items()}
    method = trained(tmp_path, data, steps=3, sources=["a"])
    assert int(method.chosen) == 0


@pytest.mark.slow
def test_a_target_with_the_body_of_source_3_finds_it_in_nine_of_ten_seeds(tmp_path):
    from pt_timeseries import fit, load_backbone

    found = []
    for seed in range(10):
        options = {"shift": 2.0, "seed": seed, "epochs": 8, "adapt_epochs": 1, "target_epochs": 1, "eval_every": 1000}
        backbone = load_backbone("builtin:patch_motion")
        out = tmp_path / str(seed)
        fit("pond", data="builtin:twins", backbone=backbone, out=out, quiet=True, **options)
        metrics = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        found += [int(line["chosen"]) for line in metrics if "chosen" in line]
    assert found.count(2) >= 9, found  # sources s1, s2, s3 ...


# ---- the schedule of domains -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "drawn"), [(7, 4), (4, 4), (9, 2), (5, 4)])
def test_domains_are_drawn_in_equal_shares(count, drawn):
    plan = domain_plan(count, drawn, 0)
    counts = torch.zeros(count)
    for step in range(count * 4):
        names = plan(step)
        assert 0 < len(names) <= drawn
        assert len(set(names)) == len(names)
        for name in names:
            counts[int(name.rpartition("-")[2])] += 1
    assert plan(3) == domain_plan(count, drawn, 0)(3)
    joined = domain_plan(count, drawn, 0, target=True)
    times = sum("target" in joined(step) for step in range(count * 4))
    assert abs(times - float(counts.mean())) <= 4  # as often as a source
    assert float(counts.max() - counts.min()) <= 4


def test_windows_are_not_needed_with_labels_of_the_target(tmp_path):
    data = {role: part for role, part in DATA.items() if role != "shots"}
    method = trained(tmp_path, data, steps=3)
    assert int(method.chosen) >= 0
    assert method.target_generator.last.weight.abs().max() > 0
    assert all(p.isfinite().all() for p in method.target_generator.parameters())


def test_the_target_gives_gradient_to_its_own_generator_only():
    method = moved(seeded_make(POND, **SMALL))
    batch = batch_of(DATA["shots"])
    surrogate, value = method.target_alone(batch, 2)
    surrogate.backward()
    close(value, method.target_loss(batch)[0] / 2)
    reached = {name for name, p in method.named_parameters() if p.grad is not None and bool(p.grad.any())}
    assert reached
    assert all(name.startswith("target_generator.") for name in reached)
    delta = method.target_generator(batch.inputs)
    feature = method.feature(batch.inputs, method.common.series + delta)
    ce = F.cross_entropy(method.head(feature), batch.target)
    loss = ce - 0.1 * method.fidelity(delta, feature, batch.target)
    want = torch.autograd.grad(loss / 2, method.target_generator.first.weight)[0]
    close(method.target_generator.first.weight.grad, want)


def test_a_target_generator_may_start_from_the_mean_of_the_sources(tmp_path):
    method = make(POND, target_start="mean", **SMALL)
    names = [stage.name for stage in method.stages(SimpleNamespace(options=OPTIONS, data=DATA))]
    assert names == ["prompts", "target-start", "target", "select", "adapt"]
    moved(method).start_target(None)
    for name, tensor in method.target_generator.named_parameters():
        close(tensor, torch.stack([dict(g.named_parameters())[name] for g in method.generators]).mean(0))
    joint = make(POND, **SMALL)
    names = [stage.name for stage in joint.stages(SimpleNamespace(options=OPTIONS, data=DATA))]
    assert names == ["prompts", "select", "target", "adapt"]


def test_reptile_takes_no_fp16():
    method = make(POND, meta="reptile", **SMALL)
    with pytest.raises(ConfigError, match="no precision='fp16'"):
        next(iter(method.stages(SimpleNamespace(options=TrainOptions(precision="fp16"), data=DATA))))
    assert LENGTH == 32
