"""The base of pt-audio's methods: from blocks of audio vectors to answers of the frozen language model."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, cast

import torch
from pt_core import Backbone, Batch, Claim, Dataset, Method, Task
from pt_core.backbone import Features
from pt_core.bridges import transformers as bridge
from pt_core.kernels._mode import fast_paths_enabled
from pt_core.randomness import current_rows, part_keys, sampled_by
from pt_core.task import Predictions
from torch import Tensor

from pt_audio.adapters.encoders import AudioEncoder
from pt_audio.adapters.language_model import LanguageModel
from pt_audio.adapters.text_model import TextModel
from pt_audio.data.batches import AudioText
from pt_audio.layout import Assembled, BlockKey, assemble, key
from pt_audio.tasks.answers import Answers

MAX_SEGMENTS = 2**20
"""More than a clip has: numbers the segments of all clips of a record."""


class AudioMethod(Method):
    """A method says what vectors stand for a clip under an instruction (`make_blocks`); everything else is here.

    Attributes:
        claimed: copies of the encoder's weights where the method tunes it, else None.
        instructed: whether the vectors of a clip depend on the text behind it.
        draws: whether `make_blocks` draws at random while training.
        per_segment: vectors per segment.
    """

    class_tensors = ()
    sized_by_data = False

    recipe: ClassVar[Mapping[str, Any]] = {
        "lr": 1e-3,
        "weight_decay": 0.05,
        "batch_size": 16,
        "clip_norm": 1.0,
        "warmup_epochs": 1,
        "epochs": 30,
    }
    claimed: Claim | None
    instructed: bool = False
    draws: bool = False
    per_segment: int

    def __init__(self, config: Any, backbones: Mapping[str, Backbone], task: Task) -> None:
        super().__init__(config, backbones, task)
        self.claimed = None
        self.answers.attach(self.lm)

    @property
    def encoder(self) -> AudioEncoder:
        return cast("AudioEncoder", self.backbones["encoder"])

    @property
    def lm(self) -> LanguageModel:
        return cast("LanguageModel", self.backbones["lm"])

    @property
    def text(self) -> TextModel:
        return cast("TextModel", self.backbones["text"])

    @property
    def answers(self) -> Answers:
        return cast("Answers", self.task)

    @abstractmethod
    def make_blocks(self, vectors: Tensor, counts: Sequence[int], asked: Sequence[Sequence[int]]) -> list[Tensor]:
        """Blocks [(1 + per_segment * segments, d)]; vectors (S, N, A) of all clips, `counts` segments and `asked` ids per clip."""

    def tag(self, texts: Sequence[str], names: Sequence[str]) -> Tensor:
        """(texts,) position of the name that each text means: equal, or else contained, or else -1."""
        return torch.tensor([_named(text, names) for text in texts])

    # ---- the frozen part ---------------------------------------------------------------------------------------------------

    def frozen_key(self) -> str | None:
        return None if self.claimed is not None else "audio-vectors"

    def frozen_part(self, batch: Batch) -> Tensor:
        """(segment, N, A) of a batch of segments (segment, T, F)."""
        return self.encoder.vectors(batch.inputs)

    def cached_batch(self, batch: Batch) -> Batch:
        inputs: AudioText = batch.inputs
        return replace(batch, inputs=replace(inputs, segments=self.encoder.vectors(inputs.segments), encoded=True))

    def untouched(self, batch: Batch) -> Features:
        """The audio encoder's pass over the segments."""
        return self.encoder(batch.inputs.segments)

    def vectors(self, inputs: AudioText) -> Tensor:
        """(S, N, A), from the cache or by the encoder."""
        if inputs.encoded:
            return inputs.segments
        if self.claimed is None:
            with torch.no_grad():
                return self.encoder.vectors(inputs.segments)
        return self.encoder.vectors(inputs.segments, self.claimed)

    # ---- sequences ---------------------------------------------------------------------------------------------------------

    def blocks(self, inputs: AudioText) -> dict[BlockKey, Tensor]:
        """Every different (clip, instruction) of the batch once; in a training step with draws, those of every record."""
        wanted = {
            key(element, self.instructed, (number, place) if self.owned else ()): element
            for number, row in enumerate(inputs.rows)
            for place, element in enumerate(row.elements)
        }
        places = [place for element in wanted.values() for place in element.segments]
        vectors = self.vectors(inputs)[torch.tensor(places, device=inputs.segments.device)]
        counts = [len(element.segments) for element in wanted.values()]
        asked = [element.asked for element in wanted.values()]
        with sampled_by(self._segment_keys([owner for _, _, owner in wanted], counts)):
            return dict(zip(wanted, self.make_blocks(vectors, counts, asked), strict=True))

    @property
    def owned(self) -> bool:
        """Whether a clip's vectors belong to its record, which drew for itself; else equal clips and instructions have equal ones."""
        return self.training and self.draws and current_rows() is not None

    def _segment_keys(self, owners: Sequence[tuple[int, ...]], counts: Sequence[int]) -> Tensor | None:
        """(segment,) keys of the draws, of the records' keys and the segments' places in them."""
        rows = current_rows()
        if not self.owned or rows is None:
            return None
        records = [owner[0] for owner, count in zip(owners, counts, strict=True) for _ in range(count)]
        places = [
            owner[1] * MAX_SEGMENTS + n for owner, count in zip(owners, counts, strict=True) for n in range(count)
        ]
        return part_keys(rows[torch.tensor(records, device=rows.device)], torch.tensor(places, device=rows.device))

    def assemble(self, batch: Batch, answers: Tensor | None = None, extra: Tensor | None = None) -> Assembled:
        """The batch in the language model's space; `extra` (batch, vectors, d) are prompts of pictures."""
        inputs: AudioText = batch.inputs
        blocks = self.blocks(inputs)
        device = inputs.segments.device
        ids = [token for row in inputs.rows for element in row.elements for token in element.tokens]
        with torch.no_grad():
            table = self.lm.embed(torch.tensor(ids, dtype=torch.long, device=device)[None])[0]
            begin = None
            if self.lm.begin is not None:
                begin = self.lm.embed(torch.tensor([[self.lm.begin]], device=device))[0, 0]
            behind = None if answers is None else self.lm.embed(answers.clamp(min=0))
        cast_blocks = {name: block.to(table.dtype) for name, block in blocks.items()}
        return assemble(
            inputs, cast_blocks, table, begin, answers, behind,
            instructed=self.instructed, share=fast_paths_enabled() and self.lm.shares, extra=extra, owned=self.owned,
        )  # fmt: skip

    def run(self, sequence: Assembled, keep: int, cache: bool = False) -> Mapping[str, Any]:
        """Logits (batch, keep, vocabulary) of the last positions, and the cache."""
        prefix = None
        if sequence.front is not None:
            bridge.check_length(sequence.front.shape[1], sequence.embeds.shape[1], self.lm.sizes.context, "beginning")
            prefix = bridge.run_prefix(self.lm.module, sequence.front.to(self.lm.dtype))
        inputs = {"embeds": sequence.embeds, "mask": sequence.mask, "keep": keep, "prefix": prefix}
        return self.lm(inputs, read=("logits", "cache") if cache else ("logits",)).extra

    def forward(self, batch: Batch, extra: Tensor | None = None) -> Tensor:
        """(batch, answer, vocabulary): logits that predict the answer's tokens and the end token."""
        answer = batch.target["answer"]
        # The last answer token is predicted, never read.
        sequence = self.assemble(batch, answer[:, :-1], extra)
        logits: Tensor = self.run(sequence, answer.shape[1])["logits"]
        return logits

    def generate(
        self, batch: Batch, max_new_tokens: int, options: Mapping[str, Any], extra: Tensor | None = None
    ) -> Tensor:
        """(batch, at most max_new_tokens) ids, by the model's own search."""
        sequence = self.assemble(batch, None, extra)
        found = self.run(sequence, 1, cache=True)
        return bridge.generate(
            self.lm.module, sequence.last, found["cache"], found["mask"], max_new_tokens, {**options, "eos_token_id": self.lm.end}
        )  # fmt: skip

    def predict_step(self, batch: Batch, rng: Callable[[str], torch.Generator]) -> Predictions:
        return self.answers.answer(self, batch)

    def adopt(self, data: Mapping[str, Dataset]) -> None:
        """Refuse records that do not fit the context window, before any training."""
        for role, dataset in data.items():
            dataset.check_lengths(self.per_segment, role)  # type: ignore[attr-defined]


def _named(text: str, names: Sequence[str]) -> int:
    if text in names:
        return list(names).index(text)
    inside = [number for number, name in enumerate(names) if f" {name} " in f" {text.replace(',', ' ')} "]
    return inside[0] if len(inside) == 1 else -1
