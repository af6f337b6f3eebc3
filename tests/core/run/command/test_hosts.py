"""Options of a strategy's hosts: which layer counts, how flags are read, what is refused in a line."""

from pathlib import Path

import pytest
import torch
import yaml
from pt_core.artifact import read_artifact
from pt_core.errors import ConfigError
from pt_core.run.command.api import Api
from pt_core.run.declare.resolve import resolve

from tests.core.run.methods.gates import Gates
from tests.core.run.methods.meta import Meta
from tests.core.run.methods.prompt import Prompt
from tests.core.run.toy import Toy, main, vectors, write_table

SHORT = ("--data", "vectors:40", "--steps", 2, "--device", "cpu")


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_table(tmp_path / "more.csv", vectors(15, seed=5))


def pt(*words):
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    return stop.value.code


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
    sizes = ("--search", "student=prompt,gates", "--student.length", 3, "--out", "other")
    assert pt("fit", "rounds", *words, *sizes) == 0
    cards = [read_artifact(Path(f"other/search/0{n}")).card for n in (0, 1)]
    assert [card["method"] for card in cards] == ["pt-toy/prompt", "pt-toy/gates"]
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
    Path("set.yaml").write_text("student: prompt\nstudent.length: 3\nteacher: gates\n")
    data = ("vectors:40", "unlabeled=more.csv")
    run = Api(Toy).fit("rounds", data=data, recipe="set.yaml", steps=1, rounds=1, device="cpu", out="run")
    assert read_artifact(run.path).card["config"]["length"] == 3
    with pytest.raises(ConfigError, match="student: unknown option 'lenght'"):
        Api(Toy).fit("rounds", data=data, out="x", **{"student.lenght": 3})
    assert torch.isfinite(read_artifact(run.path).tensors["prompt"]).all()
