"""Several accepted answers of one text: a list of texts as the answer of a row, or SQuAD's mapping with `text`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pt_core.errors import DataError

from pt_language.data.tables import Nested, Table

References = Sequence[tuple[str, ...]]
"""Accepted answers of every row, the first of which is learned."""


def with_references(
    tables: Mapping[str, Table], answer: str, spec: str
) -> tuple[dict[str, Table], dict[str, References]]:
    """(tables whose answers are the first ones, role -> accepted answers) where answers of a part are lists; a row with one text has one.

    Raises:
        DataError: an answer that is neither a text nor a list of texts; names the row.
    """
    first, found = dict(tables), dict[str, References]()
    if not any(isinstance(row.get(answer), Nested) for table in tables.values() for row in table.rows):
        return first, found
    for role, table in tables.items():
        pairs = zip(table.rows, table.ids, strict=True)
        found[role] = [_accepted(row.get(answer, ""), f"row {name!r} of {spec}", answer) for row, name in pairs]
        rows = [{**row, answer: given[0]} for row, given in zip(table.rows, found[role], strict=True)]
        several = sum(len(given) > 1 for given in found[role])
        told = "the first is learned, metrics accept every one"
        note = f"{several} of {len(rows)} rows of the {role} part have several answers in {answer!r}: {told}"
        first[role] = Table(table.columns, rows, table.ids, [*table.notes, *([note] if several else [])])
    return first, found


def _accepted(cell: str, where: str, answer: str) -> tuple[str, ...]:
    if not isinstance(cell, Nested):
        return (cell,)  # whether it is empty is asked of all cells
    value: Any = json.loads(cell)
    texts = value.get("text") if isinstance(value, dict) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise DataError(f"{where} has {cell.kind} as {answer!r} ({cell[:60]}); an answer is a text or a list of texts")
    if not texts or not all(text.strip() for text in texts):
        leave = f"; leave such rows out with --where '{answer}!={cell}'" if len(cell) < 40 and "|" not in cell else ""
        raise DataError(f"{where} has an empty {answer!r} ({cell[:60]}){leave}")
    return tuple(dict.fromkeys(texts))


def place_of(ids: Sequence[str], references: References) -> str:
    """A row with several answers, for messages; there may be some in another part only."""
    found = next((name for name, given in zip(ids, references, strict=True) if len(given) > 1), None)
    return "a row" if found is None else f"row {found!r}"
