"""The feature cache computes a row once, never returns a row that was not written, and says why it computes again."""

import errno
import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from pt_core.run.data import cache as module
from pt_core.run.data.cache import FeatureCache, default_root

from tests.core.run.forked import Child

PARTS = {
    "backbone": "a" * 64,
    "preprocessing": json.dumps({"size": 224, "mean": [0.5]}),
    "data": "identity",
    "what": "pooled/default",
    "view": "eval",
}
ROWS, WIDTH = 23, 5


def truth(rows=ROWS, width=WIDTH):
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(0))


class Compute:
    """Gives rows of the truth in blocks, and remembers what was asked."""

    def __init__(self, block=4, values=None, die_after=None):
        self.values, self.block, self.die_after = truth() if values is None else values, block, die_after
        self.asked = []

    def __call__(self, missing):
        self.asked += missing
        for number, start in enumerate(range(0, len(missing), self.block)):
            if number == self.die_after:
                raise KeyboardInterrupt
            yield self.values[list(missing[start : start + self.block])]


def features(cache, compute, notes=None, parts=PARTS, **options):
    notes = [] if notes is None else notes
    return cache.features(parts, ROWS, compute, notes.append, **options)


def test_second_pass_reads_the_same_bytes_and_computes_nothing(tmp_path):
    first, second = Compute(), Compute()
    assert torch.equal(features(FeatureCache(tmp_path), first), truth())
    found = features(FeatureCache(tmp_path), second)
    assert torch.equal(found, truth())
    assert first.asked == list(range(ROWS))
    assert second.asked == []


def test_only_missing_rows_are_computed(tmp_path):
    cache, compute = FeatureCache(tmp_path), Compute()
    part = features(cache, compute, indices=[7, 3, 7, 20])
    assert torch.equal(part, truth()[[7, 3, 7, 20]])
    assert sorted(compute.asked) == [3, 7, 20]
    rest = Compute()
    assert torch.equal(features(cache, rest), truth())
    assert rest.asked == [row for row in range(ROWS) if row not in (3, 7, 20)]


def test_writing_to_the_returned_tensor_does_not_reach_the_cache(tmp_path):
    cache = FeatureCache(tmp_path)
    features(cache, Compute()).zero_()
    again = Compute()
    assert torch.equal(features(cache, again), truth())
    assert again.asked == []


def test_interrupted_pass_keeps_its_blocks(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        features(FeatureCache(tmp_path), Compute(block=4, die_after=3))
    rest = Compute()
    assert torch.equal(features(FeatureCache(tmp_path), rest), truth())
    assert rest.asked == list(range(12, ROWS))


def writer(root, rows, width, pause, log):
    """A forked process that fills an entry and writes down how far it is."""

    def compute(missing):
        for start in range(0, len(missing), 3):
            time.sleep(pause)
            log.write_text(str(start))
            yield truth(rows, width)[list(missing[start : start + 3])]

    def work():
        notes = []
        found = FeatureCache(root).features({"data": "d", "what": "w"}, rows, compute, notes.append)
        assert torch.equal(found, truth(rows, width)), "wrong rows"
        assert not notes, notes

    return Child(work)


def test_two_processes_fill_one_entry(tmp_path):
    values, root = truth(200, 64), tmp_path / "cache"
    both = [writer(root, 200, 64, 0.002, tmp_path / f"log-{number}") for number in range(2)]
    assert [child.status() for child in both] == [0, 0]
    compute = Compute(values=values)
    found = FeatureCache(root).features({"data": "d", "what": "w"}, 200, compute, pytest.fail)
    assert torch.equal(found, values)
    assert compute.asked == []
    assert len(list(root.glob("*/entry.json"))) == 1


def test_killed_writer_leaves_only_rows_it_wrote(tmp_path):
    values, root, log = truth(300, 64), tmp_path / "cache", tmp_path / "log"
    child = writer(root, 300, 64, 0.01, log)
    child.wait_for(lambda: log.exists() and int(log.read_text() or 0) >= 30)
    child.signal(signal.SIGKILL)
    assert child.status() == -signal.SIGKILL
    compute = Compute(values=values)  # were the dead writer's lock still held, this would hang
    found = FeatureCache(root).features({"data": "d", "what": "w"}, 300, compute, pytest.fail)
    assert torch.equal(found, values)
    assert 0 < len(compute.asked) <= 300 - 30
    assert compute.asked == list(range(300 - len(compute.asked), 300))


def entry_of(root):
    (folder,) = {path.parent for path in root.glob("*/entry.json")}
    return folder


def flip(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 0x10
    path.write_bytes(content)


def test_flipped_bit_costs_its_row_and_a_note(tmp_path):
    features(FeatureCache(tmp_path), Compute())
    path = entry_of(tmp_path) / "features.npy"
    flip(path, path.stat().st_size - 4 * WIDTH * 2)  # in the last row but one
    notes, compute = [], Compute()
    assert torch.equal(features(FeatureCache(tmp_path), compute, notes), truth())
    assert compute.asked == [ROWS - 2]
    assert "1 of 23 cached feature rows" in notes[0]
    assert "damaged" in notes[0]
    again = Compute()
    assert torch.equal(features(FeatureCache(tmp_path), again), truth())
    assert again.asked == []


@pytest.mark.parametrize("name", ["entry.json", "features.npy", "sums.npy"])
@pytest.mark.parametrize("harm", ["truncate", "empty", "junk", "pickle", "header"])
def test_damaged_file_is_noticed_and_rebuilt(tmp_path, name, harm):
    features(FeatureCache(tmp_path), Compute())
    path = entry_of(tmp_path) / name
    content = path.read_bytes()
    if harm == "pickle":
        np.save(path.with_suffix(".npy"), np.array([{}], dtype=object), allow_pickle=True)
        os.replace(path.with_suffix(".npy"), path)
    elif harm == "header":
        flip(path, 12 if name == "entry.json" else 20)
    else:
        path.write_bytes({"truncate": content[:-9], "empty": b"", "junk": b"\x93NUMPY" + b"\xff" * 400}[harm])
    notes, compute = [], Compute()
    assert torch.equal(features(FeatureCache(tmp_path), compute, notes), truth())
    assert compute.asked == list(range(ROWS))
    assert "damaged" in notes[0]
    again = Compute()
    assert torch.equal(features(FeatureCache(tmp_path), again), truth())
    assert again.asked == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"backbone": "b" * 64}, "backbone aaaaaaaaaaaa... is now bbbbbbbbbbbb..."),
        ({"preprocessing": json.dumps({"size": 384, "mean": [0.5]})}, "preprocessing: size 224 is now 384"),
        ({"view": None}, "view eval is now None"),
    ],
)
def test_note_names_what_changed(tmp_path, change, said):
    cache, notes = FeatureCache(tmp_path), []
    features(cache, Compute(), notes)
    assert notes == []
    compute = Compute()
    features(cache, compute, notes, {**PARTS, **change})
    assert len(notes) == 1
    assert said in notes[0]
    assert "mean" not in notes[0]
    assert compute.asked == list(range(ROWS))
    features(cache, Compute(), notes)
    assert len(notes) == 1, "the first entry is still there"


def test_other_data_are_no_invalidation(tmp_path):
    cache, notes = FeatureCache(tmp_path), []
    features(cache, Compute(), notes)
    features(cache, Compute(), notes, {**PARTS, "data": "another identity"})
    features(cache, Compute(), notes, {**PARTS, "what": "tokens"})
    assert notes == []


ENTRY = ROWS * (WIDTH * 4 + 8)


def test_least_recently_used_entry_goes_first(tmp_path):
    cache = FeatureCache(tmp_path, 2 * ENTRY)
    for number, data in enumerate("ab"):
        features(cache, Compute(), parts={**PARTS, "data": data})
        for path in tmp_path.glob("*/entry.json"):  # older than anything that follows
            os.utime(path, (1000 + number, 1000 + number)) if path.stat().st_mtime > 2000 else None
    features(cache, Compute(), parts={**PARTS, "data": "a"})
    features(cache, Compute(), parts={**PARTS, "data": "c"})
    assert cache.size() == 2 * ENTRY
    asked = {}
    for data in "acb":
        compute = Compute()
        features(cache, compute, parts={**PARTS, "data": data})
        asked[data] = bool(compute.asked)
    assert asked == {"a": False, "c": False, "b": True}
    assert cache.size() == 2 * ENTRY


def test_evicted_entry_stays_readable_for_its_reader(tmp_path):
    cache = FeatureCache(tmp_path, ENTRY)
    held = features(cache, Compute())
    features(cache, Compute(), parts={**PARTS, "data": "other"})
    assert torch.equal(held, truth())
    assert cache.size() == ENTRY


def test_entry_evicted_while_it_is_filled_still_gives_every_row(tmp_path):
    cache = FeatureCache(tmp_path)

    def compute(missing):
        for row in missing:
            if row == 11:
                FeatureCache(tmp_path).clear()
            yield truth()[[row]]

    assert torch.equal(cache.features(PARTS, ROWS, compute, pytest.fail), truth())


def test_entry_larger_than_the_limit_is_returned_but_not_stored(tmp_path):
    cache, notes = FeatureCache(tmp_path, ENTRY - 1), []
    for _ in range(2):
        compute = Compute()
        assert torch.equal(features(cache, compute, notes), truth())
        assert compute.asked == list(range(ROWS))
    assert torch.equal(features(cache, Compute(), notes, indices=[4, 2]), truth()[[4, 2]])
    assert cache.size() == 0
    assert len(notes) == 3
    assert "more than the cache limit" in notes[0]
    assert "not stored" in notes[0]


@pytest.mark.parametrize("fails_at", [1, 2, 4])
def test_full_disk_costs_a_note_not_the_features(tmp_path, monkeypatch, fails_at):
    fill, calls = module._Entry.fill, []

    def full(self, rows, values):
        calls.append(rows)
        if len(calls) >= fails_at:
            raise OSError(errno.ENOSPC, "No space left on device")
        fill(self, rows, values)

    monkeypatch.setattr(module._Entry, "fill", full)
    notes = []
    assert torch.equal(features(FeatureCache(tmp_path), Compute(), notes), truth())
    assert len(notes) == 1
    assert "No space left on device" in notes[0]
    monkeypatch.undo()
    compute = Compute()
    assert torch.equal(features(FeatureCache(tmp_path), compute), truth())
    assert compute.asked == list(range(4 * (fails_at - 1), ROWS))


def test_root_that_is_a_file_costs_a_note_not_the_features(tmp_path):
    root, notes = tmp_path / "file", []
    root.write_text("")
    assert torch.equal(features(FeatureCache(root / "cache"), Compute(), notes), truth())
    assert "cannot be cached" in notes[0]


def test_read_only_files_serve_and_damage_in_them_is_mended_in_memory(tmp_path, monkeypatch):
    features(FeatureCache(tmp_path), Compute())
    path = entry_of(tmp_path) / "features.npy"
    flip(path, path.stat().st_size - 2)
    monkeypatch.setattr(module._Entry, "_write", _refuse)
    notes, compute = [], Compute()
    assert torch.equal(features(FeatureCache(tmp_path), compute, notes), truth())
    assert compute.asked == [ROWS - 1]
    assert any("cannot be repaired" in note for note in notes)


def _refuse(*_):
    raise PermissionError(errno.EACCES, "Permission denied")


def test_float16_halves_the_entry_and_has_its_own_key(tmp_path):
    cache = FeatureCache(tmp_path)
    exact, half = features(cache, Compute()), features(cache, Compute(), dtype="float16")
    assert exact.dtype == torch.float32
    assert half.dtype == torch.float16
    assert torch.equal(half, truth().half())
    assert cache.size() == 2 * ENTRY - ROWS * WIDTH * 2
    with pytest.raises(ValueError, match="float16"):
        features(FeatureCache(tmp_path / "b"), Compute(values=truth() * 1e6), dtype="float16")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_features_survive_exactly(tmp_path, dtype):
    values = truth().to(dtype)
    features(FeatureCache(tmp_path), Compute(values=values))
    assert torch.equal(features(FeatureCache(tmp_path), Compute()).to(dtype), values)


def test_rows_of_any_shape(tmp_path):
    values = torch.randn(ROWS, 3, 2, 4)
    for _ in range(2):
        assert torch.equal(features(FeatureCache(tmp_path), Compute(values=values)), values)


@pytest.mark.parametrize("extra", [-1, 1])
def test_wrong_number_of_computed_rows_is_refused(tmp_path, extra):
    with pytest.raises(ValueError, match="feature rows"):
        FeatureCache(tmp_path).features(PARTS, ROWS, lambda missing: [torch.zeros(ROWS + extra, WIDTH)], pytest.fail)


def test_get_computes_the_whole_once(tmp_path):
    calls = []

    def compute():
        calls.append(1)
        return truth()

    for _ in range(2):
        assert torch.equal(FeatureCache(tmp_path).get(PARTS, ROWS, compute, pytest.fail), truth())
    assert calls == [1]
    with pytest.raises(ValueError, match="22 feature rows for 23"):
        FeatureCache(tmp_path).get({"data": "x"}, ROWS, lambda: truth()[1:], pytest.fail)


def test_clear_removes_everything_and_an_empty_cache_is_no_error(tmp_path):
    cache = FeatureCache(tmp_path / "new")
    assert cache.clear() == 0
    features(cache, Compute())
    assert cache.clear() == ENTRY
    assert cache.size() == 0


def test_no_rows_are_no_work(tmp_path):
    compute = Compute()
    assert features(FeatureCache(tmp_path), compute, indices=[]).numel() == 0
    assert compute.asked == []


def test_default_root_follows_the_variable(monkeypatch):
    monkeypatch.setenv("PT_CACHE", "some/place")
    assert default_root() == Path("some/place/features")
    monkeypatch.delenv("PT_CACHE")
    assert default_root() == Path.home() / ".cache" / "pt" / "features"
