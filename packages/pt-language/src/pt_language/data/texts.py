"""Rows of text with a template, before they are tokenised for a backbone."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from pt_core.data import Batch
from pt_core.errors import DataError

from pt_language.adapters.base import LanguageBackbone
from pt_language.data.references import References, place_of
from pt_language.data.templates import Encoder, Template
from pt_language.data.tokens import TextSample, TokenDataset


class AnswerSpace(Protocol):
    """What a task says of its answers: whether they are classes, and the answer of every class."""

    closed: bool
    special_tokens: bool

    @property
    def words(self) -> Sequence[str]: ...


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
    groups: Sequence[str] | None = None
    """Of rows that belong together, such as the turns of a conversation; they stay in one part."""
    references: References | None = None
    """Accepted answers of every row, the one in `rows` first, where the data have lists of them."""

    def __len__(self) -> int:
        return len(self.ids)

    def refuse_references(self) -> None:
        """Raises:
        DataError: answers are lists, which are no classes; names the row.
        """
        if self.references is not None:
            raise DataError(
                f"{place_of(self.ids, self.references)} has a list as {self.template.answer!r}; "
                "a class is one text: give one, or let answers be written (--task generation)"
            )

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
        if self.references is not None:
            total.update(repr(list(self.references)).encode())
        return total.hexdigest()

    def sample(self, index: int, *, epoch: int | None, seed: int) -> Any:
        raise TypeError("bind the data to a backbone first")

    def collate(self, index: Sequence[int], samples: Sequence[Any]) -> Batch:
        raise TypeError("bind the data to a backbone first")

    def bind(self, backbone: LanguageBackbone, task: AnswerSpace, longest: int | None = None) -> TokenDataset:
        """Token sequences for a backbone; the task tells whether answers are classes, and with which words."""
        if task.closed:
            self.refuse_references()
        encoder = Encoder(backbone.tokenizer)
        begin, close = backbone.around(encoder.around) if task.special_tokens else ((), ())
        if not self.template.inputs and not begin:  # running text: its first word is predicted from something
            first = backbone.tokenizer.bos_token_id if backbone.tokenizer.bos_token_id is not None else encoder.end
            begin = () if first is None else (first,)
        samples = []
        for number, row in enumerate(self.rows):
            source = encoder.source(self.template, row, longest)
            if not len(source) and (self.template.inputs or not begin):
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
            accepted = () if self.references is None or answer is None else self.references[number]
            others = tuple(encoder.answer(self.template, text) for text in accepted[1:])
            samples.append(TextSample(source, answer, label, others))
        return TokenDataset(samples, self, encoder.end_of(self.template), task.closed, begin, close)
