"""Chain-of-Domain Adaptation with severity-aware visual prompts (Gong et al., ECCV 2024, arXiv 2403.17369).

The specification is the first commit of the released code, with repairs where it is broken; each repair has a flag that brings the
published behaviour back. The network itself is trained (a copy of the encoder, and the decoder); prompts and adapters exist while
training only and never reach the tuned artifact's inference view.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge
from pt_core import Backbone, Task
from pt_core.data import Dataset
from pt_core.errors import ConfigError
from pt_core.stage import Stream

from pt_vision.segmentation.network import Visit
from pt_vision.segmentation.prompts import SeverityPrompts
from pt_vision.segmentation.self_training import SelfTraining, SelfTrainingConfig, check_rows
from pt_vision.segmentation.severity import dark_share, severity_panels, split_by_severity

ID = "coda"
TITLE = "CoDA: Instructive Chain-of-Domain Adaptation with Severity-Aware Visual Prompt Tuning"
TUNES = "encoder and decoder; pixel prompts and adapters per severity while training"
NEEDS = {
    "train": "images with masks of the labelled domain (--task segmentation)",
    "target": "unlabelled images of all other conditions; easy and hard ones apart as easy=, hard=, or found by folder or severity",
    "easy": {"what": "unlabelled images of the easy conditions (optional)", "optional": True},
    "hard": {"what": "unlabelled images of the hard conditions (optional)", "optional": True},
}
BACKBONES = {"encoder": "fit, predict"}

PUBLISHED_STEPS, CYCLE, EASY, LENGTH = 60_000, 5200, 1200, 12_000


@dataclass(frozen=True)
class CoDAConfig(SelfTrainingConfig):
    chain: bool = True
    """Walk source -> easy -> hard -> all; False draws all target images from the start."""
    chain_length: Annotated[int, Ge(0)] | None = None
    """Steps of the chain before all target images are drawn (default: 12,000 of 60,000 steps, in proportion)."""
    chain_cycle: Annotated[int, Ge(1)] | None = None
    """Steps of one easy and one hard slice together (default: 5200 of 60,000, in proportion)."""
    chain_easy: Annotated[int, Ge(0)] | None = None
    """Steps of the easy slice (default: 1200 of 60,000, in proportion)."""
    split: Literal["auto", "condition", "severity"] = "auto"
    """Easy and hard target images where no easy= and hard= data are given: by the condition (folder) of an image, or by its severity;
    auto takes conditions where there are hard and other ones."""
    hard_conditions: tuple[str, ...] = ("night",)
    """Conditions that count as hard."""
    savpt: bool = True
    """Severity-aware prompts and adapters while training."""
    prompt_size: Annotated[int, Ge(1)] | None = None
    """P, side of a prompt block (default: 64 in views of 512 px and more, an eighth of smaller ones)."""
    adapter_width: Annotated[int, Ge(1)] = 16
    """Latent channels of the Meta-Adapter."""
    official_gate: bool = False
    """Gate F_1' by a softmax over its width and normalise that width, as released."""
    official_severity: bool = False
    """Severity as released: one mean and deviation for all channels, luma weights of red and blue exchanged."""
    official_calls: bool = False
    """Prompts as released: also on the teacher's images in easy slices, and not on masked images there."""


class CoDA(SelfTraining):
    """`SelfTraining` whose target images follow a chain of domains, with prompts routed by severity::

        easy:  k < length and k mod cycle < easy        hard:  other k < length        all target images:  k >= length

    One optimiser, one schedule and one teacher run through the chain. Mixed and masked images get prompts, source images, pseudo-labels
    and inference do not.

    Parameters: |encoder| + |head| + |scale attention| + prompts and adapters (see `SeverityPrompts`); with MiT-B5 and 19 classes
    85,685,990 + 127,136, the former alone at inference.
    """

    Config = CoDAConfig
    training_only: ClassVar[tuple[str, ...]] = ("teacher.*", "network.prompts.*")
    config: CoDAConfig

    def __init__(self, config: CoDAConfig, backbones: Mapping[str, Backbone], task: Task) -> None:
        super().__init__(config, backbones, task)
        self._shares = torch.zeros(0)
        self._targets: Any = None
        if config.savpt:
            self.network.prompts = SeverityPrompts(
                self.backbone.stage_dims[0],
                self.network.view_size,
                self.backbone.preprocessing,
                config.prompt_size,
                config.adapter_width,
                config.official_gate,
                config.official_severity,
            )
            self.teacher = self.new_teacher()

    # ---- severity-aware prompts ------------------------------------------------------------------------------------------------

    def visit(self, slot: str, call: Literal["pseudo", "mixed", "masked"]) -> Visit | None:
        if not self.config.savpt:
            return None
        easy, official = slot == "easy", self.config.official_calls
        used = {"mixed": True, "masked": not (official and easy), "pseudo": official and easy}[call]
        return self.network.prompts if used else None

    # ---- chain of domains ------------------------------------------------------------------------------------------------------

    def slots(self, ctx: Any) -> dict[str, Stream]:
        """The streams of the chain; easy and hard images are data of their own or rows of the target."""
        slots = super().slots(ctx)
        self._look(ctx.data["target"])
        if not self.config.chain:
            return slots
        easy, hard, why = self.split(ctx.data["target"]) if not {"easy", "hard"} <= set(ctx.data) else ((), (), "")
        for name, rows in (("easy", easy), ("hard", hard)):
            view = slots["target"].view
            if name in ctx.data:
                check_rows(range(len(ctx.data[name])), name, "its data are empty")
                slots[name] = Stream(name, view=view)
            else:
                slots[name] = Stream("target", view=view, rows=check_rows(rows, name, why))
        return slots

    def plan(self, step: int, steps: int) -> str:
        if not self.config.chain:
            return "target"

        def scaled(own: int | None, published: int) -> int:
            return own if own is not None else round(published * steps / PUBLISHED_STEPS)

        length, easy = scaled(self.config.chain_length, LENGTH), scaled(self.config.chain_easy, EASY)
        cycle = max(1, scaled(self.config.chain_cycle, CYCLE))
        return chain_slot(step, length, cycle, easy)

    def split(self, target: Any) -> tuple[Sequence[int], Sequence[int], str]:
        """(easy rows, hard rows, how they were found) of the target images."""
        names = _conditions(target)
        hard = [row for row, name in enumerate(names) if name in self.config.hard_conditions]
        known = bool(hard) and len(hard) < len(names)
        if self.config.split == "condition" and not any(names):
            raise ConfigError(
                "split='condition' needs target images in folders of their condition (images/fog/..., images/night/...)"
            )
        if self.config.split == "condition" or (self.config.split == "auto" and known):
            easy = [row for row in range(len(names)) if row not in set(hard)]
            return (
                easy,
                hard,
                f"conditions are {', '.join(sorted(set(names)))}, hard ones {', '.join(self.config.hard_conditions)}",
            )
        easy, hard = split_by_severity(self._shares)
        return easy, hard, "split by severity: 5 % of dark pixels"

    def _look(self, target: Any) -> None:
        """Severity of every target image, as the evaluation view shows it."""
        shares = []
        for row in range(len(target)):
            image = target.sample(row, epoch=None, seed=0)["image"]
            shares.append(dark_share(image[None], self.backbone.preprocessing, self.config.official_severity))
        self._shares, self._targets = torch.cat(shares), target

    def panels(self) -> Sequence[Mapping[str, Any]]:
        """The severity histogram with its threshold, and target images in the order of severity."""
        return severity_panels(self._shares, self._targets) if len(self._shares) else ()


def chain_slot(step: int, length: int = LENGTH, cycle: int = CYCLE, easy: int = EASY) -> str:
    """The slot of iteration k.

    >>> [chain_slot(k) for k in (0, 1199, 1200, 5199, 5200, 6400, 10400, 11600, 11999, 12000)]
    ['easy', 'easy', 'hard', 'hard', 'easy', 'hard', 'easy', 'hard', 'hard', 'target']
    """
    if step >= length:
        return "target"
    return "easy" if step % cycle < easy else "hard"


def _conditions(dataset: Dataset) -> list[str]:
    """Condition of every image, empty where unknown; also of a subset."""
    rows = getattr(dataset, "indices", range(len(dataset)))
    names: Sequence[str] = getattr(dataset, "condition", ()) or ()
    return [names[row] if names else "" for row in rows]
