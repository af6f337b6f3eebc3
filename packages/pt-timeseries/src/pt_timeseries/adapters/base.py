"""The base of pt-timeseries' backbones: they read (batch, channel, step) and take a series segment as a prompt."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pt_core.backbone import Backbone, Edit, Edits, Features
from pt_core.errors import DataError
from torch import Tensor, nn

PROBE = 64
"""Steps of the probe of a network that takes any number."""
Checked = Mapping[str, tuple[Edit, ...]]
Pool = Literal["all", "data"]


@dataclass(frozen=True)
class PretrainedHead:
    """The classifier the encoder was pre-trained with: weight (class, dim), bias (class,), class names."""

    weight: Tensor
    bias: Tensor
    classes: tuple[str, ...]


class SeriesBackbone(Backbone):
    """A frozen encoder of series (batch, channel, step), normalised floats.

    Further site: `series`, the input array (value site).

    Attributes:
        channels, length: n and L that it reads; None takes any L.
        shortest: smallest L that it was built for, where that is not one number.
        stride: prompt lengths are multiples of it.
        feature_dim: width of what `pool` returns.
        head: the classifier of pre-training, where there was one.
        notes: remarks of the loader that a user should see.
        masks: whether series may end before others of their batch.
        padded: set where such data are bound: NaN then stands behind the end of a series, and in `Features.tokens` for tokens of which
            nothing is there.
    """

    channels: int
    length: int | None
    shortest: int | None = None
    stride: int
    feature_dim: int
    head: PretrainedHead | None = None
    notes: tuple[str, ...] = ()
    masks = False
    padded = False

    def __init__(self, module: nn.Module, source: str, channels: int, length: int | None) -> None:
        super().__init__(module, source, {"channels": channels, "length": length})
        self.channels, self.length = channels, length

    @abstractmethod
    def prompt_tokens(self, length: int) -> int:
        """Tokens that a prompt of `length` steps becomes; 0 where there are no tokens with positions."""

    @abstractmethod
    def prompt_edits(self, series: Tensor, codes: Tensor) -> Edits:
        """Edits that put a prompt in front of the input.

        Args:
            series: (batch, n, m) prompt of every row.
            codes: (prompt_tokens(m), d) position codes of the prompt's own.
        """

    def pool(self, features: Features, how: Pool = "all") -> Tensor:
        """(batch, feature_dim): mean over all tokens, the prompt's included, or over the data's own."""
        tokens = features.tokens if how == "all" else features.part("token")
        if not self.padded:
            return tokens.mean(1)
        there = ~tokens[:, :, :1].isnan()
        return torch.where(there, tokens, 0).sum(1) / there.sum(1)

    def probe(self) -> Tensor:
        """(2, n, L): sums of sines whose frequencies differ by channel."""
        step = torch.arange(self.length or PROBE)
        channel = torch.arange(self.channels)[:, None]
        slow = torch.sin(0.11 * (1 + channel) * step)
        return torch.stack([slow + 0.5 * torch.sin(1.3 * step + channel), 1.5 * torch.cos(0.7 * step - channel) - 0.3])

    def probe_features(self, inputs: Any) -> Tensor:
        features = self(inputs)
        return torch.cat([features.tokens, self.pool(features)[:, None]], 1)

    def check_series(self, series: Any) -> Tensor:
        """The input, refused where it has other channels or is longer than the position codes reach.

        Raises:
            DataError: names both sizes.
        """
        if not isinstance(series, Tensor) or series.ndim != 3 or not series.is_floating_point():
            shape = tuple(getattr(series, "shape", ()))
            raise DataError(f"backbone {self.source!r} reads floats (batch, channel, step), got {shape}")
        if series.shape[1] != self.channels:
            raise DataError(
                f"backbone {self.source!r} reads {self.channels} channels, the series have {series.shape[1]}"
            )
        if self.length is not None and series.shape[2] > self.length:
            raise DataError(
                f"backbone {self.source!r} has positions for {self.length} steps, the series have {series.shape[2]}"
            )
        return series


def ends_of(series: Tensor) -> Tensor:
    """(batch,) steps of series (batch, channel, step) behind whose ends stands NaN."""
    return (~series[:, 0].isnan()).sum(-1)


def by_length(series: Tensor, fn: Callable[[Tensor], Tensor]) -> Tensor:
    """`fn` of series (batch, channel, step) that end where NaN begins: those of equal length together, nothing behind their end."""
    ends = ends_of(series)
    found: Tensor | None = None
    for length in ends.unique().tolist():
        rows = (ends == length).nonzero().flatten()
        own = fn(series[rows, :, :length])
        found = own.new_zeros(len(series), *own.shape[1:]) if found is None else found
        found = found.index_copy(0, rows, own)
    assert found is not None
    return found


def check_data(backbone: SeriesBackbone, dataset: Any) -> None:
    """Refuse data of another shape before anything is trained.

    Raises:
        DataError: names both sizes and how to get a backbone that fits.
    """
    base = getattr(dataset, "base", dataset)
    windows = base.values
    if base.padded:
        if not backbone.masks:
            raise DataError(
                f"backbone {backbone.source!r} has no mask for series that end before others; say --unequal crop, or take the patch encoder"
            )
        backbone.padded = True
    channels, length = windows.shape[1:]
    wanted = backbone.length or length
    shortest = 1 if base.padded or (backbone.masks and base.unequal == "pad") else backbone.shortest or wanted
    if channels != backbone.channels or not shortest <= length <= wanted:
        raise DataError(
            f"backbone {backbone.source!r} reads {backbone.channels} channels x {wanted} steps, the windows have "
            f"{channels} x {length}: pre-train one on the sources with `pt-timeseries pretrain --data ... --target ... --out FILE`"
        )
