"""The base of pt-timeseries' backbones: they read (batch, channel, step) and take a series segment as a prompt."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pt_core.backbone import Add, Backbone, Edit, Edits, Features, Insert, Layout
from pt_core.errors import DataError, UserError
from torch import Tensor, nn

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
        channels, length: n and L that it reads.
        stride: prompt lengths are multiples of it.
        feature_dim: width of what `pool` returns.
        head: the classifier of pre-training, where there was one.
        notes: remarks of the loader that a user should see.
    """

    channels: int
    length: int
    stride: int
    feature_dim: int
    head: PretrainedHead | None = None
    notes: tuple[str, ...] = ()

    def __init__(self, module: nn.Module, source: str, channels: int, length: int) -> None:
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
        return tokens.mean(1)

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
        if series.shape[2] > self.length:
            raise DataError(
                f"backbone {self.source!r} has positions for {self.length} steps, the series have {series.shape[2]}"
            )
        return series


def check_data(backbone: SeriesBackbone, dataset: Any) -> None:
    """Refuse data of another shape before anything is trained.

    Raises:
        DataError: names both sizes and how to get a backbone that fits.
    """
    windows = getattr(dataset, "base", dataset).values
    channels, length = windows.shape[1:]
    if channels != backbone.channels or length != backbone.length:
        raise DataError(
            f"backbone {backbone.source!r} reads {backbone.channels} channels x {backbone.length} steps, the windows have "
            f"{channels} x {length}: pre-train one on the sources with `pt-timeseries pretrain --data ... --target ... --out FILE`"
        )


def apply_values(site: str, value: Tensor, layout: Layout, edits: Checked) -> Tensor:
    """Apply the `Add` and `Replace` edits of a value site."""
    for edit in edits.get(site, ()):
        assert not isinstance(edit, Insert)
        changed = edit.fn(value, layout)  # type: ignore[union-attr]
        value = value + changed if isinstance(edit, Add) else changed
    return value


class Tokens:
    """A token sequence whose front grows by kept prompts; what `tokens[l]` does, in one place.

    The order is [prompts | data]; there are no class or register tokens, so `at` makes no difference.
    """

    def __init__(self, tokens: Tensor, edits: Checked) -> None:
        self.tokens, self.edits = tokens, edits
        self.count, self.kept, self.dropped = tokens.shape[1], 0, 0

    @property
    def layout(self) -> Layout:
        return Layout((("prompt", self.kept), ("token", self.count)))

    def enter(self, layer: int) -> Tensor:
        """The sequence that enters block `layer`, its inserted tokens in front."""
        self.dropped = 0
        for edit in self.edits.get(f"tokens[{layer}]", ()):
            if not isinstance(edit, Insert):
                change = edit.fn(self.tokens, self.layout)  # type: ignore[union-attr]
                self.tokens = self.tokens + change if isinstance(edit, Add) else change
                continue
            prompt = edit.tokens if isinstance(edit.tokens, Tensor) else edit.tokens(self.tokens, self.layout)
            if edit.index is not None:
                prompt = prompt.index_select(0, edit.index)
            prompt = prompt.to(self.tokens.dtype).expand(len(self.tokens), *prompt.shape[-2:])
            self.tokens = torch.cat([prompt, self.tokens], 1)
            if edit.keep_output:
                self.kept += prompt.shape[1]
            else:
                self.dropped += prompt.shape[1]
        return self.tokens

    def leave(self, tokens: Tensor) -> None:
        """What the block returned; prompts whose outputs are not kept are cut off."""
        self.tokens = tokens[:, self.dropped :]

    def features(self, tokens: Tensor) -> Features:
        tokens = apply_values("features", tokens, self.layout, self.edits)
        return Features(tokens, self.layout)


def check_inserts(edits: Checked, source: str) -> None:
    """Kept prompts go in front of those that are dropped: both kinds in one block would mix up which is which."""
    for site, items in edits.items():
        kinds = {edit.keep_output for edit in items if isinstance(edit, Insert)}
        if len(kinds) == 2:
            raise UserError(f"{site} of {source!r} takes prompts that are kept or prompts that are dropped, not both")


def names(values: Sequence[str], most: int = 8) -> str:
    """A list for a message."""
    shown = ", ".join(map(str, values[:most]))
    return shown + (f" and {len(values) - most} more" if len(values) > most else "")
