"""Templates such as `"input: {text} output: {label}"`: how a row of a table becomes tokens, and which role every token has.

Roles are those of CPT (Blau et al., arXiv 2410.17222): 1 input template, 2 input text, 3 output template, 4 answer, 0 separator or end.
A space between two parts belongs to the later one, so that the tokens of the parts are the tokens of the whole for byte-level tokenizers,
and an answer has the same tokens in an example, as a target and as a choice.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from string import Formatter
from typing import Any

from pt_core.errors import ConfigError, DataError, UserError, nearest

from pt_language.data.chats import CHAT, MESSAGES, prompt_text, read_messages, turn_end

SEPARATOR, INPUT_TEMPLATE, INPUT, OUTPUT_TEMPLATE, ANSWER = 0, 1, 2, 3, 4


@dataclass(frozen=True)
class Tokens:
    """Token ids with the role of each."""

    ids: tuple[int, ...]
    roles: tuple[int, ...]

    def __add__(self, other: Tokens) -> Tokens:
        return Tokens(self.ids + other.ids, self.roles + other.roles)

    def __len__(self) -> int:
        return len(self.ids)


class Template:
    """A parsed template; the answer is its last field. A template of one field only is running text: all of it is the answer.

    Args:
        text: literal text with `{column}` fields.

    Raises:
        ConfigError: unbalanced braces, no field, or text behind the answer.
    """

    def __init__(self, text: str) -> None:
        self.text = text.replace("\\n", "\n")
        try:
            pieces = list(Formatter().parse(self.text))
        except ValueError as error:
            raise ConfigError(f"template {text!r} is not valid: {error}") from None
        fields = [name for _, name, _, _ in pieces if name is not None]
        if not fields or any(
            not name or spec or conversion for _, name, spec, conversion in pieces if name is not None
        ):
            raise ConfigError(f"template {text!r} needs plain {{column}} fields, the last one being the answer")
        if pieces[-1][1] is None:
            raise ConfigError(
                f"template {text!r} has text behind the answer field {{{fields[-1]}}}; the answer must come last"
            )
        if fields[-1] in fields[:-1]:
            raise ConfigError(f"template {text!r} shows the answer field {{{fields[-1]}}} in the input")
        self.pieces = [(literal, str(name)) for literal, name, _, _ in pieces]
        self.inputs, self.answer = fields[:-1], fields[-1]
        self.is_chat = self.text == CHAT

    def check_columns(self, columns: Sequence[str], where: str, answer: bool = True) -> None:
        """Refuse a template whose fields are not columns.

        Raises:
            DataError: names the missing column and what there is.
        """
        for field in [*self.inputs, *([self.answer] if answer else [])]:
            if field not in columns:
                raise DataError(
                    f"{where} has no column {field!r}{nearest(field, columns)} that template {self.text!r} asks for; "
                    f"it has: {', '.join(columns)}"
                )

    @cached_property
    def answer_space(self) -> str:
        """White space that the answer starts with: a space before the answer field, if there is one."""
        return " " if self.pieces[-1][0].endswith(" ") else ""

    def parts(self, row: Mapping[str, str]) -> list[tuple[str, int]]:
        """(text, role) of everything before the answer."""
        found: list[tuple[str, int]] = []
        carried = ""
        for number, (literal, field) in enumerate(self.pieces):
            last = number == len(self.pieces) - 1
            role = OUTPUT_TEMPLATE if last else INPUT_TEMPLATE
            lead = re.match(r"\s*\n\s*", literal) if last and number else None
            if lead:
                found.append((carried + lead[0], SEPARATOR))
                carried, literal = "", literal[lead.end() :]
            body = literal[:-1] if literal.endswith(" ") else literal
            if body:
                found.append((carried + body, role))
                carried = ""
            carried += literal[len(body) :]
            if not last:
                found.append((carried + row[field], INPUT))
                carried = ""
        return [(text, role) for text, role in found if text]


class Encoder:
    """Turns parts into tokens of one tokenizer, without special tokens; `begin` and `close` are what it puts around a whole text.

    Tokenizers that mark the start of a word by themselves (SentencePiece) get parts without the space that they would double.

    Raises:
        UserError: there is no tokenizer.
    """

    def __init__(self, tokenizer: Any) -> None:
        if tokenizer is None:
            raise UserError(
                "texts and label words need a tokenizer: give it with the network (tokenizer=, or pt_language.adapt(network, tokenizer) "
                "where a backbone is asked for), or use scoring='head' and token ids"
            )
        self.tokenizer = tokenizer
        whole = self._ids("a word")
        self.strips = whole != self._ids("a") + self._ids(" word") and whole == self._ids("a") + self._ids("word")

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def encode(self, text: str, role: int) -> Tokens:
        """Tokens of one part."""
        ids = self._ids(text.removeprefix(" ") if self.strips else text)
        return Tokens(tuple(ids), (role,) * len(ids))

    def source(self, template: Template, row: Mapping[str, str], longest: int | None = None) -> Tokens:
        """The text before the answer; input texts are cut to `longest` tokens each where it is given."""
        if template.is_chat:
            return self._conversation(row, longest)
        whole = Tokens((), ())
        for text, role in template.parts(row):
            part = self.encode(text, role)
            if role == INPUT and longest is not None:
                part = Tokens(part.ids[:longest], part.roles[:longest])
            whole = whole + part
        return whole

    def _conversation(self, row: Mapping[str, str], longest: int | None) -> Tokens:
        try:
            messages = read_messages(row[MESSAGES])
        except ValueError as error:
            raise DataError(str(error)) from None
        ids = self._ids(prompt_text(self.tokenizer, messages))
        if longest is not None and len(ids) > longest:
            raise DataError(
                f"a conversation has {len(ids)} tokens, more than --max-text-tokens {longest}; conversations are not cut"
            )
        return Tokens(tuple(ids), (INPUT,) * len(ids))

    def end_of(self, template: Template) -> int | None:
        """The token behind an answer: that of the chat template's turns, or the one that ends a text."""
        found = turn_end(self.tokenizer) if template.is_chat else None
        return self.end if found is None else found

    def answer(self, template: Template, text: str) -> Tokens:
        """The answer's tokens, as they follow the text."""
        return self.encode(template.answer_space + text, ANSWER)

    @cached_property
    def around(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """(begin, close): what the tokenizer itself puts in front of and behind one text ([CLS] and [SEP] of BERT, </s> of T5, <s> of
        Llama, nothing of GPT-2)."""
        whole = self.tokenizer("a word", return_special_tokens_mask=True, verbose=False)
        ids, special = list(whole["input_ids"]), list(whole["special_tokens_mask"])
        first = special.index(0) if 0 in special else len(ids)
        last = len(special) - special[::-1].index(0) if 0 in special else len(ids)
        return tuple(ids[:first]), tuple(ids[last:])

    @property
    def end(self) -> int | None:
        """The token that ends a text, or None where the tokenizer has none."""
        found = self.tokenizer.eos_token_id
        return found if found is not None else self.tokenizer.sep_token_id
