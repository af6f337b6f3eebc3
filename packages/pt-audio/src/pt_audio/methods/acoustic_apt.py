"""Acoustic prompt tuning (Liang et al., IEEE TASLP 2025, arXiv 2312.00249).

    A = encoder(log-mel segment)                    (N, A_dim)   frozen (or tuned in stage 2, as the published configuration does)
    z = Q-former([queries, instruction], LN(A))     (32, H)      instruction-aware: text and queries see each other
    block = [indicator; W z + b]                    (1 + 32 n_seg, d)
    loss  = next-token cross-entropy of answer + end in [begin, block_1, text_1, ..., block_K, text_K, answer, end]; the LM is frozen

Stage 1 (`align`): three losses on audio-caption pairs without the language model, see `alignment.py`. Stage 2 (`tune`): one task per
batch, drawn with sampling weights. Both resume.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt, Le, Lt
from pt_core import Backbone, Batch, Stage, Stream, Task
from pt_core.artifact import Artifact
from pt_core.data import Dataset, generator
from pt_core.errors import ConfigError, DataError
from pt_core.randomness import sampled_by
from pt_core.stage import RunContext, StepContext
from torch import Tensor
from torch.nn import functional as F

from pt_audio.data.records import parse_weights
from pt_audio.method import AudioMethod
from pt_audio.qformer.aligner import Aligner, padded
from pt_audio.qformer.alignment import Alignment
from pt_audio.qformer.layers import QFormerSizes

ID = "acoustic_apt"
TITLE = "Acoustic Prompt Tuning: Empowering Large Language Models with Audition Capabilities"
TUNES = "a Q-former that turns a clip and an instruction into 32 soft prompts"
NEEDS = {"train": "clips with questions and answers"}
BACKBONES = {"encoder": "fit, predict", "text": "fit, predict", "lm": "fit, predict"}


@dataclass(frozen=True)
class AcousticAPTConfig:
    """Defaults are the published ones, but for the stages' lengths."""

    queries: Annotated[int, Ge(1), Le(4096)] = 32
    """n_q, queries per segment of audio."""
    cross_every: Annotated[int, Ge(1)] = 2
    """Every which layer of the Q-former attends to the audio."""
    instruct: bool = True
    """Let the Q-former read the instruction (False: queries only, as in BLIP-2)."""
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.1
    """Dropout of the Q-former."""
    align_steps: Annotated[int, Ge(0)] = 0
    """Steps of stage 1 on captions (published: 98,000; 0 leaves it out)."""
    align_lr: Annotated[float, Gt(0)] = 1e-4
    """Peak learning rate of stage 1."""
    tune_encoder: bool = False
    """Tune the audio encoder in stage 2, as the published configuration does; its outputs are then not cached."""
    task_weights: tuple[str, ...] = ()
    """Sampling weights of stage 2 as TASK=NUMBER (default: tagging=1, captioning=1, question=0.1, localisation=0.45, retrieval=0.45,
    few_shot=0.5, reasoning=0.5)."""

    def __post_init__(self) -> None:
        parse_weights(self.task_weights)
        if self.align_steps and not self.instruct:
            raise ValueError("align_steps needs instruct: stage 1 learns from text in the Q-former")


class AcousticAPT(AudioMethod):
    """Parameters: those of `Aligner`, of `Alignment` where stage 1 runs, and of the encoder where it is tuned. Coupled where stage 1 runs:
    its losses compare the rows of a batch."""

    Config = AcousticAPTConfig
    training_only = ("alignment*",)

    def __init__(self, config: AcousticAPTConfig, backbones: Mapping[str, Backbone], task: Task) -> None:
        super().__init__(config, backbones, task)
        text = self.text
        sizes = QFormerSizes(
            vocabulary=text.vocabulary + 1 if config.instruct else 0,
            dim=text.dim,
            depth=text.depth,
            heads=text.heads,
            inner=text.inner,
            audio=self.encoder.dim,
            cross_every=config.cross_every,
            positions=text.positions,
        )
        self.aligner = Aligner(sizes, config.queries, self.lm.dim, config.dropout)
        self.aligner.qformer.load_bert(text.module)
        self.alignment = Alignment(sizes.dim, sizes.vocabulary) if config.align_steps else None
        self.claimed = self.encoder.claim("*") if config.tune_encoder else None
        self.instructed, self.per_segment, self.draws = config.instruct, config.queries, config.dropout > 0
        self.coupled = bool(config.align_steps)

    def resized(self, name: str, tensor: Tensor, shape: torch.Size) -> Tensor | None:
        """Further queries start as the first ones."""
        if name != "aligner.queries" or tensor.shape[::2] != shape[::2]:
            return None
        return tensor[:, torch.arange(shape[1]) % tensor.shape[1]]

    def warm_start(self, role: str, artifact: Artifact) -> None:
        """What only stage 1 needs is left where this run has no stage 1."""
        if self.alignment is None and artifact.training:
            kept = {name: t for name, t in artifact.training.items() if not name.startswith("alignment")}
            artifact = replace(artifact, training=kept)
        super().warm_start(role, artifact)

    def make_blocks(self, vectors: Tensor, counts: Sequence[int], asked: Sequence[Sequence[int]]) -> list[Tensor]:
        return self.aligner.blocks(vectors, counts, asked)

    # ---- training ----------------------------------------------------------------------------------------------------------

    def stages(self, ctx: RunContext) -> Iterator[Stage]:
        rows = rows_by_task(ctx.data["train"])
        if self.alignment is not None:
            yield self._align(rows)
        yield self._tune(ctx, rows)

    def _align(self, rows: Mapping[str, tuple[int, ...]]) -> Stage:
        chosen = rows.get("captioning") or rows.get("tagging") or ()
        if len(chosen) < 2:
            raise DataError(
                "stage 1 needs at least 2 records of captioning (or tagging); add them to --tasks, or --align-steps 0"
            )
        return Stage(
            "align",
            trains=("aligner.queries", "aligner.qformer*", "aligner.ln_audio*", "alignment*"),
            streams={"train": Stream("train", rows=chosen)},
            # The last weights are kept: validation generates answers, which stage 1 does not learn.
            options={"steps": self.config.align_steps, "lr": self.config.align_lr, "accumulate": 1, "eval_every": 10**9},
            select=False,
            step=self.align_step,
        )  # fmt: skip

    def align_step(self, ctx: StepContext, batches: Mapping[str, Batch]) -> Mapping[str, float | Tensor]:
        """One step of stage 1 on the first segment of every clip."""
        batch = batches["train"]
        inputs = batch.inputs
        assert self.alignment is not None
        first = torch.tensor([row.elements[0].segments[0] for row in inputs.rows], device=inputs.segments.device)
        if len(first) < 2:
            return {}  # one pair has no negative
        with sampled_by(batch.keys):
            captions = [row.caption for row in inputs.rows]
            losses = self.alignment.losses(self.aligner, self.vectors(inputs)[first], captions)
        total = torch.stack(list(losses.values())).sum()
        ctx.backward(total, len(first))
        ctx.update()
        return {"loss": total.detach(), **{name: loss.detach() for name, loss in losses.items()}}

    def _tune(self, ctx: RunContext, rows: Mapping[str, tuple[int, ...]]) -> Stage:
        trains = ("aligner*", "claimed*")
        if len(rows) == 1:
            return Stage("tune", trains=trains)
        weights = parse_weights(self.config.task_weights)
        names = [name for name in rows if weights[name] > 0]
        if not names:
            raise ConfigError(f"task_weights leave no task of the data: {', '.join(rows)}")
        shares = torch.tensor([weights[name] for name in names])

        def plan(step: int) -> Sequence[str]:
            """One task per batch."""
            return [names[int(torch.multinomial(shares, 1, generator=generator("task", ctx.options.seed, step)))]]

        options = ctx.options
        per_epoch = math.ceil(sum(len(rows[name]) for name in names) / options.batch_size)
        steps = options.steps or math.ceil(options.epochs * per_epoch)
        streams = {name: Stream("train", rows=rows[name]) for name in names}
        return Stage("tune", trains=trains, streams=streams, plan=plan, options={"steps": steps})

    # ---- judging tags ------------------------------------------------------------------------------------------------------

    def tag(self, texts: Sequence[str], names: Sequence[str]) -> Tensor:
        """The name whose Q-former text embedding is nearest: the largest cosine over the answer's tokens. Equal words need no
        embedding; an empty answer means nothing (-1)."""
        exact = super().tag(texts, names)
        open_ = [number for number, text in enumerate(texts) if exact[number] < 0 and text.strip()]
        if not open_ or not self.instructed:
            return exact
        device = self.aligner.queries.device
        known, own = self._embedded([*names, *(texts[i] for i in open_)], device)
        means = F.normalize((known * own[..., None]).sum(1) / own.sum(1, keepdim=True), dim=-1)[: len(names)]
        tokens, real = F.normalize(known[len(names) :], dim=-1), own[len(names) :].bool()
        cosines = (tokens @ means.T).masked_fill(~real[..., None], -1.0).amax(1)
        exact[open_] = cosines.argmax(1).cpu()
        return exact

    def _embedded(self, texts: Sequence[str], device: torch.device) -> tuple[Tensor, Tensor]:
        """(texts, tokens, H) outputs of the Q-former on text alone, and which of them are words ([CLS] and [SEP] are not)."""
        ids, mask = padded([self.text.tokens(text, 64) for text in texts], device)
        hidden = self.aligner.qformer(None, ids, mask).text
        ends = mask.sum(1, keepdim=True) - 1
        places = torch.arange(mask.shape[1], device=device)[None]
        words = mask * (places > 0) * (places < ends)
        return hidden, torch.where(words.sum(1, keepdim=True) > 0, words, mask).to(hidden.dtype)


def rows_by_task(dataset: Dataset) -> dict[str, tuple[int, ...]]:
    """Task -> positions of its records in the dataset, which may be a subset of another one."""
    records: Any = dataset.records  # type: ignore[attr-defined]
    chosen = getattr(dataset, "indices", range(len(dataset)))
    found: dict[str, list[int]] = {}
    for place, index in enumerate(chosen):
        found.setdefault(records[index].task, []).append(place)
    return {name: tuple(rows) for name, rows in found.items()}
