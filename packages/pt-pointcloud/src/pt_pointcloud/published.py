"""Training as the released code does it: the class token as a tuned tensor, a moving backbone, and its way to clip gradients."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from pt_core import Batch, Stage, StepOutput
from pt_core.backbone import Claim
from pt_core.errors import ConfigError
from torch import Tensor, nn

from pt_pointcloud.method import PointMethod
from pt_pointcloud.networks.backbone import PointBackbone
from pt_pointcloud.networks.transformer import CLASS_TENSORS


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


class PublishedClip(ClassToken):
    """`ClassToken` under the released code's gradient clipping: frozen weights kept requires_grad there, so the clipped norm is that of all
    gradients.

    While it trains, the frozen weights are replaced by leaves of equal values; `scale` applies the factor that the whole norm gives to the
    tuned gradients and forgets the others.
    """

    def __init__(self, backbone: PointBackbone, trained: bool = True, moving: bool = False) -> None:
        super().__init__(backbone, trained, moving)
        self.backbone = backbone
        self.leaves: dict[str, Tensor] = {}
        self.count = 0

    def tensors(self) -> dict[str, Tensor]:
        own = super().tensors()
        if not self.training:
            return own
        if not self.leaves:
            frozen = dict(self.backbone.module.named_parameters())
            self.leaves = {n: p.detach().clone().requires_grad_() for n, p in frozen.items() if n not in own}
        return {**self.leaves, **own}

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
        kind = PublishedClip if self.config.clip == "published" else ClassToken
        self.own = kind(self.backbone, trained, self.config.backbone_mode == "published")

    @property
    def cacheable(self) -> bool:
        return self.config.backbone_mode == "eval" and self.config.clip != "published"

    def training_step(self, batch: Batch) -> StepOutput:
        output = super().training_step(batch)
        if isinstance(self.own, PublishedClip):
            self.own.count += output.count
        return output

    def stages(self, ctx: Any) -> Iterator[Stage]:
        (stage,) = super().stages(ctx)
        own = self.own
        if isinstance(own, PublishedClip):
            limit, parameters = ctx.options.clip_norm, list(self.parameters())
            if limit is None or ctx.options.precision == "fp16":
                raise ConfigError("clip='published' needs --clip-norm and works in fp32 and bf16")
            stage = replace(stage, after_backward=lambda _: own.scale(parameters, limit))
        yield stage
