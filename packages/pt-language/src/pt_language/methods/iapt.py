"""IAPT: every layer's own generator turns the instruction into 4 soft tokens (Zhu et al., ACL 2024, arXiv 2405.18203).

Before layer l, with H (n, d) the instruction's hidden states entering it:
  U = H W_dn, (n, c);   A = softmax over the instruction of U Q_sa, (n, l_sp);   p_l = Ra_l(A^T U) W_up, (l_sp, d).
The layer runs on [p_l; H], the outputs at p_l are dropped. Ra_l is a rational function with 12 coefficients of its own per layer, fitted to
GeLU at the start. Bi-level training: Omega = {W_dn, Q_sa, W_up} steps on training batches, Theta = {coefficients} on validation batches.

Generators run once, when the text is read; each later token only attends to l_sp more keys per layer. No official code was found: the
initial values N(0, 0.02^2), the positions of the slots (0 .. l_sp - 1 in every layer) and dropping their outputs are choices of ours.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge, Gt
from pt_core import Backbone, Batch, Dataset, Edits, Insert, Optimiser, Stage, Stream, Task
from pt_core.bridges.transformers import valueless
from pt_core.errors import ConfigError, DataError
from pt_core.kernels._mode import fast_paths_enabled
from pt_core.lowered import Watch
from pt_core.stage import StepContext
from torch import Tensor, nn
from torch.nn import functional as F

from pt_language.adapters.base import Slots
from pt_language.initial import cycled
from pt_language.kernels.rational import GELU_NARROW, GELU_WIDE, rational
from pt_language.method import LanguageMethod

ID = "iapt"
TITLE = "IAPT: Instance-Aware Prompt Tuning for Large Language Models"
TUNES = "a generator of 4 tokens per layer from the instruction"
NEEDS = {"train": "instructions with answers"}

GENERATOR, ACTIVATION = ("down", "query", "up", "head.*"), ("numerator", "denominator")
CACHED = 512
"""Instructions whose generated prompts are kept for inference."""


@dataclass(frozen=True)
class IAPTConfig:
    prompt_length: Annotated[int, Ge(0)] = 4
    """l_sp, soft tokens per layer."""
    bottleneck: Annotated[int, Ge(1)] = 320
    """c, width of the generator (the paper's budget of 84 M parameters on LLaMA-2 7B)."""
    share_every: Annotated[int, Ge(1)] = 1
    """g, neighbouring layers that share W_dn, Q_sa and W_up (activations stay their own); the last group may be smaller."""
    activation: Literal["rational", "gelu"] = "rational"
    """Learned rational function, or fixed GeLU (ablation)."""
    start: Literal["wide", "narrow"] = "wide"
    """Range of the GeLU fit that the rational functions start from: [-5, 5], or [-3, 3] (closer, but it grows faster outside)."""
    bilevel: bool = True
    """Step the activations on validation batches; False trains everything on training batches."""
    activation_lr: Annotated[float, Gt(0)] = 1e-6
    """Learning rate of the coefficients."""


class IAPT(LanguageMethod):
    """logits(ids) = LM(ids; p_l in front of layer l's input).

    Shapes, G = ceil(N / g) groups: down (G, d, c), query (G, c, l_sp), up (G, c, d), numerator (N, 7), denominator (N, 5).

    d is the width inside the blocks. Parameters: G (2 d c + c l_sp) + 12 N (0 N with fixed GeLU). LLaMA-2 7B, c = 320, g = 1: 83,927,424.
    """

    Config = IAPTConfig
    kinds = ("decoder",)
    static = False
    recipe: ClassVar[Mapping[str, Any]] = {
        "optimizer": "adamw",
        "lr": 1e-4,
        "weight_decay": 0.0,
        "batch_size": 16,
        "epochs": 10,
        "schedule": "linear",
        "warmup_epochs": 0.6,
    }
    config: IAPTConfig

    def __init__(self, config: IAPTConfig, backbones: Mapping[str, Backbone], task: Task) -> None:
        super().__init__(config, backbones, task)
        if not self.text_task.template.inputs:
            raise ConfigError(
                "iapt makes its prompts from an instruction; running text has none (give a template with an input field)"
            )
        depth, dim, width = self.backbone.depth, self.backbone.width(0), config.bottleneck
        groups = -(-depth // config.share_every)
        self.down = nn.Parameter(torch.randn(groups, dim, width) * 0.02)
        self.query = nn.Parameter(torch.randn(groups, width, config.prompt_length) * 0.02)
        self.up = nn.Parameter(torch.randn(groups, width, dim) * 0.02)
        if config.activation == "rational":
            a, b = GELU_WIDE if config.start == "wide" else GELU_NARROW
            self.numerator = nn.Parameter(torch.tensor(a).repeat(depth, 1))
            self.denominator = nn.Parameter(torch.tensor(b).repeat(depth, 1))
        self.calls = 0
        """Times a generator ran, over all layers."""
        self._known: OrderedDict[tuple[int, ...], Tensor] = OrderedDict()
        self._watch = Watch()

    def front(self) -> int:
        return self.config.prompt_length

    def adopt(self, data: Mapping[str, Dataset]) -> None:
        super().adopt(data)
        if self.config.bilevel and self.config.activation == "rational" and "val" not in data:
            raise ConfigError(
                "bilevel=true steps the activations on validation data, and there are none; give --data val=PATH or --bilevel false"
            )

    def resized(self, name: str, tensor: Tensor, shape: torch.Size) -> Tensor | None:
        """Further soft tokens start as the first ones."""
        return cycled(tensor, shape, axis=2) if name == "query" else None

    def generate_prompt(self, layer: int, hidden: Tensor, mask: Tensor) -> Tensor:
        """p_l (batch, l_sp, d) from hidden (batch, n, d) of the instruction, mask (batch, n)."""
        self.calls += 1
        group = layer // self.config.share_every
        lowered = hidden.float() @ self.down[group]
        scores = (lowered @ self.query[group]).masked_fill(mask[..., None] == 0, -torch.inf)
        pooled = scores.softmax(1).transpose(1, 2) @ lowered
        if self.config.activation == "gelu":
            return F.gelu(pooled) @ self.up[group]
        return rational(pooled, self.numerator[layer], self.denominator[layer]) @ self.up[group]

    def edits(self, batch: Batch) -> Edits:
        """Slots of every layer; only the text before the answer is read."""
        length = self.config.prompt_length
        if length == 0:
            return {}
        mask = batch.inputs["mask"]
        counted = valueless(mask)  # costs are counted on shapes alone
        empty = [] if counted else (mask.sum(1) == 0).nonzero().flatten().tolist()
        if empty:
            raise DataError(f"row {batch.ids[empty[0]]!r} (number {empty[0]} of the batch) has no instruction token")
        known = self._recall(batch) if not (torch.is_grad_enabled() or counted) and fast_paths_enabled() else None
        if isinstance(known, Tensor):
            return {f"tokens[{layer}]": Insert(known[:, layer], at="front") for layer in range(self.backbone.depth)}
        made: list[Tensor] = []

        def slots(layer: int) -> Slots:
            def fn(hidden: Tensor) -> Tensor:
                prompt = self.generate_prompt(layer, hidden[:, : mask.shape[1]], mask)
                if known is not None:
                    made.append(prompt)
                    if len(made) == self.backbone.depth:
                        self._remember(known, torch.stack(made, 1))
                        made.clear()
                return prompt

            return Slots(length, fn)

        return {f"tokens[{layer}]": Insert(slots(layer), at="front") for layer in range(self.backbone.depth)}

    def _recall(self, batch: Batch) -> Tensor | list[tuple[int, ...]]:
        """Prompts (batch, N, l_sp, d) of instructions met before, or the instructions as keys where one is new."""
        if not self._watch.same(list(self.parameters()), self.backbone.device, self.backbone.dtype):
            self._known.clear()
        pairs = zip(batch.inputs["ids"].tolist(), batch.inputs["mask"].tolist(), strict=True)
        keys = [tuple(token for token, real in zip(ids, mask, strict=True) if real) for ids, mask in pairs]
        if all(key in self._known for key in keys):
            return torch.stack([self._known[key] for key in keys])
        return keys

    def _remember(self, keys: list[tuple[int, ...]], prompts: Tensor) -> None:
        for key, prompt in zip(keys, prompts, strict=True):
            self._known[key] = prompt
            self._known.move_to_end(key)
        while len(self._known) > CACHED:
            self._known.popitem(last=False)

    def stages(self, ctx: Any) -> Iterator[Stage]:
        if self.config.activation == "gelu":
            yield Stage("train")
        elif not self.config.bilevel:
            groups = {
                "main": Optimiser(GENERATOR),
                "activation": Optimiser(ACTIVATION, {"lr": self.config.activation_lr}),
            }
            yield Stage("train", optimisers=groups, step_parts=self.single_step)
        else:
            optimisers = {
                "generator": Optimiser(GENERATOR),
                "activation": Optimiser(ACTIVATION, {"lr": self.config.activation_lr}),
            }
            streams = {"train": Stream("train"), "val": Stream("val", augment=False)}
            yield Stage("train", streams=streams, optimisers=optimisers, step_parts=self.bilevel_step)

    def single_step(self, ctx: Any) -> Mapping[str, float | Tensor]:
        """Everything on the training batch, each set with its own learning rate."""

        def backward(part: Mapping[str, Batch]) -> tuple[Tensor, int]:
            output = self.training_step(part["train"])
            ctx.backward(output.loss, output.count)
            return output.loss.detach(), output.count

        losses = ctx.each_part(backward)
        pending = ctx._pending
        ctx.update("main")
        ctx._pending = pending  # the second set's gradients are of the same pass
        ctx.update("activation")
        return {"loss": mean(losses)}

    def bilevel_step(self, ctx: StepContext) -> Mapping[str, float | Tensor]:
        """A step of Omega on the training batch, then a step of Theta on the validation batch (first order)."""
        theta = {self.numerator, self.denominator}
        logs: dict[str, Tensor] = {}
        for stream, optimiser in (("train", "generator"), ("val", "activation")):
            for parameter in self.parameters():
                parameter.requires_grad_((parameter in theta) == (optimiser == "activation"))
            losses: list[tuple[Tensor, int]] = []
            ctx.apply(ctx.gradients(self._loss_of(stream, losses), optimiser), optimiser)
            logs["loss" if stream == "train" else "val_batch_loss"] = mean(losses)
        for parameter in self.parameters():
            parameter.requires_grad_(True)
        return logs

    def _loss_of(
        self, stream: str, seen: list[tuple[Tensor, int]]
    ) -> Callable[[Mapping[str, Batch]], tuple[Tensor, int]]:
        def loss(part: Mapping[str, Batch]) -> tuple[Tensor, int]:
            if stream not in part:  # a micro-batch of the other stream only
                return sum((p.sum() for p in self.parameters() if p.requires_grad), torch.zeros(())) * 0, 0
            output = self.training_step(part[stream])
            seen.append((output.loss.detach(), output.count))
            return output.loss, output.count

        return loss


def mean(losses: Sequence[tuple[Tensor, int]]) -> Tensor:
    """Mean of micro-batches' losses, weighted by their number of units; 0 where there is none."""
    total = sum(count for _, count in losses)
    return sum((loss * count for loss, count in losses), torch.zeros(())) / max(1, total)
