"""From a path to rows with a template, and to classes where the answers are a few words that repeat."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace

from pt_core.errors import DataError

from pt_language.data.tables import Table, read_tables
from pt_language.data.templates import Template
from pt_language.data.texts import TextDataset
from pt_language.options import DataOptions

TEXT_COLUMNS = ("text", "sentence", "question", "instruction", "input", "prompt", "document", "utt")
ANSWER_COLUMNS = ("label", "answer", "output", "response", "target", "completion", "intent", "class", "category")


def load_text(spec: str, options: DataOptions) -> dict[str, TextDataset]:
    """Roles found behind a path, `builtin:NAME` or `hub:NAME`; answers with few distinct short values count as classes.

    Raises:
        DataError: nothing readable there, a missing column (named), an empty class or text.
        ConfigError: a template that cannot be used.
    """
    tables = read_tables(spec, options.split_column, options.where)
    first = next(iter(tables.values()))
    template = Template(options.template or default_template(first))
    found: dict[str, TextDataset] = {}
    for role, table in tables.items():
        template.check_columns(table.columns, f"the {role} part of {spec}")
        rows, ids = table.rows, table.ids
        if options.limit is not None and len(rows) > options.limit:
            order = sorted(range(len(rows)), key=lambda i: hashlib.sha256(f"{ids[i]}".encode()).digest())[
                : options.limit
            ]
            rows, ids = [rows[i] for i in sorted(order)], [ids[i] for i in sorted(order)]
        for row, name in zip(rows, ids, strict=True):
            empty = next((field for field in (*template.inputs, template.answer) if not row[field].strip()), None)
            if empty is not None:
                raise DataError(
                    f"row {name!r} of {spec} has an empty {empty!r}; leave such rows out with --where '{empty}!='"
                )
        found[role] = TextDataset(rows, ids, template, None, notes=tuple(table.notes))
    return with_labels(found) if "train" in found and _few_answers(found["train"]) else found


def _few_answers(data: TextDataset) -> bool:
    """Whether the answers look like classes: short, and most of them occur several times."""
    answers = [row[data.template.answer] for row in data.rows]
    distinct = set(answers)
    short = all(len(answer.split()) <= 6 for answer in distinct)
    return bool(data.template.inputs) and short and 2 * len(distinct) <= max(4, len(answers))


def with_labels(data: Mapping[str, TextDataset]) -> dict[str, TextDataset]:
    """The same data with the distinct answers of the training part as classes, in sorted order."""
    template = data["train"].template
    answers = {row[template.answer] for row in data["train"].rows}
    numeric = all(answer.isdecimal() for answer in answers)
    names = tuple(sorted(answers, key=int) if numeric else sorted(answers))
    position = {name: number for number, name in enumerate(names)}
    labelled = {}
    for role, dataset in data.items():
        unknown = sorted({row[template.answer] for row in dataset.rows} - answers) if dataset.answered else []
        if unknown:
            raise DataError(f"the {role} part has class {unknown[0]!r}, which the training part lacks")
        labels = [position[row[template.answer]] for row in dataset.rows] if dataset.answered else None
        labelled[role] = replace(dataset, labels=labels, classes=names)
    return labelled


def default_template(table: Table) -> str:
    """`input: {text} output: {answer}` with the first columns of a usual name.

    Raises:
        DataError: no column has a usual name; asks for a template.
    """
    text = next((name for name in TEXT_COLUMNS if name in table.columns), None)
    answer = next((name for name in ANSWER_COLUMNS if name in table.columns and name != text), None)
    if text is not None and len(table.columns) == 1:
        return f"{{{text}}}"
    if text is None or answer is None:
        raise DataError(
            f"the columns {', '.join(table.columns)} do not tell which is the text and which the answer; "
            "give --template, such as 'question: {question} answer: {answer}'"
        )
    return f"input: {{{text}}} output: {{{answer}}}"
