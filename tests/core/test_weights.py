"""Weight files: written whole or not at all, read without running code, complete or refused."""

from __future__ import annotations

import json
import os
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from pt_core.errors import UserError
from pt_core.weights import check_finite, fitting, listed, read_network, read_weights, write_network
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

CARD = {"format_version": 1, "model": {"width": 3}, "class_names": ["Öl", "Wasser"]}
TENSORS = {"a": torch.tensor([1.0, 2.0]), "count": torch.tensor(5)}
WRAPPERS = ("model", "state_dict")


def test_a_network_file_keeps_half_precision_and_its_card_twice(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "net.safetensors"
    write_network(out, "pt_toy", TENSORS, CARD)
    assert sorted(os.listdir(out.parent)) == ["net.json", "net.safetensors"]
    with safe_open(out, framework="pt") as file:
        assert file.get_tensor("a").dtype == torch.float16
        assert list(file.metadata()) == ["pt_toy"], "several entries come in random order"
    assert json.loads(out.with_suffix(".json").read_text(encoding="utf-8")) == CARD
    card, tensors = read_network(out, "pt_toy", "make it")
    assert card == CARD
    assert tensors["a"].dtype == torch.float32
    assert torch.equal(tensors["a"], TENSORS["a"])
    assert tensors["count"].dtype == torch.int64
    first = out.read_bytes()
    write_network(out, "pt_toy", TENSORS, CARD)
    assert out.read_bytes() == first


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({}, "has no pt_toy metadata; make it"),
        ({"pt_toy": "[1]"}, "has no pt_toy metadata; make it"),
        ({"pt_toy": '{"model": 3}'}, "has no pt_toy metadata; make it"),
        ({"pt_toy": "{"}, "is not a readable safetensors file"),
        ({"pt_toy": "[" * 100_000}, "is not a readable safetensors file"),
        ({"pt_toy": json.dumps({**CARD, "format_version": 9})}, "has format 9, this version reads 1; update pt-toy"),
    ],
)
def test_files_of_others_are_refused(tmp_path: Path, metadata: dict[str, str], message: str) -> None:
    path = tmp_path / "net.safetensors"
    save_file({"a": torch.ones(1)}, path, metadata=metadata)
    with pytest.raises(UserError, match=message):
        read_network(path, "pt_toy", "make it")


def test_no_safetensors_file(tmp_path: Path) -> None:
    (tmp_path / "net.safetensors").write_bytes(b"\x10\x00")
    with pytest.raises(UserError, match="is not a readable safetensors file"):
        read_network(tmp_path / "net.safetensors", "pt_toy", "make it")


def test_what_does_not_fit_is_told_in_one_line() -> None:
    with (
        pytest.raises(UserError, match=r"net: weights and metadata do not fit \('depth'\); make it again"),
        fitting(Path("net")),
    ):
        CARD["depth"]
    with pytest.raises(UserError, match=r"\(first\); make it again$"), fitting(Path("net")):
        raise RuntimeError("first\nsecond")


@pytest.mark.parametrize(
    "content",
    [
        {"a": torch.ones(2)},
        {"state_dict": {"a": torch.ones(2)}, "epoch": 3, "args": Namespace(lr=0.1)},
        {"model": {"state_dict": {"a": torch.ones(2), "step": 7}}},
    ],
)
def test_weights_are_found_under_their_wrappers(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "x.pth")
    found = read_weights(tmp_path / "x.pth", WRAPPERS)
    assert list(found) == ["a"]
    assert torch.equal(found["a"], torch.ones(2))


def test_half_precision_is_widened_and_whole_numbers_stay(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2, dtype=torch.float16), "n": torch.tensor(3)}, tmp_path / "x.safetensors")
    found = read_weights(tmp_path / "x.safetensors", WRAPPERS)
    assert (found["a"].dtype, found["n"].dtype) == (torch.float32, torch.int64)


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_a_file_that_would_run_code_is_refused_before_it_runs(tmp_path: Path) -> None:
    torch.save({"state_dict": {"a": torch.ones(1)}, "hook": Bomb(tmp_path / "boom")}, tmp_path / "evil.pth")
    with pytest.raises(UserError, match="loading it would run code, which is refused"):
        read_weights(tmp_path / "evil.pth", WRAPPERS)
    assert not (tmp_path / "boom").exists()


def test_files_without_weights(tmp_path: Path) -> None:
    nested: dict[str, Any] = {}
    nested["model"] = nested
    for content in ({"epoch": 3}, [1, 2], nested):
        torch.save(content, tmp_path / "none.pth")
        with pytest.raises(UserError, match=r"none.pth holds no weights: .* under 'model', 'state_dict'"):
            read_weights(tmp_path / "none.pth", WRAPPERS)
    with pytest.raises(UserError, match="weight file .*nowhere.pth does not exist"):
        read_weights(tmp_path / "nowhere.pth", WRAPPERS)
    for name, message in (("a.safetensors", "is not a readable safetensors file"), ("a.pth", "cannot be read|damaged")):
        (tmp_path / name).write_bytes(b"\x10\x00")
        with pytest.raises(UserError, match=message):
            read_weights(tmp_path / name, WRAPPERS)


def test_values_that_are_not_finite_are_named() -> None:
    net = nn.Linear(2, 1)
    check_finite(net, "x")
    with torch.no_grad():
        net.bias[0] = torch.nan
    with pytest.raises(UserError, match="x: bias holds NaN or infinite values; fetch the weights again"):
        check_finite(net, "x")


def test_long_lists_are_cut() -> None:
    assert listed(["a", "b"]) == "a, b"
    assert listed([str(n) for n in range(8)]) == "0, 1, 2, 3, 4 and 3 more"
