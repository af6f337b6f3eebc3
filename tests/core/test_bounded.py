"""What an untrusted file describes is built as long as it is small, and never so much as begun beyond that."""

from __future__ import annotations

import pytest
import torch
from pt_core.bounded import built_within, uncounted
from torch import nn


def test_what_is_small_is_built_as_without_a_bound() -> None:
    def build() -> nn.Module:
        torch.manual_seed(3)
        return nn.Sequential(nn.Linear(4, 8), nn.LSTM(8, 8), nn.MultiheadAttention(8, 2), nn.Embedding(5, 8))

    bounded, free = built_within(build), build()
    assert bounded is not None
    for have, want in zip(bounded.state_dict().values(), free.state_dict().values(), strict=True):
        assert torch.equal(have, want)


ABSURD = {
    "one axis": lambda: torch.empty(10**12),
    "two axes": lambda: nn.Linear(10**5, 10**5),
    "no such number": lambda: torch.zeros(10**400),
    "a shape": lambda: torch.ones((10**4, 10**4, 10**4)),
    "by keyword": lambda: torch.full(size=(10**10,), fill_value=1.0),
    "a copy": lambda: torch.ones(1000).repeat(10**9),
    "a range": lambda: torch.arange(10**11),
    "the square of a number": lambda: torch.eye(10**5),
    "the square of a vector": lambda: torch.ones(10**5).diag(),
    "a range of floats": lambda: torch.arange(0.0, 1e11),
    "a range of small steps": lambda: torch.arange(0.0, 1.0, 1e-11),
    "a larger picture": lambda: nn.functional.interpolate(torch.ones(1, 1, 8, 8), scale_factor=1e5),
    "a larger picture, by whole numbers": lambda: nn.functional.interpolate(
        torch.ones(1, 1, 8, 8), None, (10**5, 10**5)
    ),
    "bit by bit": lambda: [torch.zeros(1000, 1000) for _ in range(10**9)],
}


@pytest.mark.parametrize("name", ABSURD)
def test_what_is_absurd_is_not_built(name: str) -> None:
    assert built_within(ABSURD[name]) is None


@pytest.mark.parametrize("most", [2**26, float("inf")])
def test_what_takes_too_many_calls_is_stopped_on_any_device(most: float) -> None:
    def build() -> nn.Module:
        return nn.Sequential(*(nn.Linear(2, 2) for _ in range(10**9)))

    with torch.device("meta"), pytest.raises(ValueError, match="more than 300 calls of torch to build"):
        built_within(build, most, calls=300)


@pytest.mark.parametrize("name", ["eye", "arange", "interpolate"])
def test_small_ones_of_these_are_built(name: str) -> None:
    small = {
        "eye": lambda: torch.eye(5),
        "arange": lambda: torch.arange(0, 2.5, 0.5),
        "interpolate": lambda: nn.functional.interpolate(torch.ones(1, 1, 8, 8), scale_factor=2.5),
    }[name]
    found = built_within(small)
    assert found is not None
    assert torch.equal(found, small())


def test_errors_of_building_are_its_own() -> None:
    with pytest.raises(ValueError, match="no"):
        built_within(lambda: (_ for _ in ()).throw(ValueError("no")))


def test_code_that_catches_everything_does_not_hide_that_it_was_stopped() -> None:
    def build() -> str:
        try:
            torch.empty(10**12)
        except Exception:
            return "went on"
        return "built"

    assert built_within(build) is None


def test_a_look_at_a_loaded_network_is_not_counted() -> None:
    """A method may run its frozen network to learn what that keeps; no file decides that size, and it has values where shapes are built."""
    network = nn.Linear(3, 3)

    def build() -> nn.Module:
        with uncounted():
            seen = [network(torch.ones(2, 3)) for _ in range(400)]
            assert all(one.device.type == "cpu" for one in seen)
        return nn.Linear(2, 2)

    assert built_within(build, most=100, calls=200) is not None
    assert built_within(lambda: [network(torch.ones(2, 3)) for _ in range(400)], most=100) is None
    with torch.device("meta"):
        assert built_within(build, most=100) is not None
