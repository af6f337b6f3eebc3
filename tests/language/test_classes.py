"""Class names, scores per class and warm starts across settings, of every method; and once from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pt_language
import pytest
import torch
from pt_core import Batch
from pt_core.artifact import Artifact, read_artifact
from pt_core.errors import UserError
from pt_core.saving import card_of
from pt_language.methods.cpt import CPT
from pt_language.methods.full import FullFineTuning
from pt_language.methods.iapt import IAPT
from pt_language.methods.icl import InContext
from pt_language.methods.lora import LoRA
from pt_language.methods.p_tuning import PTuning
from pt_language.methods.prefix import Prefix
from pt_language.methods.prompt_tuning import PromptTuning
from pt_language.modality import Language
from pt_language.tasks.classification import TextClassification

from tests.command import Outcome, typed
from tests.language.common import LABELS, TEMPLATE, batch, close, make, tiny

NEW = ("wet", "hail", "fog", "cold")
METHODS: dict[str, tuple[Any, dict[str, Any]]] = {
    "prompt_tuning": (PromptTuning, {"prompt_length": 4}),
    "prefix": (Prefix, {"prompt_length": 4}),
    "p_tuning": (PTuning, {"prompt_length": 4}),
    "iapt": (IAPT, {"bottleneck": 6}),
    "lora": (LoRA, {"rank": 2}),
    "full": (FullFineTuning, {}),
    "icl": (InContext, {"examples": 0}),
}


def inputs(one: Batch) -> Batch:
    """The batch without answers and labels."""
    return Batch(one.inputs, None, one.index, one.ids)


@pytest.mark.parametrize("name", METHODS)
def test_label_words_can_be_others(name):
    cls, options = METHODS[name]
    method, one = make(cls, **options).eval(), inputs(batch())
    view = method.retarget(method.task.with_classes(NEW))
    with torch.no_grad():
        old, new = method(one), view(one)
        assert new.shape == (len(one), 4)
        close(new[:, [0, 3]], old[:, [2, 0]])  # wet, cold
        close(view.predict_step(one, lambda sample: torch.Generator())["logits"], new)
    for tensor, other in zip(method.parameters(), view.parameters(), strict=True):
        assert tensor is other
    assert method.task.class_names() == list(LABELS)


@pytest.mark.parametrize("name", ["prompt_tuning", "prefix", "p_tuning", "lora", "full"])
def test_a_head_belongs_to_its_classes(name):
    cls, options = METHODS[name]
    method = make(cls, scoring="head", **options)
    with pytest.raises(UserError, match="fixed label space: what it tuned belongs to its classes \\(cold, hot, wet"):
        method.retarget(method.task.with_classes(NEW))
    assert method.retarget(method.task.with_classes(LABELS)).head is method.head


@pytest.mark.parametrize(("cls", "options"), [(CPT, {}), (InContext, {})])
def test_examples_belong_to_their_classes(cls, options):
    method = make(cls, adopt=3, **options)
    with pytest.raises(UserError, match="fixed label space"):
        method.retarget(method.task.with_classes(NEW))


def test_words_of_classes_are_given_texts_known_words_or_names():
    known = TextClassification(LABELS, TEMPLATE, ["icy", "hot", "damp"])
    other = known.with_classes(("cold", "hail", "fog"), {"fog": ["mist", "haze"]})
    assert (other.words, other.labels, other.outputs) == (["icy", "hail", "mist"], ["cold", "hail", "fog"], 3)
    again = TextClassification.from_json({"name": "classification", **other.to_json()})
    assert (again.words, again.texts) == (other.words, {"fog": ["mist", "haze"]})
    with pytest.raises(UserError, match="has no class names that could be replaced"):
        make(PromptTuning, generates=True, prompt_length=2).task.with_classes(("a", "b"))


def test_scores_per_class_come_from_whatever_a_method_gives():
    """`task.logits(method(batch))` for strategies: heads, batches without answers, and answers of one token."""
    one = batch()
    headed = make(PromptTuning, scoring="head", prompt_length=3).eval()
    assert headed.task.logits(headed(one)).shape == (5, 3)
    several = make(PromptTuning, prompt_length=3).eval()
    with pytest.raises(UserError, match="label words of one token, a head, or a batch without answers"):
        several.task.logits(several(one))
    short = TextClassification(LABELS, TEMPLATE, ["c", "h", "w"])  # one token each, with the space in front
    method = PromptTuning(several.config, {"backbone": tiny("llama")}, short).eval()
    with torch.no_grad():
        answers = short.choices[one.target]
        asked = Batch(one.inputs, one.target, one.index, one.ids, {"answer": answers})
        scores = short.logits(method(asked))
        close(scores, method(inputs(one)))
        close(scores, method.choice_scores(one, short.choices))
        loss, count = short.loss(scores, one)
        close(loss, torch.nn.functional.cross_entropy(scores, one.target))
        assert count == 5


# ---- warm starts -------------------------------------------------------------------------------------------------------------


def artifact(method: Any, name: str) -> Artifact:
    card = card_of(method, f"pt-language/{name}")
    return Artifact(folder=None, card=card, tensors=method.export("predict"), training=method.export("train"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "tensor", "axis", "options"),
    [
        ("prompt_tuning", "prompt", 0, {}),
        ("prefix", "prompt", 0, {}),
        ("prefix", "tokens", 0, {"projection": 8}),
        ("p_tuning", "tokens", 0, {}),
        ("iapt", "query", 2, {}),
    ],
)
@pytest.mark.parametrize("length", [3, 4, 7])
def test_prompts_of_another_length_start_as_the_earlier_one(name, tensor, axis, options, length):
    cls, sizes = METHODS[name]
    earlier = make(cls, **{**sizes, "prompt_length": 4, **options})
    later = make(cls, **{**sizes, "prompt_length": length, **options})
    later.warm_start("", artifact(earlier, name))
    before, now = earlier.own_tensors()[tensor], later.own_tensors()[tensor]
    assert torch.equal(now, before.index_select(axis, torch.arange(length) % 4))
    if length == 4:
        with torch.no_grad():
            close(later.eval()(batch()), earlier.eval()(batch()))
    if later.prompt_rows() is not None:
        close(later.start, later.prompt_rows())


def test_a_projected_prefix_starts_a_plain_one():
    earlier, later = make(Prefix, prompt_length=4, projection=8), make(Prefix, prompt_length=4)
    later.warm_start("", artifact(earlier, "prefix"))
    close(later.prompt, earlier.value())


def test_a_fresh_head_where_classes_differ():
    earlier = make(PromptTuning, scoring="head", prompt_length=4)
    other = TextClassification(NEW, TEMPLATE, None, "head")
    later = PromptTuning(earlier.config, {"backbone": tiny("llama")}, other)
    fresh = later.head.weight.detach().clone()
    later.warm_start("", artifact(earlier, "prompt_tuning"))
    assert torch.equal(later.prompt, earlier.prompt)
    assert torch.equal(later.head.weight, fresh)


def test_a_refined_context_is_taken_over_with_its_examples():
    earlier, later = make(CPT, adopt=3), make(CPT, adopt=6)
    with torch.no_grad():
        earlier.delta.add_(0.1)
    later.warm_start("", artifact(earlier, "cpt"))
    assert torch.equal(later.ids, earlier.ids)
    with torch.no_grad():
        close(later.eval()(batch()), earlier.eval()(batch()))
    with pytest.raises(UserError, match="holds a 'cpt', 'icl' cannot start from it"):
        make(InContext, adopt=3).warm_start("", artifact(earlier, "cpt"))


# ---- the command line ----------------------------------------------------------------------------------------------------------

SHORT = ("--data", "builtin:words", "--shots", 2, "--steps", 2, "--limit", 40, "--batch-size", 8, "--device", "cpu")


def pt(*arguments: object) -> Outcome:
    """`pt-language ARGUMENTS`."""
    return typed(Language, *arguments)


def test_class_names_from_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, _, err = pt("fit", "prompt_tuning", *SHORT, "--prompt-length", 4, "--out", "run")
    assert status == 0, err
    names = list(pt_language.load("run", device="cpu").method.task.class_names())
    status, out, err = pt("predict", "run", "rain on the lake", "--class-names", "wet,dry,cold", "--json")
    assert status == 0, err
    assert json.loads(out)["predicted"] in ("wet", "dry", "cold")
    Path("classes.json").write_text(json.dumps({"storm": ["rain and wind", "gale"], "calm": "still"}))
    assert json.loads(pt("predict", "run", "rain", "--class-names", "classes.json", "--json")[1])["predicted"] in (
        "storm",
        "calm",
    )
    opened = pt_language.load("run", device="cpu").retarget(["storm", "calm"])
    assert opened.method.task.words == ["storm", "calm"]
    rows = ("text,label", "rain falls,wet", "rain and hail,wet", "sun and sand,dry", "hot desert sand,dry")
    Path("new.csv").write_text("\n".join(rows))
    status, out, err = pt(
        "eval", "run", "--data", "new.csv", "--role", "train", "--class-names", "wet,dry,cold", "--json"
    )
    assert status == 0, err
    assert json.loads(out)["samples"] == 4
    assert "accuracy" in json.loads(out)["metrics"]
    status, _, err = pt(
        "eval", "run", "--data", "builtin:words", "--class-names", ",".join([*names[::-1], "other"]), "--json"
    )
    assert status == 0, err
    status, _, err = pt("fit", "prompt_tuning", *SHORT, "--prompt-length", 4, "--scoring", "head", "--out", "fixed")
    assert status == 0, err
    status, _, err = pt("predict", "fixed", "rain", "--class-names", "wet,dry")
    assert status == 2
    assert "PromptTuning has a fixed label space" in err


def test_earlier_runs_from_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    still = ("--lr", "1e-12", "--weight-decay", 0, "--no-select")
    for seed in (0, 1):
        assert pt("fit", "prompt_tuning", *SHORT, "--prompt-length", 4, "--seed", seed, "--out", f"s{seed}")[0] == 0
    given = ("--init-from", "s0", "--init-from", "s1")
    status, _, err = pt("fit", "prompt_tuning", *SHORT, "--prompt-length", 6, *given, *still, "--out", "mean")
    assert status == 0, err
    one, two, mean = (read_artifact(Path(name)).tensors["prompt"] for name in ("s0", "s1", "mean"))
    close(mean, ((one + two) / 2)[torch.arange(6) % 4])
    for name in ("lora", "full"):
        status, _, err = pt("fit", name, *SHORT, "--lr", "1e-2", "--out", name)
        assert status == 0, err
        status, _, err = pt("fit", "icl", *SHORT, "--examples", 0, "--backbone", f"run:{name}", "--out", f"on-{name}")
        assert status == 0, err
        inputs = ["the turtle turns left", "a thread waits"]
        want = pt_language.load(name, device="cpu").predict(inputs)
        have = pt_language.load(f"on-{name}", device="cpu").predict(inputs)
        for first, second in zip(want, have, strict=True):
            assert first["predicted"] == second["predicted"]
            assert first["score"] == pytest.approx(second["score"], rel=1e-4)
    status, _, err = pt("fit", "icl", *SHORT, "--examples", 0, "--backbone", "run:s0", "--out", "no")
    assert status == 2
    assert "tuned no weights of its backbone" in err
