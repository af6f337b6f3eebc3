"""Records as Arrow columns. pyarrow looks at a Python list with pandas, which takes a second to import; buffers it takes as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa


def arrow_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """A column per name, in the order in which names appear; null where a record lacks the name or has None."""
    import pyarrow as pa

    names = list(dict.fromkeys(name for row in rows for name in row))
    return pa.Table.from_arrays([_column([row.get(name) for row in rows]) for name in names], names=names)


def _column(values: Sequence[Any]) -> pa.Array:
    import pyarrow as pa

    kinds = {type(value) for value in values if value is not None}
    if not kinds:
        return pa.nulls(len(values))
    if kinds == {str}:
        texts = [b"" if value is None else value.encode() for value in values]
        ends = np.cumsum([0, *map(len, texts)])
        if ends[-1] < 2**31:
            return pa.StringArray.from_buffers(
                len(values),
                pa.py_buffer(ends.astype(np.int32).tobytes()),
                pa.py_buffer(b"".join(texts)),
                _present(values),
            )
    filled = [0 if value is None else value for value in values]
    if kinds == {bool}:
        bits = np.packbits(np.asarray(filled, dtype=bool), bitorder="little").tobytes()
        return pa.Array.from_buffers(pa.bool_(), len(values), [_present(values), pa.py_buffer(bits)])
    if kinds == {int} and all(-(2**63) <= value < 2**63 for value in filled):
        data = np.asarray(filled, dtype=np.int64).tobytes()
        return pa.Array.from_buffers(pa.int64(), len(values), [_present(values), pa.py_buffer(data)])
    if kinds <= {int, float}:
        data = np.asarray(filled, dtype=np.float64).tobytes()
        return pa.Array.from_buffers(pa.float64(), len(values), [_present(values), pa.py_buffer(data)])
    return pa.array(values)  # anything else is rare, and may take its time


def _present(values: Sequence[Any]) -> pa.Buffer | None:
    """The bitmap of values that are there; None where all are."""
    import pyarrow as pa

    if all(value is not None for value in values):
        return None
    return pa.py_buffer(np.packbits([value is not None for value in values], bitorder="little").tobytes())
