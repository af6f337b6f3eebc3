"""Where positions end and begin: the longest input works, one token more is refused in one line, on every kind of network."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as t
from pt_core import Insert, KeyValue
from pt_core.bridges import transformers as bridge
from pt_core.errors import UserError
from pt_language.backbones import adapt
from pt_language.methods.iapt import IAPT
from pt_language.methods.prefix import Prefix
from pt_language.methods.prompt_tuning import PromptTuning
from pt_language.tasks.generation import Generation

from tests.language.adapters.families import build
from tests.language.common import TEMPLATE, close, rows, task, tokenizer, with_labels

WIDE: dict[str, Any] = {
    "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 40,
}  # fmt: skip
BART: dict[str, Any] = {
    "vocab_size": 96, "d_model": 32, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "encoder_layers": 2, "decoder_layers": 2,
    "encoder_attention_heads": 4, "decoder_attention_heads": 4, "max_position_embeddings": 40, "pad_token_id": 1,
    "decoder_start_token_id": 2, "eos_token_id": None, "forced_eos_token_id": None,
}  # fmt: skip
ENCODERS = {
    "bert": (lambda: t.BertModel(t.BertConfig(**WIDE)), 40),
    "roberta": (lambda: t.RobertaModel(t.RobertaConfig(**WIDE)), 38),
    "xlm-roberta": (lambda: t.XLMRobertaModel(t.XLMRobertaConfig(**WIDE)), 38),
    "camembert": (lambda: t.CamembertModel(t.CamembertConfig(**WIDE)), 38),
    "electra": (lambda: t.ElectraModel(t.ElectraConfig(**WIDE, embedding_size=32)), 40),
}
PAIRED = {
    "bart": (lambda: t.BartForConditionalGeneration(t.BartConfig(**BART)), 40),
    "pegasus": (lambda: t.PegasusForConditionalGeneration(t.PegasusConfig(**BART)), 40),
    "t5": (
        lambda: t.T5ForConditionalGeneration(
            t.T5Config(vocab_size=96, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, decoder_start_token_id=0)
        ),
        None,
    ),
}
DECODERS = {"roberta": 62, "xlm-roberta": 62, "opt": 64, "gpt2": 64, "mpt": 64, "bart": 64, "biogpt": 64, "whisper": 64}


def texts(tokens: int, count: int = 2) -> dict[str, Any]:
    ids = torch.arange(count * tokens).view(count, tokens) % 90 + 5
    return {"ids": ids, "mask": torch.ones_like(ids)}


def prompt(backbone: Any, length: int) -> Any:
    return {"input": Insert(torch.randn(length, backbone.dim) * 0.1, at="front", keep_output=True)}


@pytest.mark.parametrize("name", ENCODERS)
@torch.no_grad()
def test_encoders(name):
    make, limit = ENCODERS[name]
    backbone = adapt(make(), None, name)
    assert backbone.sizes.context == limit
    assert torch.isfinite(backbone.pooled(texts(limit - 5), prompt(backbone, 5))).all()
    for length, tokens in ((5, limit - 4), (0, limit + 1)):
        with pytest.raises(UserError, match=f"exceed the context window of {limit}"):
            backbone.pooled(texts(tokens), prompt(backbone, length) if length else {})


@pytest.mark.parametrize("name", [*ENCODERS, *PAIRED])
def test_padding_is_told_for_every_kind(name):
    """These see their mask; one that is made blind to it is told."""
    make, _ = {**ENCODERS, **PAIRED}[name]
    torch.manual_seed(0)
    model = make()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.mul_(3)
    assert adapt(model, None, name).takes_padding
    blind = adapt(model, None, name)
    part = model.get_encoder() if name in PAIRED else model
    plain = part.forward
    part.forward = lambda **given: plain(**{**given, "attention_mask": None})
    assert not blind.takes_padding
    mask = torch.tensor([[0, 1, 1], [1, 1, 1]])
    assert blind.runs_apart(mask, 0)
    assert not blind.runs_apart(torch.ones_like(mask), 0)


@pytest.mark.parametrize("name", PAIRED)
@torch.no_grad()
def test_encoder_decoders(name):
    make, limit = PAIRED[name]
    backbone = adapt(make(), None, name)
    assert (backbone.sizes.context, backbone.sizes.answer) == (limit, limit)
    size, options = limit or 60, {"num_beams": 1, "do_sample": False, "eos_token_id": None}
    answer = texts(size)["ids"]
    assert torch.isfinite(backbone.target_logits(texts(size - 3), answer, prompt(backbone, 3))).all()
    assert backbone.generate(texts(size - 3), size - 1, prompt(backbone, 3), options=options).shape == (2, size - 1)
    if limit is None:
        return
    heads, key, value = backbone.pairs[0]
    kv = {f"kv[{n}]": KeyValue(torch.randn(1, heads, 3, key), torch.randn(1, heads, 3, value)) for n in range(2)}
    assert torch.isfinite(backbone.target_logits(texts(size), answer[:, 3:], kv)).all()
    for call in (
        lambda: backbone.target_logits(texts(size - 2), answer, prompt(backbone, 3)),
        lambda: backbone.target_logits(texts(size + 1), answer),
        lambda: backbone.target_logits(texts(4), texts(size + 1)["ids"]),
        lambda: backbone.target_logits(texts(4), answer[:, 2:], kv),
        lambda: backbone.generate(texts(4), size, options=options),
        lambda: backbone.generate(texts(4), size - 3, kv, options=options),
    ):
        with pytest.raises(UserError, match=f"exceed the context window of {limit}"):
            call()


@pytest.mark.parametrize("name", DECODERS)
@torch.no_grad()
def test_decoders(name):
    limit = DECODERS[name]
    backbone = adapt(build(name), None, name)
    assert backbone.sizes.context == limit
    options = {"num_beams": 1, "do_sample": False, "eos_token_id": None}
    front = prompt(backbone, 4)
    assert backbone.generate(texts(limit - 9), 5, front, options=options).shape == (2, 5)
    have = backbone(texts(limit - 4), front, read=("logits",)).extra["logits"]
    vectors = torch.cat([front["input"].tokens.expand(2, -1, -1), backbone.embed(texts(limit - 4)["ids"])], 1)
    close(have, backbone.module(inputs_embeds=vectors).logits[:, 4:], 2e-5)
    for call in (
        lambda: backbone(texts(limit - 3), front, read=("logits",)),
        lambda: backbone.generate(texts(limit - 8), 5, front, options=options),
    ):
        with pytest.raises(UserError, match=f"exceed the context window of {limit}"):
            call()


@pytest.mark.parametrize("cls", [PromptTuning, Prefix])
def test_texts_and_answers_that_do_not_fit_are_named_before_training(cls):
    for size, message in ((60, "row 'row-0-.*' of train: .* exceed the context window of 60"), (200, None)):
        model = t.BartForConditionalGeneration(
            t.BartConfig(**{**BART, "vocab_size": 300, "max_position_embeddings": size})
        )
        backbone, what = adapt(model, tokenizer(), "bart"), Generation(TEMPLATE, 4)
        data = {"train": with_labels({"train": rows(15)})["train"].bind(backbone, what)}
        method = cls(cls.Config(prompt_length=58), {"backbone": backbone}, what)
        if message is None:
            method.adopt(data)
            continue
        with pytest.raises(UserError, match=message):
            method.adopt(data)


def test_iapt_where_blocks_are_wider_than_embeddings():
    """OPT 350M has embeddings of 512 in blocks of 1024."""
    torch.manual_seed(0)
    model = build("opt", vocab_size=300, max_position_embeddings=256, word_embed_proj_dim=16)
    backbone, what = adapt(model, tokenizer(), "opt"), task()
    assert (backbone.dim, backbone.width(0)) == (16, 32)
    data = {
        role: part.bind(backbone, what) for role, part in with_labels({"train": rows(6), "val": rows(6, 2)}).items()
    }
    method = IAPT(IAPT.Config(prompt_length=2, bottleneck=4), {"backbone": backbone}, what)
    method.adopt(data)
    part = data["train"]
    batch = part.collate([0, 1, 2], [part.sample(i, epoch=None, seed=0) for i in range(3)])
    method.training_step(batch).loss.backward()
    assert method.up.grad.abs().max() > 0
    with torch.no_grad():  # by hand, one row: every block gets its slots in front of what enters it
        ids = batch.inputs["ids"][:1][batch.inputs["mask"][:1].bool()][None]
        have = method.network(
            {"ids": ids, "mask": torch.ones_like(ids)}, method.edits(single(ids)), read=("logits",)
        ).extra["logits"]
        want = slow(method, model, ids)
    close(have, want, 2e-5)
    head = PromptTuning(PromptTuning.Config(prompt_length=2), {"backbone": backbone}, task("head"))
    assert head.head_logits(batch).shape == (3, 3)


def single(ids: Any) -> Any:
    from pt_core import Batch

    return Batch({"ids": ids, "mask": torch.ones_like(ids)}, None, torch.arange(1), ["row"])


def slow(method: IAPT, model: Any, ids: Any) -> Any:
    decoder = model.model.decoder
    tokens, slots = ids.shape[1], method.config.prompt_length
    positions = decoder.embed_positions(
        torch.ones(1, tokens + slots), 0, position_ids=torch.arange(tokens + slots)[None]
    )
    hidden = decoder.project_in(decoder.embed_tokens(ids)) + positions[:, slots:]
    for layer, block in enumerate(decoder.layers):
        own = method.generate_prompt(layer, hidden, torch.ones_like(ids))
        whole = torch.cat([own, hidden], 1)
        causal = torch.full((tokens + slots, tokens + slots), -1e9).triu(1)[None, None]
        found = block(whole, attention_mask=causal)
        hidden = (found[0] if isinstance(found, tuple) else found)[:, slots:]
    if decoder.final_layer_norm is not None:
        hidden = decoder.final_layer_norm(hidden)
    return model.lm_head(decoder.project_out(hidden))


def test_the_first_position_of_roberta_s_heirs():
    assert bridge.first_position(build("roberta")) == 2
    assert bridge.first_position(build("opt")) == 0
    assert bridge.first_position(build("bert")) == 0
