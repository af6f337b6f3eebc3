"""The shared command line end to end on the toy modality: options of the trainer, artifacts, errors a user can cause."""

import json
import math
import random
import re
import shutil
import socket
import sys

import numpy as np
import pandas
import pytest
import torch
import yaml
from markupsafe import Markup
from pt_core import StepOutput, sealed
from pt_core.artifact import read_artifact
from pt_core.errors import UserError
from pt_core.run.command.api import Api
from pt_core.run.declare.resolve import resolve
from pt_core.run.fit.prepare import prepare
from pt_core.run.report import plots
from pt_core.run.train.rundir import RunDir
from safetensors.torch import load_file

from tests.command import called
from tests.core.run import toy
from tests.core.run.methods.prompt import Prompt

SHORT = ("--data", "vectors:40", "--epochs", "2")
VECTORS = ("1,0,1,1", "0.5,-1,2,0", "0,-1,0,0")


def pt(*arguments):
    return called(toy.main, *arguments)


def fit(out, *arguments, method="prompt"):
    status, text, problems = pt("fit", method, *SHORT, "--out", out, *arguments)
    assert status == 0, problems
    return text


def refused(*arguments):
    """The lines of an error that the user caused."""
    status, out, err = pt(*arguments)
    assert status == 2, (status, out, err)
    assert "Traceback" not in err
    return [line.removeprefix("error: ") for line in err.splitlines() if line.startswith("error: ")]


def weights(run):
    return load_file(run / "tuned" / "weights.safetensors")


def status_of(run):
    return json.loads((run / "run.json").read_text())


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.fixture(autouse=True)
def _no_plots(monkeypatch):
    """tests/core/run/report draws them."""
    monkeypatch.setattr(plots, "draw", lambda *arguments, **options: Markup("<svg></svg>"))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run with a training view. Tests only read it."""
    folder = tmp_path_factory.mktemp("runs") / "first"
    fit(folder, "--auxiliary", "--trackers", "tensorboard")
    return folder


# ---- what a run leaves, and what is done with it ----


def test_finished_run_has_every_part(run):
    for name in (
        "config.yaml",
        "run.json",
        "metrics.jsonl",
        "report.html",
        "predictions/test.parquet",
        "tuned/card.json",
    ):
        assert (run / name).is_file(), name
    assert status_of(run)["status"] == "finished"
    assert len(pandas.read_parquet(run / "predictions" / "test.parquet")) == 11
    assert list((run / "stages").iterdir())


def test_config_repeats_the_run(run, tmp_path):
    status, _, err = pt("fit", "prompt", "--config", run / "config.yaml", "--out", tmp_path / "again")
    assert status == 0, err
    assert same(weights(tmp_path / "again"), weights(run))


def test_tensorboard_gets_the_metrics(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (events,) = (run / "logs").rglob("events.out.tfevents.*")
    accumulator = EventAccumulator(str(events.parent))
    accumulator.Reload()
    assert {"train/loss", "val/accuracy"} <= set(accumulator.Tags()["scalars"])
    logged = [line["accuracy"] for line in RunDir(run).metrics() if line["split"] == "val" and line["stage"] != "final"]
    assert [event.value for event in accumulator.Scalars("val/accuracy")] == pytest.approx(logged)


def test_info_in_words_and_as_json(run):
    status, out, _ = pt("info", run)
    assert status == 0
    for part in ("pt-toy/prompt", "finished", "tiny:0", "parameters  71", "ant, bee, cat", "accuracy"):
        assert part in out
    found = json.loads(pt("info", run, "--json")[1])
    assert found["run"]["status"] == "finished"
    assert found["card"]["method"] == "pt-toy/prompt"
    assert json.loads(pt("info", run / "tuned", "--json")[1])["card"] == found["card"]


def test_info_of_an_unfinished_run_and_of_nothing(tmp_path):
    with RunDir(tmp_path / "run").open() as opened:
        opened.update({"status": "interrupted", "message": "stopped by SIGINT", "method": "pt-toy/prompt"})
    _, out, _ = pt("info", tmp_path / "run")
    assert "interrupted" in out
    assert "stopped by SIGINT" in out
    assert "no tuned artifact" in refused("info", tmp_path)[0]


def test_eval_takes_a_role(run):
    test = json.loads(pt("eval", run, "--data", "vectors:40", "--json")[1])
    assert (test["role"], test["samples"]) == ("test", 11)
    assert test["metrics"]["accuracy"] == pytest.approx(status_of(run)["results"]["test"]["accuracy"])
    train = json.loads(pt("eval", run, "--data", "vectors:40", "--role", "train", "--json")[1])
    assert (train["role"], train["samples"]) == ("train", 40)
    assert "accuracy" in pt("eval", run, "--data", "vectors:40")[1]
    (said,) = refused("eval", run, "--data", "vectors:40", "--role", "dev")
    assert "no part 'dev'; it has: train, test (choose with --role)" in said


def test_predict_prints_writes_and_does_not_depend_on_the_batch(run, tmp_path):
    rows = [json.loads(line) for line in pt("predict", run, *VECTORS, "--json")[1].splitlines()]
    one_by_one = [
        json.loads(line) for line in pt("predict", run, *VECTORS, "--json", "--batch-size", 1)[1].splitlines()
    ]
    assert [row["predicted"] for row in rows] == [row["predicted"] for row in one_by_one]
    assert [row["score"] for row in rows] == pytest.approx([row["score"] for row in one_by_one], rel=1e-5)
    for suffix, read in ((".csv", pandas.read_csv), (".parquet", pandas.read_parquet)):
        assert pt("predict", run, *VECTORS, "--out", tmp_path / f"p{suffix}")[0] == 0
        assert list(read(tmp_path / f"p{suffix}")["predicted"]) == [row["predicted"] for row in rows]
    assert "must end in" in refused("predict", run, *VECTORS, "--out", tmp_path / "p.xls")[0]


def test_compare_prints_the_table_and_writes_the_page(run, tmp_path):
    fit(tmp_path / "second", "--auxiliary", "--seed", 1)
    status, out, _ = pt("compare", run, tmp_path / "second", "--out", tmp_path / "page.html")
    assert status == 0
    assert out.splitlines()[0].split()[:4] == ["setting", "runs", "test", "accuracy"]
    assert "±" in out
    assert (tmp_path / "page.html").is_file()
    assert "is not a run folder" in refused("compare", run, tmp_path / "nowhere")[0]
    status = json.loads((tmp_path / "second" / "run.json").read_text())
    assert status["directions"]["nll"] == "min"
    assert status["directions"]["accuracy"] == "max"
    (tmp_path / "second" / "run.json").write_text(json.dumps({**status, "status": "running"}))
    status, out, err = pt("compare", run, tmp_path / "second", "--out", tmp_path / "page.html")
    assert status == 0
    assert len(out.splitlines()) == 2
    assert f"left out: {tmp_path / 'second'} (running)" in err


def test_report_writes_the_page_again(run, tmp_path):
    whole = tmp_path / "copy"
    shutil.copytree(run, whole)
    before = (whole / "report.html").read_text()
    (whole / "report.html").unlink()

    def words(page):
        text = re.sub(r"<(style|script|svg).*?</\1>|<[^>]*>", " ", page, flags=re.DOTALL)
        return text.replace(run.name, "").replace(whole.name, "").split()

    status, out, err = pt("report", whole)
    assert (status, err) == (0, "")
    assert out == f"page: {whole / 'report.html'}\n"
    assert words((whole / "report.html").read_text()) == words(before)
    told = json.loads((whole / "run.json").read_text())
    (whole / "run.json").write_text(json.dumps({**told, "status": "interrupted"}))
    assert f"`resume {whole}` goes on with it" in pt("report", whole)[2]
    assert refused("report", tmp_path)[0] == f"{tmp_path} is not a run folder (no run.json)"


def test_exported_artifact_predicts_the_same_and_may_leave_the_training_view_out(run, tmp_path):
    for name, flags in (("whole", ()), ("small", ("--inference-only",))):
        assert pt("export", run, "--out", tmp_path / name, *flags)[0] == 0
        found = [pt("predict", folder, *VECTORS) for folder in (tmp_path / name, run)]
        assert [status for status, _, _ in found] == [0, 0]
        assert found[0][1] == found[1][1]
    assert read_artifact(tmp_path / "whole", training=True).training
    assert read_artifact(tmp_path / "small", training=True).training == {}
    assert "exists" in refused("export", run, "--out", tmp_path / "whole")[0]


def test_inference_only_artifact_cannot_be_tuned_further(run, tmp_path):
    assert pt("export", run, "--out", tmp_path / "small", "--inference-only")[0] == 0
    arguments = ("fit", "prompt", *SHORT, "--auxiliary", "--init-from", tmp_path / "small", "--out", tmp_path / "run")
    (said,) = refused(*arguments)
    assert "was exported with --inference-only: it cannot be tuned further" in said
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match="--inference-only"):
        Api(toy.Toy).load(tmp_path / "small", training=True)


def test_export_as_a_program_gives_the_methods_outputs(run, tmp_path):
    assert pt("export", run, "--format", "torch.export", "--out", tmp_path / "p.pt2")[0] == 0
    program = torch.export.load(tmp_path / "p.pt2").module()
    values = torch.tensor([list(map(float, text.split(","))) for text in VECTORS])
    with torch.no_grad():
        expected = Api(toy.Toy).load(run, device="cpu").method.logits(values)
    torch.testing.assert_close(program(values), expected)


def test_export_takes_the_formats_of_a_package(run, tmp_path):
    status, out, err = pt("export", run, "--format", "sizes", "--out", tmp_path / "sizes.txt")
    assert (status, "only the size" in err, "written:" in out) == (0, True, True)
    assert (tmp_path / "sizes.txt").read_text() == str(Api(toy.Toy).load(run).method.parameter_count())
    assert "sizes" in refused("export", run, "--format", "size", "--out", tmp_path / "x")[-1]


# ---- options of the trainer ----


def test_init_from_starts_where_the_other_run_ended(run, tmp_path):
    fit(tmp_path / "on", "--auxiliary", "--init-from", run, "--lr", 1e-30, "--weight-decay", 0)
    assert same(weights(tmp_path / "on"), weights(run))
    own = {name: read_artifact(folder, training=True).training for name, folder in (("a", run), ("b", tmp_path / "on"))}
    assert same(own["a"], own["b"])


def test_init_from_another_backbone_is_refused_unless_allowed_and_then_recorded(run, tmp_path):
    arguments = ("--auxiliary", "--init-from", run, "--backbone", "tiny:1", "--lr", 1e-30)
    (said,) = refused("fit", "prompt", *SHORT, *arguments, "--out", tmp_path / "run")
    assert "'tiny:0'" in said
    assert "'tiny:1'" in said
    assert "--allow-backbone-mismatch" in said
    fit(tmp_path / "run", *arguments, "--allow-backbone-mismatch")
    assert any("mismatch allowed" in note for note in read_artifact(tmp_path / "run").card["notes"])


def test_predict_on_another_backbone_is_refused_unless_allowed(run):
    (said,) = refused("predict", run, *VECTORS, "--backbone", "tiny:1")
    assert "does not fit this backbone" in said
    status, _, err = pt("predict", run, *VECTORS, "--backbone", "tiny:1", "--allow-backbone-mismatch")
    assert status == 0
    assert "backbone mismatch allowed" in err


def test_patience_stops_early_and_the_best_weights_are_kept(tmp_path):
    fit(tmp_path / "run", "--epochs", 50, "--lr", 1e-30, "--patience", 2, "--eval-every", 1, "--weight-decay", 0)
    steps = [line["step"] for line in RunDir(tmp_path / "run").metrics() if line["split"] == "train"]
    assert max(steps) == 3, "the first evaluation is the best, two more do not improve on it"
    fit(tmp_path / "long", "--epochs", 8, "--lr", 0.5, "--eval-every", 4)
    values = [
        m["accuracy"] for m in RunDir(tmp_path / "long").metrics() if m["split"] == "val" and m["stage"] != "final"
    ]
    assert status_of(tmp_path / "long")["results"]["val"]["accuracy"] == pytest.approx(max(values))
    fit(tmp_path / "last", "--epochs", 8, "--lr", 0.5, "--eval-every", 4, "--no-select")
    assert status_of(tmp_path / "last")["results"]["val"]["accuracy"] == pytest.approx(values[-1])


def test_bf16_trains_and_keeps_the_tuned_tensors_in_fp32(tmp_path):
    fit(tmp_path / "run", "--precision", "bf16")
    losses = [line["loss"] for line in RunDir(tmp_path / "run").metrics() if line["split"] == "train"]
    assert all(map(math.isfinite, losses))
    assert {tensor.dtype for tensor in weights(tmp_path / "run").values()} == {torch.float32}
    fit(tmp_path / "full")
    assert not same(weights(tmp_path / "run"), weights(tmp_path / "full")), "autocast was on"


def test_fp16_on_the_cpu_is_refused_before_anything_is_written(tmp_path):
    (said,) = refused("fit", "prompt", *SHORT, "--precision", "fp16", "--out", tmp_path / "run")
    assert said == "precision='fp16' needs a CUDA device; use bf16 or fp32"
    assert not (tmp_path / "run").exists()


def test_search_takes_the_best_on_validation(tmp_path, monkeypatch):
    """The test part's labels are turned around: a selection that looked there would take the worse point."""

    class Turned(toy.Toy):
        def load_data(self, spec, options, seed):
            roles = super().load_data(spec, options, seed)
            roles["test"].labels = [(label + 1) % 3 for label in roles["test"].labels]
            return roles

    monkeypatch.setattr(toy, "Toy", Turned)
    text = fit(tmp_path / "run", "--search", "lr=1e-9,0.1", "--epochs", 6)
    chosen = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["options"]
    points = [status_of(tmp_path / "run" / "search" / f"{n:02d}")["results"] for n in (0, 1)]
    assert points[1]["val"]["accuracy"] > points[0]["val"]["accuracy"]
    assert points[1]["test"]["accuracy"] < points[0]["test"]["accuracy"]
    assert chosen["lr"] == 0.1
    assert text.splitlines()[2].split() == ["0.1", f"{points[1]['val']['accuracy']:.4f}", "<-", "best"]
    assert status_of(tmp_path / "run")["results"] == points[1]


def test_search_checks_every_point_before_the_first_run(tmp_path):
    said = refused("fit", "prompt", *SHORT, "--search", "lr=0.1,-1", "--out", tmp_path / "run")
    assert any("lr='-1'" in line for line in said)
    assert not (tmp_path / "run").exists()


def table(path, sizes=(24, 8, 4), **columns):
    """A table with so many rows per class."""
    made = toy.vectors(3 * max(sizes))
    kept = [
        i for label, size in enumerate(sizes) for i in [j for j in range(len(made)) if made.labels[j] == label][:size]
    ]
    rows = toy.Rows(made.values[kept], [made.labels[i] for i in kept], [made.ids[i] for i in kept])
    toy.write_table(path, rows, **{name: [values(i) for i in range(len(kept))] for name, values in columns.items()})
    return path


def test_class_weights_travel_with_the_artifact_and_change_the_result(tmp_path):
    data = table(tmp_path / "d.csv")
    for name, flags in (("plain", ()), ("weighted", ("--class-weights",)), ("balanced", ("--balanced",))):
        status, _, err = pt("fit", "prompt", "--data", data, "--epochs", 2, "--out", tmp_path / name, *flags)
        assert status == 0, err
        assert "training classes are imbalanced (24 to 4): consider --class-weights or --balanced" in err
    found = [weights(tmp_path / name) for name in ("plain", "weighted", "balanced")]
    assert not same(found[0], found[1])
    assert not same(found[0], found[2])
    given = read_artifact(tmp_path / "weighted").card["task"]["class_weights"]
    assert given[0] < given[1] < given[2]
    assert "class_weights" not in read_artifact(tmp_path / "plain").card["task"]


def test_groups_stay_on_one_side_of_every_split(tmp_path):
    data = table(tmp_path / "d.csv", (24, 24, 24), patient=lambda i: f"p{i // 6}")
    modality = toy.Toy()
    for column, apart in (("patient", True), (None, False)):
        spec = resolve(modality, "prompt", {"data": (str(data),), "group_column": column})
        parts = prepare(modality, spec, lambda text: None).data
        place = {name: i // 6 for i, name in enumerate(toy.read_table(data).ids)}
        groups = {role: {place[name] for name in part.ids} for role, part in parts.items()}
        assert set(groups) == {"train", "val", "test"}
        shared = groups["train"] & groups["val"] | groups["train"] & groups["test"] | groups["val"] & groups["test"]
        assert (shared == set()) == apart


def test_accumulation_gives_the_same_result(tmp_path):
    fit(tmp_path / "one")
    fit(tmp_path / "three", "--accumulate", 3)
    for name, tensor in weights(tmp_path / "one").items():
        torch.testing.assert_close(weights(tmp_path / "three")[name], tensor, rtol=1e-4, atol=1e-5)


def test_shots_beyond_a_class_take_what_there_is(tmp_path):
    """The run is that of all training samples; --exact-shots refuses it with the counts."""
    data = ("--data", table(tmp_path / "d.csv"))
    (said,) = refused("fit", "prompt", *data, "--shots", 5, "--exact-shots", "--out", tmp_path / "run")
    assert "cat" in said
    assert not (tmp_path / "run").exists()
    for name, flags in (("all", ()), ("most", ("--shots", 500))):
        status, _, problems = pt("fit", "prompt", *data, "--epochs", 2, "--out", tmp_path / name, *flags)
        assert status == 0, problems
    assert same(weights(tmp_path / "most"), weights(tmp_path / "all"))
    (note,) = [note for note in status_of(tmp_path / "most")["notes"] if "--shots" in note]
    assert re.fullmatch(r"--shots 500: .*cat has \d.* of which all are taken \(--exact-shots refuses this\)", note)


# ---- what a user can get wrong ----


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("fit", "promt", *SHORT), "no method 'promt' (did you mean 'prompt'?); known: context, gates"),
        (
            ("fit", "prompt", *SHORT, "--trackers", "wandb"),
            "'wandb' is not installed; run: pip install 'pt-core[wandb]'",
        ),
        (("fit", "prompt"), "--data is missing"),
        (("fit", "prompt", "--data", "nowhere.csv"), "--data nowhere.csv does not exist"),
        (("fit", "prompt", *SHORT, "--device", "cuda"), "no CUDA device is visible; use --device cpu"),
        (("fit", "prompt", *SHORT, "--init-from", "nowhere"), "--init-from nowhere does not exist"),
        (("fit", "prompt", *SHORT, "--config", "no.yaml"), "config file no.yaml does not exist"),
        (("fit", "prompt", *SHORT, "--recipe", "fast"), "no recipe 'fast'; known: none"),
        (("resume", "nowhere"), "nowhere is not a run folder"),
        (("predict", "nowhere", "1,2,3,4"), "'nowhere' is not a run folder"),
        (("eval", "nowhere", "--data", "vectors:3"), "nowhere holds no tuned artifact"),
        (("demo",), "pt-toy has no demo"),
        (("comparr", "x"), "No such command 'comparr'"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(arguments, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if "wandb" in arguments:
        monkeypatch.setitem(sys.modules, "wandb", None)
    lines = refused(*arguments)
    assert len(lines) == 1
    assert said in lines[0]
    assert list(tmp_path.iterdir()) == []


def test_all_wrong_options_are_listed_at_once(tmp_path):
    flags = ("--lenght", 3, "--lr", -1, "--precision", "fp8", "--auxilliary", "--epochs", "many")
    lines = refused("fit", "prompt", "--data", "vectors:40", *flags, "--out", tmp_path / "run")
    assert len(lines) == 5
    assert "unknown option '--lenght' (did you mean '--length'?)" in lines
    assert "unknown option '--auxilliary' (did you mean '--auxiliary'?)" in lines
    for start in ("lr='-1'", "precision='fp8'", "epochs='many'"):
        assert any(line.startswith(start) for line in lines), start
    assert not (tmp_path / "run").exists()


def test_used_folders_are_refused(run, tmp_path):
    before = status_of(run)
    assert (
        "already holds a run; choose another --out, or continue it with `resume"
        in refused("fit", "prompt", *SHORT, "--out", run)[0]
    )
    assert "is finished; use it with `pt-toy predict" in refused("resume", run)[0]
    (tmp_path / "file").touch()
    assert "is a file; name a folder" in refused("fit", "prompt", *SHORT, "--out", tmp_path / "file")[0]
    assert status_of(run) == before


def test_non_finite_sample_is_named_the_run_fails_and_the_page_can_be_made(tmp_path):
    data = table(tmp_path / "d.csv", (12, 12, 12))
    text = data.read_text().splitlines()
    text[5] = ",".join([*text[5].split(",")[:2], "nan", *text[5].split(",")[3:]])
    data.write_text("\n".join(text))
    name = text[5].split(",")[0]
    flags = ("--val-fraction", 0, "--test-fraction", 0)
    (said,) = refused("fit", "prompt", "--data", data, "--epochs", 2, *flags, "--out", tmp_path / "run")
    assert name in said
    assert status_of(tmp_path / "run")["status"] == "failed"
    assert name in (tmp_path / "run" / "failure.json").read_text()


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("DefaultCPUAllocator: no"),
        MemoryError(),
    ],
)
def test_out_of_memory_names_the_knobs_and_the_run_can_be_resumed_smaller(error, tmp_path, monkeypatch):
    plain, calls = Prompt.training_step, []

    def step(self, batch):
        calls.append(1)
        if len(calls) == 6:
            raise error
        return plain(self, batch)

    monkeypatch.setattr(Prompt, "training_step", step)
    (said,) = refused("fit", "prompt", *SHORT, "--out", tmp_path / "run")
    assert said.startswith("out of memory (")
    for knob in ("--accumulate", "--batch-size", "--precision bf16"):
        assert knob in said
    found = status_of(tmp_path / "run")
    assert (found["status"], found["message"]) == ("failed", said)
    monkeypatch.undo()
    assert pt("resume", tmp_path / "run")[0] == 0
    fit(tmp_path / "whole")
    assert same(weights(tmp_path / "run"), weights(tmp_path / "whole"))


def test_a_defect_keeps_its_traceback_and_the_run_is_marked_failed(tmp_path, monkeypatch):
    monkeypatch.setattr(Prompt, "training_step", lambda self, batch: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        pt("fit", "prompt", *SHORT, "--out", tmp_path / "run")
    assert status_of(tmp_path / "run")["message"] == "ZeroDivisionError: division by zero"


def test_full_disk_at_a_checkpoint_names_the_path_and_the_run_continues_from_the_one_before(tmp_path, monkeypatch):
    write, count = sealed._write, []

    def full(path, content):
        if "step-" in str(path) and path.name == "tensors.safetensors":
            count.append(path)
            if len(count) == 3:
                path.write_bytes(b"half")
                raise OSError(28, "No space left on device")
        write(path, content)

    monkeypatch.setattr(sealed, "_write", full)
    flags = ("--epochs", 4, "--checkpoint-every", 2)
    (said,) = refused("fit", "prompt", *SHORT, *flags, "--out", tmp_path / "run")
    assert "step-00000006" in said
    assert "bytes): No space left on device; free space" in said
    assert status_of(tmp_path / "run")["status"] == "failed"
    left = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert left == ["step-00000002", "step-00000004"]
    monkeypatch.undo()
    assert pt("resume", tmp_path / "run")[0] == 0
    fit(tmp_path / "whole", *flags)
    assert same(weights(tmp_path / "run"), weights(tmp_path / "whole"))


def test_a_foreign_class_in_the_evaluation_data_is_refused_by_name(run, tmp_path):
    data = table(tmp_path / "d.csv", (2, 2, 2))
    data.write_text(data.read_text().replace("cat", "dog"))
    (said,) = refused("eval", run, "--data", data, "--role", "train")
    assert "class 'dog'" in said


def test_a_method_sees_the_prepared_data_once_before_training_and_before_it_is_restored(tmp_path, monkeypatch):
    seen = []

    def adopt(method, data):
        seen.append({role: len(dataset) for role, dataset in data.items()})
        assert method.calls == 0
        method.scale = torch.nn.Parameter(torch.zeros(len(data["train"])))

    plain, stop = Prompt.training_step, iter(range(3))

    def step(method, batch):
        assert len(method.scale) == 6, "sized by the data: two shots of three classes"
        if next(stop, None) is None:
            raise torch.cuda.OutOfMemoryError("full")
        found = plain(method, batch)
        return StepOutput(found.loss + (method.scale + 1).square().sum(), found.count, found.logs)

    monkeypatch.setattr(Prompt, "adopt", adopt)
    monkeypatch.setattr(Prompt, "training_step", step)
    options = (
        "--shots",
        "2",
        "--val-fraction",
        "0.3",
        "--epochs",
        "8",
        "--checkpoint-every",
        "1",
        "--out",
        tmp_path / "run",
    )
    assert pt("fit", "prompt", "--data", "vectors:40", *options)[0] != 0
    monkeypatch.setattr(
        Prompt, "training_step", lambda m, b: StepOutput(plain(m, b).loss + (m.scale + 1).square().sum(), len(b), {})
    )
    assert pt("resume", tmp_path / "run")[0] == 0
    assert seen == [{"train": 6, "val": 12, "test": 11}] * 2
    assert bool((weights(tmp_path / "run")["scale"] < 0).all())


def test_data_that_changed_is_refused_by_resume(tmp_path, monkeypatch):
    data = table(tmp_path / "d.csv", (12, 12, 12))
    monkeypatch.setattr(Prompt, "training_step", lambda self, batch: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        pt("fit", "prompt", "--data", data, "--out", tmp_path / "run")
    monkeypatch.undo()
    data.write_text(data.read_text().replace("ant", "bee", 1))
    assert "the data of role 'train' changed" in refused("resume", tmp_path / "run")[0]


def test_debug_shows_the_traceback(tmp_path):
    status, _, err = pt("--debug", "resume", tmp_path / "nowhere")
    assert status == 2
    assert "Traceback" in err


def test_a_launcher_that_started_one_process_only_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setenv("MASTER_PORT", "29500")
    status, _, err = pt("fit", "prompt", *SHORT, "--out", tmp_path / "run")
    assert status == 0
    assert "one process only" in err
    assert "torchrun --nproc-per-node N" in err


# ---- promises of the Python API ----


def test_no_network_is_needed(tmp_path, monkeypatch):
    def closed(*_, **__):
        raise AssertionError("the network was asked")

    for name in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, closed)
    fit(tmp_path / "run")
    assert pt("predict", tmp_path / "run", *VECTORS)[0] == 0
    assert pt("compare", tmp_path / "run", "--out", tmp_path / "c.html")[0] == 0


def test_the_users_generators_are_left_alone(tmp_path):
    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    before = random.getstate(), np.random.get_state()[1].copy(), torch.random.get_rng_state()
    made = Api(toy.Toy).fit("prompt", data="vectors:40", out=tmp_path / "run", epochs=1, quiet=True)
    Api(toy.Toy).load(made).predict([torch.ones(4)])
    assert random.getstate() == before[0]
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert torch.equal(torch.random.get_rng_state(), before[2])


def test_the_callers_tensors_are_not_changed(run):
    values = [torch.randn(4) for _ in range(5)]
    copies, versions = [value.clone() for value in values], [value._version for value in values]
    Api(toy.Toy).load(run, device="cpu").predict(values)
    assert all(torch.equal(a, b) for a, b in zip(values, copies, strict=True))
    assert [value._version for value in values] == versions


def test_equal_seeds_give_equal_bytes_and_other_seeds_other_prompts(run, tmp_path):
    fit(tmp_path / "same", "--auxiliary")
    fit(tmp_path / "other", "--auxiliary", "--seed", 1)
    assert same(weights(tmp_path / "same"), weights(run))
    assert not same(weights(tmp_path / "other"), weights(run))


def test_a_compiled_forward_gives_the_same_outputs_and_gradients(run):
    method = Api(toy.Toy).load(run, device="cpu").method
    compiled = torch.compile(method.logits, backend="aot_eager")
    values = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    outputs, gradients = [], []
    for call in (method.logits, compiled):
        out = call(values)
        outputs.append(out.detach())
        gradients.append(torch.autograd.grad(out.square().sum(), list(method.parameters())[:3]))
    torch.testing.assert_close(outputs[0], outputs[1])
    for left, right in zip(*gradients, strict=True):
        torch.testing.assert_close(left, right)


def test_several_runs_share_a_backbone_in_one_batch(run, tmp_path):
    fit(tmp_path / "second", "--auxiliary", "--seed", 1)
    values = [torch.randn(4, generator=torch.Generator().manual_seed(i)) for i in range(4)]
    many = Api(toy.Toy).load_many({"a": run, "b": tmp_path / "second"}, device="cpu")
    rows = many.predict(values, ["a", "b", "b", "a"])
    alone = {name: Api(toy.Toy).load(path, device="cpu") for name, path in (("a", run), ("b", tmp_path / "second"))}
    for value, row in zip(values, rows, strict=True):
        (expected,) = alone[row["run"]].predict([value])
        assert row["predicted"] == expected["predicted"]
        assert row["score"] == pytest.approx(expected["score"], rel=1e-5)
    logits = torch.stack([predictor.method.logits(torch.stack(values)) for predictor in alone.values()]).mean(0)
    expected = logits.detach().softmax(-1).max(-1)
    together = list(many.ensemble(values, batch_size=3))
    assert [row["score"] for row in together] == pytest.approx(expected.values.tolist(), rel=1e-5)
    names = many.predictors["a"].method.task.class_names()
    assert [row["predicted"] for row in together] == [names[index] for index in expected.indices.tolist()]
    with pytest.raises(UserError, match="unknown run 'c'; loaded: a, b"):
        many.predict(values, ["a", "b", "c", "a"])
    with pytest.raises(UserError, match="3 routes for 4 inputs"):
        many.predict(values, ["a", "b", "a"])
