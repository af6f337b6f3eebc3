"""What OpenAI's own client gets from the server, and that it is what the model says."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import torch
from pt_core.errors import ConfigError, UserError
from pt_core.saving import card_of, save_artifact
from pt_language.server import Limits, PromptServer
from pt_language.server.calls import parse_chat
from pt_language.server.command import read_token
from pt_language.server.http import build_app
from starlette.testclient import TestClient

from tests.language import tiny

TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"


@contextlib.contextmanager
def serving(server: PromptServer, key: str = "none", **options: Any) -> Iterator[tuple[openai.OpenAI, TestClient]]:
    with TestClient(build_app(server, **options)) as inner:
        yield openai.OpenAI(base_url="http://testserver/v1", api_key=key, http_client=inner, max_retries=0), inner


@pytest.fixture(scope="module")
def server() -> PromptServer:
    found = PromptServer(tiny.backbone(), Limits(tokens=40, queue=16))
    found.add("one", tiny.tuned("prompt_tuning", found.backbone, seed=1))
    found.add("two", tiny.tuned("prefix", found.backbone, seed=2, length=3))
    return found


@pytest.fixture(scope="module")
def client(server: PromptServer) -> Iterator[openai.OpenAI]:
    with serving(server) as (found, _):
        yield found


def test_model_names_the_prompt(server: PromptServer, client: openai.OpenAI) -> None:
    said = {}
    for name in ("one", "two", server.backbone.source):
        found = client.completions.create(model=name, prompt="abc", max_tokens=6, temperature=0)
        (want,) = server.complete(["abc"], [name if name in ("one", "two") else None], 6)
        assert found.choices[0].text == want.text
        assert found.model == name
        said[name] = found.choices[0].text
    assert len(set(said.values())) == 3, "three different answers, or the test says nothing"
    alias = client.completions.create(
        model=None, prompt="abc", max_tokens=6, temperature=0, extra_body={"prompt_id": "two"}
    )  # type: ignore[arg-type]
    assert alias.choices[0].text == said["two"]
    for call in (client.completions.create, None):
        with pytest.raises(openai.NotFoundError, match="unknown prompt 'ones' .did you mean 'one'"):
            if call is not None:
                call(model="ones", prompt="abc")
            else:
                client.models.retrieve("ones")


def test_models_are_the_backbone_and_the_prompts(server: PromptServer, client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [server.backbone.source, "one", "two"]
    assert client.models.retrieve("one").id == "one"
    assert client.models.retrieve(server.backbone.source).object == "model"


def plain(server: PromptServer, ids: list[int], prompt: str | None = None) -> torch.Tensor:
    """(tokens, vocabulary) log-probabilities, by one forward over the embedded prompt and text."""
    network = server.backbone
    with torch.no_grad():
        own = network.embed(torch.tensor([ids]))
        if prompt is not None:
            own = torch.cat([server.tenant(prompt).method.prompt[None], own], 1)  # type: ignore[union-attr]
        logits: torch.Tensor = network.module(inputs_embeds=own).logits[0, -len(ids) :]
    return logits.float().log_softmax(-1)


@pytest.mark.parametrize("prompt", [None, "one"])
def test_log_probabilities_are_the_models(server: PromptServer, client: openai.OpenAI, prompt: str | None) -> None:
    name = prompt or server.backbone.source
    ids = list(server.encoder.encode("abc", 0).ids)
    found = client.completions.create(model=name, prompt="abc", max_tokens=5, temperature=0, logprobs=3, echo=True)
    choice = found.choices[0]
    (done,) = server.complete(["abc"], [prompt], 5)
    assert choice.text == "abc" + done.text
    scores: Any = choice.logprobs
    whole = [*ids, *done.tokens]
    values = plain(server, whole, prompt)
    assert scores.tokens == [server.backbone.tokenizer.decode([token]) for token in whole]
    assert scores.token_logprobs[0] is None
    assert scores.top_logprobs[0] is None
    for number, token in enumerate(whole[1:], 1):
        assert scores.token_logprobs[number] == pytest.approx(float(values[number - 1, token]), abs=2e-4)
        best = sorted(scores.top_logprobs[number].values(), reverse=True)
        assert best == pytest.approx(values[number - 1].topk(3).values.tolist()[: len(best)], abs=2e-4)
    assert scores.text_offset[0] == 0
    assert scores.text_offset[1:] == [len(server.backbone.tokenizer.decode(whole[:n])) for n in range(1, len(whole))]


def test_a_text_can_be_scored_without_any_new_token(server: PromptServer, client: openai.OpenAI) -> None:
    """As evaluation harnesses do; in one batch with texts of other lengths that are continued."""
    found = client.completions.create(model="one", prompt=["abcd", "x y"], max_tokens=0, logprobs=1, echo=True)
    for text, choice in zip(("abcd", "x y"), found.choices, strict=True):
        ids = list(server.encoder.encode(text, 0).ids)
        values = plain(server, ids, "one")
        want = [float(values[number - 1, token]) for number, token in enumerate(ids) if number]
        assert choice.text == text
        assert choice.finish_reason == "length"
        assert choice.logprobs.token_logprobs[1:] == pytest.approx(want, abs=2e-4)  # type: ignore[union-attr]
    assert found.usage.completion_tokens == 0  # type: ignore[union-attr]


def test_streams_have_the_same_scores_and_tell_usage_when_asked(client: openai.OpenAI) -> None:
    asked: Any = {"model": "one", "prompt": "abc", "max_tokens": 8, "temperature": 0, "logprobs": 2}
    whole = client.completions.create(**asked)
    pieces = list(client.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert pieces[-1].choices == []
    assert pieces[-1].usage == whole.usage
    assert all(piece.usage is None for piece in pieces[:-1])
    told = [piece.choices[0] for piece in pieces[:-1]]
    assert "".join(choice.text for choice in told) == whole.choices[0].text
    scores = [choice.logprobs for choice in told if choice.logprobs is not None]
    assert [token for one in scores for token in one.tokens] == whole.choices[0].logprobs.tokens  # type: ignore[union-attr]
    assert [v for one in scores for v in one.token_logprobs] == whole.choices[0].logprobs.token_logprobs  # type: ignore[union-attr]
    assert list(client.completions.create(**asked, stream=True))[-1].choices[0].finish_reason is not None


def test_tokens_behind_a_stop_sequence_are_not_scored(server: PromptServer, client: openai.OpenAI) -> None:
    prompts = [f"{letter}bc" for letter in "abcdefghij"]
    answers = server.complete(prompts, ["one"] * len(prompts), 12)
    prompt, done = next((p, d) for p, d in zip(prompts, answers, strict=True) if len(set(d.text[:4])) == 4)
    stop = done.text[2:4]
    asked: Any = {"prompt": prompt, "max_tokens": 12, "temperature": 0, "stop": stop, "logprobs": 0}
    found = client.completions.create(model="one", **asked).choices[0]
    assert found.finish_reason == "stop"
    assert found.text == done.text[: done.text.index(stop)]
    offsets = found.logprobs.text_offset  # type: ignore[union-attr]
    assert offsets
    assert max(offsets) < len(found.text)


@pytest.fixture(scope="module")
def chatty() -> Iterator[tuple[PromptServer, openai.OpenAI]]:
    server = PromptServer(tiny.backbone(), Limits(tokens=40))
    server.backbone.tokenizer = copy.deepcopy(server.backbone.tokenizer)  # the tests share one
    server.backbone.tokenizer.chat_template = TEMPLATE
    server.add("one", tiny.tuned("prompt_tuning", server.backbone, seed=1))
    with serving(server) as (found, _):
        yield server, found


def test_chats_go_through_the_tokenizers_template(chatty: Any) -> None:
    server, client = chatty
    messages: Any = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "ab"}, {"type": "text", "text": "c"}]},
    ]
    asked: Any = {"model": "one", "messages": messages, "max_completion_tokens": 6, "temperature": 0}
    found = client.chat.completions.create(**asked, logprobs=True, top_logprobs=2)
    text = "<system>be brief<user>abc<assistant>"
    (want,) = server.complete([text], ["one"], 6, logprobs=2)
    choice = found.choices[0]
    assert choice.message.content == want.text
    assert choice.message.role == "assistant"
    assert found.usage.prompt_tokens == len(server.encoder.encode(text, 0).ids)
    assert [one.logprob for one in choice.logprobs.content] == pytest.approx([s.value for s in want.scores])
    assert all(len(one.top_logprobs) == 2 for one in choice.logprobs.content)
    pieces = list(client.chat.completions.create(**asked, stream=True))
    assert pieces[0].choices[0].delta.role == "assistant"
    assert pieces[0].object == "chat.completion.chunk"
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == want.text
    assert pieces[-1].choices[0].finish_reason == choice.finish_reason


def test_a_model_without_a_template_takes_no_chats(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="has no chat template; send text to /v1/completions"):
        client.chat.completions.create(model="one", messages=[{"role": "user", "content": "hi"}])


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "messages must be a list of objects"),
        ({"messages": []}, "messages must be a list of objects"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "message 0 has role 'tool'; it must be one of system"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "message 0 has no content of text"),
        ({"messages": [{"role": "user", "content": "x"}], "tools": [{"type": "function"}]}, "tools is not supported"),
        ({"messages": [{"role": "user", "content": "x"}], "top_logprobs": 3}, "top_logprobs belong to logprobs: true"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "half a character"),
    ],
)
def test_bad_chats_are_named(body: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_chat(body)


def test_a_token_is_asked_for_everywhere_but_at_healthz(server: PromptServer) -> None:
    with serving(server, "right", token="right") as (client, inner):
        assert [model.id for model in client.models.list()][1:] == ["one", "two"]
        with pytest.raises(openai.AuthenticationError, match="send the server's token"):
            client.with_options(api_key="wrong").models.list()
        for path in ("/v1/models", "/v1/prompts", "/nowhere"):
            answer = inner.get(path)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == "Bearer"
        assert inner.delete("/v1/prompts/one").status_code == 401
        assert inner.get("/healthz").status_code == 200
    assert server.names == ["one", "two"]


@pytest.mark.parametrize("content", [b"", b"two words", "gr\u00fcn".encode()])
def test_a_token_is_one_plain_word(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "token").write_bytes(content)
    with pytest.raises(UserError, match="--token-file"):
        read_token(tmp_path / "token")
    (tmp_path / "token").write_text("secret\n")
    assert read_token(tmp_path / "token") == "secret"
    with pytest.raises(UserError, match="cannot be read"):
        read_token(tmp_path / "nowhere")


def test_errors_of_loading_do_not_tell_where_the_root_lies(server: PromptServer, tmp_path: Path) -> None:
    root = tmp_path / "secret" / "root"
    method = tiny.tuned("prompt_tuning", tiny.backbone(seed=9), seed=1)
    save_artifact(root / "other", method, card_of(method, "pt-language/prompt_tuning"))
    (root / "empty").mkdir()
    with serving(server, root=root) as (_, inner):
        for path in ("empty", "nowhere", "other"):
            answer = inner.put("/v1/prompts/p", json={"path": path})
            assert answer.status_code == 400
            assert "secret" not in answer.text
            assert answer.json()["error"]["message"]
