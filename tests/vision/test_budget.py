"""`budget` compares like with like: a frozen pass that reads what the method reads."""

from __future__ import annotations

import json

import pytest

from tests.command import good


def found(*words: str) -> dict[str, float]:
    result: dict[str, float] = json.loads(good("budget", *words, "--classes", "10", "--json").out)
    return result


@pytest.mark.parametrize("shape", ["builtin:vit_glyphs"])
def test_a_linear_probe_costs_the_frozen_pass_and_its_head(shape: str) -> None:
    linear = found("linear", "--backbone", shape)
    width = (linear["tuned"] - 10) / 10
    assert linear["forward_flops"] - linear["frozen_flops"] == linear["batch_size"] * 2 * width * 10


def test_prompts_cost_something() -> None:
    linear, vpt = found("linear"), found("vpt", "--prompt-length", "8")
    assert vpt["frozen_flops"] == linear["frozen_flops"]
    assert vpt["overhead"] > linear["overhead"] > 1
