"""What a model's generation_config asks for acts on a row's own tokens: as in the library itself, on the vectors of prompt and text."""

from __future__ import annotations

from typing import Any

import pytest
import torch

transformers = pytest.importorskip("transformers")

from pt_core.bridges import transformers as bridge  # noqa: E402
from pt_core.errors import UserError  # noqa: E402

from tests.core.bridges.test_transformers import MODELS, build, prompt, ragged  # noqa: E402

NEW = 8


@pytest.fixture(params=["llama", "mistral", "gpt2"])
def model(request: pytest.FixtureRequest) -> Any:
    return MODELS.setdefault(request.param, build(request.param))


def ours(model: Any, new: int = NEW, **options: Any) -> list[list[int]]:
    ids, mask, _ = ragged(True)
    cache = bridge.run_prefix(model, prompt())
    text = bridge.run(model, bridge.embed(model, ids), mask, prefix=cache, use_cache=True, keep=1)
    return bridge.generate(model, ids, text.cache, text.mask, new, {"do_sample": False, **options}).tolist()


def theirs(model: Any, new: int = NEW, **options: Any) -> list[list[int]]:
    """The library on vectors; the text's ids, which its processors look at, beside them."""
    found = []
    for row in ragged(True)[2]:
        whole = torch.cat([prompt(), bridge.embed(model, row[None])], 1)
        result = model.generate(
            input_ids=row[None], inputs_embeds=whole, attention_mask=torch.ones(1, whole.shape[1], dtype=torch.long),
            max_new_tokens=new, do_sample=False, pad_token_id=0, **options,
        )  # fmt: skip
        found.append(result[0, len(row) :].tolist())
    return found


@pytest.mark.parametrize(
    "settings",  # those with an empty list get the tokens that are written first
    [
        {"repetition_penalty": 5.0},
        {"no_repeat_ngram_size": 1},
        {"min_new_tokens": 6},
        {"begin_suppress_tokens": []},
        {"repetition_penalty": 3.0, "no_repeat_ngram_size": 2, "num_beams": 3},
        {"suppress_tokens": []},
        {"exponential_decay_length_penalty": (1, 3.0)},
    ],
    ids=lambda settings: "-".join(settings),
)
def test_processors_see_a_row_s_own_tokens(model, settings, monkeypatch):
    free = theirs(model)
    end = free[1][2] if {"min_new_tokens", "exponential_decay_length_penalty"} & set(settings) else None
    plain = theirs(model, eos_token_id=end)
    for name, value in settings.items():
        value = [row[0] for row in free] if name.endswith("suppress_tokens") else value
        monkeypatch.setattr(model.generation_config, name, value)
    have = ours(model, eos_token_id=end)
    found = theirs(model, eos_token_id=end)
    assert have == [row + [0] * (max(map(len, have)) - len(row)) for row in found]
    assert found != plain, "the setting matters"


def test_a_least_length_counts_a_text_and_what_was_written_behind_it(model, monkeypatch):
    """The library itself takes the length of the vectors off first, and then compares with the length of the ids."""
    end = theirs(model)[1][2]
    want = []
    for number, row in enumerate(ragged(True)[2]):
        want.append(theirs(model, eos_token_id=end, min_new_tokens=max(1, 7 - len(row)))[number])
    monkeypatch.setattr(model.generation_config, "min_length", 7)
    have = ours(model, eos_token_id=end)
    assert have == [row + [0] * (max(map(len, have)) - len(row)) for row in want]


@pytest.mark.parametrize("last", [5, 60])
def test_a_forced_last_token_comes_last(model, last, monkeypatch):
    monkeypatch.setattr(model.generation_config, "forced_eos_token_id", last)
    assert [row[-1] for row in ours(model)] == [last] * 3
    assert [row[:-1] for row in ours(model)] == [row[:-1] for row in theirs(model)]


def test_a_penalty_does_not_touch_id_0_for_fillers(model, monkeypatch):
    """Every row of this model writes token 0 first, whatever a penalty says of tokens that occur; no text has it."""
    monkeypatch.setattr(model.generation_config, "repetition_penalty", 50.0)
    monkeypatch.setattr(model.generation_config, "sequence_bias", [[[0], 60.0]])
    have = ours(model, 1)
    assert have == theirs(model, 1)
    assert have == [[0], [0], [0]]


@pytest.mark.parametrize(
    "settings",
    [
        {"cache_implementation": "static"},
        {"num_return_sequences": 2, "num_beams": 2},
        {"return_dict_in_generate": True, "output_scores": True},
        {"max_length": 5},
        {"prefill_chunk_size": 2},
        {"use_cache": False},
        {"output_attentions": True},
    ],
    ids=lambda settings: "-".join(settings),
)
def test_settings_that_change_no_answer_are_left_out(model, settings, monkeypatch):
    want = theirs(model, num_beams=settings.get("num_beams", 1))
    before = model.generation_config
    for name, value in settings.items():
        monkeypatch.setattr(model.generation_config, name, value)
    assert ours(model) == want
    assert model.generation_config is before
    assert "_get_logits_processor" not in vars(model)


@pytest.mark.parametrize(("name", "value"), [("guidance_scale", 2.0), ("penalty_alpha", 0.6), ("dola_layers", "high")])
def test_searches_that_cannot_run_behind_a_prompt_are_refused(model, name, value, monkeypatch):
    monkeypatch.setattr(model.generation_config, name, value, raising=False)
    with pytest.raises(UserError, match=f"{name}=.* cannot run behind a prompt; remove it from generation_config.json"):
        ours(model)


@pytest.mark.parametrize("settings", [{"repetition_penalty": 5.0}, {"no_repeat_ngram_size": 1, "num_beams": 2}])
def test_from_vectors_and_from_whole_texts_the_processors_see_the_same(model, settings, monkeypatch):
    for name, value in settings.items():
        monkeypatch.setattr(model.generation_config, name, value)
    want = theirs(model)
    ids = ragged(True)[2][2][None]
    assert bridge.generate_from(model, ids, prompt(), NEW, {"do_sample": False}).tolist() == want[2:]
    monkeypatch.setattr(
        type(model), "prepare_inputs_for_generation", lambda self, input_ids: {}
    )  # as of a model that takes none
    assert bridge.generate_from(model, ids, prompt(), NEW, {"do_sample": False}).tolist() == want[2:]
