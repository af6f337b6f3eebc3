"""The commands as a user types them, on a folder of clips and tiny models in local folders."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from pt_audio.modality import Audio
from pt_audio.pretrain.encoder import save
from pt_core.errors import UserError
from pt_core.run.train import trainer
from pt_core.testing.html import external_requests
from safetensors.torch import load_file

from tests.audio import tiny
from tests.audio.data.test_load import folder, tone
from tests.command import Outcome, typed

SHORT = (
    "--steps",
    "4",
    "--batch-size",
    "4",
    "--eval-every",
    "2",
    "--beams",
    "1",
    "--max-new-tokens",
    "4",
    "--queries",
    "3",
)


def pt(*arguments: object) -> Outcome:
    """`pt-audio ARGUMENTS`."""
    return typed(Audio, *arguments)


def good(*arguments: str | Path) -> str:
    status, out, err = pt(*arguments)
    assert status == 0, err[-2000:]
    return out


def refused(message: str, *arguments: str | Path) -> None:
    status, _, err = pt(*arguments)
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert (status, len(lines) > 0) == (2, True), err[-500:]
    assert "Traceback" not in err
    assert any(message in line for line in lines), lines


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The current folder: clips/, tiny models, and the run a."""
    root = tmp_path_factory.mktemp("place")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("PT_CACHE", str(root / "cache"))
        folder(root / "clips")
        for name, backbone in (("text", tiny.text()), ("lm", tiny.lm())):
            backbone.module.save_pretrained(root / name)
            backbone.tokenizer.save_pretrained(root / name)
        save(tiny.encoder().module, tiny.FRONT, root / "encoder")  # type: ignore[arg-type]
        good("fit", "acoustic_apt", "--data", "clips", *BACKBONES, *SHORT, "--out", "a")
        yield root


BACKBONES = tuple(
    word for role in ("encoder", "text", "lm") for word in ("--backbone", f"{role}=local:{role}")
)  # fmt: skip


def records(*arguments: str | Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in good("predict", *arguments, "--json").splitlines()]


def test_a_run_and_its_report(place: Path) -> None:
    status = json.loads(Path("a/run.json").read_text())
    assert status["status"] == "finished"
    assert {"exact_match", "word_f1", "nll", "tag_accuracy"} <= set(status["results"]["test"])
    report = json.loads(Path("a/report.json").read_text())["panels"]
    kinds = {panel["title"].split(":")[0]: panel["kind"] for panel in report}
    assert kinds["Confusion matrix (test)"] == "confusion"
    assert kinds["Attention of the queries over time"] == "heatmap"
    samples = next(panel for panel in report if panel["title"].startswith("Sample predictions"))
    assert samples["kind"] == "images"
    assert all(item["picture"] and item["predicted"] is not None for item in samples["data"]["items"])
    attention = next(panel for panel in report if panel["kind"] == "heatmap")["data"]["values"]
    assert len(attention) == 3  # queries
    assert all(abs(sum(row) * (4 / len(row)) - 1) < 1e-3 for row in attention)  # 4 time steps, all attention somewhere
    assert external_requests(Path("a/report.html").read_text()) == []


def test_predict_asks_every_clip_or_several_together(place: Path) -> None:
    clips = sorted(Path("clips/low").glob("*.wav"))[:3]
    every = records("a", *clips, "--ask", "what is it?")
    assert [row["id"] for row in every] == [str(clip) for clip in clips]
    assert all(set(row) <= {"id", "predicted", "tag"} for row in every)
    assert records("a", clips[1], "--ask", "what is it?")[0]["predicted"] == every[1]["predicted"]
    together = records("a", clips[0], clips[1], "--ask", "this is low", "--ask", "which?")
    assert [row["id"] for row in together] == [f"{clips[0]} + {clips[1]}"]
    assert len(records("a", "clips")) == 18  # a folder, with the usual question
    lines = Path("ask.jsonl")
    lines.write_text(
        json.dumps({"audio": str(clips[0]), "text_input": "what is it?"})
        + "\n"
        + json.dumps({"audio": [str(clips[0]), str(clips[1])], "text_input": ["this is low", "which?"]})
    )
    batch = records("a", lines)
    assert [row["predicted"] for row in batch] == [every[0]["predicted"], together[0]["predicted"]]
    good("predict", "a", "clips", "--out", "rows.csv")
    assert len(Path("rows.csv").read_text().splitlines()) == 19


def test_the_python_api_does_the_same(place: Path) -> None:
    import pt_audio

    predictor = pt_audio.load("a")
    clip = Path("clips/low/0.wav")
    want = records("a", clip, "--ask", "what is it?")[0]["predicted"]
    assert predictor.predict([str(clip)], ask=("what is it?",))[0]["predicted"] == want
    wave, rate = soundfile.read(clip, dtype="float32")
    assert predictor.predict([(wave, rate)], ask=("what is it?",))[0]["predicted"] == want
    many = pt_audio.load_many({"one": "a", "two": "a"})
    rows = many.predict([str(clip)] * 2, ["two", "one"], ask=("what is it?",))
    assert [(row["run"], row["predicted"]) for row in rows] == [("two", want), ("one", want)]
    assert set(pt_audio.__all__) == {
        "AcousticAPT", "AcousticAPTConfig", "DataOptions", "LogMel", "Projector", "ProjectorConfig", "Run", "__version__",
        "fit", "list_backbones", "load", "load_audio", "load_backbone", "load_many", "study", "wrap",
    }  # fmt: skip
    for name in pt_audio.__all__:
        assert getattr(pt_audio, name)


@pytest.mark.slow
def test_several_tasks_and_both_stages_resume_to_the_same_bytes(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("--data", "clips", *BACKBONES, *SHORT, "--tasks", "tagging", "--tasks", "captioning", "--tasks", "few_shot",
               "--ways", "2", "--align-steps", "3", "--val-fraction", "0.34", "--test-fraction", "0")  # fmt: skip
    good("fit", "acoustic_apt", *options, "--out", "whole")
    lines = [json.loads(line) for line in Path("whole/metrics.jsonl").read_text().splitlines()]
    assert {line["stage"] for line in lines} == {"align", "tune", "final"}
    final = [line for line in lines if line["stage"] == "final"][-1]
    assert {"exact_match/tagging", "exact_match/captioning", "exact_match/few_shot"} <= set(final)
    stop = trainer.Trainer._stop_if_signalled
    for stage, step in (("align", 2), ("tune", 3)):

        def stop_there(self: Any, loop: Any, stage: str = stage, step: int = step) -> None:
            self._signal = 15 if loop is not None and (loop.stage.name, loop.step) == (stage, step) else None
            stop(self, loop)

        with monkeypatch.context() as patch:
            patch.setattr(trainer.Trainer, "_stop_if_signalled", stop_there)
            assert pt("fit", "acoustic_apt", *options, "--out", f"cut-{stage}")[0] == 143
        good("resume", f"cut-{stage}")
        have, want = (load_file(f"{run}/tuned/weights.safetensors") for run in (f"cut-{stage}", "whole"))
        assert all(bool((have[name] == tensor).all()) for name, tensor in want.items())


def test_eval_info_compare_and_export(place: Path) -> None:
    good("fit", "projector", "--data", "clips", *BACKBONES, *SHORT[:-2], "--positions", "2", "--out", "b")
    assert "exact_match" in good("eval", "a", "--data", "clips", "--role", "train")
    assert "pt-audio/acoustic_apt" in good("info", "a")
    assert "projector" in good("compare", "a", "b", "--out", "page.html")
    good("export", "a", "--out", "shared")
    assert records("shared", "clips/low/0.wav")[0] == records("a", "clips/low/0.wav")[0]
    refused("no single program to export", "export", "a", "--format", "onnx", "--out", "x.onnx")


@pytest.mark.parametrize("method", ["acoustic_apt", "projector"])
def test_costs_are_counted_on_shapes(method: str, place: Path) -> None:
    """The forward pass over given answers, since a search costs what it finds; cached steps run no encoder."""
    found = json.loads(good("budget", method, *BACKBONES, "--batch-size", "3", "--json"))
    assert 0 < found["cached_step_flops"] < found["step_flops"]
    assert found["frozen_flops"] < found["forward_flops"] < found["step_flops"]
    assert found["cached_step_flops"] == found["step_flops"] - found["frozen_flops"]
    assert found["tuned"] > 0


def test_mistakes_are_told_in_a_line_and_write_nothing(place: Path) -> None:
    wide = Path("stereo.wav")
    soundfile.write(wide, [[0.1, 0.2], [0.3, -0.1]] * 500, tiny.RATE)
    before = {path.name for path in Path().iterdir()}
    fit = ("fit", "acoustic_apt", *BACKBONES, *SHORT, "--out", "no")
    for message, arguments in (
        ("has 2 channels", ("predict", "a", "stereo.wav")),
        ("gone.wav does not exist", ("predict", "a", "gone.wav")),
        ("1 clips and 2 texts", ("predict", "a", "clips/low/0.wav", "--ask", "x", "--ask", "y")),
        ("--ask is empty", ("predict", "a", "clips/low/0.wav", "--ask", " ")),
        ("is neither a folder", (*fit, "--data", "nowhere")),
        ("'tagg' is unknown (did you mean 'tagging'?)", (*fit, "--data", "clips", "--tasks", "tagg")),
        ("needs events with times", (*fit, "--data", "clips", "--tasks", "localisation")),
        ("align_steps needs instruct", (*fit, "--data", "clips", "--align-steps", "2", "--no-instruct")),
        ("queries", ("fit", "acoustic_apt", "--data", "clips", "--queries", "0", "--out", "no")),
        ("did you mean 'acoustic_apt'", ("fit", "acoustic_atp", "--data", "clips", "--out", "no")),
        ("names role 'encodr'", (*fit, "--data", "clips", "--backbone", "encodr=x")),
    ):
        refused(message, *arguments)
    assert {path.name for path in Path().iterdir()} == before
    assert len(records("a", "stereo.wav", "--stereo", "left")) == 1


def test_all_mistakes_of_a_command_are_told_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names are looked up and paths looked for before anything is read."""
    monkeypatch.chdir(tmp_path)
    wrong = (
        "--data",
        "nowhere",
        "--data",
        "val=builtin:sound",
        "--backbone",
        "encoder=builtin:mae_sound",
        "--backbone",
        "lm=local:gone",
    )
    status, _, err = pt("fit", "acoustic_apt", *wrong, "--recipe", "apt", "--querys", "3", "--out", "new")
    assert status == 2
    for message in (
        "nowhere is neither a folder, nor a .csv or .tsv of labels",
        "no built-in data 'builtin:sound'; known: builtin:sounds",
        "no built-in encoder 'mae_sound' (did you mean 'mae_sounds'?)",
        "lm 'local:gone': gone has no config.json",
        "no recipe 'apt'; known: apt_paper",
        "unknown option '--querys' (did you mean '--queries'?)",
    ):
        assert f"error: {message}" in err
    assert err.count("error: ") == 6
    assert not list(tmp_path.iterdir())


def test_what_was_done_to_the_input_is_said(place: Path) -> None:
    status, _, err = pt("predict", "a", "clips/low/0.wav")
    assert status == 0
    assert "1 clips at 4,000 Hz are resampled to the encoder's rate" in err
    assert "the tokenizer of 'local:lm' has no padding token: padded positions are masked" in err


def test_an_unreadable_clip_stops_training_with_its_name(place: Path) -> None:
    folder(Path("broken"), each=3)
    tone(Path("broken/low/silent.wav"))
    soundfile.write("broken/low/silent.wav", [0.0] * 1200, tiny.RATE)
    refused(
        "broken/low/silent.wav is silent", "fit", "acoustic_apt", "--data", "broken", *BACKBONES, *SHORT, "--out", "bad"
    )
    assert not Path("bad").exists()


def test_the_heavy_libraries_wait(place: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys; from pt_core.run.command import cli; from pt_audio.modality import Audio\n"
        "try: cli.main(Audio, ['methods'])\nexcept SystemExit: pass\n"
        "assert not {'torch', 'transformers', 'torchaudio', 'soundfile'} & set(sys.modules), sorted(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-500:]
    assert "acoustic_apt" in done.stdout


def test_the_published_recipe_is_valid(place: Path) -> None:
    import yaml

    options = yaml.safe_load(good("fit", "acoustic_apt", "--recipe", "apt_paper", "--data", "clips", "--print-config"))[
        "options"
    ]
    assert (options["align_steps"], options["steps"], options["tune_encoder"]) == (98_000, 1_250_000, True)
    assert (options["queries"], options["cross_every"], options["beams"], options["repetition_penalty"]) == (
        32,
        2,
        5,
        1.5,
    )
    assert (options["instruction_tokens"], options["answer_tokens"]) == (128, 256)


# ---- other tags, earlier runs, networks of one's own -------------------------------------------------------------------------


def test_answers_are_matched_with_other_tags(place: Path) -> None:
    clip = Path("clips/low/0.wav")
    (row,) = records("a", clip, "--ask", "what is it?", "--class-names", "deep,shrill,soft")
    assert row.get("tag", "deep") in ("deep", "shrill", "soft")
    assert row["predicted"] == records("a", clip, "--ask", "what is it?")[0]["predicted"]
    told = json.loads(
        good("eval", "a", "--data", "clips", "--role", "train", "--class-names", "high,low,mid_tone,soft", "--json")
    )
    assert "tag_accuracy" in told["metrics"]


def test_earlier_runs_are_averaged_into_a_start(place: Path) -> None:
    good("fit", "acoustic_apt", "--data", "clips", *BACKBONES, *SHORT, "--seed", "1", "--out", "second")
    still = ("--lr", "1e-12", "--weight-decay", "0", "--no-select", "--init-from", "a", "--init-from", "second")
    good("fit", "acoustic_apt", "--data", "clips", *BACKBONES, *SHORT, *still, "--out", "mean")
    one, two, mean = (load_file(f"{run}/tuned/weights.safetensors") for run in ("a", "second", "mean"))
    for name, tensor in mean.items():
        torch.testing.assert_close(tensor, (one[name] + two[name]) / 2, rtol=1e-4, atol=1e-6)
    refused(
        "holds a 'acoustic_apt', 'projector' cannot start from it",
        *("fit", "projector", "--data", "clips", *BACKBONES, *SHORT[:10], "--init-from", "a", "--out", "no"),
    )  # fmt: skip


def test_an_encoder_that_a_run_tuned_is_a_backbone(place: Path) -> None:
    good("fit", "acoustic_apt", "--data", "clips", *BACKBONES, *SHORT, "--tune-encoder", "--out", "tuned")
    others = BACKBONES[2:]
    good("fit", "projector", "--data", "clips", "--backbone", "encoder=run:tuned", *others, *SHORT[:10], "--out", "on")
    import pt_audio

    weights = load_file("tuned/tuned/weights.safetensors")
    encoder = pt_audio.load("on").method.backbones["encoder"].module
    for name, tensor in encoder.named_parameters():
        assert torch.equal(tensor, weights[f"claimed.{name.replace('.', '/')}"])
    refused(
        "tuned no weights of its backbone",
        *("fit", "projector", "--data", "clips", "--backbone", "encoder=run:a", *others, *SHORT[:10], "--out", "no"),
    )  # fmt: skip


@pytest.mark.parametrize("method", ["acoustic_apt", "projector"])
def test_methods_over_three_networks_are_not_wrapped(method: str) -> None:
    import pt_audio

    said = f"'{method}' is built from several networks or methods \\(encoder, text, lm\\); train it with `fit`"
    with pytest.raises(UserError, match=said):
        pt_audio.wrap(tiny.encoder().module, method, classes=3)
