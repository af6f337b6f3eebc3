"""The frozen-feature cache: rows on disk, memory-mapped, filled as they are computed, keyed by what they depend on.

An entry is a folder `<digest>/` with three files: `entry.json` (what the rows depend on), `features.npy` (rows, ...)
and `sums.npy` (rows,) uint64, zero for a row that is not there yet and otherwise a checksum of its bytes. A row counts
only where its checksum fits, so a writer killed at any moment and a flipped bit end as rows that are computed again.
The folder appears by a rename, and rows are written under the lock of the cache, by whoever comes first, so any number
of processes may fill one entry.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from filelock import BaseFileLock

ROOT_VARIABLE = "PT_CACHE"
FORMAT = 1
_PRESENT = np.uint64(1 << 32)

Parts = Mapping[str, str | int | float | None]
Note = Callable[[str], None]
Compute = Callable[[Sequence[int]], Iterable[Tensor]]
"""missing rows -> blocks (n, ...) that hold those rows in that order, in blocks of any size."""


def default_root() -> Path:
    """`$PT_CACHE`, or `~/.cache/pt`."""
    root = os.environ.get(ROOT_VARIABLE)
    return (Path(root) if root else Path.home() / ".cache" / "pt") / "features"


class FeatureCache:
    """Least-recently-used store of feature rows.

    Args:
        root: folder; created on first use. An unwritable one costs a note, not the run.
        limit_bytes: upper bound of what all entries take together; None is unbounded.
    """

    def __init__(self, root: Path, limit_bytes: int | None = None) -> None:
        self.root, self.limit = root, limit_bytes
        self._lock: BaseFileLock | None = None

    def features(
        self,
        parts: Parts,
        rows: int,
        compute: Compute,
        note: Note,
        *,
        indices: Sequence[int] | None = None,
        dtype: Literal["float32", "float16"] = "float32",
    ) -> Tensor:
        """Feature rows; only those that are missing are computed, and each block is stored as it arrives.

        Args:
            parts: everything the features depend on (backbone, preprocessing, data, what, ...); all of it is the key.
            rows: number of samples in the data.
            compute: computes missing rows; not called when none is missing.
            note: tells the user why something is computed again or not stored.
            indices: rows wanted, in this order; None is all of them, memory-mapped.
            dtype: of the stored and returned rows. float32 is exact for float32, bf16 and fp16 features.

        Returns:
            (len(indices) or rows, ...) on the CPU.

        Raises:
            ValueError: `compute` gave another number of rows than asked for, or a value that float16 cannot hold.
        """
        key = {**parts, "rows": rows, "dtype": dtype}
        wanted = list(range(rows) if indices is None else indices)
        with _Filler(self, key, note) as filler:
            missing = filler.start(wanted)
            for block in compute(missing) if missing else ():
                filler.add(_as(block, dtype))
            return filler.result(wanted, indices)

    def get(self, parts: Parts, rows: int, compute: Callable[[], Tensor], note: Note) -> Tensor:
        """As `features`, for all rows at once from a `compute` that gives the whole (rows, ...) tensor."""

        def whole(missing: Sequence[int]) -> list[Tensor]:
            features = compute()
            if len(features) != rows:
                raise ValueError(f"{len(features)} feature rows for {rows} samples")
            return [features if len(missing) == rows else features[list(missing)]]

        return self.features(parts, rows, whole, note)

    def size(self) -> int:
        """Bytes of all entries, holes of unfinished ones included."""
        return sum(_bytes(folder) for folder in self._entries())

    def clear(self) -> int:
        """Remove every entry; returns the bytes they took."""
        if not self.root.is_dir():
            return 0
        with self.locked():
            size = self.size()
            for folder in self._entries():
                shutil.rmtree(folder, ignore_errors=True)
        return size

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Held for short writes only; the system drops it when its holder dies."""
        from filelock import FileLock

        self.root.mkdir(parents=True, exist_ok=True)
        if self._lock is None:
            self._lock = FileLock(self.root / ".lock")
        with self._lock:  # one object, so that it may be taken again by its holder
            yield

    def find(self, key: Mapping[str, Any], note: Note) -> _Entry | None:
        """The entry, or None where there is none; one whose files do not fit together is removed."""
        folder = self.root / _digest(key)
        try:
            return _Entry(folder)
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError) as error:
            note(f"cached features in {folder} are damaged ({error}); computing them again")
            with suppress(OSError), self.locked():
                shutil.rmtree(folder, ignore_errors=True)
            return None

    def create(self, key: Mapping[str, Any], shape: tuple[int, ...], dtype: torch.dtype) -> _Entry:
        """A new empty entry, after older ones made room for it. The lock must be held.

        Raises:
            _TooLarge: it alone would exceed the limit.
            OSError: the folder cannot be written.
        """
        total = math.prod(shape) * dtype.itemsize + 8 * shape[0]
        if self.limit is not None and total > self.limit:
            limit = f"more than the cache limit of {self.limit / 1e9:.3g} GB"
            raise _TooLarge(f"features take {total / 1e9:.3g} GB, {limit}: not stored")
        for stale in self.root.glob(".*.tmp"):  # their writers died: new folders are made under the lock
            shutil.rmtree(stale, ignore_errors=True)
        self._evict(total)
        temporary, folder = self.root / f".{uuid.uuid4().hex}.tmp", self.root / _digest(key)
        temporary.mkdir()
        try:
            name = str(dtype).removeprefix("torch.")
            np.lib.format.open_memmap(  # type: ignore[no-untyped-call]
                temporary / "features.npy", mode="w+", dtype=name, shape=shape
            )
            np.save(temporary / "sums.npy", np.zeros(shape[0], np.uint64))
            (temporary / "entry.json").write_text(json.dumps({"parts": dict(key), "bytes": total}))
            os.replace(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return _Entry(folder)

    def explain(self, key: Mapping[str, Any], note: Note) -> None:
        """Say what differs from the closest entry of the same data, so that a changed input does not go unnoticed."""
        best: dict[str, Any] | None = None
        for folder in self._entries():
            try:
                stored = dict(json.loads((folder / "entry.json").read_text())["parts"])
            except (OSError, ValueError, KeyError, TypeError):  # damaged; found when it is wanted
                continue
            if all(stored.get(name) == key.get(name) for name in ("data", "what", "rows")):
                changes = {name for name in {*stored, *key} if stored.get(name) != key.get(name)}
                if best is None or len(changes) <= len(best["names"]):  # the latest of the closest
                    best = {"names": changes, "parts": stored}
        if best is not None:
            listed = "; ".join(_change(name, best["parts"].get(name), key.get(name)) for name in sorted(best["names"]))
            note(f"cached features of these data do not apply ({listed}); computing them")

    def _entries(self) -> list[Path]:
        """Entries, least recently used first."""
        found = []
        for path in self.root.glob("*/entry.json"):
            with suppress(OSError):
                found.append((path.stat().st_mtime_ns, path.parent))
        return [folder for _, folder in sorted(found)]

    def _evict(self, room: int) -> None:
        if self.limit is None:
            return
        sizes = {folder: _bytes(folder) for folder in self._entries()}
        total = sum(sizes.values())
        for folder, size in sizes.items():
            if total + room <= self.limit:
                return
            shutil.rmtree(folder, ignore_errors=True)
            total -= size


class _TooLarge(Exception):
    pass


class _Entry:
    """One folder of the cache, opened and mapped: it can be read and filled even after another process evicts it.

    The pages of `data` are copy-on-write: torch wants writable memory, and nothing written there reaches the file.

    Raises:
        FileNotFoundError: there is none.
        ValueError, KeyError, OSError: its files do not fit together.
    """

    def __init__(self, folder: Path) -> None:
        described = json.loads((folder / "entry.json").read_text())
        if _digest(described["parts"]) != folder.name:
            raise ValueError("entry.json is altered")
        sums = np.load(folder / "sums.npy", mmap_mode="r", allow_pickle=False)
        data = np.load(folder / "features.npy", mmap_mode="c", allow_pickle=False)
        if not sums.shape == data.shape[:1] == (described["parts"]["rows"],) or sums.dtype != np.uint64:
            raise ValueError("files do not fit together")
        if str(data.dtype) != described["parts"]["dtype"] or not data.flags.c_contiguous:
            raise ValueError("features.npy holds something else")
        self.folder = folder
        self.sum_offset, self.data_offset = int(sums.offset), int(data.offset)
        # Plain views: indexing a memmap object row by row is slow.
        self.sums, self.data = sums.view(np.ndarray), data.view(np.ndarray)
        self.files: list[BinaryIO] = []
        """features.npy and sums.npy for writing; empty where they are read-only."""
        with suppress(OSError):
            self.files.append((folder / "features.npy").open("r+b"))
            self.files.append((folder / "sums.npy").open("r+b"))

    def missing(self, rows: Sequence[int]) -> list[int]:
        wanted = np.unique(np.asarray(rows, dtype=np.int64))
        return [int(row) for row in wanted[self.sums[wanted] == 0]]

    def damaged(self, rows: Sequence[int]) -> list[int]:
        present = sorted({*rows} - {*self.missing(rows)})
        return [row for row in present if self.sums[row] != _checksum(self.data[row])]

    def rows(self, indices: Sequence[int] | None) -> Tensor:
        return torch.from_numpy(self.data if indices is None else self.data[list(indices)])

    def fill(self, rows: Sequence[int], values: Tensor) -> None:
        """Store rows that nobody stored before. Plain writes: a full disk is an error there, a signal in a mapping."""
        pairs = zip(rows, values.contiguous().numpy(), strict=True)
        fresh = [(row, value) for row, value in pairs if not self.sums[row]]
        self._write(0, self.data_offset, [(row, value.tobytes()) for row, value in fresh])
        self._write(1, self.sum_offset, [(row, _checksum(value).tobytes()) for row, value in fresh])

    def forget(self, rows: Sequence[int]) -> None:
        self._write(1, self.sum_offset, [(row, np.uint64(0).tobytes()) for row in rows])

    def _write(self, which: int, offset: int, records: Sequence[tuple[int, bytes]]) -> None:
        if len(self.files) < 2:
            raise PermissionError(errno.EACCES, "its files are read-only")
        for row, content in records:
            self.files[which].seek(offset + row * len(content))
            self.files[which].write(content)
        self.files[which].flush()

    def close(self) -> None:
        """The mapped rows stay readable."""
        for file in self.files:
            with suppress(OSError):  # the buffer of a write that failed before
                file.close()
        self.files = []


class _Filler:
    """Finds an entry and stores computed blocks in it; where that fails, it keeps them in memory and says so once."""

    def __init__(self, cache: FeatureCache, key: Mapping[str, Any], note: Note) -> None:
        self.cache, self.key, self.note = cache, key, note
        self.entry = cache.find(key, note)
        self.missing: list[int] = []
        self.done = 0
        """How many of `missing` have been added."""
        self.writable = True
        self.kept: Tensor | None = None
        self.first_kept = 0
        """Position in `missing` from which rows are kept in memory."""

    def __enter__(self) -> _Filler:
        return self

    def __exit__(self, *_: object) -> None:
        if self.entry is not None:
            self.entry.close()

    def start(self, wanted: Sequence[int]) -> list[int]:
        """The rows that have to be computed, ascending."""
        if self.entry is None:
            self.cache.explain(self.key, self.note)
            self.missing = sorted(set(wanted))
            return self.missing
        damaged = self.entry.damaged(wanted)
        if damaged:
            self.note(f"{len(damaged)} of {len(wanted)} cached feature rows are damaged; computing them again")
            self._forget(damaged)
        self.missing = sorted({*self.entry.missing(wanted), *damaged})
        with suppress(OSError):  # a read-only cache still serves
            os.utime(self.entry.folder / "entry.json")
        return self.missing

    def _forget(self, rows: Sequence[int]) -> None:
        """Mark rows as missing, unless another process mended them meanwhile."""
        assert self.entry is not None
        try:
            with self.cache.locked():
                self.entry.forget(self.entry.damaged(rows))
        except OSError as error:
            self.note(f"the cache in {self.cache.root} cannot be repaired ({error.strerror or error})")
            self.writable = False

    def add(self, block: Tensor) -> None:
        rows = self.missing[self.done : self.done + len(block)]
        if len(rows) != len(block):
            raise ValueError(f"more feature rows than the {len(self.missing)} asked for")
        if self.kept is None and not self._store(rows, block):
            self.first_kept = self.done
            self.kept = torch.empty(len(self.missing) - self.done, *block.shape[1:], dtype=block.dtype)
        if self.kept is not None:
            start = self.done - self.first_kept
            self.kept[start : start + len(block)] = block
        self.done += len(block)

    def _store(self, rows: Sequence[int], block: Tensor) -> bool:
        if block.numel() == 0 or not self.writable:
            return False
        try:
            with self.cache.locked():
                if self.entry is None:
                    self.entry = self.cache.find(self.key, self.note)  # another process may have made it meanwhile
                if self.entry is None:
                    shape = (int(self.key["rows"]), *block.shape[1:])
                    self.entry = self.cache.create(self.key, shape, block.dtype)
                self.entry.fill(rows, block)
        except _TooLarge as error:
            self.note(str(error))
        except OSError as error:
            reason = error.strerror or error
            self.note(f"features cannot be cached in {self.cache.root} ({reason}); they are computed again next time")
        else:
            return True
        return False

    def result(self, wanted: list[int], indices: Sequence[int] | None) -> Tensor:
        if self.done != len(self.missing):
            raise ValueError(f"{self.done} feature rows for {len(self.missing)} samples")
        if self.kept is None:
            return torch.empty(0) if self.entry is None else self.entry.rows(indices)
        if self.first_kept == 0 and self.missing == wanted:
            return self.kept
        place = {row: number for number, row in enumerate(self.missing[self.first_kept :])}
        result = torch.empty(len(wanted), *self.kept.shape[1:], dtype=self.kept.dtype)
        for number, row in enumerate(wanted):
            stored = self.entry.rows([row])[0] if self.entry is not None and row not in place else None
            result[number] = self.kept[place[row]] if stored is None else stored
        return result


def _as(block: Tensor, dtype: str) -> Tensor:
    block = block.detach().cpu()
    cast = block.to(getattr(torch, dtype))
    if dtype == "float16" and not bool((cast.isfinite() | ~block.isfinite()).all()):
        raise ValueError("a feature exceeds the range of float16; store float32")
    return cast


def _digest(key: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps([FORMAT, sorted(key.items())]).encode()).hexdigest()[:32]


def _checksum(row: np.ndarray[Any, Any]) -> np.uint64:
    return _PRESENT | np.uint64(zlib.crc32(row.data))


def _bytes(folder: Path) -> int:
    """What an entry was created for; holes of rows that are still missing included."""
    try:
        return int(json.loads((folder / "entry.json").read_text())["bytes"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _change(name: str, before: Any, now: Any) -> str:
    """`preprocessing: size 224 is now 384`, with JSON values compared key by key and digests cut short."""
    with suppress(ValueError, TypeError):
        old, new = json.loads(before), json.loads(now)
        if isinstance(old, dict) and isinstance(new, dict):
            names = sorted(key for key in {*old, *new} if old.get(key) != new.get(key))
            return f"{name}: " + ", ".join(_change(key, old.get(key), new.get(key)) for key in names)
    return f"{name} {_short(before)} is now {_short(now)}"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 24 else f"{text[:12]}..."
