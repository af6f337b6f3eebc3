"""A user's own timm network, seen without its classifier and left as it is."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn


def without_classifier(module: nn.Module) -> nn.Module:
    """A view of a timm network whose classifier is an identity: it shares all other modules, and the network keeps its classifier.

    Classifiers belong to the label space of the pretraining. Without them the weights are those that `timm:NAME` loads.
    """
    ask: Any = getattr(module, "get_classifier", None)
    found = ask() if callable(ask) else ()
    heads = {id(head) for head in (found if isinstance(found, tuple) else (found,)) if list(head.parameters())}
    names = [name for name, part in module.named_modules() if id(part) in heads]
    view = module
    for name in names:
        view = _replaced(view, name.split("."), nn.Identity())
    return view


def _replaced(module: nn.Module, path: list[str], part: nn.Module) -> nn.Module:
    """A shallow copy of a module, and of those on the way, in which the module at `path` is another."""
    view = copy.copy(module)
    children = dict(module._modules)
    first, *rest = path
    child = children[first]
    assert child is not None
    children[first] = _replaced(child, rest, part) if rest else part
    view.__dict__["_modules"] = children
    return view
