"""Data sets of point clouds with stable ids, and the views of them that a backbone reads."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pt_core.data import Batch, generator, stable_seed
from pt_core.errors import ConfigError, DataError
from pt_core.run.data.labels import relabelled
from torch import Tensor

from pt_pointcloud.data.augment import rotate_y, scale_translate
from pt_pointcloud.data.corruptions import corrupt
from pt_pointcloud.data.found import listed
from pt_pointcloud.data.normalise import Cloud, Rule, near_origin, normalise
from pt_pointcloud.networks.grouping import group_indices
from pt_pointcloud.ops import furthest_point_sample

CANDIDATES = 1200 / 1024
"""Training views draw N points from the first 1200 N / 1024 of furthest point sampling (1200 of 1024, 2400 of 2048 as published)."""


@dataclass(frozen=True)
class View:
    """How a stored cloud becomes an input.

    Attributes:
        points: N. Evaluation takes the first N of furthest point sampling; where fewer are stored, it is an error.
        groups, group_size: G and M; patch indices of unaugmented clouds are computed once.
        rule: normalisation, before the corruption.
        augment: see `DataOptions`.
        corrupt, severity, corrupt_seed: fixed draws keyed by (corrupt_seed, id).
        votes: views per evaluated cloud, each a random subset with scale and shift.
        parts: the target is a part per point.
    """

    points: int
    groups: int
    group_size: int
    rule: Rule = "unit_sphere"
    augment: str = "none"
    corrupt: tuple[str, ...] = ()
    severity: float = 0.5
    corrupt_seed: int = 0
    votes: int = 0
    parts: bool = False


@dataclass(eq=False)
class PointDataset:
    """Clouds with class indices. It yields samples after `bind`; its methods give new data sets and change none.

    Attributes:
        clouds: (point, 3) float32 each, as stored.
        ids: names.
        labels: class indices, or None for unlabelled clouds.
        classes: class names.
        parts: (point,) part indices each, or None.
        part_names: names of the parts.
        notes: sentences on how the data were read.
        view: set by `bind`.
    """

    clouds: Sequence[Cloud]
    ids: Sequence[str]
    labels: Sequence[int] | None
    classes: Sequence[str] = ()
    parts: Sequence[NDArray[np.int64]] | None = None
    part_names: Sequence[str] = ()
    notes: tuple[str, ...] = ()
    view: View | None = None
    groups: None = None
    _ordered: dict[int, tuple[Tensor, Tensor | None]] = field(default_factory=dict, repr=False)
    _indices: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False)

    @property
    def augmented(self) -> bool:
        """Whether a sample is more than one cloud: another one in every epoch, or several views to vote on."""
        return self.view is not None and (self.view.augment != "none" or self.view.votes > 0)

    def __len__(self) -> int:
        return len(self.ids)

    def prepared(self, index: int) -> tuple[Cloud, NDArray[np.intp]]:
        """The normalised, corrupted cloud, and the row of the stored cloud that each of its points comes from."""
        view = self._view()
        cloud = normalise(self.clouds[index], view.rule)
        if not view.corrupt:
            return cloud, np.arange(len(cloud))
        rng = np.random.default_rng(stable_seed(view.corrupt_seed, "corrupt", self.ids[index]))
        moved, rows = corrupt(cloud, view.corrupt, view.severity, rng)
        if view.parts and (rows < 0).any():
            raise DataError(
                f"corrupt={','.join(view.corrupt)} adds points that belong to no part; use missing, noise or rotation"
            )
        return moved, rows

    def ordered(self, index: int) -> tuple[Tensor, Tensor | None]:
        """(points, 3) in the order of furthest point sampling, and their parts; computed once per cloud.

        Raises:
            DataError: fewer points than N; names the cloud.
        """
        if index not in self._ordered:
            view = self._view()
            cloud, rows = self.prepared(index)
            if len(cloud) < view.points:
                raise DataError(
                    f"cloud {self.ids[index]!r} has {len(cloud)} points{' after corruption' if view.corrupt else ''}; the backbone reads "
                    f"N={view.points}: sample more (--mesh-points), or choose a backbone with points={len(cloud)} or less"
                )
            wanted = min(
                len(cloud), math.ceil(view.points * CANDIDATES) if view.augment != "none" or view.votes else view.points
            )
            points = torch.from_numpy(cloud)
            order = furthest_point_sample(points[None], wanted)[0].long()
            parts = None
            if view.parts and self.parts is not None:
                parts = torch.from_numpy(self.parts[index][rows])[order]
            self._ordered[index] = points[order].contiguous(), parts
        return self._ordered[index]

    def sample(self, index: int, *, epoch: int | None, seed: int) -> dict[str, Tensor]:
        """`points` (N, 3), or (vote, N, 3); for unaugmented clouds also the indices of their patches; `parts` (N,) where asked for."""
        view = self._view()
        points, parts = self.ordered(index)
        if epoch is None and view.votes:
            rng = generator("vote", self.ids[index])
            views = [points[torch.randperm(len(points), generator=rng)[: view.points]] for _ in range(view.votes)]
            return {"points": scale_translate(torch.stack(views), rng)}
        if epoch is not None and view.augment != "none":
            rng = generator(seed, "augment", epoch, index)
            chosen = torch.randperm(len(points), generator=rng)[: view.points]
            drawn = points[chosen][None]
            if view.augment == "rotate":
                drawn = rotate_y(drawn, rng)
            elif view.augment == "scale_translate":
                drawn = scale_translate(drawn, rng)
            sample = {"points": drawn[0]}
            return sample if parts is None else {**sample, "parts": parts[chosen]}
        if index not in self._indices:
            centres, neighbours = group_indices(points[None, : view.points], view.groups, view.group_size)
            self._indices[index] = centres[0].int(), neighbours[0].int()
        centres, neighbours = self._indices[index]
        sample = {"points": points[: view.points], "centres": centres, "neighbours": neighbours}
        return sample if parts is None else {**sample, "parts": parts[: view.points]}

    def picture(self, index: int) -> tuple[NDArray[np.float32], NDArray[np.int64] | None]:
        """The N points that evaluation reads, and their parts where they are asked for."""
        count = self._view().points
        points, parts = self.ordered(index)
        return points[:count].numpy(), None if parts is None else parts[:count].numpy()

    def collate(self, index: Sequence[int], samples: Sequence[Any]) -> Batch:
        """inputs: `points` (batch, N, 3) and patch indices; for part segmentation also `category` (batch,). Target: classes, or parts."""
        view = self._view()
        inputs = {name: torch.stack([sample[name] for sample in samples]) for name in samples[0] if name != "parts"}
        rows = torch.as_tensor(list(index), dtype=torch.long)
        labels = None if self.labels is None else torch.tensor([self.labels[i] for i in index], dtype=torch.long)
        target = labels
        if view.parts:
            target = torch.stack([sample["parts"] for sample in samples]) if "parts" in samples[0] else None
            if labels is not None:
                inputs["category"] = labels
        return Batch(inputs, target, rows, [self.ids[i] for i in index])

    def bind(self, preprocessing: Mapping[str, Any], **changes: Any) -> PointDataset:
        """The same clouds as a backbone's inputs; `changes` are fields of `View`.

        Raises:
            ConfigError: votes over clouds with parts.
            DataError: no point of a cloud is far enough from the origin for furthest point sampling.
        """
        sizes = {name: int(preprocessing[name]) for name in ("points", "groups", "group_size")}
        view = View(**{**sizes, "rule": preprocessing["normalise"], **changes})
        if view.votes and view.parts:
            raise ConfigError(
                "--votes averages logits of whole clouds; the views of a cloud with parts have other points"
            )
        bound = replace(self, view=view, _ordered={}, _indices={})
        near = [self.ids[i] for i, cloud in enumerate(self.clouds) if view.rule == "as_stored" and near_origin(cloud)]
        if near:
            import warnings

            warnings.warn(
                f"all points of {listed(near, 3)} lie within 0.0316 of the origin, where furthest point sampling skips them: "
                "normalise='unit_sphere' or other units",
                UserWarning,
                stacklevel=2,
            )
        return bound

    def subset(self, rows: Sequence[int]) -> PointDataset:
        """Some of the clouds, renumbered."""
        return replace(
            self,
            clouds=[self.clouds[row] for row in rows],
            ids=[self.ids[row] for row in rows],
            labels=None if self.labels is None else [self.labels[row] for row in rows],
            parts=None if self.parts is None else [self.parts[row] for row in rows],
            _ordered={},
            _indices={},
        )

    def relabel(self, classes: Sequence[str]) -> PointDataset:
        """Class indices into another list of names, such as that of a stored artifact.

        Raises:
            DataError: a cloud's class is not in the list.
        """
        labels = None if self.labels is None else relabelled(self.labels, self.classes, classes)
        return replace(self, classes=list(classes), labels=labels, _ordered={}, _indices={})

    def digests(self) -> list[str]:
        """One digest per stored cloud."""
        return [hashlib.sha256(np.ascontiguousarray(cloud).tobytes()).hexdigest() for cloud in self.clouds]

    def identity(self) -> str:
        """Digest of clouds, labels, parts, classes and view, in order."""
        total = hashlib.sha256(repr((list(self.classes), list(self.part_names), self.view)).encode())
        for index, digest in enumerate(self.digests()):
            label = None if self.labels is None else self.labels[index]
            total.update(f"{digest} {self.ids[index]} {label}\n".encode())
            if self.parts is not None:
                total.update(self.parts[index].tobytes())
        return total.hexdigest()

    def _view(self) -> View:
        if self.view is None:
            raise DataError("clouds become samples for one backbone: call dataset.bind(backbone.preprocessing) first")
        return self.view
