"""Options of a strategy's hosts: which layer counts, how flags are read, what is refused in a line."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from pt_core import Insert
from pt_core.artifact import read_artifact
from pt_core.errors import ConfigError, UserError
from pt_core.run.command.api import Api
from pt_core.run.declare.resolve import resolve
from pt_core.run.declare.roles import located

from tests.core.run.methods.gates import Gates
from tests.core.run.methods.meta import Meta
from tests.core.run.methods.prompt import Prompt
from tests.core.run.toy import Toy, status_of as pt, vectors, write_table

SHORT = ("--data", "vectors:40", "--steps", 2, "--device", "cpu")


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_table(tmp_path / "more.csv", vectors(15, seed=5))


def printed(capsys, *words):
    """The options that `fit` would run with."""
    code = pt("fit", *words, "--print-config")
    told = capsys.readouterr()
    assert code == 0, told.err
    return yaml.safe_load(told.out)["options"], told.err


def refused(capsys, *words):
    assert pt("fit", *words) == 2
    told = capsys.readouterr().err
    assert not Path("runs").exists()
    return told.splitlines()


# ---- layers ----------------------------------------------------------------------------------------------------------------


def test_each_layer_stands_over_the_one_below(monkeypatch, capsys):
    """Package defaults < the host's recipe < the strategy's < recipe file < configuration file < command line."""
    monkeypatch.setattr(Gates, "recipe", {"steps": 7, "lr": 0.5, "momentum": 0.3, "clip_norm": 9.0, "sparse": 0.2})
    monkeypatch.setattr(Meta, "recipe", {"epochs": 6, "lr": 0.4, "momentum": 0.4})
    words = ("meta", "--host", "gates", "--data", "vectors:40")
    found, _ = printed(capsys, *words)
    assert (found["epochs"], found["steps"]) == (6, None), "the strategy's epochs take the host's steps back"
    assert (found["lr"], found["momentum"], found["clip_norm"], found["weight_decay"]) == (0.4, 0.4, 9.0, 1e-4)
    assert found["host.sparse"] == 0.2
    Path("set.yaml").write_text("steps: 30\nlr: 0.3\nhost: gates\nhost.sparse: 0.3\nmomentum: 0.1\n")
    found, _ = printed(capsys, *words, "--recipe", "set.yaml")
    assert (found["steps"], found["lr"], found["momentum"], found["host.sparse"]) == (30, 0.3, 0.1, 0.3)
    Path("file.yaml").write_text("method: meta\noptions: {epochs: 5, lr: 0.2, host: gates, host.sparse: 0.4}\n")
    found, _ = printed(capsys, *words, "--recipe", "set.yaml", "--config", "file.yaml")
    assert (found["epochs"], found["steps"], found["lr"], found["momentum"]) == (5, None, 0.2, 0.1)
    assert found["host.sparse"] == 0.4
    found, _ = printed(capsys, *words, "--config", "file.yaml", "--steps", 3, "--host.sparse", 0.5)
    assert (found["steps"], found["host.sparse"], found["lr"]) == (3, 0.5, 0.2)
    monkeypatch.setattr(Meta, "recipe", {"lr": 0.4})
    assert printed(capsys, *words)[0]["steps"] == 7, "what the strategy leaves open is its host's"


def test_epochs_on_the_command_line_stand_over_steps_in_a_file(capsys):
    Path("file.yaml").write_text("steps: 30\n")
    assert printed(capsys, "prompt", "--config", "file.yaml", "--epochs", 2)[0]["steps"] is None
    assert printed(capsys, "prompt", "--config", "file.yaml")[0]["steps"] == 30
    assert printed(capsys, "prompt", "--epochs", 2, "--steps", 5)[0]["steps"] == 5, "of one layer `steps` counts"


def test_another_host_takes_back_options_of_the_former_one(capsys):
    Path("file.yaml").write_text("method: rounds\noptions: {student: prompt, student.length: 5, teacher.length: 4}\n")
    words = ("rounds", "--config", "file.yaml", "--student", "gates", "--student.sparse", 0.5)
    found, said = printed(capsys, *words)
    assert (found["student"], found["student.sparse"], found["teacher.length"]) == ("gates", 0.5, 4)
    assert "student.length" not in found
    assert said.splitlines() == ["student is 'gates': options of 'prompt' in file.yaml are left out (length)"]
    Path("set.yaml").write_text("student: gates\nstudent.sparse: 0.7\n")
    found, said = printed(capsys, "rounds", "--recipe", "set.yaml", "--student", "prompt")
    assert found["student.length"] == 2
    assert said.splitlines() == ["student is 'prompt': options of 'gates' in recipe 'set.yaml' are left out (sparse)"]
    assert (
        printed(capsys, "rounds", "--recipe", "set.yaml", "--student", "tests.core.run/gates")[0]["student.sparse"]
        == 0.7
    )
    assert refused(capsys, "rounds", "--student", "gates", "--student.length", 3, "--data", "vectors:9") == [
        "error: student: unknown option 'length'"
    ]


def test_a_role_that_shares_another_follows_it(monkeypatch):
    from dataclasses import replace

    info = Toy.registry.info("rounds")
    monkeypatch.setattr(
        type(Toy.registry),
        "info",
        lambda self, name: (
            replace(info, hosts={"teacher": "prompt", "student": "=teacher"}) if name == "rounds" else plain(self, name)
        ),
    )
    below = {"file": {"teacher.length": 4, "student.auxiliary": True}}
    spec = resolve(Toy(), "rounds", {"data": ("vectors:9",)}, below=below)
    assert [(host.config.length, host.config.auxiliary) for host in spec.hosts.values()] == [(4, False), (4, True)]
    spec = resolve(Toy(), "rounds", {"data": ("vectors:9",), "teacher": "gates", "teacher.sparse": 0.3}, below=below)
    assert [host.config.sparse for host in spec.hosts.values()] == [0.3, 0.3]


plain = type(Toy.registry).info


def test_a_search_takes_options_of_hosts_and_hosts(capsys):
    words = ("--data", "vectors:40", "--data", "unlabeled=more.csv", "--rounds", 1, "--device", "cpu", "--steps", 2)
    assert pt("fit", "rounds", *words, "--search", "student.length=1,3", "--out", "run") == 0
    assert [read_artifact(Path(f"run/search/0{n}")).card["config"]["length"] for n in (0, 1)] == [1, 3]
    aids = ("--data", "vectors:40", "--steps", 1, "--search", "aid=prompt,gates", "--aid.length", 3, "--out", "other")
    assert pt("fit", "keeper", *aids) == 0
    cards = [read_artifact(Path(f"other/search/0{n}")).card["hosts"]["aid"] for n in (0, 1)]
    assert [card["method"] for card in cards] == ["prompt", "gates"]
    assert cards[0]["config"]["length"] == 3
    capsys.readouterr()
    assert refused(capsys, "rounds", *words, "--search", "student.lenght=1,2") == [
        "error: student: unknown option 'lenght' (did you mean 'length'?)"
    ]
    assert refused(capsys, "prompt", *SHORT, "--search", "student.length=1,2")[0].startswith(
        "error: unknown option 'student.length'"
    )


def test_a_searched_epoch_stands_over_given_steps():
    assert pt("fit", "prompt", *SHORT, "--search", "epochs=1,2", "--out", "run") == 0
    stored = [yaml.safe_load(Path(f"run/search/0{n}/config.yaml").read_text())["options"] for n in (0, 1)]
    assert [(one["epochs"], one["steps"]) for one in stored] == [(1, None), (2, None)]


# ---- flags -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (("--student.auxiliary",), {"auxiliary": True}),
        (("--student.auxiliary", "--student.no-auxiliary"), {"auxiliary": False}),
        (("--student.no-auxiliary", "--student.auxiliary"), {"auxiliary": True}),
        (("--student.auxiliary", "--no-student.auxiliary"), {"auxiliary": False}),
        (("--student.auxiliary=false",), {"auxiliary": False}),
        (("--student.length", 2, "--student.length=5"), {"length": 5}),
        (("--student.auxiliary", "--student.length", 5), {"auxiliary": True, "length": 5}),
    ],
)
def test_flags_of_hosts_are_read_as_plain_ones(words, found, capsys):
    options, _ = printed(capsys, "rounds", *words)
    for name, value in found.items():
        assert options[f"student.{name}"] is value or options[f"student.{name}"] == value != True  # noqa: E712
    as_plain = [str(word).replace("student.", "") for word in words if "=false" not in str(word)]
    if len(as_plain) == len(words):
        options, _ = printed(capsys, "prompt", *as_plain)
        assert {name: options[name] for name in found} == found


def test_flags_of_hosts_without_their_value_are_refused_together(capsys):
    words = ("--student.length", "--teacher.no-length", "--teacher.no-depth", "--lr", "fast")
    assert refused(capsys, "rounds", "--data", "vectors:9", *words) == [
        "error: --teacher.no-length: 'length' is no switch; give --teacher.length VALUE",
        "error: option '--student.length' requires an argument",
        "error: lr='fast': input should be a valid number, unable to parse string as a number",
    ]


def test_switches_called_no_and_options_of_several_values(monkeypatch, capsys):
    from dataclasses import dataclass

    @dataclass(frozen=True)
    class Config:
        length: int = 2
        """Prompts per block."""
        auxiliary: bool = False
        """A second head."""
        no_bias: bool = False
        """Leave the bias out."""
        layers: tuple[int, ...] = ()
        """Some layers."""

    monkeypatch.setattr(Prompt, "Config", Config)
    options, _ = printed(capsys, "rounds", "--student.no-bias", "--student.layers", 1, "--student.layers", 3)
    assert (options["student.no_bias"], options["student.layers"]) == (True, [1, 3])
    options, _ = printed(capsys, "rounds", "--student.no-no-bias", "--student.layers", "2,4")
    assert (options["student.no_bias"], options["student.layers"]) == (False, [2, 4])


# ---- the early check -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flag", ["--recipe", "--config"])
def test_the_early_check_sees_the_host_of_a_file(flag, capsys):
    """`pair` has the backbone roles fine and coarse, the default host has one called backbone."""
    Path("set.yaml").write_text("host: pair\nbackbone: [fine=tiny:1, coarse=odd:1]\ninit_from: [nowhere]\n")
    assert refused(capsys, "meta", flag, "set.yaml", "--data", "gone") == [
        "error: --data gone does not exist; give a folder, a file, or a builtin: name",
        "error: --backbone 'odd:1' has no known form; it starts with one of dual:, tiny:",
        "error: --init-from nowhere does not exist",
    ]
    words = ("meta", flag, "set.yaml", "--data", "vectors:9", "--backbone", "tiny:0")
    assert (
        refused(capsys, *words)[0]
        == "error: --backbone 'tiny:0': this method has the backbones fine, coarse; give ROLE=..."
    )


def test_a_recipe_that_names_a_host_serves_the_api(capsys):
    Path("set.yaml").write_text("aid: gates\naid.sparse: 0.5\nhost.rows: 3\n")
    run = Api(Toy).fit("keeper", data="vectors:40", recipe="set.yaml", steps=1, device="cpu", out="run")
    hosts = read_artifact(run.path).card["hosts"]
    assert hosts["aid"] == {"method": "gates", "config": {"sparse": 0.5}}
    assert hosts["host"]["config"] == {"rows": 3}
    with pytest.raises(ConfigError, match="aid: unknown option 'lenght'"):
        Api(Toy).fit("keeper", data="vectors:40", out="x", **{"aid.lenght": 3})
    Path("set.yaml").write_text("host: pair\n")
    with pytest.raises(UserError, match="this method has: fine, coarse"):
        Api(Toy).fit("meta", data="vectors:40", recipe="set.yaml", backbone={"backbone": "tiny:0"}, out="x")


# ---- a strategy that leaves itself -------------------------------------------------------------------------------------------


def test_a_strategy_that_leaves_itself_predicts_exports_and_is_shown(capsys):
    words = ("fit", "keeper", "--data", "vectors:40", "--host.rows", 3, "--aid.length", 1, "--out", "run")
    assert pt(*words) == 0, capsys.readouterr().err
    card = read_artifact(Path("run")).card
    assert card["hosts"] == {
        "host": {"method": "stored", "config": {"rows": 3}},
        "aid": {"method": "prompt", "config": {"length": 1, "auxiliary": False}},
    }
    capsys.readouterr()
    assert pt("info", "run") == 0
    shown = capsys.readouterr().out.splitlines()
    assert "host        stored  rows=3" in shown
    assert "aid         prompt  length=1, auxiliary=False" in shown
    method = Api(Toy).load("run", device="cpu").method
    with torch.no_grad():
        logits = method.host(vectors(1).collate([0], [torch.tensor([1.0, 0, 2, 1]) + 0.5]))
    for heat in (1, 4):
        assert pt("predict", "run", "1,0,2,1", "--json", "--heat", heat, "--loud") == 0
        found = json.loads(capsys.readouterr().out)
        assert found["score"] == pytest.approx(float((logits / heat).softmax(-1).max()), rel=1e-4)
    assert pt("predict", "run", "1,0,2,1", "--haet", 4) == 2
    assert "unknown option '--haet' (did you mean '--heat'?)" in capsys.readouterr().err
    assert pt("predict", "run", "1,0,2,1", "--heat", "--loud") == 2
    assert capsys.readouterr().err == "error: option '--heat' requires an argument\n"
    assert pt("eval", "run", "--data", "vectors:9", "--role", "train", "--heat", 2, "--json") == 0
    panels = json.loads(Path("run/report.json").read_text())["panels"]
    assert [panel["data"] for panel in panels if panel["title"] == "Centre (host)"] == [
        {"first": pytest.approx(float(method.host.centre[0]))}
    ]
    assert pt("export", "run", "--out", "one.pt2", "--format", "torch.export") == 0
    program = torch.export.load("one.pt2").module()
    torch.testing.assert_close(program(torch.tensor([[1.0, 0, 2, 1]]) + 0.5), logits)
    assert pt("export", "run", "--out", "copy", "--inference-only") == 0
    assert not any(name.startswith("hosts.aid.") for name in read_artifact(Path("copy")).tensors)
    assert pt("fit", "keeper", "--data", "vectors:40", "--host.rows", 3, "--aid.length", 1, "--init-from", "run") == 0


def test_info_of_a_host_that_was_left_names_the_strategy(capsys):
    words = ("--data", "vectors:40", "--data", "unlabeled=more.csv", "--steps", 2, "--rounds", 1, "--device", "cpu")
    assert pt("fit", "rounds", *words, "--teacher.length", 3, "--out", "run") == 0
    capsys.readouterr()
    assert pt("info", "run") == 0
    shown = capsys.readouterr().out.splitlines()
    assert "method      pt-toy/prompt" in shown
    assert "teacher     prompt  length=3, auxiliary=False" in shown
    assert "made by     pt-toy/rounds  rounds=1" in shown
    assert pt("info", "run/tuned") == 0
    assert "made by     pt-toy/rounds  rounds=1" in capsys.readouterr().out.splitlines()


# ---- earlier runs, found again from another folder ---------------------------------------------------------------------------


@pytest.fixture
def claiming(monkeypatch):
    """`prompt` tunes weights of its backbone as well."""
    plain = Prompt.__init__

    def build(self, config, backbones, task):
        plain(self, config, backbones, task)
        self.claimed = self.backbone.claim("mlp.*")

    def forward(self, batch):
        edits = {f"tokens[{layer}]": Insert(self.prompt[layer]) for layer in range(self.backbone.depth)}
        return self.head(self.backbone(batch.inputs, edits, weights=self.claimed).tokens.mean(1))

    monkeypatch.setattr(Prompt, "__init__", build)
    monkeypatch.setattr(Prompt, "forward", forward)


def test_a_run_over_a_run_predicts_and_resumes_from_another_folder(claiming, monkeypatch, tmp_path, capsys):
    from pt_core.run.train.trainer import Trainer

    write_table(tmp_path / "all.csv", vectors(40))
    words = ("--data", "all.csv", "--steps", 4, "--device", "cpu", "--checkpoint-every", 1)
    assert pt("fit", "prompt", *words, "--out", "first") == 0
    assert pt("fit", "prompt", *words, "--backbone", "run:first", "--out", "second") == 0
    further = ("--backbone", "run:first", "--init-from", "second")
    assert pt("fit", "prompt", *words, *further, "--out", "whole") == 0
    capsys.readouterr()
    assert pt("predict", "whole", "1,0,2,1", "--json") == 0
    here = capsys.readouterr().out
    usual, count = Trainer._stop_if_signalled, iter(range(100))

    def stopping(self, loop):
        if next(count) == 1:
            self._signal = 15
        usual(self, loop)

    monkeypatch.setattr(Trainer, "_stop_if_signalled", stopping)
    assert pt("fit", "prompt", *words, *further, "--out", "killed") == 143
    monkeypatch.setattr(Trainer, "_stop_if_signalled", usual)
    Path("away/deep").mkdir(parents=True)
    monkeypatch.chdir("away/deep")
    capsys.readouterr()
    assert pt("predict", "../../whole", "1,0,2,1", "--json") == 0
    assert capsys.readouterr().out == here
    assert pt("resume", "../../killed") == 0, capsys.readouterr().err
    first, second = (read_artifact(tmp_path / name).tensors for name in ("whole", "killed"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert pt("fit", "prompt", "--config", "../../whole/config.yaml", "--out", "again") == 0
    again = read_artifact(Path("again")).tensors
    assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        ("more.csv", "{here}/more.csv"),
        ("unlabeled=./more.csv", "unlabeled={here}/more.csv"),
        ("run:more.csv", "run:{here}/more.csv"),
        ("fine=run:more.csv", "fine=run:{here}/more.csv"),
        ("vectors:40", "vectors:40"),
        ("gone.csv", "gone.csv"),
        ("ant,bee", "ant,bee"),
        ("", ""),
        ("a" * 5000, "a" * 5000),
    ],
)
def test_paths_are_stored_absolute_and_names_as_they_are(value, stored, tmp_path):
    assert located(value) == stored.format(here=tmp_path)
