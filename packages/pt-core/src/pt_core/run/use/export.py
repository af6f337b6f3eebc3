"""Backbone and prompt as one program for other runtimes: torch.export, or ONNX made from it.

The program takes what the backbone reads (preprocessed inputs) and returns what `Method.forward` returns (logits); preprocessing and
labels stay in the artifact's card. The batch axis is free where the method allows it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pt_core.data import Batch
from pt_core.errors import UserError, require
from pt_core.method import Method
from pt_core.run.declare.modality import Modality
from pt_core.run.use.predict import Predictor

Format = Literal["torch.export", "onnx"]
SUFFIX = {"torch.export": ".pt2", "onnx": ".onnx"}


class Program(nn.Module):
    """inputs -> output of a tuned method. Holds method and backbones as children, so that their tensors become the program's."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method
        self.frozen = nn.ModuleDict({role: backbone.module for role, backbone in method.backbones.items()})

    def forward(self, inputs: Tensor) -> Tensor:
        rows = inputs.shape[0]
        # Names are only counted, and only where a prompt has its own dropout mask per row, which is off here.
        batch = Batch(inputs, None, torch.arange(rows, device=inputs.device), [""])
        output: Tensor = self.method(batch)
        return output


def export_program(modality: Modality, predictor: Predictor, out: Path, format_: str) -> list[str]:
    """Write the program to `out`.

    Args:
        predictor: on the CPU.
        out: file to write; ends in `.pt2` (torch.export) or `.onnx`.
        format_: `torch.export` or `onnx`.

    Returns:
        Remarks for the user (a fixed batch size ...).

    Raises:
        UserError: a wrong suffix, a method that predicts in steps of its own, or one that cannot be traced.
        MissingExtra: ONNX without its libraries.
    """
    if format_ not in SUFFIX:
        raise UserError(f"unknown export format {format_!r}; known: {', '.join(SUFFIX)}")
    if out.suffix != SUFFIX[format_]:
        raise UserError(f"--out {out} must end in {SUFFIX[format_]} for --format {format_}")
    if not predictor.method.is_one_program():
        name = predictor.card["method"]
        raise UserError(
            f"{name} predicts in steps of its own (adaptation, windows, search): there is no single program to export"
        )
    if format_ == "onnx":
        for module in ("onnx", "onnxscript"):
            require(module, f"{modality.package}[onnx]")
    example = modality.blank_inputs(predictor.method.backbone, 2)
    program, notes = trace(Program(predictor.method).eval(), example)
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f".{out.stem}.part{out.suffix}")  # complete under its name, or absent
    try:
        with _quiet():
            if format_ == "onnx":
                names: Any = {"input_names": ["inputs"], "output_names": ["output"]}
                torch.onnx.export(program, (), str(part), dynamo=True, external_data=False, verbose=False, **names)
            else:
                torch.export.save(program, part)
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)
    return notes


def trace(module: nn.Module, example: Any) -> tuple[torch.export.ExportedProgram, list[str]]:
    """Trace with a free batch axis, or with a batch of one where the method fixes it.

    Raises:
        UserError: it cannot be traced at all.
    """
    free = torch.export.Dim("batch", min=1)
    try:
        return _export(module, example, {"inputs": {0: free}}), []
    except (
        Exception
    ):  # torch.export raises many kinds; a second try with a fixed batch tells whether that was the cause
        pass
    try:
        return _export(module, example[:1], None), ["the program takes one input at a time (batch size 1)"]
    except Exception as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"this method cannot be traced by torch.export ({type(error).__name__}: {reason})") from error


def _export(module: nn.Module, example: Any, shapes: Any) -> torch.export.ExportedProgram:
    with torch.no_grad(), _quiet():
        return torch.export.export(module, (example,), dynamic_shapes=shapes, strict=False)


@contextmanager
def _quiet() -> Iterator[None]:
    """torch.export reports on standard error what it tries; a failure becomes an error of ours anyway."""
    import warnings

    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
