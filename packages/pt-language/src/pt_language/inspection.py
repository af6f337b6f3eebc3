"""What a tuned prompt looks like: nearest tokens, norms, drift from its start, and how much attention every layer pays to it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pt_core import Batch, Dataset, Method
from pt_core.bridges import transformers as bridge
from torch import Tensor
from torch.nn import functional as F

from pt_language.adapters.decoder import DecoderBackbone
from pt_language.method import LanguageMethod

if TYPE_CHECKING:
    from pt_core.run.declare.modality import Modality
    from pt_core.run.declare.panel import Panel

NEAREST = 3
SHOWN = 64
"""Rows of a prompt that a report shows."""


@torch.no_grad()
def rows_table(method: LanguageMethod, initial: Tensor | None = None) -> list[dict[str, Any]]:
    """Per prompt row: norm, drift from its initial value, and the nearest vocabulary tokens by cosine."""
    rows = method.prompt_rows()
    if rows is None:
        return []
    rows = rows.detach().float()
    table = method.backbone.embeddings.detach().float()
    cosine = F.normalize(rows, dim=1) @ F.normalize(table, dim=1).T
    values, ids = cosine.topk(min(NEAREST, len(table)), 1)
    found = []
    for number in range(len(rows)):
        near = ", ".join(
            f"{method.backbone.tokenizer.decode([token])!r} {value:.2f}"
            for token, value in zip(ids[number].tolist(), values[number].tolist(), strict=True)
        )
        row: dict[str, Any] = {"row": number, "norm": round(float(rows[number].norm()), 4)}
        if initial is not None and initial.shape == rows.shape:
            row["drift"] = round(float((rows[number] - initial.to(rows)[number]).norm()), 4)
        found.append({**row, "nearest tokens (cosine)": near})
    return found


@torch.no_grad()
def attention_mass(method: LanguageMethod, batch: Batch) -> list[float]:
    """Share of attention that real tokens of a batch pay to the prompt, per layer, averaged over heads, tokens and rows. Empty where the
    method puts nothing in front of the text, or the model cannot return attention weights."""
    backbone = method.network
    if not isinstance(backbone, DecoderBackbone) or not method.front():
        return []
    method.eval()

    def paid(part: Batch) -> Tensor:
        """(row, layer), summed over a row's tokens."""
        given = {**part.inputs, "keep": 1, "prefix": method.prefix(part)}
        features = backbone(given, method.edits(part), weights=method.weights, read=("logits", "attentions"))
        own, real = part.inputs["ids"].shape[1], part.inputs["mask"]
        found = [weights for weights in features.extra["attentions"] or () if weights is not None and weights.ndim == 4]
        shares = [weights[:, :, -own:, : weights.shape[3] - own].sum(-1).mean(1) for weights in found]
        return torch.stack([(share * real).sum(1) for share in shares], 1) if shares else torch.zeros(len(part), 0)

    with bridge.eager(backbone.module):
        layers = method.together(batch, 0, paid).sum(0) / method.texts(batch)["mask"].sum()
    return [float(share) for share in layers]


def report_panels(method: Method, data: Mapping[str, Dataset]) -> list[Panel]:
    """Panels of a run's report."""
    from pt_core.run.declare.panel import Panel

    if not isinstance(method, LanguageMethod):
        return []
    panels = []
    rows = rows_table(method, method.start)
    if rows:
        note = "Drift: distance from the row's value as training began. Cosine to the frozen embedding table."
        note += f" The first {SHOWN} of {len(rows)} rows." if len(rows) > SHOWN else ""
        panels.append(Panel("Prompt rows and their nearest tokens", "table", {"rows": rows[:SHOWN]}, note))
    dataset = data.get("val", data.get("train"))
    if dataset is not None and len(dataset):
        chosen = list(range(min(8, len(dataset))))
        batch = dataset.collate(chosen, [dataset.sample(i, epoch=None, seed=0) for i in chosen])
        mass = attention_mass(method, batch.to(method.backbone.device))
        if mass:
            bars = {f"layer {layer}": value for layer, value in enumerate(mass)}
            panels.append(Panel("Attention paid to the prompt", "bars", bars, "Mean over heads, tokens and 8 texts."))
    return panels


def initial_of(run: Path, method: LanguageMethod) -> tuple[Tensor | None, Mapping[str, Tensor]]:
    """(prompt rows, tensors by name) that a run started from, rebuilt from its recorded seed; (None, {}) for folders without a record
    and for runs that started from another run."""
    import yaml
    from pt_core.randomness import seeded
    from pt_core.sealed import read_json

    folder = run.parent if run.name == "tuned" else run
    if not (folder / "run.json").is_file() or not (folder / "config.yaml").is_file():
        return None, {}
    options = yaml.safe_load((folder / "config.yaml").read_text("utf-8"))["options"]
    if options.get("init_from"):
        return None, {}
    seed = read_json(folder / "run.json").get("seeds", {}).get("init")
    if not isinstance(seed, int):
        return None, {}
    with seeded(seed, "init"):
        fresh = type(method)(method.config, method.backbones, method.task)
    tensors = fresh.export("predict")
    ids = getattr(method, "ids", None)
    if isinstance(ids, Tensor):  # a context: it starts as its examples
        return method.backbone.embed(ids).detach().float(), {"delta": torch.zeros(len(ids), method.backbone.dim)}
    rows = fresh.prompt_rows()
    return None if rows is None else rows.detach(), tensors


def inspect_run(modality: Modality, run: Path, backbone: str | None = None) -> dict[str, Any]:
    """Everything `pt-language inspect` prints, as JSON."""
    from pt_core.run.use.predict import load

    predictor = load(modality, run, backbone=backbone or None)
    method = predictor.method
    assert isinstance(method, LanguageMethod)
    start, before = initial_of(run, method)
    rows = rows_table(method, start)
    tensors = []
    for name, tensor in method.export("predict").items():
        if tensor.is_floating_point():
            row: dict[str, Any] = {"tensor": name, "shape": list(tensor.shape), "norm": round(float(tensor.norm()), 4)}
            row["mean row norm"] = _row_norm(tensor)
            if name in before and before[name].shape == tensor.shape:
                row["drift"] = round(float((tensor - before[name].to(tensor)).norm()), 4)
            tensors.append(row)
    ids = torch.tensor([method.backbone.tokenizer("A text to attend from.", add_special_tokens=False)["input_ids"]])
    inputs = {"ids": ids, "mask": torch.ones_like(ids)}
    mass = attention_mass(method, Batch(inputs, None, torch.arange(1), ["probe"]).to(method.backbone.device))
    return {"method": predictor.card["method"], "rows": rows, "tensors": tensors, "attention": mass}


def _row_norm(tensor: Tensor) -> float:
    flat = tensor.float().reshape(-1, tensor.shape[-1]) if tensor.ndim else tensor.reshape(1, 1).float()
    return round(float(flat.norm(dim=1).mean()), 4) if flat.numel() else 0.0
