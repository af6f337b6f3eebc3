"""Typed options: the training options every method shares, and one validator that reports all problems at once."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, TypeVar

from annotated_types import Ge, Gt, Le, Lt

from pt_core.errors import ConfigError, nearest
from pt_core.run.declare.plain import plainly

T = TypeVar("T")
SEEDS = ("seed", "init_seed", "data_seed", "sampling_seed")
WITHOUT_EFFECT = ("device", "workers", "trackers", "cache_limit", "checkpoint_every")
"""Options that do not change what is tuned: runs that differ in them, or in the seeds, are repetitions of one setting."""


@dataclass(frozen=True)
class TrainOptions:
    """How the tuned tensors are trained. A method's `recipe` changes these defaults; flags and recipe files change them again."""

    epochs: Annotated[float, Gt(0)] = 100
    """Passes over the training data (ignored where `steps` is given)."""
    steps: Annotated[int, Ge(1)] | None = None
    """Optimiser steps; overrides `epochs`."""
    batch_size: Annotated[int, Ge(1)] = 64
    """Samples per optimiser step, over all processes and micro-batches together."""
    accumulate: Annotated[int, Ge(1)] = 1
    """Micro-batches per process that one step's samples are split into; saves memory, the result stays the same."""
    optimizer: Literal["adamw", "adam", "sgd", "adafactor"] = "adamw"
    """Optimiser; adafactor is torch's, with its own defaults but for lr and weight decay."""
    lr: Annotated[float, Gt(0)] = 1e-3
    """Learning rate (peak of the schedule)."""
    lr_per_256: bool = False
    """Scale the learning rate by batch_size / 256 (VPT's convention)."""
    weight_decay: Annotated[float, Ge(0)] = 1e-4
    """Weight decay."""
    adam_eps: Annotated[float, Gt(0)] = 1e-8
    """Term added to the denominator of Adam and AdamW."""
    momentum: Annotated[float, Ge(0), Le(1)] = 0.9
    """Momentum of SGD."""
    schedule: Literal["cosine", "linear", "constant", "exponential", "one-cycle"] = "cosine"
    """Learning rate after the warm-up: half a cosine to 0, a line to 0, constant, or a power that falls to `decay`. one-cycle warms up by
    itself: cosines from 1/25 up to the peak at 30 % of the steps, then down to 1/250000 (torch's OneCycleLR)."""
    decay: Annotated[float, Gt(0), Le(1)] = 0.01
    """Where the exponential schedule ends, as a share of the peak."""
    warmup_epochs: Annotated[float, Ge(0)] = 0
    """Length of the linear warm-up, in epochs (for runs given in steps: epochs of the first stream)."""
    warmup_lr: Annotated[float, Gt(0)] | None = None
    """Constant learning rate during the warm-up, in place of a line up to the peak."""
    official_warmup: bool = False
    """Step the schedule once per epoch and start it at 0, so that the first epoch trains with lr 0 (VPT's released code); with `warmup_lr`
    the schedule behind the warm-up is as long as the run and so ends before its end (CoOp's released code)."""
    clip_norm: Annotated[float, Gt(0)] | None = None
    """Clip the gradient norm of each optimiser."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Autocast precision; tuned tensors stay in fp32. fp16 needs a GPU."""
    balanced: bool = False
    """Draw classes evenly instead of samples."""
    select: bool = True
    """Keep the weights that were best on validation; False keeps the last ones."""
    eval_every: Annotated[int, Ge(1)] | None = None
    """Steps between evaluations on validation (default: once per epoch, at most 20 times per stage)."""
    patience: Annotated[int, Ge(1)] | None = None
    """Stop a stage after this many evaluations without improvement."""
    checkpoint_every: Annotated[int, Ge(1)] | None = None
    """Steps between checkpoints (default: at every evaluation)."""
    workers: Annotated[int, Ge(0)] = 0
    """Processes that load data; the result does not depend on it."""
    seed: Annotated[int, Ge(0)] = 0
    """Seed of everything that has no seed of its own."""
    init_seed: Annotated[int, Ge(0)] | None = None
    """Seed of the initial values (default: seed)."""
    data_seed: Annotated[int, Ge(0)] | None = None
    """Seed of data order and augmentation (default: seed)."""
    sampling_seed: Annotated[int, Ge(0)] | None = None
    """Seed of few-shot sampling and splits (default: seed)."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to train; `auto` takes a GPU where there is one."""
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Further loggers besides metrics.jsonl."""

    def seed_of(self, kind: Literal["init", "data", "sampling"]) -> int:
        own: int | None = getattr(self, f"{kind}_seed")
        return self.seed if own is None else own


@dataclass(frozen=True)
class ClassificationOptions:
    """Flags of a classification task, for a package's `task_options` to build on."""

    class_weights: bool = False
    """Weight the loss by inverse class frequency."""
    label_smoothing: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Label smoothing of the cross-entropy."""
    ordinal: bool = False
    """The classes are ordered grades: report quadratic-weighted kappa, and select by it."""


@cache
def field_docs(cls: type) -> dict[str, str]:
    """Field name -> the docstring below it in the class body, or the text in its type (base classes included)."""
    docs: dict[str, str] = {}
    for name, hint in hints(cls).items():
        said = [part for part in typing.get_args(hint)[1:] if isinstance(part, str)] if _is_annotated(hint) else []
        if said:
            docs[name] = said[0]
    for base in reversed(cls.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        assert isinstance(body, ast.ClassDef)
        for field, after in zip(body.body, body.body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
            ):
                docs[field.target.id] = " ".join(str(after.value.value).split())
    return docs


def hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls, include_extras=True)


def choices(hint: Any) -> tuple[Any, ...]:
    """The values of a Literal, looked for inside Annotated and Optional; empty where there is none."""
    origin = typing.get_origin(hint)
    if origin is Literal:
        return typing.get_args(hint)
    if origin in (Annotated, typing.Union, types.UnionType, tuple):
        for part in typing.get_args(hint):
            found = choices(part)
            if found:
                return found
    return ()


def is_sequence(hint: Any) -> bool:
    """Whether a field takes several values (a tuple), also inside Annotated or Optional."""
    origin = typing.get_origin(hint)
    if origin is tuple:
        return True
    return origin in (Annotated, typing.Union, types.UnionType) and any(is_sequence(p) for p in typing.get_args(hint))


def _is_annotated(hint: Any) -> bool:
    return typing.get_origin(hint) is Annotated


def is_flag(hint: Any) -> bool:
    return hint is bool


def build_all(classes: Mapping[str, type], values: Mapping[str, Any], context: str = "option") -> dict[str, Any]:
    """Distribute flat `values` over several dataclasses and validate them together.

    Args:
        classes: name -> dataclass; their field names must not overlap.
        values: field name -> value; strings are converted (`"10"` to an int, `"a,b"` to a tuple).

    Returns:
        name -> instance.

    Raises:
        ConfigError: lists every unknown name (with the nearest valid one), wrong type and value out of range.
    """
    owner = {field.name: name for name, cls in classes.items() for field in dataclasses.fields(cls)}
    problems = [f"unknown {context} {key!r}{nearest(key, owner)}" for key in values if key not in owner]
    built: dict[str, Any] = {}
    for name, cls in classes.items():
        types_of = hints(cls)
        own: dict[str, Any] = {}
        for key, value in values.items():
            if owner.get(key) != name:
                continue
            if is_sequence(types_of[key]) and isinstance(value, str):
                value = tuple(part for part in value.split(",") if part)
            if value in ("none", "None", "null") and type(None) in typing.get_args(types_of[key]):
                value = None
            own[key] = value
        plain = plainly(cls, types_of, own)
        if plain is not None:
            built[name] = plain
            continue
        from pydantic import TypeAdapter, ValidationError

        try:
            built[name] = TypeAdapter(cls).validate_python(own)
        except ValidationError as error:
            for item in error.errors():
                field = ".".join(str(part) for part in item["loc"] if isinstance(part, str) and part in own)
                message = item["msg"].removeprefix("Value error, ")
                message = message[:1].lower() + message[1:]
                problems.append(f"{field}={item['input']!r}: {message}" if field else message)
    if problems:
        raise ConfigError(problems)
    return built


def overlay(options: T, changes: Mapping[str, Any]) -> T:
    """`options` with some fields changed, validated.

    Raises:
        ConfigError: as `build_all`.
    """
    current = {f.name: getattr(options, f.name) for f in dataclasses.fields(options)}  # type: ignore[arg-type]
    result: T = build_all({"options": type(options)}, {**current, **changes})["options"]
    return result


def to_plain(value: Any) -> Any:
    """Dataclasses, tuples and paths as JSON/YAML-able values."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
