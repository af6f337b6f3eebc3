"""The self-training loop of DAFormer, HRDA and MIC, which `self_training` runs as it is and `coda` extends."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Le, Lt
from pt_core import Backbone, Batch, Stage, StepOutput, Task
from pt_core.data import Dataset
from pt_core.errors import ConfigError, DataError
from pt_core.randomness import apart, sampled_by
from pt_core.stage import StepContext, Stream
from torch import Tensor
from torch._subclasses import FakeTensor

from pt_vision.segmentation.data.crops import RareClasses
from pt_vision.segmentation.hrda import Box, draw_box
from pt_vision.segmentation.method import RECIPE, STATISTICS, SegmentationMethod, crops, parameter_groups, steps_of
from pt_vision.segmentation.mixing import (
    block_mask,
    class_masks,
    colour_and_blur,
    feature_distance,
    inside_margins,
    majority_mask,
    mix,
    pseudo_labels,
)
from pt_vision.segmentation.network import CLASS_TENSORS, Network, NetworkConfig, Scales, Visit, scale_loss
from pt_vision.segmentation.pairs import Pairs, Whole, paired
from pt_vision.segmentation.teacher import Teacher

THINGS = (
    *("traffic light", "traffic sign", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"),
    *("sign", "pedestrian", "bicyclist"),
)
"""Countable classes of Cityscapes (its ids 6, 7, 11-18), and what other street sets call them."""


@dataclass(frozen=True)
class SelfTrainingConfig(NetworkConfig):
    teacher_momentum: Annotated[float, Ge(0), Lt(1)] = 0.99
    """alpha of the teacher's moving average, reached from 0 by 1 - 1 / (k + 1)."""
    threshold: Annotated[float, Ge(0), Le(1)] = 0.968
    """tau: q is the share of the batch's pixels whose pseudo-label has at least this confidence."""
    margin_top: Annotated[float, Ge(0), Lt(1)] = 30 / 1080
    """Share of the target frame's rows at the top where pseudo-labels count nothing (30 px of 1920 x 1080)."""
    margin_bottom: Annotated[float, Ge(0), Lt(1)] = 240 / 1080
    """The same at the bottom, where a car's bonnet is (240 px of 1920 x 1080)."""
    margin_side: Annotated[float, Ge(0), Lt(0.5)] = 30 / 1920
    """The same at each side, a share of the columns (30 px of 1920 x 1080)."""
    classmix: Literal["image", "batch"] = "image"
    """Classes that ClassMix pastes: half of each source image's, or (as released) half of the batch's, the ignore label among them."""
    colour_strength: Annotated[float, Ge(0), Le(0.5)] = 0.2
    """Colour jitter of mixed images; hue turns by up to half of the circle."""
    feature_weight: Annotated[float, Ge(0)] = 0.005
    """lambda, weight of the distance to the initial network's features on things (0: off)."""
    feature_share: Annotated[float, Gt(0), Le(1)] = 0.75
    """Share of a feature cell that one class has to cover for the distance to count there."""
    thing_classes: tuple[str, ...] = ()
    """Classes whose features stay near the initial network's (default: the countable ones of Cityscapes that the data have)."""
    masked: Literal["source_target", "target", "none"] = "source_target"
    """Masked image consistency: on half source and half target images, on colour-augmented target images only, or off."""
    mask_block: Annotated[int, Ge(1)] | None = None
    """Side of masked blocks in pixels (default: 64, or 1/16 of smaller crops)."""
    mask_ratio: Annotated[float, Ge(0), Lt(1)] = 0.7
    """Share of masked blocks."""
    masked_weight: Annotated[float, Ge(0)] = 1.0
    """Weight of the masked loss."""
    rare_temperature: Annotated[float, Gt(0)] | None = 0.01
    """T of rare-class sampling, P(c) proportional to exp((1 - f_c) / T); none draws source images evenly."""
    max_share: Annotated[float, Gt(0), Le(1)] = 0.75
    """Source crops in which one class takes more are drawn anew."""


class SelfTraining(SegmentationMethod):
    """theta: network, theta': its moving average. A step on source (x_S, y_S) and target x_T::

        p = softmax(theta'(x_T)), y = argmax p, q = share of pixels with max p >= tau
        x_M, y_M, w_M = ClassMix of (x_S, y_S, 1) and (x_T, y, q), then colour jitter and blur
        L = CE(theta(x_S), y_S) + lambda |F_4(theta) - F_4(theta_0)| on things + CE_w(theta(x_M), y_M) + CE_w(theta(masked x), ...)

    With HRDA every CE is 0.9 of the fused logits' and 0.1 of the detail window's. The trained weights are kept as they end: selecting
    them by a labelled target part would be supervision.

    Batches may be cut (`--accumulate`, processes): q, the half that is masked and the cells of things are those of the whole step, and
    draws belong to images or to the step. What still depends on the cut: BatchNorm, drop-path, and which images form a pair where the
    two streams draw different numbers (at the end of an epoch).
    """

    Config: ClassVar[type] = SelfTrainingConfig
    training_only: ClassVar[tuple[str, ...]] = ("teacher.*",)
    class_tensors = (*CLASS_TENSORS, "teacher.*:classifier:*", "teacher.*:linear_pred:*")
    recipe: ClassVar[Mapping[str, Any]] = {**RECIPE, "steps": 60_000}
    config: SelfTrainingConfig

    def __init__(self, config: SelfTrainingConfig, backbones: Mapping[str, Backbone], task: Task) -> None:
        super().__init__(config, backbones, task)
        self.network = Network(self.backbone, task.outputs, config)
        self.things = self._thing_rows()
        if config.margin_top + config.margin_bottom >= 1:
            raise ConfigError(
                f"margin_top={config.margin_top} and margin_bottom={config.margin_bottom} leave nothing of the frame"
            )
        self.teacher = self.new_teacher()

    def new_teacher(self) -> Teacher:
        return Teacher(self.network, self.config.teacher_momentum)

    def _thing_rows(self) -> list[int]:
        names = list(self.task.class_names())
        unknown = [name for name in self.config.thing_classes if name not in names]
        if unknown:
            raise ConfigError(
                f"thing_classes names {unknown[0]!r}, which is no class; the data have {', '.join(names)}"
            )
        return [row for row, name in enumerate(names) if name in (self.config.thing_classes or THINGS)]

    def visit(self, slot: str, call: Literal["pseudo", "mixed", "masked"]) -> Visit | None:
        """What prompts a call of the step gets; plain self-training has none."""
        return None

    def forward(self, batch: Batch) -> Tensor:
        """(batch, class, row, column) logits of the student, without prompts."""
        logits: Tensor = self.network(batch.inputs)
        return logits

    def training_step(self, batch: Batch) -> StepOutput:
        """The supervised loss of plain images; a run takes `step` instead."""
        if isinstance(batch.inputs, FakeTensor):  # costs are being counted
            raise ConfigError(
                f"a step of {type(self).__name__} has several forward passes that are not counted; its time and memory beside plain "
                "self-training are in docs/results/vision-segmentation.md"
            )
        return super().training_step(batch)

    # ---- the stage -------------------------------------------------------------------------------------------------------------

    def slots(self, ctx: Any) -> dict[str, Stream]:
        """Name -> target stream; here all target images."""
        return {"target": Stream("target", view=crops(self.network.crop, labelled=False))}

    def plan(self, step: int, steps: int) -> str:
        """The slot that step k draws from."""
        return "target"

    def stages(self, ctx: Any) -> Iterator[Stage]:
        rare = None if self.config.rare_temperature is None else RareClasses(self.config.rare_temperature)
        view = crops(self.network.crop, rare=rare, max_share=self.config.max_share)
        steps, slots = steps_of(ctx, len(ctx.data["train"])), self.slots(ctx)
        yield Stage(
            "adapt",
            tracks=("teacher.*", *STATISTICS),
            streams={"source": Stream("train", view=view), **slots},
            plan=lambda step: ("source", self.plan(step, steps)),
            options={"steps": steps},
            select=False,
            step_parts=self.step,
        )

    def adopt(self, data: Mapping[str, Dataset]) -> None:
        """Say which classes rare-class sampling leaves out."""
        import warnings

        train = data.get("train")
        if self.config.rare_temperature is None or train is None or getattr(train, "masks", None) is None:
            return
        view: Any = crops(self.network.crop, rare=RareClasses(self.config.rare_temperature))(train)
        lost = view.without()
        if lost:
            warnings.warn(
                f"no training image has enough pixels of {', '.join(lost)}: rare-class sampling leaves them out",
                stacklevel=2,
            )

    def param_groups(self, stage: Stage) -> list[dict[str, Any]]:
        return parameter_groups(self)

    def step(self, ctx: StepContext) -> Mapping[str, float | Tensor]:
        """One iteration (a-g of the released loop). Losses are back-propagated one after the other; their gradients add up.

        Every micro-batch adds its share to each loss, so that the parts of a batch have the sum of the whole; BatchNorm sees parts.
        """
        self.teacher.update(self.network, ctx.step)
        parts: list[Pairs | None] = ctx.each_part(self.labelled)
        pairs = [one for one in parts if one is not None]
        whole = Whole.of(pairs, self.config.masked, self.config.classmix == "batch", ctx)
        waiting = iter(parts)
        shares = ctx.each_part(lambda _: self.losses(next(waiting), whole, ctx))
        ctx.update()
        return self.logged(shares, whole, ctx)

    def logged(
        self, shares: Sequence[Mapping[str, Tensor]], whole: Whole, ctx: StepContext
    ) -> Mapping[str, float | Tensor]:
        """Each loss of the whole step, from what micro-batches added; `loss` is what was optimised, others have no weights."""
        names = ["loss_source", "loss_mixed", *(["loss_masked"] if self.config.masked != "none" else [])]
        names += ["feature_distance"] if self.keeps_features else []
        zero = torch.zeros((), device=ctx.device)
        sums = ctx.reduce(torch.stack([sum((log[name] for log in shares if name in log), zero) for name in names]))
        logs = dict(zip(names, sums, strict=True))
        weigh = {"feature_distance": self.config.feature_weight, "loss_masked": self.config.masked_weight}
        total = sum((weigh.get(name, 1.0) * value for name, value in logs.items()), zero)
        return {"loss": total, **logs, "confident": whole.q}

    # ---- its parts -------------------------------------------------------------------------------------------------------------

    @property
    def keeps_features(self) -> bool:
        """Whether features of things stay near those of the initial network."""
        return bool(self.config.feature_weight and self.things and not self.config.freeze_backbone)

    def labelled(self, part: Mapping[str, Batch]) -> Pairs | None:
        """The pairs of a micro-batch with the teacher's labels, and the feature cells of things; None where there is no pair."""
        pairs = paired(part)
        if pairs is None:
            return None
        pairs.pseudo, pairs.sure = self.pseudo(pairs.target, pairs.slot)
        if self.keeps_features:
            scale = 32 * self.network.crop // self.network.view_size  # pixels of the crop in a cell of F_4
            share = self.config.feature_share
            pairs.cells = majority_mask(pairs.labels, scale, share, self.things, self.task.outputs)
        return pairs

    def losses(self, pairs: Pairs | None, whole: Whole, ctx: StepContext) -> dict[str, Tensor]:
        """Back-propagate what a micro-batch adds to the step's losses; returns that."""
        if pairs is None:
            return {}
        added: dict[str, Tensor] = {}

        def backward(name: str, loss: Tensor, weight: float = 1.0, beside: Tensor | float = 0.0) -> None:
            added[f"loss_{name}"] = loss.detach()
            ctx.backward((weight * loss + beside) * whole.calls, 1)

        share = len(pairs) / whole.pairs
        supervised, distance = self.source_loss(pairs, whole, ctx)
        backward("source", share * supervised, beside=self.config.feature_weight * distance)
        added["feature_distance"] = distance.detach()
        mixed, labels, weights = self.paste(pairs, whole, ctx)
        backward("mixed", share * self.crop_loss(mixed, labels, weights, pairs.keys, ctx, "mixed", pairs.slot))
        if self.config.masked == "target":
            backward("masked", share * self.masked_targets(pairs, whole, ctx), self.config.masked_weight)
        elif self.config.masked == "source_target" and (chosen := pairs.within(whole.half)):
            part = len(chosen) / len(whole.half)
            backward("masked", part * self.masked_pairs(pairs, chosen, whole, ctx), self.config.masked_weight)
        return added

    def run(self, images: Tensor, keys: Tensor, ctx: StepContext, call: str, visit: Visit | None = None) -> Scales:
        """The network on crops, in a pass of its own: its detail window and its dropout are those of `call`."""
        box: Box | None = draw_box(self.network.crop, ctx.rng("box", call)) if self.config.hrda else None
        with sampled_by(keys), apart(call):
            return self.network.scales(images, box, visit)

    def crop_loss(
        self,
        images: Tensor,
        labels: Tensor,
        weights: Tensor | None,
        keys: Tensor,
        ctx: StepContext,
        call: Literal["mixed", "masked"],
        slot: str,
    ) -> Tensor:
        out = self.run(images, keys, ctx, call, self.visit(slot, call))
        return scale_loss(out, labels, weights, self.config.detail_weight)

    def source_loss(self, pairs: Pairs, whole: Whole, ctx: StepContext) -> tuple[Tensor, Tensor]:
        """(supervised loss on plain features, what the pairs add to the mean distance to the initial network's features)."""
        out = self.run(pairs.images, pairs.keys, ctx, "source")
        loss = scale_loss(out, pairs.labels, None, self.config.detail_weight)
        if pairs.cells is None:
            return loss, torch.zeros_like(loss)
        with torch.no_grad():
            initial = self.backbone(out.context).extra["maps"][-1]
        return loss, feature_distance(out.features, initial, pairs.cells, whole.cells)

    @torch.no_grad()
    def pseudo(self, target: Tensor, slot: str) -> tuple[Tensor, Tensor]:
        """(labels (batch, row, column), sure (batch,)) from the teacher, whose windows run in one batch."""
        logits = self.teacher.run(self.network, target, self.visit(slot, "pseudo"))
        return pseudo_labels(logits, self.config.threshold)

    def pixel_weights(self, pairs: Pairs, q: Tensor) -> Tensor:
        """(batch, row, column): q, and 0 on the margins of the frames."""
        weights = q.expand(pairs.pseudo.shape)
        if pairs.box is None:
            return weights
        margins = (self.config.margin_top, self.config.margin_bottom, self.config.margin_side)
        rows, columns = pairs.pseudo.shape[1:]
        return weights * inside_margins(pairs.box, (rows, columns), margins)

    def recoloured(self, images: Tensor, keys: Tensor, ctx: StepContext, draw: str) -> Tensor:
        """Colour jitter and blur; `keys` are the images'."""
        return colour_and_blur(images, self.backbone.preprocessing, ctx.rng(draw), keys, self.config.colour_strength)

    def paste(self, pairs: Pairs, whole: Whole, ctx: StepContext) -> tuple[Tensor, Tensor, Tensor]:
        """ClassMix of source and target, colour-augmented: images, labels, weights."""
        masks, weights = class_masks(pairs.labels, pairs.keys, whole.classes), self.pixel_weights(pairs, whole.q)
        changed = self.recoloured(mix(pairs.images, pairs.target, masks), pairs.keys, ctx, "colour")
        return changed, mix(pairs.labels, pairs.pseudo, masks), mix(torch.ones_like(weights), weights, masks)

    def masked_targets(self, pairs: Pairs, whole: Whole, ctx: StepContext) -> Tensor:
        """Masked image consistency: the student sees a third of the blocks of target images and has to predict all of them."""
        pictures = self.recoloured(pairs.target, pairs.target_keys, ctx, "masked colour")
        weights = self.pixel_weights(pairs, whole.q)
        return self.masked_loss(pictures, pairs.pseudo, weights, pairs.target_keys, ctx, pairs.slot)

    def masked_pairs(self, pairs: Pairs, chosen: list[int], whole: Whole, ctx: StepContext) -> Tensor:
        """As `masked_targets`, on source and target images of the chosen pairs."""
        pictures = torch.cat([pairs.images[chosen], pairs.target[chosen]])
        labels, keys = (
            torch.cat([source[chosen], target[chosen]])
            for source, target in ((pairs.labels, pairs.pseudo), (pairs.keys, pairs.target_keys))
        )
        targets = self.pixel_weights(pairs, whole.q)[chosen]
        weights = torch.cat([torch.ones_like(targets), targets])
        return self.masked_loss(pictures, labels, weights, keys, ctx, pairs.slot)

    def masked_loss(
        self, pictures: Tensor, labels: Tensor, weights: Tensor, keys: Tensor, ctx: StepContext, slot: str
    ) -> Tensor:
        block = self.config.mask_block or (64 if self.network.crop >= 1024 else max(1, self.network.crop // 16))
        hidden = pictures * block_mask(pictures, block, self.config.mask_ratio, keys)
        return self.crop_loss(hidden, labels, weights, keys, ctx, "masked", slot)


def check_rows(rows: Sequence[int], slot: str, why: str) -> tuple[int, ...]:
    """Refuse an empty slot of the chain.

    Raises:
        DataError: names the slot and how to fill it.
    """
    if not rows:
        raise DataError(f"the chain's slot {slot!r} has no image ({why}); give --data {slot}=PATH, or --no-chain")
    return tuple(rows)
