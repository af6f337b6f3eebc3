"""From a path to rows with a template, and to classes where the answers are a few words that repeat."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from pt_core.errors import DataError

from pt_language.data.chats import CHAT, chat_columns, turns
from pt_language.data.references import References, with_references
from pt_language.data.tables import Nested, Table, read_tables
from pt_language.data.templates import Template
from pt_language.data.texts import TextDataset
from pt_language.options import DataOptions

TEXT_COLUMNS = (
    *("instruction", "context", "passage", "document", "article", "premise", "hypothesis", "sentence1", "sentence2"),
    *("question1", "question2", "question", "query", "text", "sentence", "input", "prompt", "utterance", "utt"),
)
"""Usual names of text columns, in the order in which a default template shows them."""
CLASS_COLUMNS = ("label", "intent", "class", "category")
"""Usual names of columns whose values are classes, however often they occur."""
ANSWER_COLUMNS = (
    *("label", "answer", "output", "response", "target", "completion", *CLASS_COLUMNS[1:]),
    *("answers", "references", "reference"),
)
LONGEST_CLASS = 200
"""Characters of a class name, beyond which an answer is free text."""


def load_text(spec: str, options: DataOptions) -> dict[str, TextDataset]:
    """Roles found behind a path, `builtin:NAME` or `hub:NAME`; a column of classes, or answers with few distinct short values, are classes.
    Lists of texts as answers are several accepted ones; they are none in a column of classes.

    Raises:
        DataError: nothing readable there, a missing column (named), an empty class or text, a cell that is no text, a limit below the
            number of classes.
        ConfigError: a template that cannot be used.
    """
    tables = read_tables(spec, options.split_column, options.where)
    first = next(iter(tables.values()))
    columns = chat_columns(first.columns, first.rows[0]) if options.template in (None, CHAT) else ()
    if columns:
        return {
            role: _limited(_chats(table, columns, spec), role, options.limit, spec) for role, table in tables.items()
        }
    template = Template(options.template or default_template(first))
    chosen = [] if options.template else [f"template: {template.text!r}, from the columns; --template takes another"]
    found: dict[str, TextDataset] = {}
    references: Mapping[str, References] = {}
    if template.inputs and template.answer not in CLASS_COLUMNS:
        tables, references = with_references(tables, template.answer, spec)
    for role, table in tables.items():
        template.check_columns(table.columns, f"the {role} part of {spec}")
        notes = [*chosen, *table.notes, *_check_cells(table, template, spec, role)]
        found[role] = TextDataset(
            table.rows, table.ids, template, None, notes=tuple(notes), references=references.get(role)
        )
        chosen = []
    if "train" in found and found["train"].references is None and are_classes(found["train"]):
        found = with_labels(found)
    return {role: _limited(part, role, options.limit, spec) for role, part in found.items()}


def _chats(table: Table, columns: Sequence[str], spec: str) -> TextDataset:
    """A row for each turn of the assistant; the turns of a conversation are one group."""
    rows, ids, owners = turns(table.rows, table.ids, columns, spec)
    note = f"conversations: {len(rows)} turns of the assistant in {len(table.rows)} of them, through the tokenizer's chat template"
    return TextDataset(rows, ids, Template(CHAT), None, notes=(note, *table.notes), groups=owners)


def _check_cells(table: Table, template: Template, spec: str, role: str) -> list[str]:
    """Notes on empty texts beside others, which many sets of instructions have.

    Raises:
        DataError: an empty answer, a row without any text, a list or mapping as cell.
    """
    empty = dict.fromkeys(template.inputs, 0)
    for row, name in zip(table.rows, table.ids, strict=True):
        for field in (*template.inputs, template.answer):
            cell = row[field]
            if isinstance(cell, Nested):
                raise DataError(
                    f"row {name!r} of {spec} has {cell.kind} as {field!r} ({cell[:60]}); every cell must be one text or number"
                )
        void = [field for field in template.inputs if not row[field].strip()]
        if not row[template.answer].strip() or (void and len(void) == len(template.inputs)):
            field = template.answer if not row[template.answer].strip() else void[0]
            raise DataError(
                f"row {name!r} of {spec} has an empty {field!r}; leave such rows out with --where '{field}!='"
            )
        for field in void:
            empty[field] += 1
    return [f"{count} rows of the {role} part have an empty {field!r}" for field, count in empty.items() if count]


def are_classes(data: TextDataset) -> bool:
    """Whether the answers are classes: short, and in a column of classes, or most of them several times."""
    answers = [row[data.template.answer] for row in data.rows]
    distinct = set(answers)
    if not data.template.inputs or any(len(answer) > LONGEST_CLASS for answer in distinct):
        return False
    if data.template.answer in CLASS_COLUMNS:
        return len(distinct) > 1
    short = all(len(answer.split()) <= 6 for answer in distinct)
    return short and 2 * len(distinct) <= max(4, len(answers))


def _limited(data: TextDataset, role: str, limit: int | None, spec: str) -> TextDataset:
    """At most `limit` rows, the first of a shuffle; where these lack a class, its first row stands in for the last one of a larger class.

    Raises:
        DataError: more classes than rows in the training part.
    """
    if limit is None or len(data) <= limit:
        return data
    order = sorted(range(len(data)), key=lambda i: hashlib.sha256(f"{data.ids[i]}".encode()).digest())
    kept = order[:limit]
    if data.labels is not None:
        labels = data.labels
        if role == "train" and limit < len(data.classes):
            raise DataError(
                f"--limit {limit} leaves out classes: {spec} has {len(data.classes)}; give at least as many rows"
            )
        counts = Counter(labels[i] for i in kept)
        for row in order[limit:]:
            if labels[row] not in counts:
                given = next((i for i in reversed(kept) if counts[labels[i]] > 1), None)
                if given is None:
                    break
                counts[labels[given]] -= 1
                counts[labels[row]] += 1
                kept[kept.index(given)] = row
    kept = sorted(kept)
    return replace(
        data,
        rows=[data.rows[i] for i in kept],
        ids=[data.ids[i] for i in kept],
        labels=None if data.labels is None else [data.labels[i] for i in kept],
        groups=None if data.groups is None else [data.groups[i] for i in kept],
        references=None if data.references is None else [data.references[i] for i in kept],
    )


def with_labels(data: Mapping[str, TextDataset]) -> dict[str, TextDataset]:
    """The same data with the distinct answers of the training part as classes, in sorted order."""
    template = data["train"].template
    answers = {row[template.answer] for row in data["train"].rows}
    numeric = all(answer.isdecimal() for answer in answers)
    names = tuple(sorted(answers, key=int) if numeric else sorted(answers))
    position = {name: number for number, name in enumerate(names)}
    labelled = {}
    for role, dataset in data.items():
        dataset.refuse_references()
        unknown = sorted({row[template.answer] for row in dataset.rows} - answers) if dataset.answered else []
        if unknown:
            raise DataError(f"the {role} part has class {unknown[0]!r}, which the training part lacks")
        labels = [position[row[template.answer]] for row in dataset.rows] if dataset.answered else None
        labelled[role] = replace(dataset, labels=labels, classes=names)
    return labelled


def default_template(table: Table) -> str:
    """`input: {text} output: {answer}`; with several text columns of usual names `{name}: {text}` for each of them, in the order of
    TEXT_COLUMNS.

    Raises:
        DataError: no column has a usual name; asks for a template.
    """
    texts = [name for name in TEXT_COLUMNS if name in table.columns]
    answer = next((name for name in ANSWER_COLUMNS if name in table.columns), None)
    if texts and len(table.columns) == 1:
        return f"{{{texts[0]}}}"
    if not texts or answer is None:
        raise DataError(
            f"the columns {', '.join(table.columns)} do not tell which is the text and which the answer; "
            "give --template, such as 'question: {question} answer: {answer}'"
        )
    if len(texts) == 1:
        return f"input: {{{texts[0]}}} output: {{{answer}}}"
    return " ".join(f"{name}: {{{name}}}" for name in texts) + f" output: {{{answer}}}"
