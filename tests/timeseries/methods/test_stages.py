"""What the stages draw, how long they last and whose weights they keep; and POND's choice of a source as a loop written by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pt_core.data import generator
from pt_core.run.declare.options import TrainOptions
from pt_timeseries.data.dataset import subset
from pt_timeseries.methods.codats import Codats
from pt_timeseries.methods.common_prompt import CommonPrompt
from pt_timeseries.methods.coral import DeepCoral
from pt_timeseries.methods.full import FullOnShots
from pt_timeseries.methods.pond import POND
from pt_timeseries.pond.information import pair_by_class
from pt_timeseries.pond.prompts import Generator
from pt_timeseries.pond.selection import _distinction
from pt_timeseries.pond.streams import domain_plan
from torch.nn import functional as F

from tests.timeseries.common import DATA, batch_of, close, make, moved, seeded_make
from tests.timeseries.methods.test_whole_step import infonce, leave_one_out

SMALL: dict[str, Any] = {"prompt_length": 8, "hidden": 6, "critic_dim": 5}
NO_SHOTS = {role: part for role, part in DATA.items() if role != "shots"}


def stages(method: Any, data: Any = DATA, **options: Any) -> dict[str, Any]:
    given = TrainOptions(**{"epochs": 2.0, "batch_size": 5, **options})
    return {stage.name: stage for stage in method.stages(SimpleNamespace(options=given, data=data))}


def lasts(stage: Any) -> tuple[int, int]:
    return stage.options["steps"], stage.options["eval_every"]


def test_the_common_prompt_and_then_the_head_on_sources_and_shots() -> None:
    method = make(CommonPrompt, adapt_epochs=3, prompt_lr=0.02, prompt_length=8)
    found = stages(method)
    assert list(found) == ["train", "adapt"]
    assert lasts(found["train"]) == (2 * 8, 4)  # 36 windows in batches of 5, four evaluations
    assert lasts(found["adapt"]) == (3 * 8, 24)
    assert found["adapt"].trains == ("head.*",)
    assert {n: s.role for n, s in found["adapt"].streams.items()} == {"source": "train", "shots": "shots"}
    assert (found["train"].select, found["adapt"].select) == (True, False)
    assert list(stages(method, NO_SHOTS)) == ["train"]
    assert list(stages(make(CommonPrompt, use_shots=False, prompt_length=8))) == ["train"]
    rest, series = method.param_groups(found["train"])
    assert series == {"params": [method.common.series], "lr_scale": 0.02 / 1e-3}
    assert {id(p) for p in rest["params"]} == {id(p) for n, p in method.named_parameters() if n != "common.series"}
    assert all("lr_scale" not in group for group in method.param_groups(found["adapt"]))


def test_tuning_on_the_shots_alone() -> None:
    for stochastic in (False, True):
        (stage,) = stages(make(FullOnShots, stochastic=stochastic)).values()
        assert lasts(stage) == (2 * 2, 4)  # 6 windows
        assert stage.tracks == (("claimed.*",) if stochastic else ())
        assert stage.streams["shots"].role == "shots"
        assert not stage.select


@pytest.mark.parametrize("cls", [Codats, DeepCoral])
def test_adaptation_draws_sources_target_and_shots(cls: Any) -> None:
    (stage,) = stages(make(cls)).values()
    assert {n: s.role for n, s in stage.streams.items()} == {"source": "train", "target": "unlabeled", "shots": "shots"}
    assert lasts(stage) == (16, 4)
    for method, data in ((make(cls, use_shots=False), DATA), (make(cls), NO_SHOTS)):
        (stage,) = stages(method, data).values()
        assert list(stage.streams) == ["source", "target"]
    assert make(DeepCoral).frozen_key() is None
    assert make(DeepCoral, encoder="frozen").frozen_key() == "mean"


def test_what_pond_draws_and_how_long() -> None:
    options = {**SMALL, "domains_per_step": 2, "target_epochs": 4, "adapt_epochs": 3}
    method = make(POND, **options)
    method.chosen.fill_(1)
    found = stages(method)
    assert list(found) == ["prompts", "select", "target", "adapt"]
    assert {n: (s.role, s.batch_size) for n, s in found["prompts"].streams.items()} == {
        **{f"source-{i}": ("train", 5) for i in range(3)}, "target": ("shots", 5),
    }  # fmt: skip
    assert [s.rows for s in found["prompts"].streams.values()][:3] == [
        tuple(range(12 * i, 12 * i + 12)) for i in range(3)
    ]
    assert lasts(found["prompts"]) == (2 * 4, 2)  # 36 windows, 2 sources of 5 a step
    assert lasts(found["target"]) == (4 * 1, 4)  # 6 shots in batches of up to 10
    assert found["target"].streams["shots"].batch_size == 6
    assert lasts(found["adapt"]) == (3 * 3, 9)
    assert found["adapt"].streams["source"].rows == tuple(range(12, 24))
    assert [found[name].select for name in ("prompts", "target", "adapt")] == [True, False, False]
    meta = stages(make(POND, meta="reptile", inner_steps=3, **options))
    assert meta["prompts"].streams["source-1"].batch_size == 15
    assert lasts(meta["prompts"]) == (2 * 2, 1)
    assert meta["prompts"].step is not None
    assert meta["prompts"].step_parts is None
    bare = stages(make(POND, **options), NO_SHOTS)
    assert bare["prompts"].streams["target"].role == "unlabeled"
    assert list(bare["adapt"].streams) == ["source"]


def test_the_target_is_drawn_as_often_as_a_source() -> None:
    plan = domain_plan(3, 2, 0, target=True)
    drawn = [plan(step) for step in range(6)]
    assert sum("target" in names for names in drawn) == 4
    assert [sum(f"source-{i}" in names for names in drawn) for i in range(3)] == [4, 4, 4]


def test_a_generator_by_hand() -> None:
    torch.manual_seed(0)
    one = Generator(2, 4, 3)
    torch.nn.init.normal_(one.last.weight)
    series = torch.randn(1, 2, 21)
    padded = F.pad(series, (2, 2))[0]

    def convolved(x: torch.Tensor, layer: Any, stride: int) -> torch.Tensor:
        weight = layer.weight.flatten(1)
        columns = [x[:, t : t + 5].flatten() for t in range(0, x.shape[1] - 4, stride)]
        return torch.stack([weight @ c + layer.bias for c in columns], 1)

    hidden = F.gelu(convolved(F.gelu(convolved(padded, one.first, 1)), one.second, 2))
    assert hidden.shape == (3, 9)
    places = [(9 * k // 4, -(-9 * (k + 1) // 4)) for k in range(4)]
    means = torch.stack([hidden[:, a:b].mean(1) for a, b in places], 1)
    close(one(series)[0], one.last.weight[..., 0] @ means + one.last.bias[:, None])


@pytest.mark.parametrize("held", ["all", "some", "none"])
def test_the_choice_of_a_source_by_hand(held: str) -> None:
    """Evidence of held-out windows, or of training windows where a source has fewer than two of them; the share by the shots' loss."""
    method = moved(seeded_make(POND, mix=None, temperature=0.2, fidelity_floor=0.9, **SMALL), scale=0.2)
    rows = {"all": list(range(27)), "some": [*range(18), 18], "none": []}[held]
    data = {**DATA, "val": subset(DATA["val"], rows)} if rows else {r: p for r, p in DATA.items() if r != "val"}
    own: dict[int, Any] = {}
    for i, name in enumerate("abc"):
        part = "val" if held == "all" or (held == "some" and i < 2) else "train"
        batch = batch_of(DATA[part], *[row for row, owner in enumerate(DATA[part].domains) if owner == name])
        delta = method.generators[i](batch.inputs).detach()
        own[i] = (delta, method.feature(batch.inputs, method.common.series + delta).detach(), batch.target)
    target = torch.cat([method.target_generator(batch_of(DATA[role]).inputs) for role in ("shots", "unlabeled")]).mean(
        0
    )
    cosines = [F.cosine_similarity(own[i][0].mean(0).flatten(), target.flatten(), dim=0).detach() for i in range(3)]
    size = min(len(one[0]) for one in own.values())
    critic, fidelity, logged = method.fidelity, [], {}

    def rng(*key: Any) -> torch.Generator:
        return generator("choice", *key)

    for i, (delta, feature, labels) in own.items():
        order = torch.randperm(len(delta), generator=rng("fidelity", i))
        values = []
        for start in range(0, len(order) // size * size, size):
            chosen = order[start : start + size]
            u = delta[chosen].flatten(1) @ critic.prompt.weight.T
            v = torch.cat([feature[chosen], critic.label.weight[labels[chosen]]], 1) @ critic.data.weight.T
            values.append(infonce(u, v).detach())
        fidelity.append(sum(values) / len(values))
    apart = torch.zeros(3, 3)
    for i in range(3):
        for r in (r for r in range(3) if r != i):
            count = min(len(own[i][0]), len(own[r][0]))
            a, b = (
                torch.randperm(len(own[k][0]), generator=rng("pair", i, r, n))[:count] for n, k in enumerate((i, r))
            )
            order = pair_by_class(own[i][2][a], own[r][2][b], rng("order", i, r))
            apart[i, r] = leave_one_out(own[i][0][a].flatten(1), own[r][0][b][order].flatten(1))
    median = sorted(float(f) for f in fidelity)[1]
    allowed = [i for i in range(3) if median <= 0 or float(fidelity[i]) >= 0.9 * median]
    best = max(allowed, key=lambda i: float(cosines[i]))
    method.eval()
    whole = {role: [batch_of(part)] for role, part in data.items()}
    shots, losses = batch_of(DATA["shots"]), {}
    with torch.no_grad():
        for share in (0.5, 0.0, 1.0):
            delta = (1 - share) * method.target_generator(shots.inputs) + share * method.generators[best](shots.inputs)
            logits = method.head(method.feature(shots.inputs, method.common.series + delta))
            losses[share] = float(F.cross_entropy(logits, shots.target))
    method.select(SimpleNamespace(data=data, rng=rng, log=logged.update, batches=lambda role: iter(whole[role])))
    assert logged == {"chosen": float(best), "mix": min(losses, key=lambda s: losses[s])}
    assert (int(method.chosen), float(method.mix)) == (best, logged["mix"])
    close(method.evidence_similarity, torch.stack(cosines).detach())
    close(method.evidence_deltas[-1], target.detach())
    for i in range(3):
        close(method.evidence_deltas[i], own[i][0].mean(0).detach())
    close(method.evidence_fidelity, torch.stack(fidelity).detach(), 1e-4)
    close(method.evidence_distinction, apart.detach(), 1e-4)
    assert size == (9 if held != "none" else 12)


def test_a_longer_series_prompt_keeps_what_the_shorter_one_learned() -> None:
    few, more = make(CommonPrompt, prompt_length=8), make(CommonPrompt, prompt_length=16)
    for name, axis in (("series", 1), ("codes", 0)):
        earlier, own = getattr(few.common, name).detach(), getattr(more.common, name).detach()
        found = more.resized(f"common.{name}", earlier, own.shape)
        kept = earlier.shape[axis]
        assert torch.equal(found.narrow(axis, 0, kept), earlier)
        assert torch.equal(found.narrow(axis, kept, kept), own.narrow(axis, kept, kept))
    assert more.resized("head.weight", torch.zeros(3, 2), torch.Size((3, 3))) is None


def test_two_windows_tell_sources_apart_and_one_does_not() -> None:
    """The evidence of sources of two windows each; of a source with a single window there is none."""
    method = moved(seeded_make(POND, fidelity_weight=0, **SMALL), scale=0.2)
    batches = {i: batch_of(DATA["train"], *range(12 * i, 12 * i + size)) for i, size in enumerate((2, 2, 1))}
    own = {i: (method.generators[i](b.inputs), torch.zeros(len(b), 1), b.target) for i, b in batches.items()}
    table = _distinction(own, SimpleNamespace(rng=lambda *key: generator("two", *key)))
    assert (table != 0).tolist() == [[False, True, False], [True, False, False], [False, False, False]]
