"""Conversations: tokens are those of the tokenizer's own template, the loss falls on what the assistant says."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd
import pt_language
import pytest
import torch
from pt_core.errors import DataError, UserError
from pt_language.data.chats import CHAT, read_messages, turn_end
from pt_language.data.inputs import input_texts
from pt_language.data.load import load_text
from pt_language.data.templates import Template
from pt_language.methods.prompt_tuning import PromptTuning, PromptTuningConfig
from pt_language.options import DataOptions, TaskOptions
from pt_language.tasks.choose import make_task
from pt_language.tasks.generation import Generation
from transformers import PreTrainedTokenizerFast

from tests.language.common import close, tiny, tokenizer

TEMPLATE = (
    "{% for m in messages %}<|im|>{{ m.role }}\n{{ m.content | trim }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im|>assistant\n{% endif %}"
)
TALK = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": "rain?"},
    {"role": "assistant", "content": "wet"},
    {"role": "user", "content": "sun?"},
    {"role": "assistant", "content": "hot and dry"},
]


def chatty() -> Any:
    """A ChatML-like tokenizer whose turns end with another token than its texts."""
    inner = type(tokenizer().backend_tokenizer).from_str(tokenizer().backend_tokenizer.to_str())
    inner.add_special_tokens(["<|im|>", "<|end|>"])
    found = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>")
    found.chat_template = TEMPLATE
    return found


def network() -> Any:
    return pt_language.adapt(tiny("llama").module, chatty(), "chat:llama")


def written(folder: Any, rows: list[Any], name: str = "talks.jsonl") -> str:
    (folder / name).write_text("\n".join(map(json.dumps, rows)))
    return str(folder / name)


def test_every_turn_of_the_assistant_is_an_answer_behind_all_before_it(tmp_path: Any) -> None:
    path = written(tmp_path, [{"messages": TALK, "id": 7}, {"messages": TALK[1:3], "id": 8}])
    (data,) = load_text(path, DataOptions()).values()
    assert data.ids == ["train/0:2", "train/0:4", "train/1"]
    assert data.groups == ["train/0", "train/0", "train/1"]
    assert "conversations: 3 turns of the assistant in 2 of them" in data.notes[0]
    task = make_task(TaskOptions(), data)
    assert isinstance(task, Generation)
    assert task.template.text == CHAT
    on = network()
    task.attach(on)
    bound = data.bind(on, task)
    batch = bound.collate([0, 1, 2], [bound.sample(n, epoch=None, seed=0) for n in range(3)])
    end = on.tokenizer.convert_tokens_to_ids("<|end|>")
    assert task.end == end == turn_end(on.tokenizer)
    for row, messages in enumerate((TALK[:3], TALK, TALK[1:3])):
        source = batch.inputs["ids"][row][batch.inputs["mask"][row].bool()].tolist()
        answer = [token for token in batch.extra["answer"][row].tolist() if token >= 0]
        whole = on.tokenizer(on.tokenizer.apply_chat_template(messages, tokenize=False), add_special_tokens=False)[
            "input_ids"
        ]
        whole = whole[: len(whole) - whole[::-1].index(end)]  # up to the end of the last turn
        assert source + answer == whole
        assert on.tokenizer.decode(answer) == messages[-1]["content"] + "<|end|>"


def test_the_loss_is_that_of_the_model_on_the_assistants_tokens(tmp_path: Any) -> None:
    (data,) = load_text(written(tmp_path, [{"messages": TALK}]), DataOptions()).values()
    task, on = make_task(TaskOptions(), data), network()
    method = PromptTuning(PromptTuningConfig(prompt_length=4, init="normal"), {"backbone": on}, task)
    bound = data.bind(on, task)
    batch = bound.collate([0, 1], [bound.sample(n, epoch=None, seed=0) for n in range(2)])
    with torch.no_grad():
        found = method.training_step(batch)
        losses = []
        for messages in (TALK[:3], TALK):
            front = on.tokenizer.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True)
            ids = on.tokenizer(front + messages[-1]["content"] + "<|end|>", add_special_tokens=False)["input_ids"]
            asked = len(ids) - len(on.tokenizer(front, add_special_tokens=False)["input_ids"])
            embeds = torch.cat([method.prompt[None], on.embed(torch.tensor([ids]))], 1)
            log = on.module(inputs_embeds=embeds).logits[0].log_softmax(-1)
            losses += [-log[len(log) - 1 - n, ids[-n]] for n in range(asked, 0, -1)]
    close(found.loss, torch.stack(losses).mean(), 1e-4)
    assert found.count == len(losses)


@pytest.mark.parametrize(
    "row",
    [
        {"conversations": [{"from": "human", "value": "rain?"}, {"from": "gpt", "value": "wet"}]},
        {"prompt": [{"role": "user", "content": "rain?"}], "completion": [{"role": "assistant", "content": "wet"}]},
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "rain?"}]},
                {"role": "assistant", "content": "wet"},
            ]
        },
        {"messages": json.dumps(TALK[1:3])},
    ],
)
def test_conversations_in_other_forms(row: dict[str, Any], tmp_path: Any) -> None:
    (data,) = load_text(written(tmp_path, [row, row]), DataOptions()).values()
    assert [json.loads(one["messages"]) for one in data.rows] == [[{"role": "user", "content": "rain?"}]] * 2
    assert [one["reply"] for one in data.rows] == ["wet", "wet"]


def test_lists_of_a_parquet_file(tmp_path: Any) -> None:
    pd.DataFrame({"messages": [TALK[1:3], TALK[1:5]]}).to_parquet(tmp_path / "talks.parquet")
    (data,) = load_text(str(tmp_path / "talks.parquet"), DataOptions()).values()
    assert len(data) == 3
    assert json.loads(data.rows[2]["messages"]) == TALK[1:4]


def test_one_may_ask_with_plain_text_or_with_messages() -> None:
    on, task = network(), Generation(CHAT, 4)
    task.attach(on)
    data = input_texts(["rain?", {"messages": TALK[1:2]}, {"messages": TALK[:4]}], task.template)
    bound = data.bind(on, task)
    ids = [bound.sample(n, epoch=None, seed=0).source.ids for n in range(3)]
    assert ids[0] == ids[1]
    text = on.tokenizer.apply_chat_template(TALK[:4], tokenize=False, add_generation_prompt=True)
    assert list(ids[2]) == on.tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([{"role": "user", "content": "a"}], "row 'train/0' of .* has no turn of the assistant"),
        ([{"role": "assistant", "content": "a"}], "has no turn of the assistant behind another message"),
        ([{"role": "pope", "content": "a"}, TALK[2]], "message 0 has role 'pope'"),
        ([{"role": "user"}, TALK[2]], "message 0 has no content of text"),
        (["a", "b"], "message 0 is no object with role and content"),
        ([TALK[1], {"role": "assistant", "content": " "}], "message 1 of the assistant is empty"),
    ],
)
def test_bad_conversations_are_named(messages: Any, said: str, tmp_path: Any) -> None:
    with pytest.raises(DataError, match=said):
        load_text(written(tmp_path, [{"messages": messages}]), DataOptions())


def test_what_has_no_template_or_does_not_fit_is_refused(tmp_path: Any) -> None:
    (data,) = load_text(written(tmp_path, [{"messages": TALK}]), DataOptions()).values()
    with pytest.raises(UserError, match="no chat template; give --template, or another model"):
        data.bind(tiny("llama"), Generation(CHAT))
    with pytest.raises(DataError, match="more than --max-text-tokens 5; conversations are not cut"):
        data.bind(network(), Generation(CHAT), 5)
    with pytest.raises(ValueError, match="no object"):
        read_messages("[1]")
    assert not Template("{text} {label}").is_chat


def test_the_turns_of_a_conversation_stay_in_one_part(tmp_path: Any, monkeypatch: Any) -> None:
    from pt_core.run.data.sampling import stratified_split

    (data,) = load_text(written(tmp_path, [{"messages": TALK}] * 10), DataOptions()).values()
    kept, held = stratified_split([0] * len(data), 0.3, 0, data.groups)
    owner = data.groups
    assert held
    assert not {owner[n] for n in kept} & {owner[n] for n in held}
