"""POND: a common prompt and instance-wise prompts per source domain; information criteria pick the source to adapt from.

POND: Multi-Source Time Series Domain Adaptation with Information-Aware Prompt Tuning (KDD 2024, arXiv 2312.12276). A re-implementation:
no code is public and the method sections could not be read here. Marks: [V] stated in its abstracts, [M] from memory, [D] our decision.
Step 1 [V], pre-training on the pooled sources, is `pt-timeseries pretrain`; steps 2 and 3 are the stages below.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Le
from pt_core import Backbone, Batch, Optimiser, Stage, Stream, Task
from pt_core.artifact import Artifact
from pt_core.errors import ConfigError
from torch import Tensor, nn

from pt_timeseries.adapters.base import by_length
from pt_timeseries.method import SeriesMethod, Whole, stage_steps, summed
from pt_timeseries.pond.fidelity import Fidelity
from pt_timeseries.pond.information import distinction, pair_by_class
from pt_timeseries.pond.panels import source_panels
from pt_timeseries.pond.prompts import Generator, SeriesPrompt
from pt_timeseries.pond.selection import Evidence, gather, select_source
from pt_timeseries.pond.streams import NAME, TARGET, by_source, chunk, domain_plan, domain_rows, mean

ID = "pond"
TITLE = "POND: Multi-Source Time Series Domain Adaptation with Information-Aware Prompt Tuning"
TUNES = "a common series prompt, a small prompt generator per domain, and a linear head"
NEEDS = {"train": "labelled windows of several source domains", "unlabeled": "windows of the target domain"}


@dataclass(frozen=True)
class PONDConfig:
    prompt_length: Annotated[int, Ge(0), Le(65_536)] = 16
    """m, time steps of the prompt; a multiple of the backbone's stride. 0 is the pre-trained classifier. [D] 8, 16, 32"""
    generators: bool = True
    """A conditional module g_i per domain [V]; off leaves the common prompt only."""
    hidden: Annotated[int, Ge(1), Le(65_536)] = 32
    """h, width of the generators. [D]"""
    fidelity_weight: Annotated[float, Ge(0)] = 0.1
    """lam1, weight of the fidelity term. [D] 0, .01, .1, 1"""
    discrimination_weight: Annotated[float, Ge(0)] = 0.1
    """lam2, weight of the discrimination term. [D] 0, .01, .1, 1"""
    temperature: Annotated[float, Gt(0)] = 0.1
    """tau of InfoNCE. [D]"""
    critic_dim: Annotated[int, Ge(1), Le(65_536)] = 64
    """q, width of the space in which InfoNCE compares. [D]"""
    meta: Literal["joint", "reptile"] = "joint"
    """`reptile`: first-order meta-learning of the common prompt [V that it is simple; D the form]; `joint`: its simplified variant, one
    step on the mean objective."""
    inner_steps: Annotated[int, Ge(1), Le(1000)] = 3
    """q_in, inner steps of `reptile`. [D] 1-5"""
    inner_optimizer: Literal["adam", "sgd"] = "adam"
    """Optimiser of the inner copies P_i. [D]"""
    outer_step: Annotated[float, Gt(0), Le(1)] = 0.5
    """beta, outer step of `reptile`, decays linearly to 0. [D] .1-1"""
    prompt_lr: Annotated[float, Gt(0)] = 1e-2
    """Learning rate of the common prompt (inner learning rate in `reptile`). [D]"""
    domains_per_step: Annotated[int, Ge(1)] = 4
    """Sources drawn per step; fewer than all for many sources. [D]"""
    target_start: Literal["joint", "mean"] = "joint"
    """`joint`: g_T is learned along with the g_i, from the same initial weights, so that equal domains get equal prompts; `mean`: it starts
    from the mean of the g_i after step 2. [D]"""
    target_epochs: Annotated[float, Gt(0)] = 60
    """Passes over the target shots (or the unlabelled target windows) for g_T. [D]"""
    adapt_epochs: Annotated[float, Gt(0)] = 10
    """Passes over the chosen source for the head. [D]"""
    mix: Annotated[float, Ge(0), Le(1)] | None = 0.5
    """w, share of the chosen source's prompt at inference; None chooses among 0, .5 and 1 on the target shots. [D]"""
    fidelity_floor: Annotated[float, Ge(0), Le(1)] = 0.0
    """Share of the sources' median fidelity that a source needs to be chosen. 0: its dP must carry some information; 1 (the median itself)
    excludes half of the sources whatever the target is. [D]"""
    pool: Literal["all", "data"] = "all"
    """The head reads the mean over prompt and data tokens, or over data tokens. [D]"""

    def __post_init__(self) -> None:
        if not self.generators and (self.fidelity_weight or self.discrimination_weight):
            raise ValueError("generators=False has no dP to inform: set fidelity_weight and discrimination_weight to 0")


class POND(SeriesMethod):
    """y = h(f([P + dP ; X])), dP = g_i(X) for source i, dP = (1 - w) g_T(X) + w g_i*(X) for the target.

    J_i = CE + lam1 l_F,i + lam2 l_D,i, where l_F is the negative InfoNCE bound of I(dP^i ; (X^i, Y^i)) and l_D the leave-one-out estimate
    of I(dP^i ; dP^r), averaged over the other sources r of the step (whose dP^r get no gradient: J_i reaches g_i, P and h only).

    Parameters: n m + (m / s) d [the prompt's position codes] + (M + 1)(5 n h + h + 5 h^2 + h + h n + n) + C d + C
    + q n m + q (d + q) + C q [the critic W_p, W_z, e].
    """

    Config = PONDConfig
    recipe: ClassVar[Mapping[str, Any]] = {
        "optimizer": "adam",
        "lr": 1e-3,
        "weight_decay": 0.0,
        "epochs": 30,
        "batch_size": 32,
        "clip_norm": 1.0,
        "schedule": "constant",
    }
    training_only = ("fidelity.*",)
    class_tensors = ("head.*", "fidelity.label.*")
    config: PONDConfig
    chosen: Tensor
    mix: Tensor

    def __init__(self, config: PONDConfig, backbones: Mapping[str, Backbone], task: Task) -> None:
        super().__init__(config, backbones, task)
        self.sources = self.domain_task.sources
        if not self.sources:
            raise ConfigError("pond needs at least one source domain")
        backbone, count = self.backbone, len(self.sources)
        self.common = SeriesPrompt(backbone, config.prompt_length)
        self.generators = nn.ModuleList()
        self.fidelity: Fidelity | None = None
        if config.generators and config.prompt_length:
            # All start from the same weights [D], so that their mean is a sensible start of the target's.
            first = Generator(backbone.channels, config.prompt_length, config.hidden)
            self.generators.extend(copy.deepcopy(first) for _ in range(count))
            self.target_generator = first
            values = backbone.channels * config.prompt_length
            sizes = (values, backbone.feature_dim, task.outputs, config.critic_dim)
            self.fidelity = Fidelity(*sizes, config.temperature) if config.fidelity_weight else None
        self.head = self.new_head()
        # The information terms compare the samples of a batch; the inner loops of `reptile` walk this process's part of it.
        informed = len(self.generators) > 0 and config.fidelity_weight + config.discrimination_weight > 0
        self.coupled = informed or (config.meta == "reptile" and config.prompt_length > 0)
        self.register_buffer("chosen", torch.tensor(-1))
        self.register_buffer("mix", torch.tensor(0.5 if config.mix is None else config.mix))
        for name, shape in Evidence.shapes(count, backbone.channels, config.prompt_length).items():
            self.register_buffer(f"evidence_{name}", torch.zeros(shape))

    def resized(self, name: str, tensor: Tensor, shape: torch.Size) -> Tensor | None:
        """The new steps of a longer prompt are fresh, and so is the critic of prompts of another length."""
        if name == "fidelity.prompt.weight":
            return self.own_tensors()[name].detach().clone()
        return self.common.resized(name.removeprefix("common."), tensor) if name.startswith("common.") else None

    def warm_start(self, role: str, artifact: Artifact) -> None:
        """The source is chosen anew, by evidence of this run's data."""
        names = [name for name, _ in self.named_buffers() if name in ("chosen", "mix") or name.startswith("evidence_")]
        fresh = {name: getattr(self, name).clone() for name in names}
        super().warm_start(role, artifact)
        for name, value in fresh.items():
            setattr(self, name, value)

    # ---- the model -------------------------------------------------------------------------------------------

    def delta(self, inputs: Tensor, domain: Tensor | None) -> Tensor:
        """(batch, n, m): dP of every window; `domain` indexes the sources, -1 (or None) is the target."""
        self.backbone.check_series(inputs)
        if not len(self.generators):
            return inputs.new_zeros(len(inputs), *self.common.series.shape)
        if domain is None or bool((domain < 0).all()):
            return self._target_delta(inputs)
        out = inputs.new_zeros(len(inputs), *self.common.series.shape)
        for number in domain.unique().tolist():
            rows = (domain == number).nonzero().flatten()
            own = inputs[rows]
            found = self._target_delta(own) if number < 0 else self.generated(self.generators[number], own)
            out = out.index_copy(0, rows, found.to(out.dtype))
        return out

    def generated(self, generator: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
        """(batch, n, m): what a generator makes of windows; of those that end before others it reads nothing behind the end."""
        return by_length(inputs, generator) if self.backbone.padded else generator(inputs)

    def _target_delta(self, inputs: Tensor) -> Tensor:
        """(1 - w) g_T(X) + w g_i*(X), or g_T(X) before a source is chosen; indexing weights keeps i* on its device."""
        tables = [dict(generator.named_parameters()) for generator in self.generators]
        index = self.chosen.clamp(min=0)[None]
        picked = {name: torch.stack([t[name] for t in tables]).index_select(0, index)[0] for name in tables[0]}
        theirs = self.generated(lambda own: torch.func.functional_call(self.target_generator, picked, (own,)), inputs)
        share = self.mix * (self.chosen >= 0)
        mixed: Tensor = (1 - share) * self.generated(self.target_generator, inputs) + share * theirs
        return mixed

    def feature(self, inputs: Tensor, prompt: Tensor) -> Tensor:
        """(batch, d): f of the windows behind their prompts (batch, n, m), pooled."""
        edits = self.backbone.prompt_edits(prompt, self.common.codes)
        return self.backbone.pool(self.backbone(inputs, edits), self.config.pool).float()

    def forward(self, batch: Batch) -> Tensor:
        """(batch, class) logits."""
        delta = self.delta(batch.inputs, batch.extra.get("domain"))
        return self.head(self.feature(batch.inputs, self.common.series + delta))

    def objectives(
        self,
        batches: Mapping[int, Batch],
        rng: torch.Generator,
        common: Mapping[int, Tensor] | None = None,
    ) -> tuple[dict[int, Tensor], dict[str, Tensor]]:
        """J_i of every source in `batches`, in one forward of the encoder; `common` replaces P per source (inner loops)."""
        deltas = {i: self.delta(b.inputs, torch.full_like(b.index, i)) for i, b in batches.items()}
        prompts = [deltas[i] + (self.common.series if common is None else common[i]) for i in batches]
        features = self.feature(torch.cat([b.inputs for b in batches.values()]), torch.cat(prompts))
        split = dict(zip(batches, features.split([len(b) for b in batches.values()]), strict=True))
        objective: dict[int, Tensor] = {}
        sums: dict[str, Tensor] = {}
        for i, batch in batches.items():
            terms = {"ce": self.task.loss(self.head(split[i]), batch)[0]}
            if self.fidelity is not None and len(batch) > 1:
                terms["fidelity"] = self.fidelity(deltas[i], split[i], batch.target)
            others = [r for r in batches if r != i and min(len(batch), len(batches[r])) > 1]
            if self.config.discrimination_weight and len(self.generators) and others and len(batch) > 1:
                pairs = [self._paired(batch, deltas[i], batches[r], deltas[r].detach(), rng) for r in others]
                terms["distinction"] = torch.stack([distinction(a, b) for a, b in pairs]).mean()
            zero = terms["ce"].new_zeros(())
            informed = self.config.fidelity_weight * terms.get("fidelity", zero)
            objective[i] = terms["ce"] - informed + self.config.discrimination_weight * terms.get("distinction", zero)
            for name, value in terms.items():
                sums[name] = sums.get(name, zero) + value.detach() / len(batches)
        sums["delta_norm"] = torch.cat([d.detach().flatten(1) for d in deltas.values()]).norm(dim=1).mean()
        return objective, sums

    def _paired(self, left: Batch, a: Tensor, right: Batch, b: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """The same number of rows of two sources, row j of both in the same class where possible."""
        count = min(len(a), len(b))
        order = pair_by_class(left.target[:count], right.target[:count], rng)
        return a[:count].flatten(1), b[:count].flatten(1)[order.to(b.device)]

    # ---- the stages ------------------------------------------------------------------------------------------

    def stages(self, ctx: Any) -> Iterator[Stage]:
        config, options, count = self.config, ctx.options, len(self.sources)
        rows = domain_rows(ctx.data["train"], self.sources)
        drawn, total = min(config.domains_per_step, count), sum(map(len, rows))
        meta = config.meta == "reptile" and config.prompt_length > 0
        if meta and options.precision == "fp16":
            raise ConfigError(
                "meta='reptile' reads gradients itself and takes no precision='fp16'; use bf16 or meta='joint'"
            )
        size = options.batch_size * (config.inner_steps if meta else 1)
        role = "shots" if "shots" in ctx.data else "unlabeled"
        together = config.target_start == "joint" and self._can_learn(role)
        streams = {NAME.format(i): Stream("train", size, rows=found) for i, found in enumerate(rows)}
        if together:
            streams[TARGET] = Stream(role, min(len(ctx.data[role]), options.batch_size))
        learned = ("common.*", "generators.*", "head.*", "fidelity.*", *(("target_generator.*",) if together else ()))
        yield Stage(
            "prompts",
            trains=learned,
            streams=streams,
            plan=domain_plan(count, drawn, options.seed_of("data"), together),
            options=stage_steps(ctx, options.epochs, total, drawn * size),
            optimisers=self._meta_optimisers() if meta else None,
            step=self.meta_step if meta else None,
            step_parts=None if meta else self.joint_step,
        )
        choice = Stage("select", trains=(), tracks=("chosen", "mix", "evidence_*"), streams={}, run=self.select)
        if together:
            yield choice
        elif len(self.generators):
            yield Stage("target-start", trains=("target_generator.*",), streams={}, run=self.start_target)
        if self._can_learn(role):
            samples = len(ctx.data[role])
            yield Stage(
                "target",
                trains=("target_generator.*",),
                streams={role: Stream(role, min(samples, 2 * options.batch_size))},
                options=stage_steps(ctx, config.target_epochs, samples, 2 * options.batch_size, 1),
                step_parts=self.target_step,
                select=False,
            )
        if not together:
            yield choice
        chosen = rows[int(self.chosen)] if len(self.generators) else tuple(r for found in rows for r in found)
        streams = {"source": Stream("train", rows=chosen)}
        if "shots" in ctx.data:
            streams["shots"] = Stream("shots")
        steps = stage_steps(ctx, config.adapt_epochs, len(chosen), options.batch_size, 1)
        yield Stage("adapt", trains=("head.*",), streams=streams, options=steps, select=False)

    def _can_learn(self, role: str) -> bool:
        """Whether g_T has something to learn from: labels, or the fidelity term."""
        return len(self.generators) > 0 and (role == "shots" or self.fidelity is not None)

    def param_groups(self, stage: Stage) -> list[dict[str, Any]]:
        groups = super().param_groups(stage)
        if stage.name != "prompts" or self.config.meta == "reptile":
            return groups
        series = self.common.series
        rest = [tensor for tensor in groups[0]["params"] if tensor is not series]
        return [{"params": rest}, {"params": [series], "lr_scale": self.config.prompt_lr / self.recipe["lr"]}]

    def _meta_optimisers(self) -> dict[str, Optimiser]:
        outer = {
            "optimizer": "sgd",
            "lr": self.config.outer_step,
            "momentum": 0.0,
            "weight_decay": 0.0,
            "schedule": "linear",
        }
        main = ("common.codes", "generators.*", "target_generator.*", "head.*", "fidelity.*")
        return {"main": Optimiser(main), "prompt": Optimiser(("common.series",), {**outer, "warmup_epochs": 0})}

    def joint_step(self, ctx: Any) -> Mapping[str, float | Tensor]:
        """One step on the mean of the J_i, and on the target's loss where it is drawn: what the meta-learning becomes with one plain inner
        step and beta = 1. The log's `loss` is their sum.

        Of a batch that is cut every J_i is the mean over its micro-batches, each with information terms of its own.
        """
        names = [NAME.format(i) for i in range(len(self.sources))]
        whole = Whole.of(ctx, (*names, TARGET))
        drawn = sum(whole.counts[name] > 0 for name in names)
        numbers = itertools.count()

        def part(batches: Mapping[str, Batch]) -> dict[str, Tensor]:
            found, number = by_source(batches), next(numbers)
            logs: dict[str, Tensor] = {}
            loss = torch.zeros((), device=ctx.device)
            if found:
                objective, logs = self.objectives(found, ctx.rng("pairs", *[number] * (number > 0)))
                loss = (
                    sum((whole.share(NAME.format(i), found[i]) * value for i, value in objective.items()), loss) / drawn
                )
                logs = {name: value / whole.parts for name, value in logs.items()}
            own, value = self.target_alone(batches.get(TARGET), drawn)
            if TARGET in batches:
                own, value = (whole.share(TARGET, batches[TARGET]) * x for x in (own, value))
            whole.backward(ctx, loss + own)
            return {"loss": loss.detach() + value, **logs}

        found = ctx.each_part(part)
        ctx.update()
        kept = ["loss", "ce", "delta_norm"]
        kept += ["fidelity"] * (self.fidelity is not None)
        kept += ["distinction"] * (self.config.discrimination_weight > 0 and drawn > 1)
        return summed(ctx, kept, found)

    def meta_step(self, ctx: Any, batches: Mapping[str, Batch]) -> Mapping[str, float | Tensor]:
        """P_i <- P, q_in steps on J_i over (P_i, g_i, h), then P <- P + beta mean_i(P_i - P); no second derivatives.

        The inner loops of the sources advance together [D]: h takes the mean of their gradients, every g_i its own. What is logged is the
        mean over the inner steps.
        """
        found = by_source(batches)
        start = self.common.series
        seen: list[Mapping[str, Tensor]] = []
        copies = {i: start.detach().clone().requires_grad_() for i in found}
        kind: Callable[..., torch.optim.Optimizer]
        kind = torch.optim.Adam if self.config.inner_optimizer == "adam" else torch.optim.SGD
        inner = kind(list(copies.values()), lr=self.config.prompt_lr) if copies else None
        for number in range(self.config.inner_steps):
            part = {i: chunk(batch, number, self.config.inner_steps) for i, batch in found.items()}
            part = {i: batch for i, batch in part.items() if len(batch)}
            if part:
                objective, logs = self.objectives(part, ctx.rng("pairs", number), copies)
                count = sum(map(len, part.values()))
                own, value = self.target_alone(batches.get(TARGET), len(part))
                ctx.backward(mean(objective) + own, count)
                for i in part:
                    gradient = copies[i].grad
                    assert gradient is not None
                    gradient.mul_(len(part) / count)  # of J_i alone; `backward` took count * mean_i J_i
                assert inner is not None
                inner.step()
                inner.zero_grad(set_to_none=True)
                seen.append({"loss": mean(objective).detach() + value, **logs})
            ctx.update("main")
        if copies:
            moved = torch.stack([copied.detach() - start.detach() for copied in copies.values()]).mean(0)
            ctx.backward(-(start * moved).sum(), 1)
        ctx.update("prompt", clip=False)
        return {name: sum(logs[name] for logs in seen) / len(seen) for name in seen[0]} if seen else {}

    @torch.no_grad()
    def start_target(self, ctx: Any) -> None:
        """g_T starts from the mean of the sources' weights [D]."""
        tables = [dict(g.named_parameters()) for g in self.generators]
        for name, tensor in self.target_generator.named_parameters():
            tensor.copy_(torch.stack([table[name] for table in tables]).mean(0))

    def target_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """CE + lam1 l_F on the shots; l_F with e(Y) = 0 on unlabelled windows [D]."""
        delta = self.generated(self.target_generator, batch.inputs)
        feature = self.feature(batch.inputs, self.common.series + delta)
        logs: dict[str, Tensor] = {}
        loss = feature.new_zeros(())
        if batch.target is not None:
            loss = loss + self.task.loss(self.head(feature), batch)[0]
        if self.fidelity is not None and len(batch) > 1:
            logs["fidelity"] = self.fidelity(delta, feature, batch.target)
            loss = loss - self.config.fidelity_weight * logs["fidelity"]
        return loss, {"loss": loss.detach(), **logs}

    def target_alone(self, batch: Batch | None, parts: int) -> tuple[Tensor, Tensor]:
        """(a scalar whose gradient is that of the target's loss over `parts` with respect to g_T, and zero for P, h and the critic; that
        loss over `parts` itself)."""
        if batch is None:
            return (zero := self.common.series.new_zeros(())), zero
        own = list(self.target_generator.parameters())
        loss = self.target_loss(batch)[0] / parts
        gradients = torch.autograd.grad(loss, own)
        return torch.stack([(p * g).sum() for p, g in zip(own, gradients, strict=True)]).sum(), loss.detach()

    def target_step(self, ctx: Any) -> Mapping[str, float | Tensor]:
        """g_T is learned on; P, f, h and the critic stay."""
        whole = Whole.of(ctx, ("shots", "unlabeled"))

        def part(batches: Mapping[str, Batch]) -> dict[str, Tensor]:
            ((role, batch),) = batches.items()
            loss, logs = self.target_loss(batch)
            ctx.backward(loss, len(batch))
            return {name: whole.share(role, batch) * value.detach() for name, value in logs.items()}

        found = ctx.each_part(part)
        ctx.update()
        return summed(ctx, ["loss", *["fidelity"] * (self.fidelity is not None)], found)

    @torch.no_grad()
    def select(self, ctx: Any) -> None:
        """Choose i* by the criteria (see `select_source`) and, where it is asked for, w on the target shots."""
        if not len(self.generators):
            return
        evidence = gather(self, ctx)
        best, similarity = select_source(evidence, self.config.fidelity_floor)
        self.chosen.fill_(best)
        for name, value in evidence.tensors(similarity).items():
            getattr(self, f"evidence_{name}").copy_(value)
        if self.config.mix is None and "shots" in ctx.data:
            losses = {}
            for weight in (0.5, 0.0, 1.0):
                self.mix.fill_(weight)
                found = [(self.task.loss(self(batch), batch)) for batch in ctx.batches("shots")]
                losses[weight] = sum(float(loss) * count for loss, count in found)
            self.mix.fill_(min(losses, key=lambda weight: losses[weight]))
        ctx.log({"chosen": float(best), "mix": float(self.mix)})

    def panels(self) -> Sequence[Mapping[str, Any]]:
        if not len(self.generators) or int(self.chosen) < 0:
            return ()
        stored = {name.removeprefix("evidence_"): t for name, t in self.named_buffers() if name.startswith("evidence_")}
        return source_panels(self.sources, int(self.chosen), float(self.mix), self.common.series.detach(), stored)
