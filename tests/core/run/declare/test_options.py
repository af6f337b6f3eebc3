"""Options: every problem is reported, all at once, with the nearest valid name; what is written reads back."""

from dataclasses import dataclass
from typing import Annotated, Literal

import pytest
from annotated_types import Ge, Le, Lt
from pt_core.errors import ConfigError
from pt_core.run.declare.fields import Depth, PeakRate, Width
from pt_core.run.declare.options import TrainOptions, build_all, choices, field_docs, overlay, to_plain


@dataclass(frozen=True)
class Config:
    prompt_length: Annotated[int, Ge(0)] = 5
    """p, tokens
    per set."""
    mode: Literal["deep", "shallow"] = "deep"
    """Where."""
    dropout: Annotated[float, Ge(0), Lt(1)] | None = None
    """Dropout."""
    names: tuple[str, ...] = ()
    """Names."""
    pair: bool = False
    """Paired."""

    def __post_init__(self):
        if self.pair and self.mode == "shallow":
            raise ValueError("pair=True needs mode='deep'")


BOTH = {"config": Config, "train": TrainOptions}


def problems(**values):
    with pytest.raises(ConfigError) as caught:
        build_all(BOTH, values)
    return caught.value.problems


@dataclass(frozen=True)
class Sizes:
    depth: Annotated[Depth, Le(3)] = 2
    width: Width = 8
    """d."""
    lr: PeakRate | None = None
    """Rate (default: 1e-3)."""


def test_a_field_of_a_shared_type_brings_its_bounds_and_its_help():
    assert field_docs(Sizes) == {"depth": "Blocks.", "width": "d.", "lr": "Rate (default: 1e-3)."}
    assert build_all({"sizes": Sizes}, {"depth": "3", "lr": "0.1"})["sizes"] == Sizes(3, 8, 0.1)
    with pytest.raises(ConfigError) as caught:
        build_all({"sizes": Sizes}, {"depth": 4, "width": 0, "lr": 0})
    assert [text.partition(":")[0] for text in caught.value.problems] == ["depth=4", "width=0", "lr=0"]


def test_values_are_distributed_and_converted():
    built = build_all(BOTH, {"prompt_length": "7", "lr": "1e-2", "names": "a,b", "dropout": "0.5", "pair": "true"})
    assert built["config"] == Config(7, "deep", 0.5, ("a", "b"), True)
    assert built["train"].lr == 0.01
    assert built["train"].epochs == TrainOptions().epochs


@pytest.mark.parametrize("text", ["none", "None", "null", None])
def test_none_is_spelled_in_words(text):
    assert build_all(BOTH, {"dropout": text, "steps": text})["config"].dropout is None


@pytest.mark.parametrize(
    ("typo", "nearest"),
    [
        ("prompt_lenght", "prompt_length"),
        ("num_prompt_length", "prompt_length"),
        ("batchsize", "batch_size"),
        ("sed", "seed"),
    ],
)
def test_typo_names_the_nearest_option(typo, nearest):
    assert problems(**{typo: 1}) == [f"unknown option {typo!r} (did you mean {nearest!r}?)"]


def test_all_problems_are_listed_at_once():
    found = problems(prompt_lenght=3, prompt_length=-1, mode="deeper", lr="fast", seed=-2, whatever=1)
    text = "\n".join(found)
    assert len(found) == 6
    for part in (
        "prompt_lenght",
        "prompt_length=-1",
        "mode='deeper'",
        "'deep' or 'shallow'",
        "lr='fast'",
        "seed=-2",
        "whatever",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ({"prompt_length": 2.5}, "prompt_length=2.5"),
        ({"prompt_length": "five"}, "prompt_length='five'"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"dropout": -0.1}, "dropout=-0.1"),
        ({"lr": 0}, "lr=0"),
        ({"lr": float("nan")}, "lr=nan"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"momentum": 1.5}, "momentum=1.5"),
        ({"precision": "fp8"}, "precision='fp8'"),
        ({"pair": "perhaps"}, "pair='perhaps'"),
        ({"pair": True, "mode": "shallow"}, "pair=True needs mode='deep'"),
    ],
)
def test_values_out_of_range_or_contradictory_are_refused(values, shown):
    (found,) = problems(**values)
    assert shown in found


def test_written_options_read_back():
    built = build_all(BOTH, {"names": ("a", "b"), "dropout": 0.25, "trackers": "tensorboard", "steps": 3})
    flat = {**to_plain(built["config"]), **to_plain(built["train"])}
    assert build_all(BOTH, flat) == built


def test_help_text_is_the_docstring_below_the_field():
    assert field_docs(Config)["prompt_length"] == "p, tokens per set."
    undocumented = [name for name in TrainOptions.__dataclass_fields__ if not field_docs(TrainOptions).get(name)]
    assert undocumented == []


def test_choices_are_found_inside_optional_and_annotated():
    assert choices(Literal["a", "b"] | None) == ("a", "b")
    assert choices(Annotated[tuple[Literal["x"], ...], "meta"]) == ("x",)
    assert choices(int) == ()


def test_overlay_validates():
    assert overlay(TrainOptions(), {"lr": 0.5}).lr == 0.5
    with pytest.raises(ConfigError, match="'epoch'.*'epochs'"):
        overlay(TrainOptions(), {"epoch": 3})


def test_seeds_fall_back_to_the_common_one():
    options = TrainOptions(seed=7, data_seed=0)
    assert [options.seed_of(kind) for kind in ("init", "data", "sampling")] == [7, 0, 7]


def test_a_check_of_a_dataclass_is_told_in_its_own_words():
    @dataclass(frozen=True)
    class Pair:
        low: int = 0
        high: int = 1

        def __post_init__(self) -> None:
            if self.low > self.high:
                raise ValueError("low is above high")

    with pytest.raises(ConfigError) as caught:
        build_all({"pair": Pair}, {"low": 3})
    assert caught.value.problems == ["low is above high"]
