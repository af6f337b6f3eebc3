"""PromptServer: rows with different prompts in one batch equal each prompt on its own, and prompts are read once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pt_core.errors import BackboneMismatch, UserError
from pt_core.saving import card_of, save_artifact
from pt_language.server import Limits, PromptServer, TooLong, UnknownPrompt
from pt_language.server.decoding import Rows

from tests.language import tiny

TEXTS = ("a", "a longer text", "some words", "the end of it", "zz")


def served(kind: str = "llama", limits: Limits | None = None) -> PromptServer:
    """Prompts of every kind that can be served, of several lengths."""
    server = PromptServer(tiny.backbone(kind), limits)
    on = server.backbone
    server.add("short", tiny.tuned("prompt_tuning", on, seed=1, length=2))
    server.add("long", tiny.tuned("prompt_tuning", on, seed=2, length=9))
    server.add("produced", tiny.tuned("p_tuning", on, seed=3, length=4))
    server.add("pairs", tiny.tuned("prefix", on, seed=4, length=3))
    context: Any = tiny.tuned("cpt", on)
    context.set_context(*tiny.context(on))
    server.add("context", context)
    server.add("aware", tiny.tuned("iapt", on, seed=5, length=2, bottleneck=4))
    return server


NAMES: tuple[str | None, ...] = ("short", "long", "produced", "pairs", "context", "aware", None)


def reference(server: PromptServer, text: str, name: str | None, count: int) -> list[int]:
    """Greedy tokens without cache, batch or server: every token from the whole sequence again."""
    from pt_core import Batch
    from pt_core.kernels import reference_kernels

    ids = list(server.encoder.encode(text, 0).ids)
    method = None if name is None else server.tenant(name).method  # type: ignore[union-attr]
    found: list[int] = []
    with torch.no_grad(), reference_kernels():
        for _ in range(count):
            target = torch.tensor([[*found, 0]])
            inputs = {"ids": torch.tensor([ids]), "mask": torch.ones(1, len(ids), dtype=torch.long)}
            batch = Batch(inputs, None, torch.arange(1), ["a"], {"answer": target})
            logits = server.backbone.target_logits(inputs, target) if method is None else method.target_logits(batch)
            token = int(logits[0, -1].argmax())
            if token == server.backbone.tokenizer.eos_token_id:
                break
            found.append(token)
    return found


class Counter:
    """Counts the model's calls, and the tokens (rows x positions) that it ran."""

    def __init__(self, server: PromptServer) -> None:
        self.calls = self.tokens = 0
        self.shapes: list[tuple[int, int]] = []

        def hook(module: Any, args: Any, kwargs: Any) -> None:
            given = kwargs.get("inputs_embeds", kwargs.get("input_ids"))
            self.calls += 1
            self.shapes.append((given.shape[0], given.shape[1]))

        server.backbone.module.register_forward_pre_hook(hook, with_kwargs=True)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_mixed_batch_equals_every_prompt_on_its_own(kind: str) -> None:
    server = served(kind)
    pairs = [(text, name) for text in TEXTS[:3] for name in NAMES]
    found = server.complete([t for t, _ in pairs], [n for _, n in pairs], max_new_tokens=5)
    for (text, name), got in zip(pairs, found, strict=True):
        assert list(got.tokens) == reference(server, text, name, 5), (text, name)
        assert got.text == server.backbone.tokenizer.decode(got.tokens)
        assert got.prompt_tokens == (0 if name is None else server.tenant(name).length)  # type: ignore[union-attr]
    different = {tuple(got.tokens) for (text, _), got in zip(pairs, found, strict=True) if text == TEXTS[1]}
    assert len(different) >= 5  # the prompts really differ


def test_one_row_at_a_time_where_padding_would_matter() -> None:
    """MPT's positions ignore the mask: rows of a batch would change each other."""
    server = served("mpt")
    assert (server.batch, served("llama").batch) == (1, Limits().batch)
    counter = Counter(server)
    pairs = [(text, name) for text in TEXTS[:3] for name in NAMES]
    found = server.complete([t for t, _ in pairs], [n for _, n in pairs], max_new_tokens=5)
    assert {rows for rows, _ in counter.shapes} == {1}
    for (text, name), got in zip(pairs, found, strict=True):
        assert list(got.tokens) == reference(server, text, name, 5), (text, name)
    server.batch = len(pairs)  # what was refused: together they give something else
    together = server.complete([t for t, _ in pairs], [n for _, n in pairs], max_new_tokens=5)
    assert [one.tokens for one in together] != [one.tokens for one in found]


def test_next_token_logits_of_a_mixed_batch() -> None:
    server = served()
    names = [name for name in NAMES if name != "aware"]
    requests = [server.request(text, name) for text in TEXTS for name in names]
    together = server.prefill(requests)[0]
    alone = torch.cat([server.prefill([request])[0] for request in requests])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


def test_rows_join_and_leave_between_steps() -> None:
    server = served()
    rows = Rows(server.backbone)
    first = [server.request(TEXTS[1], "long", 6), server.request(TEXTS[0], "pairs", 2)]
    late = [
        server.request(TEXTS[3], "aware", 4),
        server.request(TEXTS[2], "short", 7),
        server.request(TEXTS[4], None, 1),
    ]
    server.admit(rows, first)
    server.step(rows)
    assert len(rows) == 1  # the one of two tokens has left
    server.admit(rows, late)
    while len(rows):
        server.step(rows)
    texts = {id(r): t for r, t in zip([*first, *late], (TEXTS[1], TEXTS[0], TEXTS[3], TEXTS[2], TEXTS[4]), strict=True)}
    for request in [*first, *late]:
        name = request.tenant.name if request.tenant is not None else None
        assert request.tokens == reference(server, texts[id(request)], name, request.max_new_tokens)


def test_small_batches_give_the_same_as_large_ones() -> None:
    pairs = [(text, name) for text in TEXTS for name in NAMES[:3]]
    wide, narrow = served(), served(limits=Limits(batch=2))
    texts, names = [t for t, _ in pairs], [n for _, n in pairs]
    assert wide.complete(texts, names, 4) == narrow.complete(texts, names, 4)


def test_a_prompt_is_read_once() -> None:
    """Second and later requests of a tenant run their own tokens only."""
    server = served()
    counter = Counter(server)
    server.complete(["abc"], ["long"], 3)
    assert counter.shapes == [(1, 9), (1, 3), (1, 1), (1, 1)]  # prompt, text, two more tokens
    counter.shapes.clear()
    server.complete(["abcd"], ["long"], 2)
    server.complete(["abcde", "ab"], ["long", "long"], 1)
    assert counter.shapes == [(1, 4), (1, 1), (2, 5)]
    counter.shapes.clear()
    server.complete(["ab", "abc"], ["long", "short"], 1)  # a new one joins
    assert counter.shapes == [(1, 2), (2, 3)]
    server.complete(["ab"], ["pairs"], 1)  # keys and values need no run
    assert server.prefills == 3


def test_cache_of_prompts_is_bounded() -> None:
    server = served(limits=Limits(cache_bytes=1))
    for _ in range(2):
        server.complete(["ab", "ab"], ["long", "short"], 1)
    assert len(server.prefixes) == 1
    assert server.prefills >= 3
    assert list(server.complete(["ab"], ["long"], 4)[0].tokens) == reference(server, "ab", "long", 4)


def test_prompts_are_added_replaced_and_removed_while_rows_run() -> None:
    server = served()
    rows = Rows(server.backbone)
    running = server.request(TEXTS[1], "long", 6)
    expected = reference(server, TEXTS[1], "long", 6)
    server.admit(rows, [running])
    server.add("long", tiny.tuned("prompt_tuning", server.backbone, seed=9, length=3))
    new = server.complete([TEXTS[1]], ["long"], 6)[0]
    server.remove("long")
    while len(rows):
        server.step(rows)
    assert running.tokens == expected
    assert new.prompt_tokens == 3
    assert list(new.tokens) != expected
    with pytest.raises(UnknownPrompt):
        server.request("a", "long")
    assert len(server.prefixes) == 0  # nothing of the removed ones is kept


def test_hundreds_of_prompts(tmp_path: Path) -> None:
    server = PromptServer(tiny.backbone())
    methods = [tiny.tuned("prompt_tuning", server.backbone, seed=n, length=2 + n % 3) for n in range(4)]
    for number in range(300):
        server.add(f"p{number:03}", methods[number % 4])
    names = [f"p{number:03}" for number in range(0, 300, 7)]
    found = server.complete(["abc"] * len(names), names, 2)
    for name, got in zip(names, found, strict=True):
        assert list(got.tokens) == list(found[names.index(name)].tokens)
        assert got.tokens == server.complete(["abc"], [name], 2)[0].tokens
    with pytest.raises(UnknownPrompt, match=r"unknown prompt 'p30' \(did you mean 'p30\d'\?\)|and 280 more"):
        server.request("a", "p30")


def test_unknown_prompt_lists_the_known_ones() -> None:
    with pytest.raises(
        UnknownPrompt, match=r"unknown prompt 'shrt' \(did you mean 'short'\?\); loaded: aware, context, long"
    ):
        served().complete(["a"], ["shrt"])
    with pytest.raises(UnknownPrompt, match="loaded: none"):
        PromptServer(tiny.backbone()).complete(["a"], ["x"])


def test_limits_name_the_numbers() -> None:
    server = served(limits=Limits(tokens=20, prompts=6))
    with pytest.raises(TooLong, match="max_tokens is 21; this server gives 1 to 20"):
        server.request("a", "long", 21)
    with pytest.raises(
        TooLong, match="prompt of 9 tokens, text of 240 and 10 new tokens exceed the context window of 256"
    ):
        server.request("a" * 240, "long", 10)
    server.request("a" * 240, "long", 7)
    with pytest.raises(UserError, match="zero tokens"):
        server.request("", "long")
    with pytest.raises(UserError, match="whole numbers from 0 to 259"):
        server.request([0, 260], "long")
    with pytest.raises(UserError, match="6 prompts are loaded, the limit"):
        server.add("more", tiny.tuned("prefix", server.backbone))
    with pytest.raises(UserError, match="1 prompts for 2 texts"):
        server.complete(["a", "b"], ["long"])
    with pytest.raises(UserError, match="the context window has 256"):
        server.add("long", tiny.tuned("prompt_tuning", server.backbone, length=256))


def test_what_cannot_be_served_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is of kind encoder-decoder"):
        PromptServer(tiny.backbone("t5"))
    server = PromptServer(tiny.backbone())
    with pytest.raises(UserError, match="changes the backbone's weights"):
        server.add("full", tiny.tuned("full", server.backbone))
    with pytest.raises(UserError, match="another backbone object"):
        server.add("other", tiny.tuned("prefix", tiny.backbone()))
    other = tiny.tuned("prompt_tuning", tiny.backbone(seed=7))
    save_artifact(tmp_path / "run", other, card_of(other, "pt-language/prompt_tuning"))
    with pytest.raises(BackboneMismatch, match="test:llama-7"):
        server.add("other", tmp_path / "run")
    assert len(server) == 0


def test_artifacts_are_served_and_templates_used(tmp_path: Path) -> None:
    server = PromptServer(tiny.backbone())
    method = tiny.tuned("prompt_tuning", server.backbone)
    save_artifact(tmp_path / "run", method, card_of(method, "pt-language/prompt_tuning"))
    server.add("run", tmp_path / "run")
    plain, columns = (server.complete([given], ["run"], 4)[0] for given in ("a text", {"text": "a text"}))
    assert plain == columns
    assert list(plain.tokens) == reference(server, "a text", "run", 4)
    with pytest.raises(UserError, match="has no column 'text'"):
        server.complete([{"txt": "a"}], ["run"])
    with pytest.raises(UserError, match="need a prompt with a template"):
        server.complete([{"text": "a"}], [None])


def test_sampling_is_the_requests_own() -> None:
    """A seed fixes a request's tokens whoever shares its batch; a tiny nucleus is greedy."""
    server = served()
    drawn = server.complete(["abc"], ["long"], 8, temperature=1.5, seed=3)[0]
    rows = Rows(server.backbone)
    request = server.request("abc", "long", 8, temperature=1.5, seed=3)
    server.admit(rows, [server.request("x", "pairs", 8, temperature=2.0), request, server.request("y", None, 8)])
    while len(rows):
        server.step(rows)
    assert tuple(request.tokens) == drawn.tokens
    others = {server.complete(["abc"], ["long"], 8, temperature=1.5, seed=n)[0].tokens for n in range(4)}
    assert len(others) > 1
    greedy = server.complete(["abc"], ["long"], 8)[0]
    assert server.complete(["abc"], ["long"], 8, temperature=1.0, top_p=1e-9, seed=1)[0].tokens == greedy.tokens


def test_stop_sequences_and_streamed_pieces() -> None:
    server = served()
    whole = server.complete(["abc"], ["short"], 12)[0]
    assert len(whole.text) > 4
    word = whole.text[3:5]
    pieces: list[str] = []
    cut = server.complete(["abc"], ["short"], 12, stop=(word,), emit=pieces.append)[0]
    assert cut.reason == "stop"
    assert cut.text == whole.text[: whole.text.index(word)]
    assert "".join(pieces) == cut.text
    pieces.clear()
    server.complete(["abc"], ["short"], 12, emit=pieces.append)
    assert "".join(pieces) == whole.text
    assert whole.reason in ("length", "stop")


def test_cancelled_rows_leave_before_the_next_step() -> None:
    server = served()
    rows = Rows(server.backbone)
    gone, stays = server.request("abc", "long", 50), server.request("abcd", "short", 3)
    server.admit(rows, [gone, stays])
    gone.cancelled = True
    server.step(rows)
    assert len(gone.tokens) == 1
    while len(rows):
        server.step(rows)
    assert stays.tokens == reference(server, "abcd", "short", 3)
