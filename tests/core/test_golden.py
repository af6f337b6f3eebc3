"""Artifacts of every format version load with the outputs that they had when they were made."""

import json
import subprocess

import pytest
import torch
from pt_core import artifact
from pt_core.artifact import FORMAT_VERSION, read_artifact
from pt_core.errors import ConfigError
from pt_core.sealed import read_json, read_tensors, write_sealed
from safetensors.torch import load_file

from tests.golden.make import KINDS, check_clean, folder_of, inputs_of, load, outputs

VERSIONS = range(1, FORMAT_VERSION + 1)
CASES = [(version, kind) for version in VERSIONS for kind in KINDS]
TOLERANCE = 1e-3
"""Largest difference across machines and torch versions, relative to the largest logit."""


def check(predictor, version, kind):
    logits, records = outputs(predictor, inputs_of(kind))
    expected = load_file(folder_of(version) / f"{kind}.safetensors")["logits"]
    assert float((logits - expected).abs().max()) <= TOLERANCE * float(expected.abs().max())
    told = json.loads((folder_of(version) / f"{kind}.json").read_text())
    assert [row["predicted"] for row in records] == told["predicted"]


@pytest.mark.parametrize("version", VERSIONS)
def test_every_format_has_its_golden_artifacts(version):
    for kind in KINDS:
        folder = folder_of(version) / kind
        assert read_json(folder / "card.json")["format_version"] == version
        assert (folder_of(version) / f"{kind}.safetensors").is_file()
        assert sum(path.stat().st_size for path in folder.rglob("*")) < 100_000, "a golden artifact is small"


@pytest.mark.parametrize(("version", "kind"), CASES)
def test_golden_artifact_gives_its_outputs(version, kind):
    check(load(kind, folder_of(version) / kind), version, kind)


@pytest.mark.parametrize("version", VERSIONS)
def test_golden_artifact_can_be_tuned_further(version):
    predictor = load("toy-prompt", folder_of(version) / "toy-prompt", training=True)
    stored = read_artifact(folder_of(version) / "toy-prompt", training=True).training
    assert stored
    assert all(torch.equal(predictor.method.own_tensors()[name], tensor) for name, tensor in stored.items())


def test_artifact_of_a_format_with_another_spelling_is_migrated_and_stays_as_it_is(tmp_path, monkeypatch):
    """As if today's format called the option `length` differently: the next one renames it."""
    golden = folder_of(1) / "toy-prompt"
    card = read_json(golden / "card.json")
    config = {**card["config"], "tokens": card["config"]["length"]}
    del config["length"]
    files = {"card.json": json.dumps({**card, "config": config}), "README.md": "old"}
    files["weights.safetensors"] = read_tensors(golden / "weights.safetensors")
    write_sealed(tmp_path / "old", files)
    with pytest.raises(ConfigError, match="unknown option in card.json 'tokens'"):
        load("toy-prompt", tmp_path / "old")

    def one_on(old):
        renamed = {"length" if key == "tokens" else key: value for key, value in old["config"].items()}
        return {**old, "config": renamed}

    monkeypatch.setattr(artifact, "FORMAT_VERSION", FORMAT_VERSION + 1)
    monkeypatch.setattr(artifact, "MIGRATIONS", {**artifact.MIGRATIONS, FORMAT_VERSION: one_on})
    before = {path: path.read_bytes() for path in sorted((tmp_path / "old").iterdir())}
    predictor = load("toy-prompt", tmp_path / "old")
    assert predictor.card["format_version"] == FORMAT_VERSION + 1
    check(predictor, 1, "toy-prompt")
    assert {path: path.read_bytes() for path in sorted((tmp_path / "old").iterdir())} == before


def test_golden_artifacts_are_not_made_from_a_changed_tree(tmp_path):
    def git(*arguments):
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True)

    git("init")
    (tmp_path / "file").write_text("a")
    with pytest.raises(SystemExit, match=r"the tree has changes \(\?\? file, 1 in all\)"):
        check_clean(tmp_path)
    git("add", "file")
    git("commit", "-m", "first")
    assert len(check_clean(tmp_path)) == 40
    (tmp_path / "file").write_text("b")
    with pytest.raises(SystemExit, match="commit first"):
        check_clean(tmp_path)
