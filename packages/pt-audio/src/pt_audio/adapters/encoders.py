"""Audio encoders behind the Backbone contract: Audio-MAE style ViT, AST of transformers, and the Keyword Transformer.

All read (segment, T, F) features of their own front end and give (segment, N, d) vectors; the only site is `features`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from pt_core import Add, Backbone, Features, Layout, Replace
from pt_core.backbone import Edit
from torch import Tensor, nn

from pt_audio.adapters.kwt import Kwt
from pt_audio.adapters.vit import AudioViT


class FrontEnd(Protocol):
    """From a waveform at `rate` to features of whole segments."""

    @property
    def rate(self) -> int: ...

    @property
    def shape(self) -> tuple[int, int]:
        """(T, F)."""
        ...

    @property
    def seconds(self) -> float: ...

    def __call__(self, wave: Tensor) -> Tensor:
        """(samples,) -> (segment, T, F)."""
        ...

    def count(self, samples: int) -> int:
        """Segments of a wave of this length."""
        ...

    def describe(self) -> Mapping[str, Any]: ...


class AudioEncoder(Backbone):
    """An encoder of audio segments; a subclass says what the vectors of a segment are (`patches`).

    Attributes:
        front: what turns a waveform into segments.
        grid: (time, frequency) of the N vectors; time-major.
    """

    kind = "audio"
    sites = frozenset({"features"})
    inserts: frozenset[str] = frozenset()

    def __init__(
        self, module: nn.Module, front: FrontEnd, source: str, grid: tuple[int, int], dim: int, depth: int
    ) -> None:
        super().__init__(module, source, dict(front.describe()))
        self.front, self.grid = front, grid
        self.dim, self.depth = dim, depth

    @abstractmethod
    def patches(self, segments: Tensor) -> Tensor:
        """(segment, T, F) -> (segment, N, d)."""

    def encode(self, inputs: Any, edits: Mapping[str, tuple[Edit, ...]], read: frozenset[str] | None) -> Features:
        """(segment, T, F) -> tokens (segment, N, d)."""
        hidden = self.patches(inputs.to(self.dtype))
        layout = Layout((("token", hidden.shape[1]),), self.grid)
        for edit in edits.get("features", ()):
            if isinstance(edit, Add):
                hidden = hidden + edit.fn(hidden, layout)
            elif isinstance(edit, Replace):
                hidden = edit.fn(hidden, layout)
        return Features(hidden, layout)

    def probe(self) -> Tensor:
        """(1, T, F): waves over time and frequency of several lengths, and silence in the last quarter, as behind a short clip."""
        frames, bins = self.front.shape
        time, frequency = torch.arange(frames)[:, None], torch.arange(bins)[None]
        waves = torch.sin(0.9 * time + 0.4 * frequency) + torch.cos(0.13 * time - 0.7 * frequency)
        return (waves * (4 * time < 3 * frames))[None]

    def vectors(self, segments: Tensor, weights: Any = None) -> Tensor:
        """(segment, T, F) -> (segment, N, d)."""
        return self(segments, weights=weights).tokens


class AudioMAEEncoder(AudioEncoder):
    """Around `vit.AudioViT`: outputs of the last block, no norm, class token dropped."""

    def __init__(self, module: AudioViT, front: FrontEnd, source: str) -> None:
        sizes = module.sizes
        super().__init__(module, front, source, sizes.grid, sizes.dim, sizes.depth)

    def patches(self, segments: Tensor) -> Tensor:
        found: Tensor = self.module(segments)
        return found


class KwtEncoder(AudioEncoder):
    """Around `kwt.Kwt`: the outputs of the frames."""

    def __init__(self, module: Kwt, front: FrontEnd, source: str) -> None:
        super().__init__(module, front, source, (front.shape[0], 1), module.proj.out_features, len(module.blocks))

    def patches(self, segments: Tensor) -> Tensor:
        found: Tensor = self.module(segments)
        return found


class ASTEncoder(AudioEncoder):
    """Around transformers' `ASTModel`; its two leading tokens are dropped and its vectors, frequency-major, become time-major."""

    def __init__(self, module: Any, front: FrontEnd, source: str) -> None:
        config = module.config
        bins = (config.num_mel_bins - config.patch_size) // config.frequency_stride + 1
        times = (config.max_length - config.patch_size) // config.time_stride + 1
        super().__init__(module, front, source, (times, bins), config.hidden_size, config.num_hidden_layers)

    def patches(self, segments: Tensor) -> Tensor:
        times, bins = self.grid
        hidden: Tensor = self.module(segments).last_hidden_state[:, 2:]
        return hidden.unflatten(1, (bins, times)).transpose(1, 2).flatten(1, 2)
