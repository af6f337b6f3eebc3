"""Answers on the shared audio sets: generation by the frozen built-in language model behind a tuned aligner.

    python -m benchmarks.audio.table --data DIR --out runs/audio-table [--only NAME ...]

Cells: set x encoder x method, each over the seeds; besides, every aligner is judged once more with the audio of other records in place of
its own (`shuffled`), which has to fall to chance, and episodes with rotated names (`rotated`). Results are written to
benchmarks/results/audio_table.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from pt_audio.backbones import load_backbone
from pt_audio.data.wording import SHOT
from pt_audio.modality import Audio
from pt_core.backbone import Backbone
from pt_core.run.command.runs import run_fit
from pt_core.run.declare.resolve import resolve
from pt_core.run.train.evaluate import evaluate
from pt_core.run.use.predict import load

from benchmarks import _harness
from benchmarks.audio.sets import write

COMMON: dict[str, Any] = {"beams": 1, "repetition_penalty": 1.0, "max_new_tokens": 8, "batch_size": 16, "dropout": 0.0}
TUNED = {"lr": 2e-3, "steps": 300, "eval_every": 300}
LONG = {**TUNED, "steps": 800, "eval_every": 200}
SHORT = {**TUNED, "steps": 200}
CELLS: dict[str, dict[str, Any]] = {
    "digits, kwt1": {"set": "spoken_digits", "encoder": "kwt", "method": "acoustic_apt", **TUNED},
    "digits, built-in": {"set": "spoken_digits", "encoder": "builtin", "method": "acoustic_apt", **LONG},
    "digits, kwt1, projector": {"set": "spoken_digits", "encoder": "kwt", "method": "projector", **SHORT},
    "commands, kwt1": {"set": "speech_commands_ar", "encoder": "kwt", "method": "acoustic_apt", **SHORT},
    "commands, built-in": {"set": "speech_commands_ar", "encoder": "builtin", "method": "acoustic_apt", **SHORT},
    "esc10, built-in": {"set": "esc10", "encoder": "builtin", "method": "acoustic_apt", **SHORT},
    "digits, episodes, kwt1": {
        "set": "spoken_digits", "encoder": "kwt", "method": "acoustic_apt", **SHORT, "tasks": ("few_shot",), "batch_size": 8,
        "limit": 300,
    },
}  # fmt: skip


def run(cell: Mapping[str, Any], seed: int, data: Path, out: Path, backbones: Mapping[str, Backbone]) -> dict[str, Any]:
    """Train one cell with one seed; its scores on the test part, as it is and with shuffled audio."""
    modality = Audio()
    options = {**COMMON, **{k: v for k, v in cell.items() if k not in ("set", "encoder", "method")}}
    if cell["method"] != "acoustic_apt":
        options.pop("dropout")
    options |= {"data": (str(data),), "seed": seed}
    started = time.process_time()
    status = run_fit(modality, resolve(modality, cell["method"], options), out, backbones, quiet=True)
    seconds = time.process_time() - started
    predictor = load(modality, out, backbone=backbones)
    spec = resolve(modality, cell["method"], options)
    part = modality.load_data(str(data), spec.data, seed)["test"]

    def judged(changed: Any) -> float:
        bound = modality.bind(changed, backbones, predictor.method.task, spec.data, training=False)
        return evaluate(predictor.method, bound, predictor.world, 32, 0).metrics["exact_match"]

    episodes = all(record.task == "few_shot" for record in part.records)
    return {
        **status["results"]["test"],
        "shuffled": judged(shuffled(part)),
        **({"rotated": judged(rotated(part))} if episodes else {}),
        "tuned": status["parameters"]["tuned"],
        "cpu_seconds": round(seconds, 1),
        "counts": status["data"]["counts"],
    }


def shuffled(part: Any) -> Any:
    """Every record with the (last) clip of another record, at random."""
    order = torch.randperm(len(part.records), generator=torch.Generator().manual_seed(0)).tolist()
    records = [
        replace(record, clips=(*record.clips[:-1], part.records[other].clips[-1]))
        for record, other in zip(part.records, order, strict=True)
    ]
    return replace(part, records=records)


def rotated(part: Any) -> Any:
    """Episodes (one clip per class) whose names are rotated within the support set: the answer follows the support, not the digit."""
    records = []
    for record in part.records:
        names = [text.removeprefix(f"{SHOT} ") for text in record.texts[:-1]]
        moved = names[1:] + names[:1]
        answer = moved[names.index(record.answer)]
        texts = (*(f"{SHOT} {name}" for name in moved), record.texts[-1])
        records.append(replace(record, texts=texts, answer=answer, label=answer))
    return replace(part, records=records)


def encoder(name: str, data: Path) -> Backbone:
    return load_backbone(f"kwt:{data / 'audio_kwt1'}" if name == "kwt" else "builtin:mae_sounds")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", default=list(CELLS))
    arguments = parser.parse_args()
    path = _harness.RESULTS / "audio_table.json"
    shared = {
        "text": load_backbone("builtin:bert_sounds", None, "text"),
        "lm": load_backbone("builtin:lm_sounds", None, "lm"),
    }
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.only:
            cell = CELLS[name]
            data = write(cell["set"], arguments.data, Path(folder))
            backbones = {"encoder": encoder(cell["encoder"], arguments.data), **shared}
            runs = []
            for seed in arguments.seeds:
                out = arguments.out / name.replace(", ", "-").replace(" ", "-") / f"seed-{seed}"
                runs.append(run(cell, seed, data, out, backbones))
                print(name, seed, runs[-1], flush=True)
            before = json.loads(path.read_text())["rows"] if path.is_file() else []
            rows: dict[str, Any] = {row["cell"]: row for row in before}
            rows[name] = {"cell": name, **cell, "seeds": arguments.seeds, "runs": runs, **summary(runs)}
            ordered = [rows[cell] for cell in CELLS if cell in rows]
            _harness.write("audio_table", {"common": COMMON}, ordered, path)


def summary(runs: list[dict[str, Any]]) -> dict[str, float]:
    found = {}
    for key in ("exact_match", "tag_accuracy", "word_f1", "shuffled", "rotated"):
        values = [one[key] for one in runs if key in one]
        if values:
            found[key] = round(statistics.mean(values), 4)
            found[f"{key}_std"] = round(statistics.stdev(values), 4) if len(values) > 1 else 0.0
    return found


if __name__ == "__main__":
    main()
