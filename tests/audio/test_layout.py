"""The language model's input: positions, labels, batches against loops, padding, and what is computed once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from pt_audio.data.batches import Element, Row
from pt_audio.data.records import Record
from pt_audio.layout import labels, parts
from pt_core.bridges import transformers as bridge
from pt_core.bridges.answers import IGNORED
from pt_core.errors import UserError
from pt_core.kernels import reference_kernels

from tests.audio import tiny
from tests.audio.tiny import close

MIXED = (*tiny.EPISODES, *tiny.RECORDS)


def row(clips: int, segments: int, text: int) -> Row:
    words = tuple(range(text))
    return Row(tuple(Element(k, tuple(range(segments)), words, words) for k in range(clips)))


@pytest.mark.parametrize("clips", [1, 2, 5])
@pytest.mark.parametrize("segments", [1, 3])
def test_positions_and_labels(clips: int, segments: int) -> None:
    answer = [7, 8, 9, 1]
    layout = parts(row(clips, segments, 4), 32, True, len(answer))
    block = [("indicator", 1), ("audio", 32 * segments), ("text", 4)]
    assert list(layout) == [("begin", 1), *block * clips, ("answer", 4)]
    found = labels(layout, answer)
    before = 1 + clips * (33 + 32 * (segments - 1) + 4)
    assert found == [IGNORED] * before + answer
    assert sum(label != IGNORED for label in found) == len(answer)
    assert parts(row(clips, segments, 4), 32, False, 4)[0] == ("indicator", 1)


def test_a_clip_of_ten_seconds_costs_33_positions() -> None:
    from pt_audio.adapters.logmel import LogMel

    assert LogMel().count(10 * 16_000) == 1
    assert sum(length for kind, length in parts(row(1, 1, 4), 32, True) if kind in ("indicator", "audio")) == 33
    method = tiny.tuned(queries=32)
    (block,) = method.blocks(tiny.batch(rows=[0]).inputs).values()
    assert block.shape == (33, tiny.D)


def seen(method: Any, batch: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(vectors, mask) of every row as the language model gets them, what is shared in front of it included."""
    assembled = method.assemble(batch, batch.target["answer"][:, :-1])
    rows = []
    for embeds, mask in zip(assembled.embeds, assembled.mask, strict=True):
        front = [] if assembled.front is None else [assembled.front[0]]
        rows.append((torch.cat([*front, embeds[mask.bool()]]), mask))
    return rows


def slow_row(method: Any, record: Record) -> torch.Tensor:
    """One record by hand: [begin, a, q.., text, a, q.., text, ..., answer]."""
    lm, text, encoder = method.lm, method.text, method.encoder
    line = [lm.embed(torch.tensor([lm.begin]))]
    for clip, piece in zip(record.clips, record.texts, strict=True):
        vectors = encoder.vectors(encoder.front(tiny.clips()[clip].read(tiny.RATE)))
        line.append(method.aligner.indicator[0])
        asked = torch.tensor([text.tokens(piece, 128)])
        for segment in vectors:
            audio = method.aligner.ln_audio(segment[None])
            read = method.aligner.qformer(method.aligner.queries, asked, torch.ones_like(asked), audio)
            line.append(method.aligner.llm_proj(read.queries[0]))
        line.append(lm.embed(torch.tensor(lm.tokens(piece))))
    line.append(lm.embed(torch.tensor(lm.tokens(record.answer))))
    return torch.cat(line)


@pytest.mark.parametrize("records", [MIXED, tiny.EPISODES[:2]], ids=["mixed", "shared support"])
def test_a_batch_equals_a_loop_over_records(records: Any) -> None:
    method = tiny.tuned()
    batch = tiny.batch(records)
    for (have, mask), record in zip(seen(method, batch), records, strict=True):
        want = slow_row(method, record)
        if len(have) > len(
            want
        ):  # a shorter answer than the longest: its end token follows, and nobody reads what comes of it
            want = torch.cat([want, method.lm.embed(torch.tensor([method.lm.end]))])
        close(have, want)
        real = mask.nonzero().flatten()
        assert real.tolist() == list(range(int(real[0]), int(real[-1]) + 1))  # one stretch: padding lies outside only


def test_the_loss_is_the_one_of_labelled_positions() -> None:
    """Logits of answer positions, computed without padding, against labels of the whole layout."""
    method = tiny.tuned()
    batch = tiny.batch(MIXED)
    output = method(batch)
    have, count = method.task.loss(output, batch)
    total, supervised = 0.0, 0
    for record, own in zip(MIXED, batch.inputs.rows, strict=True):
        embeds = slow_row(method, record)
        answer = [*method.lm.tokens(record.answer), method.lm.end]
        found = labels(parts(own, 3, True, len(answer)), answer)
        logits = method.lm.module(inputs_embeds=embeds[None]).logits[0]
        shifted = torch.tensor(found[1:])
        # The end token is predicted from the last answer token and is never read itself.
        losses = torch.nn.functional.cross_entropy(logits, shifted, ignore_index=IGNORED, reduction="sum")
        total += losses.item()
        supervised += int((shifted != IGNORED).sum())
        assert int((shifted != IGNORED).sum()) == len(method.lm.tokens(record.answer)) + 1
    assert count == supervised
    close(have, torch.tensor(total / supervised), 2e-5)


def test_neighbours_and_padding_leave_a_records_loss_alone() -> None:
    method = tiny.tuned()

    def losses(rows: list[int]) -> torch.Tensor:
        batch = tiny.batch(MIXED, rows)
        logits, answer = method(batch), batch.target["answer"]
        flat = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), answer.flatten(), ignore_index=IGNORED, reduction="none"
        )
        return flat.view(answer.shape).sum(1)

    want = torch.stack([losses([number])[0] for number in range(len(MIXED))])
    close(losses(list(range(len(MIXED)))), want, 3e-5)
    close(losses([2, 4]), want[[2, 4]], 3e-5)
    close(losses([4, 9, 2]), want[[4, 9, 2]], 3e-5)


def test_one_clip_is_the_interleaved_form_with_k_1() -> None:
    from pt_audio.data.lines import parse_line

    single, interleaved = ({"audio": a, "text_input": t, "text_output": "x"} for a, t in (("f", "t"), (["f"], ["t"])))
    assert parse_line(single, "a") == parse_line(interleaved, "a")
    method = tiny.tuned()
    one = tiny.batch(tiny.RECORDS[:1])
    again = replace(one, inputs=replace(one.inputs, rows=(Row((one.inputs.rows[0].elements[0],)),)))
    (have, mask), (want, other) = seen(method, one)[0], seen(method, again)[0]
    assert torch.equal(have, want)
    assert torch.equal(mask, other)
    assert torch.equal(method.task.loss(method(one), one)[0], method.task.loss(method(again), again)[0])


def test_every_clip_and_instruction_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    method = tiny.tuned()
    batch = tiny.batch(tiny.EPISODES[:2])  # 6 places, 4 different clips
    assert len(batch.inputs.segments) == 4
    assert len(method.blocks(batch.inputs)) == 4
    lengths: list[int] = []
    plain = bridge.run_prefix

    def counted(model: Any, embeds: torch.Tensor, mask: Any = None) -> Any:
        lengths.append(embeds.shape[1])
        assert len(embeds) == 1
        return plain(model, embeds, mask)

    monkeypatch.setattr(bridge, "run_prefix", counted)
    fast = method(batch)
    support = 1 + 2 * 4 + len("this is low") + len("this is mid")
    assert lengths == [support]  # begin and the support set, once for both queries
    with reference_kernels():
        slow = method(batch)
    assert lengths == [support]
    close(fast, slow, 3e-5)
    gradients = []
    for way in (False, True):
        method.zero_grad()
        if way:
            with reference_kernels():
                method.task.loss(method(batch), batch)[0].backward()
        else:
            method.task.loss(method(batch), batch)[0].backward()
        gradients.append({name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None})
    largest = max(float(gradient.abs().max()) for gradient in gradients[1].values())
    for name, gradient in gradients[1].items():  # a key's bias has no gradient but for rounding
        assert float((gradients[0][name] - gradient).abs().max()) < 1e-5 * largest, name


def test_generation_is_the_same_for_any_batch_and_with_beams() -> None:
    method = tiny.tuned()
    for beams in (1, 3):
        method.task.beams = beams
        whole = method.answers.answer(method, tiny.batch(MIXED))["tokens"]
        for number in (0, 4):
            alone = method.answers.answer(method, tiny.batch(MIXED, [number]))["tokens"]
            assert torch.equal(whole[number], alone[0])


def test_greedy_generation_equals_one_forward_per_token() -> None:
    method = tiny.tuned()
    batch = tiny.batch(tiny.RECORDS, [4])
    record = replace(tiny.RECORDS[4], answer="")
    line = slow_row(method, replace(record, answer="a"))[:-1]
    ids = []
    for _ in range(5):
        token = int(method.lm.module(inputs_embeds=line[None]).logits[0, -1].argmax())
        if token == method.lm.end:
            break
        ids.append(token)
        line = torch.cat([line, method.lm.embed(torch.tensor([token]))])
    have = method.answers.answer(method, batch)["tokens"][0].tolist()
    assert have == ids + [IGNORED] * (5 - len(ids))


def test_too_long_a_record_is_refused_with_each_part() -> None:
    method = tiny.make()
    part = tiny.bound(tiny.EPISODES, lm=tiny.lm(context=40))
    with pytest.raises(
        UserError, match=r"record 'x' of train takes \d+ positions \(begin 1, audio 12 for 3 clips, text 29, answer 4\)"
    ):
        method.adopt({"train": part})


def test_only_the_aligner_gets_gradient() -> None:
    method = tiny.make()
    batch = tiny.batch(MIXED)
    method.task.loss(method(batch), batch)[0].backward()
    assert all(p.grad is None for backbone in method.backbones.values() for p in backbone.module.parameters())
    for name in ("queries", "indicator", "llm_proj.weight", "ln_audio.weight", "qformer.word.weight"):
        assert method.aligner.get_parameter(name).grad.abs().max() > 0
    tuned = tiny.make(tune_encoder=True)
    tuned.task.loss(tuned(batch), batch)[0].backward()
    assert tuned.claimed.get_parameter("blocks/0/attn/qkv/weight").grad.abs().max() > 0
    assert all(p.grad is None for p in tuned.encoder.module.parameters())


def test_recomputed_blocks_give_the_same_loss_and_gradients() -> None:
    method = tiny.make()
    batch, found = tiny.batch(MIXED), []
    for recompute in (False, True):
        method.lm.recompute = recompute
        method.zero_grad()
        loss = method.task.loss(method.train()(batch), batch)[0]
        loss.backward()
        found.append((loss, method.aligner.queries.grad.clone()))
    assert torch.equal(found[0][0], found[1][0])
    close(found[1][1], found[0][1], 1e-5)


def test_cached_encoder_outputs_give_the_same_loss() -> None:
    method = tiny.tuned()
    plain, cached = tiny.batch(MIXED), tiny.batch(MIXED, cached=True)
    assert cached.inputs.encoded
    close(method(cached), method(plain), 1e-6)


def test_rows_of_a_batch_can_be_taken_apart() -> None:
    from pt_core.data import take

    method = tiny.tuned()
    batch = tiny.batch(MIXED)
    some = take(batch, [5, 1])
    assert len(some.inputs.segments) < len(batch.inputs.segments)
    close(method(some)[:, :4], method(batch)[[5, 1], :4], 3e-5)
