"""What the runs of one process share: frozen networks and data, as they were read."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeVar

from pt_core.backbone import Backbone
from pt_core.data import Dataset
from pt_core.run.declare.modality import Modality
from pt_core.run.declare.roles import located
from pt_core.run.use.load import load_network

T = TypeVar("T")
NETWORKS = 4
"""Networks that a shelf keeps; a study over many of them must not hold them all."""
DATA = 8


class Shelf:
    """Networks and data that were read before are taken from here: no run changes them. What was used longest ago gives way.

    Args:
        networks, data: how many of each are kept.
    """

    def __init__(self, networks: int = NETWORKS, data: int = DATA) -> None:
        self._networks, self._data = _Recent(networks), _Recent(data)

    def network(self, modality: Modality, source: str, weights: str | None, options: Any, role: str) -> Backbone:
        def load() -> Backbone:
            backbone = load_network(modality, source, weights, options, role)
            backbone.weights = located(weights) if weights is not None else None
            return backbone

        return self._networks.get((source, weights, options, role), load)

    def data(self, modality: Modality, source: str, options: Any, seed: int) -> Mapping[str, Dataset]:
        """The parts found behind a path."""
        return self._data.get((source, options, seed), lambda: modality.load_data(source, options, seed))


class _Recent:
    def __init__(self, size: int) -> None:
        self.size = size
        self.held: OrderedDict[Hashable, Any] = OrderedDict()

    def get(self, key: tuple[Any, ...], make: Callable[[], T]) -> T:
        name = repr(key)  # options are frozen dataclasses, whose repr tells all of them
        if name not in self.held:
            self.held[name] = make()
        self.held.move_to_end(name)
        while len(self.held) > self.size:
            self.held.popitem(last=False)
        found: T = self.held[name]
        return found
