"""What inspection says about prompts whose answer is known."""

from __future__ import annotations

from typing import Any

import pt_language
import pytest
import torch
from click.testing import CliRunner
from pt_core import Batch
from pt_core.run.command.cli import build
from pt_language.inspection import SHOWN, attention_mass, inspect_run, report_panels, rows_table
from pt_language.methods.cpt import CPT
from pt_language.methods.p_tuning import PTuning
from pt_language.methods.prompt_tuning import PromptTuning
from pt_language.modality import Language

from tests.language import common, tiny

FAST: dict[str, Any] = {"data": "builtin:words", "shots": 2, "limit": 24, "batch_size": 8, "quiet": True}


def batch(method: Any, text: str = "a text") -> Batch:
    ids = torch.tensor([method.backbone.tokenizer(text, add_special_tokens=False)["input_ids"]])
    return Batch({"ids": ids, "mask": torch.ones_like(ids)}, None, torch.arange(1), ["a"])


def test_rows_that_are_tokens_name_them() -> None:
    method: Any = tiny.tuned("prompt_tuning", tiny.backbone())
    ids = method.backbone.tokenizer("hello", add_special_tokens=False)["input_ids"]
    start = method.prompt.detach().clone()
    with torch.no_grad():
        method.prompt.copy_(3 * method.backbone.embeddings[ids])
    rows = rows_table(method, start)
    for row, letter, token in zip(rows, "hello", ids, strict=True):
        assert row["nearest tokens (cosine)"].startswith(f"{letter!r} 1.00")
        assert row["norm"] == pytest.approx(3 * float(method.backbone.embeddings[token].norm()), rel=1e-3)
    drift = (method.prompt.detach() - start).norm(dim=1)
    assert [row["drift"] for row in rows] == pytest.approx(drift.tolist(), rel=1e-3)
    assert "drift" not in rows_table(method)[0]


@pytest.mark.parametrize("name", ["prompt_tuning", "prefix"])
def test_attention_of_equal_keys_is_shared_evenly(name: str) -> None:
    """With all query weights zero every key gets the same: token t (from 0) behind L prompt keys pays them L / (L + t + 1)."""
    method: Any = tiny.tuned(name, tiny.backbone(), length=5)
    with torch.no_grad():
        for block in method.backbone.module.model.layers:
            block.self_attn.q_proj.weight.zero_()
    tokens = batch(method).inputs["ids"].shape[1]
    expected = sum(5 / (5 + t + 1) for t in range(tokens)) / tokens
    assert attention_mass(method, batch(method)) == pytest.approx([expected] * 3, rel=1e-4)


def test_no_prompt_has_no_attention() -> None:
    assert attention_mass(tiny.tuned("full", tiny.backbone()), batch(tiny.tuned("full", tiny.backbone()))) == []


@pytest.mark.parametrize(
    ("cls", "options"),
    [(PromptTuning, {"prompt_length": 4}), (PTuning, {"prompt_length": 3}), (CPT, {"adopt": 3, "epsilon_input": 9.0})],
)
def test_the_report_tells_how_far_every_row_went(cls: Any, options: dict[str, Any]) -> None:
    method: Any = common.make(cls, **options)
    start = method.prompt_rows().detach().clone()
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(torch.randn_like(parameter))
    rows, bars = report_panels(method, common.data())
    drift = (method.prompt_rows().detach() - start).norm(dim=1)
    assert float(drift.max()) > 0.1
    assert [row["drift"] for row in rows.data["rows"]] == pytest.approx(drift.tolist()[:SHOWN], abs=1e-3)
    assert list(bars.data) == ["layer 0", "layer 1"]
    assert all(0 < share < 1 for share in bars.data.values())
    method.restore("predict", method.export("predict"))  # as a run that starts from another one does
    assert all(row["drift"] < 1e-3 for row in report_panels(method, {})[0].data["rows"])


def test_a_report_on_a_method_without_prompt_has_no_such_panels() -> None:
    method: Any = tiny.tuned("full", tiny.backbone())
    assert report_panels(method, common.data()) == []


def test_inspect_shows_rows_norms_drift_and_attention(tmp_path):
    pt_language.fit("prompt_tuning", prompt_length=4, steps=3, out=tmp_path / "run", **FAST)
    found = inspect_run(Language(), tmp_path / "run")
    assert len(found["rows"]) == 4
    assert all(row["drift"] > 0 and "nearest tokens (cosine)" in row for row in found["rows"])
    assert len(found["attention"]) == 3
    assert all(0 < mass < 1 for mass in found["attention"])
    assert found["tensors"][0]["drift"] > 0
    told = CliRunner().invoke(build(Language()), ["inspect", str(tmp_path / "run")]).output
    assert told.count("drift") == 5
    assert "attention to the prompt" in told


@pytest.mark.slow
def test_drift_is_measured_from_where_the_run_began(tmp_path):
    """A run that hardly moves drifts by nothing, so the rebuilt start is the run's own; a run from another run has no known start."""
    still: dict[str, Any] = {**FAST, "steps": 1, "lr": 1e-9}
    for name, options in {
        "prompt_tuning": {"prompt_length": 4},
        "prefix": {"prompt_length": 3},
        "iapt": {"bilevel": False},
    }.items():
        pt_language.fit(name, out=tmp_path / name, **still, **options)
        found = inspect_run(Language(), tmp_path / name)
        assert all(row["drift"] < 1e-3 for row in (*found["tensors"], *found["rows"])), name
    pt_language.fit(
        "prompt_tuning", prompt_length=4, init_from=str(tmp_path / "prompt_tuning"), out=tmp_path / "on", **still
    )
    assert not any("drift" in row for row in inspect_run(Language(), tmp_path / "on")["rows"])
    run = pt_language.fit("cpt", out=tmp_path / "cpt", **{**FAST, "shots": 1, "steps": 2, "lr": 0.01})
    moved = pt_language.load(run).method.delta.detach().norm(dim=1)
    assert [row["drift"] for row in inspect_run(Language(), tmp_path / "cpt")["rows"]] == pytest.approx(
        moved.tolist(), abs=1e-3
    )
    assert float(moved.max()) > 0
