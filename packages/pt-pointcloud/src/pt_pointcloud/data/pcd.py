"""Point Cloud Library's .pcd files: ascii, binary and binary_compressed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pt_core.errors import DataError

KINDS = {"F": "f", "I": "i", "U": "u"}
NEEDED = ("FIELDS", "SIZE", "TYPE", "POINTS", "DATA")
LARGEST = 4 * 10**9
"""Bytes of one file's points; a header that says more is not believed."""


def read_pcd(path: Path, shown: str) -> NDArray[np.float64]:
    """(point, 3). Points without a measurement (NaN, as organised clouds mark them) are left out.

    Raises:
        DataError: no such header, no x, y, z, or data of another length.
    """
    content = path.read_bytes()
    head, start = _header(content, shown)
    names, sizes, kinds = head["FIELDS"], head["SIZE"], head["TYPE"]
    counts = head.get("COUNT", ["1"] * len(names))
    try:
        points = int(head["POINTS"][0])
        widths = [int(size) * int(count) for size, count in zip(sizes, counts, strict=True)]
        types = [f"<{KINDS[kind]}{int(size)}" for kind, size in zip(kinds, sizes, strict=True)]
        offsets = dict(zip(names, np.cumsum([0, *widths[:-1]]).tolist(), strict=True))
        formats = {name: np.dtype(kind) for name, kind in zip(names, types, strict=True)}
        columns = dict(zip(names, np.cumsum([0, *(int(c) for c in counts)][:-1]).tolist(), strict=True))
    except (ValueError, KeyError, TypeError, IndexError):
        raise DataError(f"cloud {shown!r}: its header's FIELDS, SIZE, TYPE and COUNT do not fit together") from None
    if not {"x", "y", "z"} <= set(names):
        raise DataError(f"cloud {shown!r} has no fields x, y and z; it has {', '.join(names)}")
    record = sum(widths)
    if points < 0 or min(widths) < 1 or points * record > LARGEST:
        raise DataError(f"cloud {shown!r}: its header announces {points} points of {record} bytes")
    data, how = content[start:], head["DATA"][0]
    if how == "ascii":
        table = np.loadtxt(data.decode("utf-8").splitlines(), ndmin=2)
        if len(table) != points:
            raise DataError(f"cloud {shown!r} announces {points} points and has {len(table)}")
        found = np.stack([table[:, columns[axis]] for axis in "xyz"], 1)
    elif how == "binary":
        if len(data) < points * record:
            raise DataError(f"cloud {shown!r} announces {points} points and is cut after {len(data) // max(record, 1)}")
        layout = np.dtype({"names": list("xyz"), "formats": [formats[a] for a in "xyz"],
                           "offsets": [offsets[a] for a in "xyz"], "itemsize": record})  # fmt: skip
        rows = np.frombuffer(data, layout, points)
        found = np.stack([rows[axis].astype(np.float64) for axis in "xyz"], 1)
    elif how == "binary_compressed":
        packed, plain = (int.from_bytes(data[at : at + 4], "little") for at in (0, 4))
        if plain != points * record or len(data) < 8 + packed:
            raise DataError(f"cloud {shown!r} announces {points} points, its compressed data are of another length")
        unpacked = unpack_lzf(data[8 : 8 + packed], plain, shown)
        # One field after the other, each for all points.
        found = np.stack(
            [np.frombuffer(unpacked, formats[a], points, offsets[a] * points).astype(np.float64) for a in "xyz"], 1
        )
    else:
        raise DataError(f"cloud {shown!r} has DATA {how!r}; known: ascii, binary, binary_compressed")
    return found[~np.isnan(found).any(1)]


def _header(content: bytes, shown: str) -> tuple[dict[str, list[str]], int]:
    head: dict[str, list[str]] = {}
    start = 0
    while "DATA" not in head:
        end = content.find(b"\n", start)
        if end < 0 or end > 100_000:
            raise DataError(f"cloud {shown!r} has no header of a .pcd file (FIELDS ... DATA)")
        words = content[start:end].decode("ascii", "replace").split()
        start = end + 1
        if words and not words[0].startswith("#"):
            head[words[0].upper()] = words[1:]
    missing = [name for name in NEEDED if not head.get(name)]
    if missing:
        raise DataError(f"cloud {shown!r}: its header lacks {', '.join(missing)}")
    return head, start


def unpack_lzf(packed: bytes, size: int, shown: str) -> bytes:
    """LZF: a control byte below 32 is followed by that many + 1 literal bytes; another one (and a byte more for length 7) gives the length
    and, with the next byte, the distance of what is repeated.

    Raises:
        DataError: damaged data.
    """
    out, at = bytearray(), 0
    try:
        while at < len(packed):
            control = packed[at]
            at += 1
            if control < 32:
                out += packed[at : at + control + 1]
                at += control + 1
                continue
            length = control >> 5
            if length == 7:
                length += packed[at]
                at += 1
            first = len(out) - ((control & 31) << 8) - packed[at] - 1
            at += 1
            if first < 0 or len(out) > size:
                raise IndexError
            length += 2
            while length > 0:  # a repetition may reach into itself
                piece = out[first : first + length]
                out += piece
                first, length = first + len(piece), length - len(piece)
    except IndexError:
        raise DataError(f"cloud {shown!r}: its compressed data are damaged") from None
    if len(out) != size:
        raise DataError(f"cloud {shown!r}: its compressed data are damaged")
    return bytes(out)
