"""pt-graph as a user meets it: the commands one after the other, the Python API, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pt_graph
import pytest
import yaml
from pt_core.errors import UserError
from pt_core.run.declare.resolve import read_recipe, resolve
from pt_core.testing.html import external_requests
from pt_graph.modality import Graph

from tests.command import typed
from tests.graph.methods.common import data

SMALL = ["--data", "builtin:molecules", "--total-shots", "12", "--max-val", "10", "--max-test", "10"]


def run(*arguments):
    """`pt-graph ARGUMENTS`."""
    return typed(Graph, *arguments)


def refused(message, *arguments):
    status, _, err = run(*arguments)
    assert status == 2, err[-500:]
    assert "Traceback" not in err
    assert any(re.search(message, line) for line in err.splitlines() if line.startswith("error: ")), err


@pytest.fixture(scope="module")
def tuned(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "gpf"
    status, out, err = run("fit", "gpf", *SMALL, "--epochs", "2", "--out", folder)
    assert status == 0, err[-2000:]
    assert "next: pt-graph predict" in out
    return folder


def test_a_run_and_its_report(tuned):
    page = (tuned / "report.html").read_text(encoding="utf-8")
    assert external_requests(page) == []
    assert "Prompted nodes (test)" in page
    assert json.loads((tuned / "run.json").read_text())["status"] == "finished"
    assert (tuned / "tuned" / "weights.safetensors").stat().st_size < 3000


def test_eval_predict_info_export_compare(tuned, tmp_path):
    status, out, err = run("eval", tuned, "--data", "builtin:molecules", "--json")
    assert status == 0, err
    assert json.loads(out)["samples"] == 10
    (tmp_path / "m.csv").write_text("smiles\nCCO\nc1ccccc1\n")
    status, out, err = run("predict", tuned, "CCN", tmp_path / "m.csv", "--out", tmp_path / "p.csv")
    assert status == 0, err
    assert [line.split("\t")[0] for line in out.splitlines()] == ["CCN", "CCO", "c1ccccc1"]
    assert (tmp_path / "p.csv").read_text().startswith("id,p(acid_ring),p(alkyl_halide)")
    assert run("info", tuned)[0] == run("export", tuned, "--out", tmp_path / "e")[0] == 0
    assert run("compare", tuned, "--out", tmp_path)[0] == 0
    status, out, err = run("budget", "gpf", "--json")
    assert status == 0, err
    assert json.loads(out)["forward_flops"] > 0
    again = pt_graph.load(tmp_path / "e").predict(["CCN"])
    assert again[0]["p(acid_ring)"] == pt_graph.load(tuned).predict(["CCN"])[0]["p(acid_ring)"]


def test_the_api_and_many_runs_over_one_backbone(tuned, tmp_path):
    other = pt_graph.fit(
        "gpf_plus",
        data="builtin:molecules",
        total_shots=12,
        max_val=5,
        max_test=5,
        epochs=1,
        out=tmp_path / "plus",
        quiet=True,
    )
    assert "roc_auc" in other.metrics or other.metrics["tasks_scored"] == 0
    graphs = data("molecules")["val"].graphs[:4]
    many = pt_graph.load_many({"a": tuned, "b": tmp_path / "plus"})
    routed = many.predict(list(graphs), ["a", "b", "b", "a"])
    for row, name in enumerate("abba"):
        alone = pt_graph.load(tuned if name == "a" else tmp_path / "plus").predict([graphs[row]])[0]
        assert routed[row]["run"] == name
        assert routed[row]["p(acid_ring)"] == pytest.approx(alone["p(acid_ring)"], abs=1e-5)
    assert {name for name in pt_graph.__all__ if getattr(pt_graph, name) is None} == set()


@pytest.mark.slow
def test_relief_from_the_command_line(tmp_path):
    options = ["--epochs", "2", "--minibatch", "24", "--critic", "pooled", "--passes", "2"]
    status, _, err = run("fit", "relief", *SMALL, *options, "--out", tmp_path / "r")
    assert status == 0, err[-2000:]
    results = json.loads((tmp_path / "r" / "run.json").read_text())["results"]["test"]
    assert 0 < results["pcr"] <= 1
    assert results["apm"] > 0
    lines = [json.loads(line) for line in (tmp_path / "r" / "metrics.jsonl").read_text().splitlines()]
    assert any("return" in line and "penalty_d" in line for line in lines)
    assert "critic" not in " ".join(yaml.safe_load((tmp_path / "r" / "tuned" / "card.json").read_text()))
    assert run("predict", tmp_path / "r", "CCO")[0] == 0


@pytest.mark.slow
def test_the_demo(tmp_path):
    status, out, err = run("demo", "--fast", "--out", tmp_path / "demo")
    assert status == 0, err[-2000:]
    assert [line.split()[0] for line in out.splitlines()[1:6]] == ["linear", "gpf", "gpf-plus", "relief", "full"]


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("no method 'gpff' .did you mean 'gpf'", ["fit", "gpff"]),
        ("--data is missing", ["fit", "gpf"]),
        ("'x.csv' does not exist", ["fit", "gpf", "--data", "x.csv"]),
        ("has no --head-layer|did you mean 'head_layers'|--head-layer", ["fit", "gpf", *SMALL, "--head-layer", "2"]),
        ("z_max=", ["fit", "relief", *SMALL, "--z-max", "-1"]),
        ("needs several classes|yes/no properties", ["fit", "gppt", *SMALL]),
        ("--shots needs labelled", ["fit", "gpf", "--data", "builtin:molecules", "--shots", "3"]),
        ("no metric of binary tasks", ["fit", "gpf", *SMALL, "--select-by", "macro_f1"]),
        ("--task classification needs one class", ["fit", "gpf", *SMALL, "--task", "classification"]),
        ("12 of|cannot be shared by 50", ["fit", "relief", *SMALL, "--ensemble", "50"]),
        ("no recipe 'relief'", ["fit", "relief", *SMALL, "--recipe", "relief"]),
        ("needs its pretrained weights", ["fit", "gpf", *SMALL, "--backbone", "chem:gcn"]),
    ],
)
def test_mistakes(message, arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(message, *arguments)
    if "relief" not in arguments:
        assert not (tmp_path / "runs").exists()


def test_all_mistakes_of_a_command_are_told_together(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, _, err = run(
        "fit", "gpf", "--data", "nowhere.csv", "--backbone", "chem:gni", "--recipe", "gpf-best", "--epocs", "3", "--out", "new"
    )  # fmt: skip
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert status == 2
    for part in ("'nowhere.csv' does not exist", "no molecular network 'gni'", "no recipe 'gpf-best'", "'--epocs'"):
        assert sum(part in line for line in errors) == 1, err
    assert len(errors) == 4
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("builtin:gin", "no built-in backbone 'gin'"),
        ("file:nowhere.safetensors", "weight file nowhere.safetensors does not exist"),
        ("pyg:GNC", "pyg:GNC is not supported"),
        ("pyg:GCN:rleu", "activation 'rleu' is unknown"),
        ("pyg:PNA,in_channels=4", "needs hidden_channels"),
        ("timm:vit", "is of no known kind"),
    ],
)
def test_backbones_are_checked_by_name(spec, message):
    assert re.search(message, Graph().backbone_problem(spec, "backbone"))
    with pytest.raises(UserError, match=message):
        pt_graph.load_backbone(spec)


@pytest.mark.parametrize(
    "spec", ["builtin:gin_molecules", "chem:gat", "pyg:GraphSAGE:elu", "pyg:GCN,in_channels=4,hidden_channels=8"]
)
def test_names_of_backbones_that_there_are(spec):
    assert Graph().backbone_problem(spec, "backbone") is None


def test_programs_are_not_exported(tuned, tmp_path):
    refused("graphs vary in size", "export", tuned, "--out", tmp_path / "x.pt2", "--format", "torch.export")


def test_data_of_another_kind_than_the_backbone(tmp_path):
    pt_graph.save_graphs(data("shapes"), tmp_path / "s.npz")
    refused("reads atoms and bonds", "fit", "gpf", "--data", tmp_path / "s.npz")


@pytest.mark.parametrize(
    "path", sorted((Path(pt_graph.__file__).parent / "recipes").glob("*.yaml")), ids=lambda p: p.stem
)
def test_recipes_are_valid(path):
    options = read_recipe(Graph(), path.stem, "relief")
    options.pop("method", None)
    spec = resolve(Graph(), "relief", options)
    assert spec.config.head_layers in (1, 2, 3)
    assert spec.config.z_max in (0.05, 0.1, 0.5, 1.0)


def test_pretraining_command(tmp_path):
    pt_graph.save_graphs(data("shapes"), tmp_path / "s.npz")
    refused("needs molecules", "pretrain", "--data", tmp_path / "s.npz", "--out", tmp_path / "n.safetensors")
    status, out, err = run(
        "pretrain", "--data", tmp_path / "s.npz", "--objective", "contrastive_edge", "--dim", "8", "--layers", "2", "--epochs", "2",
        "--out", tmp_path / "n.safetensors",
    )  # fmt: skip
    assert status == 0, err
    assert f"file:{tmp_path / 'n.safetensors'}" in out + err
    refused("--lr|lr=", "pretrain", "--lr", "-1", "--out", tmp_path / "m.safetensors")
