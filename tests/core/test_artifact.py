"""Artifacts: what is written reads back; anything damaged, foreign, too new or hostile is refused by name."""

import json
import shutil

import pytest
import torch
from pt_core import artifact as artifact_module
from pt_core.artifact import migrate, read_artifact
from pt_core.errors import ArtifactError, BackboneMismatch
from pt_core.randomness import seeded
from pt_core.saving import card_of, save_artifact
from pt_core.sealed import file_digest
from pt_core.testing.tiny import TinyBackbone, TinyMethod, ToyTask

from tests.core.toys import ActorCritic


def build(kind=TinyMethod, seed=0, backbone=None):
    with seeded(seed, "init"):
        return kind(None, {"backbone": backbone or TinyBackbone()}, ToyTask())


@pytest.fixture
def saved(tmp_path):
    method = build()
    save_artifact(tmp_path / "tuned", method, card_of(method, "toy/tiny"))
    return tmp_path / "tuned"


def reseal(folder):
    """Write sizes and hashes anew, as an attacker would."""
    names = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and p.name != "manifest.json"]
    entries = {n: {"bytes": (folder / n).stat().st_size, "sha256": file_digest(folder / n)} for n in names}
    (folder / "manifest.json").write_text(json.dumps({"files": entries}))


def change_card(folder, change):
    card = json.loads((folder / "card.json").read_text())
    changed = change(card)
    (folder / "card.json").write_text(json.dumps(card if changed is None else changed))
    reseal(folder)


def test_written_artifact_reads_back(saved):
    found = read_artifact(saved)
    method = build(seed=5)
    method.restore("predict", found.tensors)
    assert all(torch.equal(a, b) for a, b in zip(method.parameters(), build().parameters(), strict=True))
    assert found.method == "toy/tiny"
    assert found.card["parameters"] == sum(p.numel() for p in build().parameters())
    assert found.training is None
    assert "toy predict" in (saved / "README.md").read_text()


def test_training_view_is_apart_and_can_be_left_out(tmp_path):
    method = build(ActorCritic)
    card = card_of(method, "toy/actor")
    save_artifact(tmp_path / "full", method, card)
    save_artifact(tmp_path / "small", method, card, inference_only=True)
    assert set(read_artifact(tmp_path / "full", training=True).training) == {"critic.weight", "critic.bias"}
    assert read_artifact(tmp_path / "small", training=True).training == {}
    assert not set(read_artifact(tmp_path / "full").tensors) & {"critic.weight", "critic.bias"}


@pytest.mark.parametrize("name", ["weights.safetensors", "card.json", "manifest.json", "README.md"])
@pytest.mark.parametrize("damage", ["truncated", "empty", "bit"])
@pytest.mark.parametrize("region", ["head", "body"])
def test_damaged_artifact_is_refused(saved, name, damage, region):
    data = bytearray((saved / name).read_bytes())
    position = 3 if region == "head" else 3 * len(data) // 4
    if damage == "bit":
        data[position] ^= 1
    (saved / name).write_bytes({"truncated": data[:position], "empty": b"", "bit": data}[damage])
    with pytest.raises(ArtifactError, match="expected|JSON|size and hash|does not list|missing"):
        read_artifact(saved)


@pytest.mark.parametrize("region", ["length", "header"])
def test_damaged_safetensors_are_refused_even_with_a_matching_hash(saved, region):
    path = saved / "weights.safetensors"
    data = bytearray(path.read_bytes())
    data[{"length": 7, "header": 9}[region]] ^= 0xFF
    path.write_bytes(data)
    reseal(saved)
    with pytest.raises(ArtifactError, match="not a valid safetensors file"):
        read_artifact(saved)


def test_pickle_in_place_of_the_weights_is_refused(saved, tmp_path):
    from tests.core.test_sealed import Marker

    torch.save({"prompt": Marker(tmp_path / "executed")}, saved / "weights.safetensors")
    reseal(saved)
    with pytest.raises(ArtifactError, match="pickles are never loaded"):
        read_artifact(saved)
    assert not (tmp_path / "executed").exists()


def test_weights_outside_the_folder_are_refused(saved, tmp_path):
    shutil.move(saved / "weights.safetensors", tmp_path / "elsewhere.safetensors")
    (saved / "weights.safetensors").symlink_to(tmp_path / "elsewhere.safetensors")
    reseal(saved)
    with pytest.raises(ArtifactError, match="outside"):
        read_artifact(saved)


@pytest.mark.parametrize("missing", ["weights.safetensors", "card.json"])
def test_manifest_that_leaves_a_file_out_is_refused(saved, missing):
    manifest = json.loads((saved / "manifest.json").read_text())
    del manifest["files"][missing]
    (saved / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match=f"does not list {missing}"):
        read_artifact(saved)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_prompt_is_refused_at_save_and_at_load(saved, tmp_path, value):
    from safetensors.torch import load_file, save_file

    method = build()
    with torch.no_grad():
        method.prompt[0, 0, 0] = value
    with pytest.raises(ArtifactError, match="'prompt'"):
        save_artifact(tmp_path / "bad", method, card_of(method, "toy/tiny"))
    assert not (tmp_path / "bad").exists()
    tensors = load_file(saved / "weights.safetensors")
    tensors["prompt"][0, 0, 0] = value
    save_file(tensors, saved / "weights.safetensors")
    reseal(saved)
    with pytest.raises(ArtifactError, match="'prompt'.*NaN or infinite"):
        read_artifact(saved)


BAD_CARDS = {
    "no method": lambda card: card.pop("method") and None,
    "method is a list": lambda card: card.update(method=["vpt"]),
    "config is a text": lambda card: card.update(config="prompt_length=5"),
    "task is missing": lambda card: card.pop("task") and None,
    "backbones is empty": lambda card: card.update(backbones={}),
    "backbone is a text": lambda card: card.update(backbones={"backbone": "builtin:x"}),
    "source is a number": lambda card: card["backbones"]["backbone"].update(source=7),
    "preprocessing is a list": lambda card: card["backbones"]["backbone"].update(preprocessing=[1]),
    "no fingerprint": lambda card: card["backbones"]["backbone"].pop("fingerprint") and None,
    "fingerprint lacks a digest": lambda card: card["backbones"]["backbone"]["fingerprint"].pop("exact") and None,
    "fingerprint counts in words": lambda card: card["backbones"]["backbone"]["fingerprint"].update(parameters="many"),
    "parameters are huge": lambda card: card.update(parameters=10**30),
    "parameters are negative": lambda card: card.update(parameters=-1),
    "parameters are a bool": lambda card: card.update(parameters=True),
    "metrics are texts": lambda card: card.update(metrics={"accuracy": "high"}),
    "notes are numbers": lambda card: card.update(notes=[1]),
    "format is missing": lambda card: card.pop("format_version") and None,
    "format is a bool": lambda card: card.update(format_version=True),
    "format is a text": lambda card: card.update(format_version="1"),
    "format is a float": lambda card: card.update(format_version=1.0),
    "format is zero": lambda card: card.update(format_version=0),
    "format is negative": lambda card: card.update(format_version=-3),
    "card is a list": lambda card: [card],
}


@pytest.mark.parametrize("name", BAD_CARDS)
def test_malformed_card_is_refused_by_name(saved, name):
    change_card(saved, BAD_CARDS[name])
    with pytest.raises(ArtifactError, match="card.json|format_version"):
        read_artifact(saved)


def test_newer_format_is_refused_with_both_versions(saved):
    change_card(saved, lambda card: card.update(format_version=3))
    with pytest.raises(ArtifactError, match="format version 3.* reads up to 2: install a newer pt-core"):
        read_artifact(saved)


def test_older_format_is_migrated_step_by_step_and_the_file_stays_as_it_is(saved, monkeypatch):
    def one_on(card):
        return {**card, "renamed": card["versions"], "seen": [1]}

    def another_on(card):
        return {**card, "seen": [*card["seen"], 2]}

    now = artifact_module.FORMAT_VERSION
    monkeypatch.setattr(artifact_module, "FORMAT_VERSION", now + 2)
    monkeypatch.setattr(artifact_module, "MIGRATIONS", {now: one_on, now + 1: another_on})
    before = (saved / "card.json").read_bytes()
    found = read_artifact(saved)
    assert found.card["format_version"] == now + 2
    assert found.card["seen"] == [1, 2]
    assert found.card["renamed"]["torch"] == torch.__version__
    assert (saved / "card.json").read_bytes() == before


def test_migrations_cover_every_older_format():
    assert set(artifact_module.MIGRATIONS) == set(range(1, artifact_module.FORMAT_VERSION))
    card = {"format_version": artifact_module.FORMAT_VERSION, "x": 1}
    assert migrate(card, "here") is card


def test_a_card_of_format_1_knows_neither_hosts_nor_behaviour(saved):
    def as_it_was(card):
        card.update(format_version=1)
        del card["hosts"]
        for entry in card["backbones"].values():
            del entry["fingerprint"]["behaviour"]

    change_card(saved, as_it_was)
    found = read_artifact(saved)
    assert (found.card["format_version"], found.card["hosts"]) == (2, {})
    assert found.check_backbone("backbone", TinyBackbone()) == []


def test_run_folder_without_artifact_says_what_to_do(tmp_path):
    with pytest.raises(ArtifactError, match="no tuned artifact$"):
        read_artifact(tmp_path)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(ArtifactError, match="has not finished: continue it with `resume`"):
        read_artifact(tmp_path)
    with pytest.raises(ArtifactError, match="nowhere"):
        read_artifact(tmp_path / "nowhere")


def test_other_seed_of_the_backbone_is_refused_and_an_override_is_noted(saved):
    found = read_artifact(saved)
    assert found.check_backbone("backbone", TinyBackbone(seed=0)) == []
    other = TinyBackbone(seed=1)
    with pytest.raises(BackboneMismatch, match=r"'tiny:0'.*'tiny:1'.*--allow-backbone-mismatch"):
        found.check_backbone("backbone", other)
    assert any("mismatch allowed" in note for note in found.check_backbone("backbone", other, allow_mismatch=True))


def test_partly_tuned_backbone_is_refused(saved):
    other = TinyBackbone(seed=0)
    with torch.no_grad():
        other.module.mlp[1][2].bias += 1e-3
    with pytest.raises(BackboneMismatch):
        read_artifact(saved).check_backbone("backbone", other)


def test_bf16_copy_of_the_backbone_is_accepted_with_a_note(saved):
    (note,) = read_artifact(saved).check_backbone("backbone", TinyBackbone(seed=0).to("cpu", torch.bfloat16))
    assert "bfloat16 copy of the float32" in note


def test_other_preprocessing_is_refused(saved):
    other = TinyBackbone(seed=0)
    other.preprocessing["size"] = 5
    with pytest.raises(BackboneMismatch, match="preprocessing.*'size': 4.*'size': 5"):
        read_artifact(saved).check_backbone("backbone", other)


def test_unknown_role_is_refused(saved):
    with pytest.raises(ArtifactError, match="no backbone for role 'teacher'"):
        read_artifact(saved).check_backbone("teacher", TinyBackbone())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("prompt"), r"missing \['prompt'\]"),
        (lambda t: t.update(other=torch.ones(1)), r"unknown \['other'\]"),
        (lambda t: t.update(prompt=torch.ones(2, 3, 8)), r"'prompt' has shape \(2, 3, 8\).* \(2, 2, 8\)"),
    ],
)
def test_tensors_that_do_not_fit_are_named_and_nothing_is_changed(saved, change, message):
    tensors = dict(read_artifact(saved).tensors)
    tensors["head.bias"] = tensors["head.bias"] + 1
    change(tensors)
    method = build()
    before = method.head.bias.detach().clone()
    with pytest.raises(ArtifactError, match=message):
        method.restore("predict", tensors)
    assert torch.equal(method.head.bias, before)
