"""Every causal family of transformers works, or is refused by name: prompt tuning, prefixes, slots and writing against a slow oracle, which
runs every row alone, without padding, cache or batch, from the vectors of prompt and text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from pt_core import Batch, Insert, KeyValue
from pt_core.bridges import transformers as bridge
from pt_core.errors import UserError
from pt_language.adapters.base import Slots
from pt_language.adapters.decoder import DecoderBackbone
from pt_language.adapters.lengths import by_length
from pt_language.backbones import adapt
from pt_language.methods.prompt_tuning import PromptTuning
from pt_language.server.prompts import PromptServer
from pt_language.server.tenant import Limits
from pt_language.tasks.generation import Generation
from torch import Tensor

from tests.language.adapters.families import OUT, build, families
from tests.language.common import tokenizer

REFUSED = {
    "cpmant": "takes token ids only",
    "deepseek_v4": "does not run on vectors",
    "gemma3n_text": "something else from the vectors of tokens",
    "gemma4_text": "does not run on vectors",
    "prophetnet": "no causal language model",
    "qwen4_exp": "does not run on vectors",
    "qwen4_exp_text": "does not run on vectors",
    "xlm": "does not run on vectors",
    "xlnet": "no causal language model",
    "xlstm": "does not run on vectors",
    **dict.fromkeys(
        (
            *("gemma3", "gemma3n", "gemma4", "gemma4_unified", "got_ocr2", "moss_transcribe_diarize"),
            *("bert-generation", "reformer"),
        ),
        "is neither a causal language model",
    ),
}
"""Family -> what the one line says."""
PADDING_MATTERS = (
    *(
        "bart",
        "bigbird_pegasus",
        "blenderbot",
        "blenderbot-small",
        "marian",
        "mbart",
        "mpt",
        "mvp",
        "pegasus",
        "plbart",
    ),
    *("git", "roformer", "trocr", "whisper"),
)
QUICK = ("bart", "mpt", "llama", "falcon", "deepseek_v3", "gemma4_text", "roberta", "mamba", "qwen3_next", "gpt_neo")
"""Families of the default run: positions that ignore the mask, one head for all, keys wider than values, states instead of keys."""
ROWS = [torch.tensor(row) for row in ([3, 4, 5, 6, 7], [8, 9], [10, 11, 12])]
TEXTS = {
    "ids": torch.tensor([[3, 4, 5, 6, 7], [0, 0, 0, 8, 9], [0, 0, 10, 11, 12]]),
    "mask": torch.tensor([[1, 1, 1, 1, 1], [0, 0, 0, 1, 1], [0, 0, 1, 1, 1]]),
}
NEW = 4


def marked(names: list[str]) -> list[Any]:
    return [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in names]


def adapted(family: str, **more: Any) -> DecoderBackbone:
    found = adapt(build(family, **more), None, family)
    assert isinstance(found, DecoderBackbone)
    return found


def batch() -> Batch:
    return Batch(TEXTS, None, torch.arange(3), ["a", "b", "c"])


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def alone(backbone: DecoderBackbone, front: Tensor, ids: Tensor) -> Tensor:
    """(tokens, vocabulary): logits of one text behind vectors."""
    vectors = torch.cat([front, backbone.module.get_input_embeddings()(ids[None])], 1)
    logits: Tensor = backbone.module(inputs_embeds=vectors).logits[0, -len(ids) :]
    return logits


def written(first: Callable[[Tensor], Tensor], ids: Tensor, count: int = NEW) -> list[int]:
    """What first(ids) -> (tokens, vocabulary) goes on with, likeliest token by likeliest token."""
    for _ in range(count):
        ids = torch.cat([ids, first(ids)[-1].argmax()[None]])
    return ids[-count:].tolist()


def last_logits(backbone: DecoderBackbone, edits: Any, places: int) -> Tensor:
    """(row, vocabulary) of the three texts together, as methods run them."""
    return by_length(
        backbone, batch(), places, lambda part: backbone(part.inputs, edits, read=("logits",)).extra["logits"][:, -1]
    )


def generated(backbone: DecoderBackbone, edits: Any, places: int) -> list[list[int]]:
    options = {"do_sample": False, "num_beams": 1, "eos_token_id": None}
    found = by_length(
        backbone, batch(), places + NEW, lambda part: backbone.generate(part.inputs, NEW, edits, options=options)
    )
    return found.tolist()


def same(have: Tensor, want: Tensor) -> None:
    assert bridge.difference(have, want) < 2e-5


@pytest.mark.parametrize("family", marked([name for name in families() if name not in REFUSED]))
@torch.no_grad()
def test_a_family_works(family):
    backbone = adapted(family)
    front = noise(1, 4, backbone.dim) * float(backbone.embeddings.std())
    edits = {"input": Insert(front[0], at="front", keep_output=True)}
    have = last_logits(backbone, edits, 4)
    for number, ids in enumerate(ROWS):
        same(have[number], alone(backbone, front, ids)[-1])
    assert generated(backbone, edits, 4) == [written(lambda ids: alone(backbone, front, ids), ids) for ids in ROWS]
    if backbone.shares:
        assert backbone.takes_padding == (family not in PADDING_MATTERS)
    if backbone.pairs is not None:
        check_prefix(backbone)


def check_prefix(backbone: DecoderBackbone) -> None:
    """Given keys and values, against the model's own cache filled with them, one row and one token at a time."""
    assert backbone.pairs is not None
    edits, pairs = {}, []
    for layer, (heads, key, value) in enumerate(backbone.pairs):
        k, v = noise(1, heads, 3, key, seed=layer), noise(1, heads, 3, value, seed=50 + layer)
        edits[f"kv[{layer}]"] = KeyValue(k, v)
        pairs.append((k, v))
    have = last_logits(backbone, edits, 3)
    for number, ids in enumerate(ROWS):
        cache, mask = bridge.cache_of(backbone.module, pairs), torch.ones(1, 3, dtype=torch.long)
        for token in ids:
            logits, cache, mask = bridge.step(backbone.module, token[None, None], cache, mask)
        same(have[number], logits[0, -1])


@pytest.mark.parametrize("family", marked(list(REFUSED)))
def test_a_family_is_refused_by_name_in_one_line(family):
    with torch.device("meta" if "neither" in REFUSED[family] else "cpu"):
        model = build(family)
    with pytest.raises(UserError, match=REFUSED[family]) as error:
        adapt(model, None, f"hf:{family}")
    assert type(model).__name__ in str(error.value)
    assert "\n" not in str(error.value)


def test_the_table_is_whole():
    assert set(REFUSED) <= set(families())
    assert set(PADDING_MATTERS) <= set(families())
    assert set(QUICK) <= set(families())
    assert set(OUT).isdisjoint(families())


@pytest.mark.parametrize("family", ["musicgen", "musicgen_melody"])
def test_families_that_transformers_cannot_make_are_still_so(family):
    with pytest.raises(AttributeError, match="dropout"):
        transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(family))


@pytest.mark.parametrize("family", ["llama", "mpt", "qwen3_next", "mamba", "bamba"])
@torch.no_grad()
def test_slots_hold_while_text_is_written(family):
    """Slots that depend on the text, against the same network run on all that was written, whose slots read the text alone."""
    backbone = adapted(family)
    constant = [noise(1, 2, backbone.dim, seed=layer) * 0.3 for layer in range(backbone.depth)]

    def edits(tokens: int, own: bool) -> dict[str, Insert]:
        def of(layer: int) -> Slots:
            # a row of a batch is padded on the left: its last two tokens are real in every row
            return Slots(2, lambda hidden: constant[layer] + hidden[:, tokens - 2 : tokens].mean(1, keepdim=True))

        return {f"tokens[{layer}]": Insert(of(layer), at="front") for layer in range(backbone.depth)}

    have = by_length(
        backbone, batch(), 2 + NEW,
        lambda part: backbone.generate(
            part.inputs, NEW, edits(part.inputs["ids"].shape[1], True), options={"do_sample": False, "eos_token_id": None}
        ),
    )  # fmt: skip
    for number, ids in enumerate(ROWS):

        def first(whole: Tensor, tokens: int = len(ids)) -> Tensor:
            given = {"ids": whole[None], "mask": torch.ones_like(whole[None])}
            found: Tensor = backbone(given, edits(tokens, False), read=("logits",)).extra["logits"][0]
            return found

        assert have[number].tolist() == written(first, ids)


@pytest.mark.parametrize("family", ["mistral", "gemma2", "gemma3_text", "llama4_text", "gpt_neo", "mimo_v2_flash"])
@pytest.mark.parametrize("window", [4, 6, 9])
@torch.no_grad()
def test_short_windows(family, window):
    """Prompt (4), text (2 to 5) and new tokens (4) pass a window of 4, 6 and 9 at some point or other."""
    kinds = {"mistral": {}, "gpt_neo": {}, "llama4_text": {"layer_types": ["chunked_attention", "full_attention"]}}
    name = {"llama4_text": "attention_chunk_size", "gpt_neo": "window_size"}.get(family, "sliding_window")
    more = kinds.get(family, {"layer_types": ["sliding_attention", "full_attention"]})
    backbone = adapted(family, **{name: window, **more})
    assert backbone.sizes.window is not None
    front = noise(1, 4, backbone.dim) * float(backbone.embeddings.std())
    edits = {"input": Insert(front[0], at="front", keep_output=True)}
    have = last_logits(backbone, edits, 4)
    for number, ids in enumerate(ROWS):
        same(have[number], alone(backbone, front, ids)[-1])
    assert generated(backbone, edits, 4) == [written(lambda ids: alone(backbone, front, ids), ids) for ids in ROWS]


@pytest.mark.parametrize("family", ["mpt", "llama"])
def test_a_server_runs_as_many_rows_as_the_network_can_have_together(family):
    """One by one where padding matters; what is written is what the library writes behind the prompt's vectors."""
    backbone = adapt(build(family, vocab_size=300), tokenizer(), family)
    assert isinstance(backbone, DecoderBackbone)
    limits = Limits(batch=backbone.together(8))
    assert limits.batch == (1 if family == "mpt" else 8)
    server = PromptServer(backbone, limits)
    method = PromptTuning(PromptTuning.Config(prompt_length=4), {"backbone": backbone}, Generation("{text}{label}", 4))
    server.add("a", method)
    front = method.prompt.detach()[None]
    found = server.complete([ids.tolist() for ids in ROWS], ["a", "a", "a"], NEW)
    with torch.no_grad():
        for ids, one in zip(ROWS, found, strict=True):
            assert list(one.tokens) == written(lambda ids: alone(backbone, front, ids), ids, len(one.tokens))


def test_a_network_that_keeps_states_cannot_serve():
    with pytest.raises(UserError, match="'mamba' .MambaForCausalLM. keeps no keys and values .*: it cannot serve them"):
        adapted("mamba").together(8)
