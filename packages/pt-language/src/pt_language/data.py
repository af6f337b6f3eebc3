"""Text data: rows of tables, JSON lines and hub data sets, rendered by a template into token sequences."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import torch
from annotated_types import Ge, Gt, Lt
from pt_core.bridges.answers import IGNORED
from pt_core.data import Batch
from pt_core.errors import DataError
from torch import Tensor

from pt_language.adapters import LanguageBackbone
from pt_language.sources import Table, read_tables
from pt_language.templates import SEPARATOR, Encoder, Template, Tokens

if TYPE_CHECKING:
    from pt_language.tasks.text import TextTask

TEXT_COLUMNS = ("text", "sentence", "question", "instruction", "input", "prompt", "document", "utt")
ANSWER_COLUMNS = ("label", "answer", "output", "response", "target", "completion", "intent", "class", "category")


@dataclass(frozen=True)
class DataOptions:
    """How text data are read."""

    template: str | None = None
    """How a row becomes text; the last field is the answer (default: `input: {text} output: {label}` with the columns found)."""
    where: tuple[str, ...] = ()
    """Use only rows with COLUMN=VALUE or COLUMN!=VALUE; several values with |. All conditions must hold."""
    split_column: str | None = None
    """Column with train, val or test (default: split, where there is one)."""
    val_fraction: Annotated[float, Gt(0), Lt(1)] = 0.2
    """Share of the training part that is split off where the data have no validation part."""
    test_fraction: Annotated[float, Ge(0), Lt(1)] = 0.2
    """Share that is split off as test part where the data have neither validation nor test part (0: none)."""
    limit: Annotated[int, Ge(1)] | None = None
    """Use at most this many rows of every part (the first ones of a seeded shuffle)."""
    recompute: bool = False
    """Checkpoint every block of the model while training: less memory, one more forward pass."""
    max_text_tokens: Annotated[int, Ge(1)] | None = None
    """Cut every input text to this many tokens (default: a text that does not fit is an error, nothing is cut)."""


@dataclass(frozen=True)
class TextDataset:
    """Rows with a template; `bind` makes it token sequences.

    Attributes:
        rows: column -> text.
        ids: names of the rows.
        template: how a row is read.
        labels, classes: class index per row and the class names, or None and () where answers are free text.
        answered: whether rows have an answer.
    """

    rows: Sequence[Mapping[str, str]]
    ids: Sequence[str]
    template: Template
    labels: Sequence[int] | None
    classes: tuple[str, ...] = ()
    answered: bool = True
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    def relabel(self, names: Sequence[str]) -> TextDataset:
        """The same rows with indices into other class names.

        Raises:
            DataError: a class that is not among `names`.
        """
        unknown = sorted(set(self.classes) - set(names))
        if unknown:
            raise DataError(f"class {unknown[0]!r} does not occur in the training data; known: {', '.join(names)}")
        position = [list(names).index(name) for name in self.classes]
        labels = None if self.labels is None else [position[label] for label in self.labels]
        return replace(self, labels=labels, classes=tuple(names))

    def digests(self) -> list[str]:
        return [
            hashlib.sha256("\x1f".join(row[name] for name in self.template.inputs).encode()).hexdigest()
            for row in self.rows
        ]

    def identity(self) -> str:
        total = hashlib.sha256(repr((self.template.text, self.classes)).encode())
        for row in self.rows:
            total.update(repr(sorted(row.items())).encode())
        return total.hexdigest()

    def sample(self, index: int, *, epoch: int | None, seed: int) -> Any:
        raise TypeError("bind the data to a backbone first")

    def collate(self, index: Sequence[int], samples: Sequence[Any]) -> Batch:
        raise TypeError("bind the data to a backbone first")

    def bind(self, backbone: LanguageBackbone, task: TextTask, longest: int | None = None) -> TokenDataset:
        """Token sequences for a backbone; the task tells whether answers are classes, and with which words."""
        encoder = Encoder(backbone.tokenizer)
        begin = backbone.tokenizer.bos_token_id if backbone.tokenizer.bos_token_id is not None else encoder.end
        samples = []
        for number, row in enumerate(self.rows):
            source = encoder.source(self.template, row, longest)
            if not self.template.inputs and begin is not None:
                source = Tokens((begin,), (SEPARATOR,)) + source
            if not len(source):
                raise DataError(
                    f"row {self.ids[number]!r} has no text: template {self.template.text!r} gives zero tokens"
                )
            label = self.labels[number] if task.closed and self.labels is not None and self.answered else None
            answer = None
            if self.answered:
                text = row[self.template.answer] if label is None else task.words[label]
                answer = encoder.answer(self.template, text)
                if not len(answer):
                    raise DataError(f"row {self.ids[number]!r} has an answer of zero tokens ({text!r})")
            samples.append(TextSample(source, answer, label))
        return TokenDataset(samples, self, encoder.end, task.closed)


@dataclass(frozen=True)
class TextSample:
    """A tokenised row.

    Attributes:
        source: everything before the answer.
        answer: the answer's tokens without an end token; None where the row has none.
        label: class index, or None.
    """

    source: Tokens
    answer: Tokens | None
    label: int | None


class TokenDataset:
    """Tokenised rows. Batches pad texts on the left and answers on the right, so that every text ends where its answer begins.

    `batch.inputs`: ids, mask, roles (batch, text). `batch.extra["answer"]`: (batch, answer) ids, padded by IGNORED, with the end token
    where answers are free text. `batch.target`: class indices, or the answer ids.
    """

    augmented = False

    def __init__(self, samples: Sequence[TextSample], base: TextDataset, end: int | None, closed: bool) -> None:
        self.samples, self.base, self.end, self.closed = samples, base, end, closed
        self.ids, self.labels = base.ids, base.labels

    def __len__(self) -> int:
        return len(self.ids)

    def sample(self, index: int, *, epoch: int | None, seed: int) -> TextSample:
        return self.samples[index]

    def collate(self, index: Sequence[int], samples: Sequence[Any]) -> Batch:
        ids, mask = pad([sample.source.ids for sample in samples], left=True)
        roles, _ = pad([sample.source.roles for sample in samples], left=True)
        inputs = {"ids": ids, "mask": mask, "roles": roles}
        extra: dict[str, Any] = {}
        target: Tensor | None = None
        if all(sample.answer is not None for sample in samples):
            tail = () if self.closed or self.end is None else (self.end,)
            answer, real = pad([(*sample.answer.ids, *tail) for sample in samples], left=False)
            extra["answer"] = target = answer.masked_fill(real == 0, IGNORED)
        if samples[0].label is not None:
            target = torch.tensor([sample.label for sample in samples])
        rows = torch.tensor(list(index), dtype=torch.long)
        return Batch(inputs, target, rows, [self.ids[i] for i in index], extra)

    def identity(self) -> str:
        return self.base.identity()

    def longest(self) -> tuple[int, str]:
        """(tokens, id) of the longest row, answer and end included."""
        sizes = [len(s.source) + (len(s.answer) + 1 if s.answer is not None else 0) for s in self.samples]
        row = max(range(len(sizes)), key=sizes.__getitem__)
        return sizes[row], self.ids[row]


def pad(rows: Sequence[Sequence[int]], left: bool) -> tuple[Tensor, Tensor]:
    """(values, mask), both (rows, longest); padding has value and mask 0."""
    width = max(len(row) for row in rows)
    values = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for number, row in enumerate(rows):
        place = slice(width - len(row), width) if left else slice(0, len(row))
        values[number, place] = torch.tensor(list(row), dtype=torch.long)
        mask[number, place] = 1
    return values, mask


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
