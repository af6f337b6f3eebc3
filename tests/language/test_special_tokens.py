"""Special tokens: texts are read as the tokenizer's own users read them."""

from __future__ import annotations

import json
from typing import Any

import pt_language
import pytest
import torch
from pt_core.artifact import read_artifact
from pt_core.errors import ArtifactError, UserError
from pt_core.run.use.predict import load
from pt_core.saving import card_of, save_artifact
from pt_language.data.load import with_labels
from pt_language.data.templates import Encoder, Template
from pt_language.data.texts import TextDataset
from pt_language.interop.embeddings import request_embeddings
from pt_language.methods.cpt import CPT, CPTConfig
from pt_language.methods.full import FullConfig, FullFineTuning
from pt_language.methods.icl import InContext, InContextConfig
from pt_language.methods.prompt_tuning import PromptTuning, PromptTuningConfig
from pt_language.server.prompts import PromptServer
from pt_language.tasks.classification import TextClassification
from pt_language.tasks.generation import Generation, LanguageModelling
from pt_language.text import Text
from tokenizers import processors
from transformers import PreTrainedTokenizerFast

from tests.language.common import LABELS, TEMPLATE, close, rows, tiny, tokenizer

AROUND = {"llama": "<s> $A", "gpt2": "$A", "t5": "$A </s>", "bert": "[CLS] $A [SEP]"}
ENDS = {"llama": "</s>", "gpt2": "<end>", "t5": "</s>", "bert": "[SEP]"}


def special(kind: str) -> Any:
    """Bytes, with what tokenizers of this kind put around a text."""
    inner = type(tokenizer().backend_tokenizer).from_str(tokenizer().backend_tokenizer.to_str())
    names = [name for name in AROUND[kind].split() if name != "$A"]
    inner.add_special_tokens(sorted({*names, ENDS[kind]}))
    inner.post_processor = processors.TemplateProcessing(
        single=AROUND[kind], special_tokens=[(name, inner.token_to_id(name)) for name in names]
    )
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token=ENDS[kind])


def network(kind: str) -> Any:
    return pt_language.adapt(tiny(kind).module, special(kind), f"special:{kind}")


def task(kind: str, **options: Any) -> TextClassification:
    return TextClassification(LABELS, TEMPLATE, None, "head" if kind == "bert" else "words", **options)


def bound(kind: str, what: Any, on: Any = None) -> Any:
    return with_labels({"train": rows()})["train"].bind(on or network(kind), what)


def batch(part: Any, chosen: Any = (0, 1, 2)) -> Any:
    return part.collate(list(chosen), [part.sample(i, epoch=None, seed=0) for i in chosen])


def real(inputs: Any) -> list[list[int]]:
    pairs = zip(inputs["ids"], inputs["mask"], strict=True)
    return [ids[mask.bool()].tolist() for ids, mask in pairs]


def texts(chosen: Any = (0, 1, 2)) -> list[str]:
    return [f"input: {rows().rows[i]['text']} output:" for i in chosen]


@pytest.mark.parametrize("kind", list(AROUND))
def test_texts_have_the_tokens_that_the_tokenizer_gives_them(kind: str) -> None:
    have = real(batch(bound(kind, task(kind))).inputs)
    assert have == [special(kind)(text)["input_ids"] for text in texts()]
    bare = real(batch(bound(kind, task(kind, special_tokens=False))).inputs)
    assert bare == [special(kind)(text, add_special_tokens=False)["input_ids"] for text in texts()]
    assert (have == bare) == (kind == "gpt2")


def test_behind_a_text_whose_answer_follows_nothing_is_put() -> None:
    """A tokenizer that also ends texts: what ends a decoder's text would stand between text and answer."""
    on = network("llama")
    inner = on.tokenizer.backend_tokenizer
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[(name, inner.token_to_id(name)) for name in ("<s>", "</s>")]
    )
    first, last = special("llama").convert_tokens_to_ids(["<s>", "</s>"])
    assert Encoder(on.tokenizer).around == ((first,), (last,))
    for ids in real(batch(bound("llama", task("llama"), on)).inputs):
        assert ids[0] == first
        assert last not in ids


def test_an_encoders_head_reads_the_real_cls() -> None:
    on = network("bert")
    part = batch(bound("bert", task("bert"), on))
    with torch.no_grad():
        have = on.pooled(part.inputs)
        for row, text in enumerate(texts()):
            ids = torch.tensor([on.tokenizer(text)["input_ids"]])
            assert int(ids[0, 0]) == on.tokenizer.convert_tokens_to_ids("[CLS]")
            close(have[row], on.module(ids).last_hidden_state[0, 0])


def test_an_encoder_decoders_text_is_ended_as_its_users_do() -> None:
    on = network("t5")
    method = FullFineTuning(FullConfig(), {"backbone": on}, task("t5")).eval()
    part = batch(bound("t5", method.task, on))
    with torch.no_grad():
        have = method(part)
        for row, text in enumerate(texts()):
            answer = part.extra["answer"][row]
            answer = answer[answer >= 0]
            ids = torch.tensor([on.tokenizer(text)["input_ids"]])
            close(have[row, : len(answer)], on.module(input_ids=ids, labels=answer[None]).logits[0])


@pytest.mark.parametrize("name", ["icl", "cpt"])
def test_examples_begin_once(name: str) -> None:
    """<s> example </s> example </s> query, not <s> in front of every one; equal to the bare model on the whole text."""
    on, what = network("llama"), task("llama")
    part = bound("llama", what, on)
    if name == "icl":
        method: Any = InContext(InContextConfig(examples=2), {"backbone": on}, what)
    else:
        method = CPT(CPTConfig(examples=2), {"backbone": on}, what)
    method.adopt({"train": part})
    method.eval()
    context = method.context if name == "icl" else method.ids
    first = on.tokenizer.convert_tokens_to_ids("<s>")
    assert int(context[0]) == first
    assert (context == first).sum() == 1
    one = batch(part)
    assert all(ids[0] == first for ids in real(one.inputs))
    with torch.no_grad():
        have = method(one)
        for row, text in enumerate(texts()):
            answer = one.extra["answer"][row]
            answer = answer[answer >= 0]
            query = special("llama")(text, add_special_tokens=False)["input_ids"]
            ids = torch.tensor([[*context.tolist(), *query, *answer.tolist()]])
            close(have[row, : len(answer)], on.module(ids).logits[0, -len(answer) - 1 : -1], 1e-4)
    if name == "cpt":  # the training step reads the same texts
        method.train()
        with torch.no_grad():
            losses = -have.log_softmax(-1).gather(2, one.extra["answer"].clamp(min=0)[..., None])[..., 0]
            asked = one.extra["answer"] >= 0
            close(method.training_step(one).logs["query_loss"], (losses * asked).sum() / asked.sum(), 1e-4)


def test_without_examples_queries_begin_themselves() -> None:
    on, what = network("llama"), task("llama")
    method = InContext(InContextConfig(examples=0), {"backbone": on}, what)
    part = bound("llama", what, on)
    method.adopt({"train": part})
    assert real(method.texts(batch(part))) == [special("llama")(text)["input_ids"] for text in texts()]


def test_a_template_that_brings_them_gets_them_once() -> None:
    data = TextDataset([{"text": "snow", "label": "x"}], ["a"], Template("<s>{text} is {label}"), None)
    on = network("llama")
    part = data.bind(on, Generation(data.template.text))
    (ids,) = real(batch(part, [0]).inputs)
    assert ids == on.tokenizer("snow is")["input_ids"]


def test_running_text_begins_with_them_or_with_the_end_token() -> None:
    data = TextDataset([{"text": "snow"}], ["a"], Template("{text}"), None)
    for kind, token in (("llama", "<s>"), ("gpt2", "<end>")):
        on = network(kind)
        part = batch(data.bind(on, LanguageModelling("{text}")), [0])
        assert real(part.inputs) == [[on.tokenizer.convert_tokens_to_ids(token)]]


def test_the_longest_row_counts_them() -> None:
    with_them = bound("llama", task("llama")).longest()[0]
    assert with_them == bound("llama", task("llama", special_tokens=False)).longest()[0] + 1


def test_the_card_says_so_and_older_cards_read_texts_as_they_were_tuned(tmp_path: Any) -> None:
    on = network("llama")
    found = {}
    for name, flag in (("with", True), ("bare", False)):
        what = task("llama", special_tokens=flag)
        method = PromptTuning(PromptTuningConfig(prompt_length=4, init="normal"), {"backbone": on}, what)
        torch.manual_seed(0)
        torch.nn.init.normal_(method.prompt)
        save_artifact(tmp_path / name, method, card_of(method, "pt-language/prompt_tuning"))
        assert read_artifact(tmp_path / name).card["task"]["special_tokens"] is flag
        found[name] = load(Text(), tmp_path / name, backbone=on, device="cpu").predict(["snow falls"])[0]["score"]
    assert found["with"] != pytest.approx(found["bare"], rel=1e-3)
    spec = json.loads(json.dumps(task("llama", special_tokens=False).to_json()))
    spec.pop("special_tokens")
    assert TextClassification.from_json(spec).special_tokens is False
    with pytest.raises(ArtifactError, match="special_tokens 'yes'; it must be true or false"):
        TextClassification.from_json({**spec, "special_tokens": "yes"})
    spec = Generation(TEMPLATE).to_json()
    assert Generation.from_json(spec).special_tokens is True
    spec.pop("special_tokens")  # type: ignore[attr-defined]
    assert Generation.from_json(spec).special_tokens is False
    other = task("llama", special_tokens=False).with_classes(["dry", "icy"])
    assert other.special_tokens is False


def test_a_server_and_an_engine_read_the_same_tokens() -> None:
    on = network("llama")
    server = PromptServer(on)
    (bare,) = server.complete(["snow falls"], [None], 6)
    ids = torch.tensor([on.tokenizer("snow falls")["input_ids"]])
    with torch.no_grad():
        want = on.module.generate(ids, max_new_tokens=6, do_sample=False)[0, ids.shape[1] :].tolist()
    end = on.tokenizer.eos_token_id
    assert list(bare.tokens) == [token for token in want if token != end][: len(bare.tokens)]
    assert bare.text_tokens == ids.shape[1]
    for flag in (True, False):
        what = Generation(TEMPLATE, 6, special_tokens=flag)
        method = PromptTuning(PromptTuningConfig(prompt_length=4, init="normal"), {"backbone": on}, what)
        server.add("p", method)
        (done,) = server.complete(["snow falls"], ["p"], 6)
        assert done.text_tokens == ids.shape[1] - (not flag)
        embeds = request_embeddings(method, "snow falls")
        close(embeds[4:], on.embed(ids)[0, 0 if flag else 1 :])


def test_mixed_prompts_must_read_the_same_tokens(tmp_path: Any) -> None:
    """A batch is tokenised once, so one of the two would get another's tokens."""
    on = network("llama")
    tasks = {
        "a": task("llama"),
        "b": task("llama", special_tokens=False),
        "c": TextClassification(LABELS, "{text}: {label}"),
    }
    for name, what in tasks.items():
        method = PromptTuning(PromptTuningConfig(prompt_length=4, init="normal"), {"backbone": on}, what)
        save_artifact(tmp_path / name, method, card_of(method, "pt-language/prompt_tuning"))
    for name, said in (
        ("b", "only one of them was tuned with the tokenizer's special tokens"),
        ("c", "'{text}: {label}'"),
    ):
        with pytest.raises(UserError, match=f"'a' and '{name}' cannot share a batch: .*{said}"):
            pt_language.load_many({"a": tmp_path / "a", name: tmp_path / name}, backbone=on)
