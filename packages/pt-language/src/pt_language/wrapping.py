"""A method on a transformers model of one's own, as a plain module for one's own loop, HF Trainer or Lightning Fabric."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from pt_core.backbone import Backbone
from pt_core.run.declare.options import build_all, overlay
from pt_core.run.use import wrap as core
from pt_core.run.use.wrap import Wrapped

from pt_language.backbones import adapt, load_backbone
from pt_language.data.templates import Template
from pt_language.data.texts import TextDataset
from pt_language.modality import Language
from pt_language.options import TaskOptions
from pt_language.tasks.choose import make_task


def wrap(
    network: Any,
    method: str,
    classes: int | Sequence[str],
    *,
    tokenizer: Any = None,
    template: str = "{text} {label}",
    seed: int = 0,
    **options: Any,
) -> Wrapped:
    """Put a method on a language model: an `nn.Module` from input_ids and attention_mask (batch, tokens) to logits (batch, class).

    Classes are told by the probability of their label words behind the text, or by a head (`scoring="head"`, the only way for encoders).

    Args:
        network: a transformers model, a loaded backbone, or a spec such as `hf:Qwen/Qwen2.5-0.5B`.
        method: id, such as `prompt_tuning`.
        classes: how many, or their names, which are the label words unless `label_words=("CLASS=WORD", ...)` says otherwise.
        tokenizer: of the network; it splits the label words. Left out, the one beside the files that the network was loaded from.
        template: what stands between text and label word; only what comes before `{label}` matters, a space by default.
        seed: of the initial values.
        options: the method's and the task's own, such as `prompt_length=10`, `scoring="head"`.

    Raises:
        ConfigError: unknown or invalid options.
        UserError: label words without a tokenizer, a network of another kind, or a method that only `fit` can train.
    """
    backbone = load_backbone(network) if isinstance(network, str) else network
    if not isinstance(backbone, Backbone):
        backbone = adapt(network, tokenizer)
    elif tokenizer is not None:
        raise TypeError("the backbone has its tokenizer; pass tokenizer= with a transformers model only")
    names = {field.name for field in fields(TaskOptions)}
    given = {name: value for name, value in options.items() if name in names}
    if backbone.kind == "encoder":  # type: ignore[attr-defined]
        given = {"scoring": "head", **given}
    chosen = overlay(build_all({"task": TaskOptions}, given)["task"], {"task": "classification"})
    labels = tuple(str(name) for name in (range(classes) if isinstance(classes, int) else classes))
    task = make_task(chosen, TextDataset([], [], Template(template), [], labels))
    own = {name: value for name, value in options.items() if name not in names}
    return core.wrap(Language(), backbone, method, task, seed, **own)
