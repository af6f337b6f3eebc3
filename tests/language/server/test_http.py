"""The HTTP server, in process and as a process of its own on the loopback address."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest
from pt_core.errors import ConfigError, UserError
from pt_core.saving import card_of, save_artifact
from pt_language.server import Limits, PromptServer
from pt_language.server.calls import parse
from pt_language.server.command import named_runs
from pt_language.server.engine import Closing, Engine, Job
from pt_language.server.http import build_app, read_object
from starlette.exceptions import HTTPException
from starlette.testclient import TestClient

from tests.language import tiny


def saved(folder: Path, server: PromptServer, seed: int = 1, length: int = 5) -> Path:
    method = tiny.tuned("prompt_tuning", server.backbone, seed=seed, length=length)
    save_artifact(folder, method, card_of(method, "pt-language/prompt_tuning"))
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prompts")
    saved(folder / "new", PromptServer(tiny.backbone()), seed=8, length=3)
    return folder / "new"


@pytest.fixture(scope="module")
def client(root: Path) -> Iterator[TestClient]:
    server = PromptServer(tiny.backbone(), Limits(body=4000, tokens=40, queue=16))
    server.add("one", tiny.tuned("prompt_tuning", server.backbone, seed=1))
    server.add("two", tiny.tuned("prefix", server.backbone, seed=2, length=3))
    with TestClient(build_app(server, root.parent)) as found:
        found.prompts = server  # type: ignore[attr-defined]
        yield found


def ask(client: Any, **body: Any) -> Any:
    return client.post("/v1/completions", json={"temperature": 0, **body})


def events(text: str) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def test_a_completion_has_openais_form(client: Any) -> None:
    answer = ask(client, prompt="abc", prompt_id="one", max_tokens=5)
    assert answer.status_code == 200
    found = answer.json()
    (expected,) = client.prompts.complete(["abc"], ["one"], 5)
    assert found["object"] == "text_completion"
    assert found["model"] == "one"
    assert found["choices"] == [{"index": 0, "text": expected.text, "logprobs": None, "finish_reason": expected.reason}]
    assert found["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": len(expected.tokens),
        "total_tokens": 3 + len(expected.tokens),
    }


def test_texts_tokens_columns_and_copies(client: Any) -> None:
    expected = [c.text for c in client.prompts.complete(["abc", "de"], ["two", "two"], 4)]
    ids = client.prompts.encoder.encode("abc", 0).ids
    for body in (
        {"prompt": ["abc", "de"]},
        {"prompt": [list(ids), list(client.prompts.encoder.encode("de", 0).ids)]},
        {"inputs": [{"text": "abc"}, {"text": "de"}]},
    ):
        found = ask(client, **body, prompt_id="two", max_tokens=4).json()
        assert [choice["text"] for choice in found["choices"]] == expected
    copies = ask(client, prompt=list(ids), prompt_id="two", max_tokens=4, n=3, temperature=1.2, seed=5).json()
    again = ask(client, prompt="abc", prompt_id="two", max_tokens=4, n=3, temperature=1.2, seed=5).json()
    assert copies["choices"] == again["choices"]
    assert len({choice["text"] for choice in copies["choices"]}) > 1
    assert copies["usage"]["prompt_tokens"] == 3


def test_streaming_sends_the_same_text_in_pieces(client: Any) -> None:
    whole = ask(client, prompt=["abc", "de"], prompt_id="one", max_tokens=8).json()
    answer = ask(client, prompt=["abc", "de"], prompt_id="one", max_tokens=8, stream=True)
    assert answer.headers["content-type"].startswith("text/event-stream")
    pieces = events(answer.text)
    assert len({piece["id"] for piece in pieces}) == 1
    for choice in whole["choices"]:
        own = [p["choices"][0] for p in pieces if p["choices"][0]["index"] == choice["index"]]
        assert "".join(p["text"] for p in own) == choice["text"]
        assert [p["finish_reason"] for p in own if p["finish_reason"]] == [choice["finish_reason"]]


def test_unknown_prompt_is_404_and_lists_the_known_ones(client: Any) -> None:
    answer = ask(client, prompt="abc", prompt_id="ones")
    assert answer.status_code == 404
    error = answer.json()["error"]
    assert error["code"] == 404
    assert error["message"].startswith("unknown prompt 'ones' (did you mean 'one'?); loaded: one")
    assert client.delete("/v1/prompts/ones").status_code == 404
    assert client.get("/nowhere").status_code == 404


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"prompt": "a", "max_tokens": 41}, "max_tokens is 41; this server gives 1 to 40"),
        ({"prompt": "a" * 250, "max_tokens": 10}, "text of 250 and 10 new tokens exceed the context window of 256"),
        ({"prompt": "a", "max_tokens": 0}, "max_tokens must be a whole number from 1"),
        ({"prompt": "a", "temperature": "hot"}, "temperature must be a number from 0 to 2"),
        ({"prompt": "a", "temperature": 1e-9}, "temperature must be 0 \\(greedy\\) or at least 0.01"),
        (
            {"prompt": "a", "n": 9, "tempratur": 1},
            "unknown field 'tempratur' \\(did you mean 'temperature'\\?\\); n must be",
        ),
        ({"prompt": "a", "logprobs": 21}, "logprobs must be a whole number from 0 to 20"),
        ({"prompt": "a", "logit_bias": {"1": 2}}, "logit_bias is not supported"),
        ({"prompt": "a", "model": "one", "prompt_id": "two"}, "model 'one' and prompt_id 'two' name two prompts"),
        ({"prompt": "a", "echo": True, "stream": True}, "echo does not go with stream"),
        ({"prompt": "a", "stream_options": {"include_usage": True}}, "stream_options belong to stream: true"),
        ({"prompt": ""}, "the text has zero tokens"),
        ({"prompt": []}, "prompt must be a text"),
        ({"prompt": {"a": 1}}, "prompt must be a text"),
        ({"prompt": [1, 999]}, "token ids must be whole numbers"),
        ({}, "give either prompt"),
        ({"prompt": "a", "inputs": {"text": "a"}}, "give either prompt"),
        ({"inputs": {"txt": "a"}, "prompt_id": "one"}, "has no column 'text'"),
        ({"prompt": "a", "stop": ["x"] * 5}, "stop must be up to 4 texts"),
        ({"prompt": ["a"] * 900}, "asks for 900 completions, this server takes up to 16 at once"),
        ({"prompt": ["a"] * 3, "n": 8}, "asks for 24 completions, this server takes up to 16 at once"),
        ({"prompt": "a", "prompt_id": 3, "stream": 1}, "prompt_id must be a text; stream must be true or false"),
    ],
)
def test_bad_values_are_400(client: Any, body: dict[str, Any], message: str) -> None:
    answer = ask(client, **body)
    assert answer.status_code == 400
    assert re.search(message, answer.json()["error"]["message"])


def test_neutral_fields_of_openai_clients_are_taken() -> None:
    wanted = parse(
        {"prompt": "a", "echo": False, "best_of": 1, "logprobs": None, "suffix": None, "user": "me", "model": "x"}
    )
    assert wanted.texts == ("a",)
    with pytest.raises(ConfigError, match="best_of is not supported"):
        parse({"prompt": "a", "best_of": 2})


@pytest.mark.parametrize("field", ["prompt", "prompt_id", "stop", "user"])
def test_halves_of_characters_are_400(client: Any, field: str) -> None:
    body = ('{"prompt": "a", "' + field + '": "a\\ud800b"}').encode()
    answer = client.post("/v1/completions", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert "half a character" in answer.json()["error"]["message"]
    assert ask(client, prompt="\U0001f600").status_code == 200


def test_nothing_is_made_of_more_rows_than_can_wait(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        client.prompts, "request", lambda *arguments, **named: pytest.fail("built before the limit was checked")
    )
    assert ask(client, prompt=["a"] * 17).status_code == 400


def test_a_body_that_never_ends_is_408() -> None:
    class Slow:
        headers: ClassVar = {"content-type": "application/json"}

        async def stream(self) -> AsyncIterator[bytes]:
            yield b'{"prompt": '
            await asyncio.sleep(60)

    with pytest.raises(HTTPException, match="not sent within 0.05 seconds") as caught:
        asyncio.run(read_object(Slow(), Limits(seconds=0.05)))  # type: ignore[arg-type]
    assert caught.value.status_code == 408


def test_bodies_are_limited(client: Any) -> None:
    assert ask(client, prompt="a" * 5000).status_code == 413
    long = (b'{"prompt": "' + b"a" * 5000 + b'"}' for _ in range(1))  # sent in pieces, without a length
    headers = {"content-type": "application/json"}
    assert client.post("/v1/completions", content=long, headers=headers).status_code == 413
    for content, status in ((b"{", 400), (b"[1]", 400), (b"[" * 3000, 400), (b"\xff", 400)):
        assert client.post("/v1/completions", content=content, headers=headers).status_code == status
    assert client.post("/v1/completions", content=b'{"prompt": "a"}').status_code == 415


def test_prompts_come_and_go_below_the_root_only(client: Any, root: Path) -> None:
    listed = client.get("/v1/prompts").json()["data"]
    assert [(row["id"], row["method"], row["prompt_tokens"]) for row in listed] == [
        ("one", "PromptTuning", 5),
        ("two", "Prefix", 3),
    ]
    added = client.put("/v1/prompts/three", json={"path": "new"})
    assert (added.status_code, added.json()["prompt_tokens"]) == (201, 3)
    assert client.put("/v1/prompts/three", json={"path": "new"}).status_code == 200
    assert ask(client, prompt="abc", prompt_id="three").status_code == 200
    assert client.delete("/v1/prompts/three").status_code == 204
    assert ask(client, prompt="abc", prompt_id="three").status_code == 404
    (root.parent / "link").symlink_to("/tmp")
    for path in ("../new", "/etc", str(root), "link", "new/../../x", "a\0b", 3, ""):
        assert client.put("/v1/prompts/three", json={"path": path}).status_code == 400
    assert client.put("/v1/prompts/three", json={"path": "new", "trust_remote_code": True}).status_code == 400
    missing = client.put("/v1/prompts/three", json={"path": "nothing"})
    assert missing.status_code == 400
    assert "holds no tuned artifact" in missing.json()["error"]["message"]
    assert client.put("/v1/prompts/%2e%2e", json={"path": "new"}).status_code in (400, 404)
    assert client.get("/healthz").json() == {"status": "ok", "prompts": 2, "running": 0, "waiting": 0}


def test_without_a_root_prompts_are_fixed() -> None:
    server = PromptServer(tiny.backbone())
    server.add("one", tiny.tuned("prompt_tuning", server.backbone))
    with TestClient(build_app(server)) as client:
        assert client.put("/v1/prompts/x", json={"path": "new"}).status_code == 403
        assert client.delete("/v1/prompts/one").status_code == 403


def test_a_full_queue_is_429_and_nothing_is_lost() -> None:
    """The model is held, so that requests pile up; then everyone who was accepted gets an answer."""
    server = PromptServer(tiny.backbone(), Limits(batch=1, queue=2))
    server.add("one", tiny.tuned("prompt_tuning", server.backbone))
    app = build_app(server)
    (expected,) = server.complete(["abc"], ["one"], 3)

    async def many() -> list[Any]:
        transport = httpx.ASGITransport(app=app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://test") as client,
        ):
            body = {"prompt": "abc", "prompt_id": "one", "max_tokens": 3, "temperature": 0}
            await asyncio.to_thread(held.wait)
            calls = [asyncio.create_task(client.post("/v1/completions", json=body)) for _ in range(6)]
            done, _ = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
            health = (await client.get("/healthz")).json()
            assert health["running"] + health["waiting"] <= 3
            release.set()
            assert all(call.result().status_code == 429 for call in done)
            return list(await asyncio.gather(*calls))

    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with server.lock:
            held.set()
            release.wait(30)

    holder = threading.Thread(target=hold)
    holder.start()
    answers = asyncio.run(many())
    holder.join()
    codes = sorted(answer.status_code for answer in answers)
    assert codes.count(429) in (3, 4)
    assert set(codes) == {200, 429}
    for answer in answers:
        if answer.status_code == 200:
            assert answer.json()["choices"][0]["text"] == expected.text
        else:
            assert answer.headers["retry-after"] == "1"
            assert "the limit is 2; try again later" in answer.json()["error"]["message"]


def test_requests_at_once_share_batches() -> None:
    server = PromptServer(tiny.backbone())
    for number in range(4):
        server.add(f"p{number}", tiny.tuned("prompt_tuning", server.backbone, seed=number, length=2 + number))
    expected = server.complete(["abc"] * 4, server.names, 6)
    engine, over = Engine(server), threading.Semaphore(0)
    requests = [server.request("abc", name, 6) for name in server.names]
    engine.submit([Job(request, lambda error: over.release()) for request in requests])
    engine.start()
    for _ in requests:
        assert over.acquire(timeout=60)
    assert engine._rows.forwards <= 6
    assert [tuple(request.tokens) for request in requests] == [found.tokens for found in expected]
    assert engine.close(60)
    with pytest.raises(Closing):
        engine.submit([Job(requests[0], lambda error: None)])


def test_close_finishes_what_was_accepted() -> None:
    server = PromptServer(tiny.backbone(), Limits(batch=2))
    engine, told = Engine(server), []
    requests = [server.request("abc", None, 20) for _ in range(5)]
    engine.submit([Job(request, told.append) for request in requests])
    engine.start()
    assert engine.close(60)
    assert told == [None] * 5
    assert len({tuple(request.tokens) for request in requests}) == 1


def test_a_failing_model_fails_its_requests_and_not_the_server() -> None:
    server = PromptServer(tiny.backbone())
    engine, told = Engine(server), threading.Semaphore(0)
    errors: list[BaseException | None] = []

    def done(error: BaseException | None) -> None:
        errors.append(error)
        told.release()

    def fail(*args: Any) -> None:
        raise RuntimeError("out of memory")

    hook = server.backbone.module.register_forward_pre_hook(fail)
    engine.start()
    engine.submit([Job(server.request("abc", None, 4), done), Job(server.request("abcd", None, 4), done)])
    assert told.acquire(timeout=60)
    assert told.acquire(timeout=60)
    assert [str(error) for error in errors] == ["out of memory"] * 2
    hook.remove()
    good = server.request("abc", None, 4)
    engine.submit([Job(good, done)])
    assert told.acquire(timeout=60)
    assert errors[2] is None
    assert list(server.complete(["abc"], [None], 4)[0].tokens) == good.tokens
    assert engine.close(60)


def test_runs_are_named_after_their_folders(tmp_path: Path) -> None:
    found = named_runs((str(tmp_path / "a"), str(tmp_path / "b" / "tuned"), f"c={tmp_path}"))
    assert {name: path.name for name, path in found.items()} == {"a": "a", "b": "tuned", "c": tmp_path.name}
    with pytest.raises(UserError, match="two runs are called 'a'; name them: ID=FOLDER"):
        named_runs(("x/a", "y/a"))


@pytest.mark.slow
def test_a_real_server_answers_streams_and_stops_cleanly(tmp_path: Path) -> None:
    """A process on the loopback address: SIGTERM while a stream runs lets it finish, and the exit status is 0."""
    on = tiny.backbone(context=2048)
    on.module.save_pretrained(tmp_path / "model")
    on.tokenizer.save_pretrained(tmp_path / "model")
    from pt_language.backbones import load_backbone

    local = load_backbone(f"local:{tmp_path / 'model'}")
    method = tiny.tuned("prompt_tuning", local)
    save_artifact(tmp_path / "runs" / "one", method, card_of(method, "pt-language/prompt_tuning"))
    command = [
        sys.executable,
        "-m",
        "pt_language.cli",
        "serve",
        str(tmp_path / "runs" / "one"),
        "--port",
        "0",
        "--max-tokens",
        "1000",
    ]
    command[1:3] = ["-c", "from pt_language.cli import main; main()"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stderr is not None
    try:
        first = next(line for line in process.stderr if line.startswith("serving"))
        address = re.search(r"http://127\.0\.0\.1:\d+", first)
        assert address is not None
        with httpx.Client(base_url=address[0], timeout=60) as client:
            for _ in range(200):
                try:
                    assert client.get("/healthz").json()["prompts"] == 1
                    break
                except httpx.ConnectError:
                    time.sleep(0.05)
            plain = ask(client, prompt="abc", prompt_id="one", max_tokens=5).json()
            expected = PromptServer(local)
            expected.add("one", method)
            assert plain["choices"][0]["text"] == expected.complete(["abc"], ["one"], 5)[0].text
            body = {"prompt": "abc", "prompt_id": "one", "max_tokens": 300, "temperature": 1, "seed": 2, "stream": True}
            with client.stream("POST", "/v1/completions", json=body) as answer:
                pieces = answer.iter_text()
                text = next(pieces)
                process.send_signal(signal.SIGTERM)
                text += "".join(pieces)
        found = events(text)
        assert found[-1]["choices"][0]["finish_reason"] in ("length", "stop")
        assert process.wait(60) == 0
        assert "stopped" in process.stderr.read()
    finally:
        process.kill()
        process.wait()
