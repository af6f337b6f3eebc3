"""What a study would cost: the `budget` of each cell times its steps. Data are read to count samples; nothing is written or trained."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from pt_core.errors import UserError
from pt_core.run.declare.modality import Modality
from pt_core.run.declare.spec import RunSpec
from pt_core.run.fit.prepare import load_roles, task_and_parts
from pt_core.run.fit.shelf import Shelf
from pt_core.run.study.cells import Cell
from pt_core.run.use.budget import Budget, method_budget

CLASSES = 10
"""Classes that are counted with where the task has none."""
PER_STEP = ("epochs", "steps", "lr", "weight_decay", "optimizer", "momentum", "schedule", "warmup_epochs")
"""Options of the training that do not change what one step costs."""


class Costs:
    """Estimates for the cells of one package; what cells have in common is read and counted once."""

    def __init__(self, modality: Modality) -> None:
        self.modality, self.shelf = modality, Shelf()
        self.budgets: dict[str, Budget | str] = {}

    def of(self, cell: Cell) -> dict[str, Any]:
        """steps, step_flops and flops (one stage of the whole training), cached_flops where the frozen part can be cached, or problem."""
        try:
            samples, classes = self._size(cell.spec)
        except UserError as error:
            return {"cell": cell.name, "problem": str(error)}
        budget = self._budget(cell.spec, classes)
        if isinstance(budget, str):
            return {"cell": cell.name, "samples": samples, "problem": budget}
        train = cell.spec.train
        steps = train.steps or math.ceil(train.epochs * math.ceil(samples / train.batch_size))
        seen = steps * min(train.batch_size, samples)
        step, cached = budget.step_flops / budget.batch_size, budget.cached_step_flops
        found: dict[str, Any] = {
            "cell": cell.name,
            "samples": samples,
            "steps": steps,
            "tuned": budget.tuned,
            "flops": round(seen * step),
            "activation_bytes": budget.activation_bytes,
        }
        if cached is not None:
            frozen = samples * budget.frozen_flops / budget.batch_size
            found["cached_flops"] = round(seen * cached / budget.batch_size + frozen)
        return found

    def _size(self, spec: RunSpec) -> tuple[int, int]:
        """(training samples, classes)."""
        info = self.modality.registry.joined(spec.method, spec.host_ids)

        def silent(text: str) -> None:
            """A run will say it."""

        raw = load_roles(self.modality, spec, info, silent, self.shelf)
        task, parts = task_and_parts(self.modality, spec, info, raw, silent)
        return len(parts["train"]) if "train" in parts else 0, max(2, len(task.class_names()) or CLASSES)

    def _budget(self, spec: RunSpec, classes: int) -> Budget | str:
        flat = {key: value for key, value in spec.flat().items() if key not in PER_STEP and "seed" not in key}
        key = json.dumps([spec.method, flat, classes], sort_keys=True, default=str)
        if key not in self.budgets:
            try:
                self.budgets[key] = method_budget(self.modality, spec, classes)
            except (UserError, TypeError) as error:  # a package without a budget says so by TypeError
                self.budgets[key] = str(error)
        return self.budgets[key]


def cost_table(found: Sequence[dict[str, Any]]) -> str:
    """The estimates as text, and their sum."""
    lines = [["cell", "samples", "steps", "tuned", "training", "with cached features"]]
    for one in found:
        if "problem" in one:
            lines.append([one["cell"], *("" for _ in range(3)), f"not counted: {one['problem']}", ""])
            continue
        cached = f"{flop(one['cached_flops'])}" if "cached_flops" in one else ""
        numbers = (f"{one[name]:,}" for name in ("samples", "steps", "tuned"))
        lines.append([one["cell"], *numbers, flop(one["flops"]), cached])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    total = sum(one.get("flops", 0) for one in found)
    least = sum(one.get("cached_flops", one.get("flops", 0)) for one in found)
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    shared = f"; {flop(least)} with cached features" if least < total else ""
    return "\n".join([*text, f"{len(found)} cells, about {flop(total)} of training{shared} (one stage each)"])


def flop(value: float) -> str:
    for prefix, unit in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if value >= unit:
            return f"{value / unit:.3g} {prefix}FLOP"
    return f"{value:.0f} FLOP"
