"""Hosts, other class names, earlier runs and runs without data, from the command line."""

import json
from pathlib import Path

import pytest
import torch
from pt_core.artifact import read_artifact
from pt_core.errors import ConfigError, UserError
from pt_core.run.command.api import Api
from pt_core.run.train.rundir import RunDir
from pt_core.sealed import read_json

from tests.core.run.toy import Toy, status_of as pt, vectors, write_table

SHORT = ("--data", "vectors:40", "--epochs", "1", "--steps", "2", "--device", "cpu")
DUAL = ("--backbone", "dual:0")


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def unlabelled(tmp_path):
    write_table(tmp_path / "more.csv", vectors(15, seed=5))
    return tmp_path / "more.csv"


# ---- hosts -----------------------------------------------------------------------------------------------------------------


def test_a_strategy_over_chosen_hosts_leaves_its_hosts_artifact(unlabelled, capsys):
    code = pt(
        "fit", "rounds", "--data", "vectors:40", "--data", f"unlabeled={unlabelled}", "--steps", 2, "--device", "cpu",
        "--student", "prompt", "--student.length", 3, "--teacher.auxiliary", "--rounds", 1, "--out", "run",
    )  # fmt: skip
    assert code == 0, capsys.readouterr().err
    config = (Path("run") / "config.yaml").read_text()
    assert "student: prompt" in config
    assert "student.length: 3" in config
    assert "teacher.auxiliary: true" in config
    assert RunDir(Path("run")).status()["method"] == "pt-toy/rounds"
    card = read_artifact(Path("run")).card
    assert card["method"] == "pt-toy/prompt"
    assert card["config"] == {"length": 3, "auxiliary": False}
    assert card["made_by"] == {"method": "pt-toy/rounds", "config": {"rounds": 1}}
    # It loads, mixes, exports and warm-starts as any other of that method.
    assert pt("fit", "prompt", *SHORT, "--length", 3, "--out", "plain") == 0
    many = Api(Toy).load_many({"a": "run", "b": "plain"}, device="cpu")
    assert len(many.predict([torch.ones(4), torch.zeros(4)], ["a", "b"])) == 2
    assert pt("export", "run", "--out", "copy") == 0
    assert pt("fit", "prompt", *SHORT, "--length", 3, "--init-from", "run", "--out", "on") == 0
    assert pt("fit", "prompt", "--config", "run/config.yaml", "--out", "x") == 2
    assert "is a configuration of 'rounds', not of 'prompt'" in capsys.readouterr().err


def test_a_run_with_hosts_is_repeated_by_its_configuration(unlabelled):
    words = ("--data", "vectors:40", "--data", f"unlabeled={unlabelled}", "--steps", 2, "--device", "cpu")
    assert pt("fit", "rounds", *words, "--student.length", 3, "--out", "one") == 0
    assert pt("fit", "rounds", "--config", "one/config.yaml", "--out", "two") == 0
    first, second = (read_artifact(Path(name)).tensors for name in ("one", "two"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_all_that_is_wrong_with_hosts_is_told_together(capsys):
    code = pt(
        "fit", "rounds", "--data", "nowhere", "--student.lenght", 3, "--teacher.length", 0, "--lr", "fast", "--rouns", 2
    )  # fmt: skip
    told = capsys.readouterr().err
    assert code == 2
    for problem in (
        "unknown option '--rouns' (did you mean '--rounds'?)",
        "--data nowhere does not exist",
        "student: unknown option 'lenght' (did you mean 'length'?)",
        "teacher: length='0': input should be greater than or equal to 1",
        "lr='fast'",
    ):
        assert problem in told, problem
    assert not Path("runs").exists()


def test_a_host_is_a_method_that_is_no_strategy(capsys):
    assert pt("fit", "rounds", *SHORT, "--student", "promt") == 2
    assert "no method 'promt' (did you mean 'prompt'?)" in capsys.readouterr().err
    assert pt("fit", "rounds", *SHORT, "--student", "meta") == 2
    assert "'meta' is a strategy itself" in capsys.readouterr().err


def test_needs_are_those_of_strategy_and_host(capsys):
    assert pt("fit", "rounds", *SHORT) == 2
    assert "needs data role 'unlabeled' (vectors without labels)" in capsys.readouterr().err
    info = Toy.registry.joined("meta", {"host": "pair"})
    assert set(info.backbones) == {"fine", "coarse"}
    assert pt("fit", "rounds", "--help") == 0
    assert "--teacher METHOD" in capsys.readouterr().out


def test_a_strategy_that_was_killed_resumes_to_the_same_bytes(unlabelled, monkeypatch):
    words = (
        "--data",
        "vectors:40",
        "--data",
        f"unlabeled={unlabelled}",
        "--steps",
        4,
        "--device",
        "cpu",
        "--checkpoint-every",
        1,
    )
    assert pt("fit", "rounds", *words, "--out", "whole") == 0
    from pt_core.run.train.trainer import Trainer

    plain, count = Trainer._stop_if_signalled, iter(range(100))

    def stopping(self, loop):
        if next(count) == 9:
            self._signal = 15
        plain(self, loop)

    monkeypatch.setattr(Trainer, "_stop_if_signalled", stopping)
    assert pt("fit", "rounds", *words, "--out", "killed") == 143
    monkeypatch.setattr(Trainer, "_stop_if_signalled", plain)
    assert pt("resume", "killed") == 0
    first, second = (read_artifact(Path(name)).tensors for name in ("whole", "killed"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_budget_counts_a_strategy_with_its_hosts(capsys):
    class Counted(Toy):
        def example(self, spec, classes, batch_size):
            from pt_core.run.tasks.classification import Classification

            with torch.device("meta"):
                backbone = self.load_backbone("tiny:0", None, None, "backbone")
            data = vectors(batch_size)
            return (
                {"backbone": backbone},
                Classification([str(i) for i in range(classes)]),
                data.collate(list(range(batch_size)), [data.sample(i, epoch=None, seed=0) for i in range(batch_size)]),
            )

    from pt_core.run.command import cli

    with pytest.raises(SystemExit) as stop:
        cli.main(Counted, ["budget", "rounds", "--student.length", "3", "--classes", "3", "--json"])
    told = capsys.readouterr()
    assert stop.value.code == 0, told.err
    assert json.loads(told.out)["tuned"] == (2 * 2 * 8 + 3 * 8 + 3) + (2 * 3 * 8 + 3 * 8 + 3)


# ---- class names and runs without data ---------------------------------------------------------------------------------------


def test_fit_without_data_leaves_a_setup_that_predicts(capsys):
    assert pt("fit", "setup", *DUAL, "--class-names", "ant,bee,cat", "--out", "run", "--device", "cpu") == 0
    status = RunDir(Path("run")).status()
    assert (status["status"], status["results"], status["parameters"]["tuned"]) == ("finished", {}, 0)
    assert (Path("run") / "report.html").is_file()
    capsys.readouterr()
    assert pt("predict", "run", "1,0,2,1", "--json") == 0
    first = json.loads(capsys.readouterr().out)
    assert first["predicted"] in ("ant", "bee", "cat")
    assert pt("predict", "run", "1,0,2,1", "--json", "--heat", 50) == 0
    assert json.loads(capsys.readouterr().out)["score"] < first["score"]
    second = first["score"]
    for words in (
        ("--heat", 8, "--squared", "1,0,2,1"),
        ("--squared", "1,0,2,1", "--heat=8"),
        ("1,0,2,1", "--heat", 64),
    ):
        assert pt("predict", "run", "--json", *words) == 0  # a switch takes no input with it
        second = json.loads(capsys.readouterr().out)["score"]
        assert second < first["score"]
    assert pt("predict", "run", "1,0,2,1", "--json", "--heat", 64, "--no-squared") == 0
    assert json.loads(capsys.readouterr().out)["score"] == second
    assert pt("predict", "run", "1,0,2,1", "--heat") == 2
    assert "option '--heat' requires an argument" in capsys.readouterr().err
    assert pt("predict", "run", "1,0,2,1", "--haet", 50) == 2
    assert "unknown option '--haet' (did you mean '--heat'?)" in capsys.readouterr().err
    assert pt("predict", "run", "1,0,2,1", "--heat", 0) == 2
    assert "heat='0': input should be greater than 0" in capsys.readouterr().err
    assert pt("eval", "run", "--data", "vectors:9", "--role", "train", "--heat", 2, "--json") == 0
    assert json.loads(capsys.readouterr().out)["samples"] == 9


def test_a_method_without_data_needs_class_names(capsys):
    assert pt("fit", "setup", *DUAL) == 2
    assert "give --class-names FILE or a,b,c" in capsys.readouterr().err
    assert pt("fit", "context", *DUAL, "--class-names", "a,b") == 2
    assert "--data is missing" in capsys.readouterr().err
    assert not Path("runs").exists()


def test_texts_of_classes_are_kept_with_the_setup(tmp_path):
    Path("classes.json").write_text(json.dumps({"ant": ["small", "red"], "bee": "yellow"}))
    assert pt("fit", "setup", *DUAL, "--class-names", "classes.json", "--out", "run", "--device", "cpu") == 0
    predictor = Api(Toy).load("run", device="cpu")
    assert predictor.method.task.class_texts() == {"ant": ["small", "red"], "bee": ["yellow"]}


def test_predict_takes_other_class_names_where_the_method_allows_it(capsys):
    assert pt("fit", "context", *DUAL, *SHORT, "--out", "run") == 0
    capsys.readouterr()
    Path("names.txt").write_text("dog\neel\n\nfox\n")
    assert pt("predict", "run", "1,0,2,1", "--json", "--class-names", "names.txt") == 0
    assert json.loads(capsys.readouterr().out)["predicted"] in ("dog", "eel", "fox")
    assert pt("eval", "run", "--data", "vectors:9", "--class-names", "cat,bee,ant,fox", "--json") == 0
    assert pt("fit", "prompt", *SHORT, "--out", "fixed") == 0
    capsys.readouterr()
    assert pt("predict", "fixed", "1,0,2,1", "--class-names", "dog,eel") == 2
    assert "Prompt has a fixed label space" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("nowhere.txt", "no such file"),
        ("a,a", "'a' is there twice"),
        ("one.txt", "1 names"),
        ("odd.json", "another form"),
        ("a," + "b" * 1001, "'... has 1,001 characters, more than 1,000; give it a shorter one"),
        ("long.json", "has 1,001 characters"),
        ("a,do\tg", r"class name 'do\tg' holds the control character '\t'; rename it"),
        ("a,\x1b[31mred", r"holds the control character '\x1b'"),
        ("lines.txt", r"class name 'do\x1cg' holds the control character '\x1c'"),
    ],
)
def test_class_names_are_checked(given, said, capsys):
    Path("one.txt").write_text("alone\n")
    Path("lines.txt").write_text("cat\ndo\x1cg\n")
    Path("long.json").write_text(json.dumps(["a", "b" * 1001]))
    Path("odd.json").write_text('{"a": 3}')
    assert pt("fit", "setup", *DUAL, "--class-names", given) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert len(line) < 500
    assert line.isprintable()


def test_class_names_that_are_long_or_of_any_script_are_kept_whole(capsys):
    names = ["b" * 1000, "zwölf Hühner", "क्‍ष", "👩‍🔬"]
    Path("names.txt").write_text("\n".join(names), encoding="utf-8")
    assert pt("fit", "setup", *DUAL, "--class-names", "names.txt", "--out", "run", "--device", "cpu") == 0
    assert Api(Toy).load("run", device="cpu").method.task.class_names() == names
    capsys.readouterr()
    assert pt("predict", "run", "1,0,2,1", "--json") == 0
    assert json.loads(capsys.readouterr().out)["predicted"] in names


# ---- earlier runs ------------------------------------------------------------------------------------------------------------


def test_a_host_starts_from_a_run_of_its_own(unlabelled):
    assert pt("fit", "prompt", *SHORT, "--out", "earlier") == 0
    options = {"data": ("vectors:40", f"unlabeled={unlabelled}"), "rounds": 1, "quiet": True, "device": "cpu"}
    run = Api(Toy).fit("rounds", **options, steps=1, lr=1e-9, weight_decay=0, init_from=("student=earlier",), out="run")
    started, left = read_artifact(Path("earlier")).tensors, read_artifact(run.path).tensors
    for name, tensor in left.items():
        torch.testing.assert_close(tensor, started[name], rtol=0, atol=1e-6)


def test_several_runs_are_averaged_into_a_start():
    for seed in (0, 1):
        assert pt("fit", "prompt", *SHORT, "--seed", seed, "--out", f"s{seed}") == 0
    words = (
        "--init-from",
        "s0",
        "--init-from",
        "s1",
        "--lr",
        "1e-12",
        "--weight-decay",
        "0",
        "--no-select",
        "--out",
        "mean",
    )
    assert pt("fit", "prompt", *SHORT, *words) == 0
    one, two, mean = (read_artifact(Path(name)).tensors for name in ("s0", "s1", "mean"))
    for name, tensor in mean.items():
        torch.testing.assert_close(tensor, (one[name] + two[name]) / 2, rtol=1e-5, atol=1e-6)


def test_what_a_run_tuned_of_its_backbone_becomes_a_backbone(capsys):
    from tests.core.run.methods.prompt import Prompt

    assert pt("fit", "prompt", *SHORT, "--out", "plain") == 0
    assert pt("fit", "prompt", *SHORT, "--backbone", "run:plain", "--out", "on") == 2
    assert "tuned no weights of its backbone" in capsys.readouterr().err
    assert pt("fit", "prompt", *SHORT, "--backbone", "run:nowhere", "--out", "on") == 2
    assert "--backbone run:nowhere: nowhere does not exist" in capsys.readouterr().err
    plain = Prompt.__init__

    def claiming(self, config, backbones, task):
        plain(self, config, backbones, task)
        self.claimed = self.backbone.claim("mlp.*")

    def forward(self, batch):
        from pt_core import Insert

        edits = {f"tokens[{layer}]": Insert(self.prompt[layer]) for layer in range(self.backbone.depth)}
        return self.head(self.backbone(batch.inputs, edits, weights=getattr(self, "claimed", None)).tokens.mean(1))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Prompt, "__init__", claiming)
        patch.setattr(Prompt, "forward", forward)
        assert pt("fit", "prompt", *SHORT, "--out", "tuned") == 0
        patch.undo()
        patch.setattr(Prompt, "__init__", claiming)
        patch.setattr(Prompt, "forward", forward)
        method = Api(Toy).load("tuned", device="cpu").method
        from pt_core.run.use.load import load_network

        network = load_network(Toy(), "run:tuned", None, None, "backbone")
    for name, tensor in method.claimed.tensors().items():
        assert torch.equal(dict(network.module.named_parameters())[name], tensor)
    plain_print = Toy().load_backbone("tiny:0", None, None, "backbone").fingerprint()
    assert network.fingerprint().compare(plain_print) == "different", "fingerprinted as what it now is"


# ---- a task without classes, and runs that are refused ---------------------------------------------------------------------


def test_a_task_without_classes_has_files_and_no_selection(capsys):
    assert pt("fit", "prompt", *SHORT, "--task", "denoise", "--out", "run") == 0
    status = RunDir(Path("run")).status()
    assert status["select"] == []
    assert set(status["results"]["test"]) == {"mse"}
    assert len(list((Path("run") / "predictions" / "test").glob("*/values.csv"))) == 11
    capsys.readouterr()
    assert pt("predict", "run", "1,0,2,1", "0,0,0,0", "--out", "made") == 0
    assert sorted(path.parent.name for path in Path("made").glob("*/values.csv")) == ["row 0", "row 1"]
    assert (Path("made") / "predictions.jsonl").is_file()
    assert pt("predict", "run", "1,0,2,1") == 2
    assert "these predictions are files: name a folder with --out" in capsys.readouterr().err
    with pytest.raises(UserError, match="gives no scores per class"):
        Api(Toy).load("run", device="cpu").method.task.logits(torch.zeros(2, 4))


def test_a_refused_run_leaves_the_folder_free(monkeypatch, capsys):
    """A method that refuses the data when its stage begins: the corrected command takes the same folder."""
    from tests.core.run.methods.prompt import Prompt

    def refusing(self, ctx):
        raise ConfigError("batch_size=8 is larger than the 3 clouds of a class")
        yield

    plain = Prompt.stages
    monkeypatch.setattr(Prompt, "stages", refusing)
    assert pt("fit", "prompt", *SHORT, "--out", "run") == 2
    assert not Path("run").exists()
    assert pt("fit", "prompt", *SHORT, "--out", "new/deep/run") == 2
    assert not Path("new").exists()
    Path("kept").mkdir()
    (Path("kept") / "notes.txt").write_text("mine")
    assert pt("fit", "prompt", *SHORT, "--out", "kept") == 2
    assert [path.name for path in Path("kept").iterdir()] == ["notes.txt"]
    monkeypatch.setattr(Prompt, "stages", plain)
    assert pt("fit", "prompt", *SHORT, "--out", "run") == 0
    assert pt("fit", "prompt", *SHORT, "--out", "kept") == 0
    assert (Path("kept") / "notes.txt").read_text() == "mine"


def test_a_run_that_failed_at_work_is_kept(monkeypatch):
    from tests.core.run.methods.prompt import Prompt

    def nan(self, batch):
        from pt_core import StepOutput

        return StepOutput(self.prompt.sum() * float("nan"), len(batch))

    monkeypatch.setattr(Prompt, "training_step", nan)
    assert pt("fit", "prompt", *SHORT, "--out", "run") == 2
    assert read_json(Path("run") / "run.json")["status"] == "failed"
    assert (Path("run") / "failure.json").is_file()


def test_a_folder_with_files_that_a_run_would_overwrite_is_refused(capsys):
    Path("mine").mkdir()
    (Path("mine") / "config.yaml").write_text("precious: 1")
    assert pt("fit", "prompt", *SHORT, "--out", "mine") == 2
    assert "holds config.yaml, which a run would overwrite" in capsys.readouterr().err
    assert (Path("mine") / "config.yaml").read_text() == "precious: 1"


def test_class_names_beside_data_are_refused_and_long_lists_are_no_path(capsys):
    assert pt("fit", "prompt", *SHORT, "--class-names", "a,b") == 2
    assert "the classes of this method are those of its data" in capsys.readouterr().err
    names = ",".join(f"class number {number}" for number in range(60))
    assert pt("fit", "setup", *DUAL, "--class-names", names, "--out", "many", "--device", "cpu") == 0
    assert len(Api(Toy).load("many", device="cpu").method.task.class_names()) == 60
