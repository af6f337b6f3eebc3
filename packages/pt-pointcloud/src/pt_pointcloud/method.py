"""What the methods of this package share: the class token as a tuned tensor, published training habits as options, votes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import torch
from pt_core import Backbone, Batch, Method, Stage, StepOutput, Task
from pt_core.backbone import Claim
from pt_core.errors import ConfigError
from pt_core.task import Predictions
from torch import Tensor, nn

from pt_pointcloud.backbone import CLASS_TENSORS, Resume

if TYPE_CHECKING:
    from pt_pointcloud.backbone import PointBackbone

BUFFERS = ("*running_mean", "*running_var", "*num_batches_tracked")


class PointMethod(Method):
    """A `Method` whose backbone reads point clouds.

    Attributes:
        predicts: `cloud` for one output per cloud, `point` for one per point; the task has to be of that kind.
    """

    predicts: ClassVar[Literal["cloud", "point"]] = "cloud"
    exports_forward = True  # votes are averaged outside of it

    def __init__(self, config: Any, backbones: Mapping[str, Backbone], task: Task) -> None:
        super().__init__(config, backbones, task)
        unit = getattr(task, "unit", "cloud")
        if unit != self.predicts:
            name = type(self).__name__
            raise ConfigError(
                f"{name} predicts one output per {self.predicts}, task {task.name!r} needs one per {unit}; choose another method"
            )

    @property
    def backbone(self) -> PointBackbone:
        return cast("PointBackbone", self.backbones["backbone"])

    def read(self, batch: Batch, layer: int = 0) -> Any:
        """What the backbone gets for a batch: its clouds, or their cached tokens that enter block `layer`."""
        frozen = batch.extra.get("frozen")
        return batch.inputs if frozen is None else Resume(frozen, layer)

    def predict_step(self, batch: Batch, rng: Callable[[str], torch.Generator]) -> Predictions:
        """Clouds with an axis of votes, points (batch, vote, N, 3), get the mean of their votes' logits."""
        points = batch.inputs["points"] if isinstance(batch.inputs, Mapping) else batch.inputs
        if not isinstance(points, Tensor) or points.ndim != 4:
            return super().predict_step(batch, rng)
        views = [
            self.task.predict(self(Batch({"points": points[:, vote]}, None, batch.index, batch.ids)))
            for vote in range(points.shape[1])
        ]
        return {name: torch.stack([view[name] for view in views]).mean(0) for name in views[0]}

    def param_groups(self, stage: Stage) -> list[dict[str, Any]]:
        """No decay of vectors, biases and names with "token" (official behaviour)."""
        named = [(name, p) for name, p in self.named_parameters() if p.requires_grad]
        plain = [p for name, p in named if p.ndim == 1 or name.endswith("bias") or "token" in name]
        decay = [p for _, p in named if all(p is not other for other in plain)]
        return [group for group in ({"params": decay}, {"params": plain, "weight_decay": 0.0}) if group["params"]]

    def stages(self, ctx: Any) -> Iterator[Stage]:
        if self.coupled and "train" in ctx.data:
            check_batches(len(ctx.data["train"]), ctx.options)
        yield Stage("train", tracks=BUFFERS)


def check_batches(samples: int, options: Any) -> None:
    """Refuse a batch size that leaves a single cloud in a batch: its BatchNorm has no variance.

    Raises:
        ConfigError: names a batch size that works.
    """
    size = min(options.batch_size, samples)
    parts = getattr(options, "accumulate", 1)

    def alone(size: int) -> bool:
        sizes = {size, samples % size or size}
        return any(number // parts < 2 and number % parts != number for number in sizes) or any(n == 1 for n in sizes)

    if alone(size):
        better = next((n for n in range(size + 1, samples + 1) if not alone(n)), None)
        hint = f"--batch-size {better} works" if better else "give at least 2 training samples"
        raise ConfigError(
            f"--batch-size {options.batch_size} with {samples} training samples leaves a batch or micro-batch of one cloud, which "
            f"BatchNorm cannot normalise; {hint}"
        )


class ClassToken(Claim):
    """The class token and its position: those of the backbone where they were pretrained, else N(0, 0.02).

    Args:
        trained: whether they are parameters; otherwise they stay at their initial values, as buffers that are stored with the method.
        moving: backbone in train mode while the method trains, as published: drop-path, and BatchNorm statistics of the patch encoder,
            which become this module's own buffers.

    Parameters: 2C if trained.
    """

    def __init__(self, backbone: PointBackbone, trained: bool = True, moving: bool = False) -> None:
        net = backbone.module
        tensors = {name: getattr(net, name).detach().clone().float() for name in CLASS_TENSORS}
        if not net.class_token_trained:
            for name in CLASS_TENSORS:
                tensors[name] = nn.init.trunc_normal_(torch.empty_like(tensors[name]), std=0.02)
        statistics = dict(net.named_buffers()) if moving else {}
        super().__init__(tensors if trained else {}, statistics if trained else {**tensors, **statistics})
        self.stochastic = moving

    def digest(self) -> str:
        """Identity of the values, for the keys of cached tokens."""
        total = hashlib.sha256()
        for name, tensor in sorted(self.tensors().items()):
            total.update(name.encode() + tensor.detach().cpu().numpy().tobytes())
        return total.hexdigest()[:16]


class PublishedClip:
    """Gradient clipping as in the released code: frozen weights kept requires_grad there, so the clipped norm is that of all gradients.

    While a method trains, the frozen weights are replaced by leaves of equal values; `scale` applies the factor that the whole norm gives
    to the tuned gradients and forgets the others. It is a stand-in for a `Claim` in backbone calls.
    """

    def __init__(self, backbone: PointBackbone, own: Claim) -> None:
        self.own, self.backbone = own, backbone
        self.leaves: dict[str, Tensor] = {}
        self.count = 0

    @property
    def stochastic(self) -> bool:
        return self.own.stochastic

    @property
    def training(self) -> bool:
        return self.own.training

    def tensors(self) -> dict[str, Tensor]:
        if not self.leaves:
            frozen = dict(self.backbone.module.named_parameters())
            own = self.own.tensors()
            self.leaves = {n: p.detach().clone().requires_grad_() for n, p in frozen.items() if n not in own}
        return {**self.leaves, **self.own.tensors()}

    def scale(self, parameters: list[nn.Parameter], limit: float) -> None:
        frozen = [leaf.grad / max(1, self.count) for leaf in self.leaves.values() if leaf.grad is not None]
        tuned = [p.grad for p in parameters if p.grad is not None]
        norm = torch.stack([gradient.norm() for gradient in [*frozen, *tuned]]).norm()
        for gradient in tuned:
            gradient.mul_((limit / (norm + 1e-6)).clamp(max=1.0))
        self.leaves, self.count = {}, 0


class PublishedTraining(PointMethod):
    """`PointMethod` with a class token and the two published habits, for methods whose config has `backbone_mode` and `clip`."""

    own: ClassToken

    def setup_class_token(self, trained: bool = True) -> None:
        self.own = ClassToken(self.backbone, trained, self.config.backbone_mode == "published")
        self._clip = PublishedClip(self.backbone, self.own) if self.config.clip == "published" else None

    @property
    def weights(self) -> Claim:
        """What replaces backbone weights in a call."""
        return cast("Claim", self._clip) if self._clip is not None and self.training else self.own

    @property
    def cacheable(self) -> bool:
        return self.config.backbone_mode == "eval" and self._clip is None

    def training_step(self, batch: Batch) -> StepOutput:
        output = super().training_step(batch)
        if self._clip is not None:
            self._clip.count += output.count
        return output

    def stages(self, ctx: Any) -> Iterator[Stage]:
        (stage,) = super().stages(ctx)
        if self._clip is not None:
            limit, clip, parameters = ctx.options.clip_norm, self._clip, list(self.parameters())
            if limit is None or ctx.options.precision == "fp16":
                raise ConfigError("clip='published' needs --clip-norm and works in fp32 and bf16")
            stage = replace(stage, after_backward=lambda _: clip.scale(parameters, limit))
        yield stage
