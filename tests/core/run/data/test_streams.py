"""Streams: every sample once per epoch, position a function of (seed, draws), any sharding gives the same draws."""

import itertools

import pytest
import torch
from pt_core.errors import DataError
from pt_core.randomness import keyed
from pt_core.run.data.streams import Shard, StreamReader, ordered_batches
from pt_core.stage import Stream
from pt_core.testing.tiny import Vectors


def reader(size=7, batch=5, rank=0, world=1, accumulate=1, seed=0, workers=0, name="train", **stream):
    data = Vectors(size, seed=1)
    return StreamReader(name, Stream("train", **stream), data, batch, seed, Shard(rank, world, accumulate), workers)


def indices(parts):
    return [index for part in parts for index, _ in part]


@pytest.mark.parametrize(("size", "batch"), [(7, 5), (7, 7), (7, 1), (6, 3), (3, 10)])
def test_every_epoch_draws_every_sample_once(size, batch):
    stream = reader(size, batch)
    for epoch in range(3):
        numbers = range(epoch * stream.draws_per_epoch, (epoch + 1) * stream.draws_per_epoch)
        drawn = [i for n in numbers for i in indices(stream.draw(n))]
        assert sorted(drawn) == list(range(size))
        assert {view for n in numbers for part in stream.draw(n) for _, view in part} == {epoch}


def test_epochs_and_seeds_and_names_have_their_own_order():
    orders = [
        tuple(reader(20).order(0)),
        tuple(reader(20).order(1)),
        tuple(reader(20, seed=1).order(0)),
        tuple(reader(20, name="other").order(0)),
    ]
    assert len(set(orders)) == 4
    assert reader(20).order(1) == reader(20).order(1)
    assert reader(20, shuffle=False).order(3) == list(range(20))


@pytest.mark.parametrize(("world", "accumulate"), [(2, 1), (1, 2), (2, 2), (3, 1), (8, 1), (1, 7)])
@pytest.mark.parametrize("size", [7, 16])
def test_shards_and_micro_batches_cut_the_same_draw(world, accumulate, size):
    whole = reader(size)
    ranks = [reader(size, rank=r, world=world, accumulate=accumulate) for r in range(world)]
    for number in range(6):
        parts = [part for rank in ranks for part in rank.draw(number)]
        assert len(parts) == world * accumulate
        assert indices(parts) == indices(whole.draw(number))
        sizes = [len(part) for part in parts]
        assert max(sizes) - min(sizes) <= 1


def test_two_processes_see_the_micro_batches_of_one_with_twice_the_accumulation():
    one = reader(accumulate=4)
    two = [reader(rank=r, world=2, accumulate=2) for r in range(2)]
    for number in range(5):
        assert one.draw(number) == [part for rank in two for part in rank.draw(number)]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("start", [0, 1, 3])
def test_reading_from_anywhere_continues_the_sequence(start, workers):
    def read(stream, count):
        return [[None if b is None else (b.index.tolist(), b.inputs) for b in stream.next()] for _ in range(count)]

    expected = read(reader(accumulate=3), 5)[start:]
    stream = reader(accumulate=3, workers=workers)
    stream.start(start)
    found = read(stream, 5 - start)
    stream.close()
    for left, right in zip(itertools.chain(*expected), itertools.chain(*found), strict=True):
        assert (left is None) == (right is None)
        if left is not None:
            assert left[0] == right[0]
            assert torch.equal(left[1], right[1])


def test_process_without_a_sample_gets_none():
    stream = reader(size=7, batch=5, rank=1, world=4)  # the second draw has two samples for four processes
    assert [len(part) for part in (stream.next()[0], stream.next()[0])] == [1, 1]
    last = reader(size=7, batch=5, rank=3, world=4)
    assert last.next()[0] is not None
    assert last.next() == [None]


def test_evaluation_view_has_no_epoch():
    assert {view for part in reader(augment=False).draw(9) for _, view in part} == {None}


def test_balanced_draws_have_equal_classes():
    data = Vectors(30, seed=1)
    data.labels = [0] * 24 + [1] * 4 + [2] * 2
    stream = StreamReader("train", Stream("train", balanced=True), data, 6, 0, Shard())
    order = stream.order(0)
    assert len(order) == 30
    for start in range(0, 30, 6):
        classes = [data.labels[i] for i in order[start : start + 6]]
        assert sorted(classes) == [0, 0, 1, 1, 2, 2]


def test_a_sample_drawn_again_in_a_step_has_draws_of_its_own_however_the_step_is_cut():
    def balanced(rank=0, world=1, accumulate=1):
        data = Vectors(12)
        data.labels = [0] * 10 + [1, 2]
        return StreamReader("train", Stream("train", balanced=True), data, 12, 0, Shard(rank, world, accumulate))

    def keys(reader):
        return [
            (batch.ids, keyed(batch, 0, "step", occurrence=times).keys)
            for batch, times in zip(reader.next(), reader.repeats, strict=True)
            if batch is not None
        ]

    ((ids, whole),) = keys(balanced())
    assert len(set(ids)) < 12
    assert len(whole.unique()) == 12
    once = {name: row for row, name in reversed(list(enumerate(ids)))}  # the first time nothing is different
    plain = balanced().next()[0]
    first = sorted(once.values())
    assert torch.equal(whole[first], keyed(plain, 0, "step").keys[first])
    for world, accumulate in ((1, 2), (1, 5), (2, 1), (2, 3)):
        parts = [part for rank in range(world) for part in keys(balanced(rank, world, accumulate))]
        assert [name for names, _ in parts for name in names] == list(ids)
        assert torch.equal(torch.cat([part for _, part in parts]), whole)


def test_balanced_draws_need_labels_and_streams_need_samples():
    unlabelled = Vectors(6, labelled=False)
    with pytest.raises(DataError, match="'train' has none"):
        StreamReader("train", Stream("train", balanced=True), unlabelled, 2, 0, Shard()).order(0)
    with pytest.raises(DataError, match="role 'train' are empty"):
        StreamReader("train", Stream("train"), Vectors(0), 2, 0, Shard())


@pytest.mark.parametrize("balanced", [False, True])
def test_a_stream_may_draw_from_some_rows_only(balanced):
    rows = (1, 2, 4, 9, 13, 14)
    stream = reader(20, 4, rows=rows, balanced=balanced)
    assert stream.draws_per_epoch == 2
    for epoch in range(3):
        assert sorted(stream.order(epoch)) == sorted(rows) if not balanced else set(stream.order(epoch)) <= set(rows)
    assert reader(20, rows=rows, shuffle=False).order(0) == list(rows)
    stream.start(0)
    assert set(stream.next()[0].index.tolist()) <= set(rows)  # positions in the role, not in the selection
    with pytest.raises(DataError, match="empty"):
        reader(20, rows=())


@pytest.mark.parametrize("batch", [1, 4, 100])
@pytest.mark.parametrize("world", [1, 2, 3, 9])
def test_evaluation_shards_cover_every_sample_once(world, batch):
    data = Vectors(7)
    seen = [i for r in range(world) for b in ordered_batches(data, batch, 0, Shard(r, world)) for i in b.index.tolist()]
    assert sorted(seen) == list(range(7))


def test_user_generators_are_left_alone():
    state = torch.random.get_rng_state()
    stream = reader()
    stream.next()
    list(ordered_batches(Vectors(7), 2, 0, Shard()))
    assert torch.equal(state, torch.random.get_rng_state())
