"""Conversations: each turn of the assistant is a row, the messages before it are its text, through the tokenizer's own chat template.

So the loss falls on what the assistant says and on nothing else. Read are `messages` ({role, content}), `conversations` ({from, value}),
and `prompt` with `completion` as two lists of messages.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pt_core.errors import DataError, UserError

CHAT = "{messages}{reply}"
"""The template of conversations."""
MESSAGES, REPLY = "messages", "reply"
NAMES = {"human": "user", "gpt": "assistant", "bot": "assistant", "developer": "system"}
"""What roles are called elsewhere."""


def chat_columns(columns: Sequence[str], row: Mapping[str, str]) -> tuple[str, ...]:
    """The columns that hold a conversation; none where there is no such."""
    for names in (("messages",), ("conversations",), ("prompt", "completion")):
        if all(name in columns and _is_list(row.get(name, "")) for name in names):
            return names
    return ()


def turns(
    rows: Sequence[Mapping[str, str]], ids: Sequence[str], columns: Sequence[str], where: str
) -> tuple[list[dict[str, str]], list[str], list[str]]:
    """(rows, ids, conversation) with a row for each turn of the assistant.

    Raises:
        DataError: names a conversation that cannot be read, or without such a turn.
    """
    found: list[dict[str, str]] = []
    names: list[str] = []
    owners: list[str] = []
    for row, name in zip(rows, ids, strict=True):
        try:
            messages = [one for column in columns for one in read_messages(row[column])]
        except ValueError as error:
            raise DataError(f"row {name!r} of {where}: {error}") from None
        places = [n for n, one in enumerate(messages) if one["role"] == "assistant" and n]
        if not places:
            raise DataError(f"row {name!r} of {where} has no turn of the assistant behind another message")
        for place in places:
            if not messages[place]["content"].strip():
                raise DataError(f"row {name!r} of {where}: message {place} of the assistant is empty")
            found.append(
                {MESSAGES: json.dumps(messages[:place], ensure_ascii=False), REPLY: messages[place]["content"]}
            )
            names.append(name if len(places) == 1 else f"{name}:{place}")
            owners.append(name)
    return found, names, owners


def read_messages(cell: str) -> list[dict[str, str]]:
    """Messages in a cell; plain text is one of the user.

    Raises:
        ValueError: says what is wrong with them.
    """
    if not _is_list(cell):
        return [{"role": "user", "content": cell}]
    found = []
    for number, one in enumerate(json.loads(cell)):
        if not isinstance(one, Mapping):
            raise ValueError(f"message {number} is no object with role and content")
        role = str(one.get("role", one.get("from", "")))
        role, content = NAMES.get(role, role), one.get("content", one.get("value"))
        if isinstance(content, list):
            parts = [part.get("text") if isinstance(part, Mapping) else None for part in content]
            content = "".join(parts) if all(isinstance(part, str) for part in parts) else None  # type: ignore[arg-type]
        if role not in ("system", "user", "assistant", "tool"):
            raise ValueError(f"message {number} has role {role!r}; it must be system, user, assistant or tool")
        if not isinstance(content, str):
            raise ValueError(f"message {number} has no content of text")
        found.append({"role": role, "content": content})
    return found


def prompt_text(tokenizer: Any, messages: Sequence[Mapping[str, str]], reply: str | None = None) -> str:
    """A conversation as the model reads it, up to where the assistant begins, or with its reply.

    Raises:
        UserError: the tokenizer has no chat template, or does not take these messages.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise UserError(
            "these are conversations, but the model's tokenizer has no chat template; give --template, or another model"
        )
    whole = [*messages, *([] if reply is None else [{"role": "assistant", "content": reply}])]
    try:
        text: str = tokenizer.apply_chat_template(whole, tokenize=False, add_generation_prompt=reply is None)
    except Exception as error:  # templates raise what they like
        raise UserError(
            f"the chat template does not take these messages: {' '.join(str(error).split())[:200]}"
        ) from None
    return text


def turn_end(tokenizer: Any) -> int | None:
    """The token that the chat template puts behind what the assistant says; None where it puts none."""
    asked = [{"role": "user", "content": "a"}]
    front, whole = prompt_text(tokenizer, asked), prompt_text(tokenizer, asked, "b")
    tail = whole[len(front) :] if whole.startswith(front) else whole[whole.rindex("b") :]
    ids = tokenizer(tail, add_special_tokens=False)["input_ids"]
    special = set(tokenizer.all_special_ids) | {
        number for number, token in getattr(tokenizer, "added_tokens_decoder", {}).items() if token.special
    }
    return next((int(token) for token in ids if token in special), None)


def _is_list(cell: str) -> bool:
    if not cell.lstrip().startswith("["):
        return False
    try:
        return isinstance(json.loads(cell), list)
    except ValueError:
        return False
