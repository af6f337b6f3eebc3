"""Few-shot classification of real text on a frozen language model: a table over seeds, as JSON and Markdown.

    python -m benchmarks.language.real_text --data DIR [--seeds 3] [--backbone builtin:lm_docs]

DIR holds `sentence_classification` and `ag_news`. Shots are the TOTAL number of labelled examples; where a data set has more classes
than shots, the cell is left out and listed. The last weights are taken (no validation data in few-shot learning), and the test part is
a fixed subset of `--limit` rows. Everything is scored by label words; the chance level stands beside the results.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pt_language
import torch
from pt_core.errors import UserError

from benchmarks._harness import machine, write

SETS: dict[str, dict[str, Any]] = {
    "sst2": {
        "folder": "sentence_classification",
        "files": ("sst2_train.csv", "sst2_test.csv"),
        "words": ("0=bad", "1=good"),
    },
    "subj": {
        "folder": "sentence_classification",
        "files": ("subj_train.csv", "subj_test.csv"),
        "words": ("0=data", "1=self"),
    },
    "ag_news": {
        "folder": "ag_news",
        "files": ("train.csv", "test.csv"),
        "words": ("0=world", "1=play", "2=money", "3=code"),
    },
}
METHODS: dict[str, dict[str, Any]] = {
    "icl": {"method": "icl"},
    "prompt_tuning, 4 tokens": {"method": "prompt_tuning", "prompt_length": 4, "lr": 0.02},
    "prompt_tuning, 50 tokens": {"method": "prompt_tuning", "prompt_length": 50, "lr": 0.02},
    "iapt, 4 tokens": {
        "method": "iapt",
        "prompt_length": 4,
        "bottleneck": 32,
        "lr": 5e-3,
        "bilevel": False,
        "warmup_epochs": 0,
    },
    "cpt": {"method": "cpt", "lr": 0.01, "epsilon_input": 1.0, "epsilon_format": 1.0},
    "lora": {"method": "lora", "rank": 4, "lr": 2e-3},
}
SHOTS = (2, 4, 8)


def cells(data: Path, options: Any, backbone: Any) -> Iterator[dict[str, Any]]:
    for name, spec in SETS.items():
        folder = data / spec["folder"]
        for shots in SHOTS:
            classes = len(spec["words"])
            if shots % classes:
                yield {"data": name, "shots": shots, "left out": f"{classes} classes cannot share {shots} shots evenly"}
                continue
            for label, own in METHODS.items():
                yield cell(name, spec, folder, shots // classes, label, own, options, backbone)


def cell(
    name: str, spec: dict[str, Any], folder: Path, per_class: int, label: str, own: dict[str, Any], options: Any, backbone: Any
) -> dict[str, Any]:  # fmt: skip
    shots = per_class * len(spec["words"])
    found: dict[str, Any] = {"data": name, "shots": shots, "method": label, "chance": 1 / len(spec["words"])}
    train, test = (folder / file for file in spec["files"])
    accuracies = []
    started = time.perf_counter()
    for seed in range(options.seeds):
        settings = {
            "data": (f"train={train}", f"test={test}"), "backbone": backbone, "shots": per_class, "seed": seed, "limit": options.limit,
            "label_words": spec["words"], "max_text_tokens": 40, "val_fraction": 0.05, "select": False, "eval_every": 10_000,
            "batch_size": 8, **own,
        }  # fmt: skip
        method = settings.pop("method")
        if method != "icl":
            settings["steps"] = options.steps
        with tempfile.TemporaryDirectory() as out:
            try:
                run = pt_language.fit(method, out=Path(out) / "run", quiet=True, **settings)
            except UserError as error:
                return {**found, "left out": str(error)}
        accuracies.append(run.info["results"]["test"]["accuracy"])
        found["tuned"] = run.info["parameters"]["tuned"]
    spread = statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0
    seconds = round((time.perf_counter() - started) / options.seeds, 2)
    return {**found, "accuracy": statistics.mean(accuracies), "spread": spread, "each": accuracies, "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--backbone", default="builtin:lm_docs")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--limit", type=int, default=400)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    backbone = pt_language.load_backbone(options.backbone)
    rows = []
    for row in cells(options.data, options, backbone):
        print(json.dumps(row), flush=True)
        rows.append(row)
    command = f"python -m benchmarks.language.real_text --data DIR --seeds {options.seeds} --steps {options.steps} --limit {options.limit}"
    content = {
        "command": command,
        "machine": machine(),
        "backbone": options.backbone,
        "fingerprint": backbone.fingerprint().exact[:16],
    }
    write("language_real_text", content, rows, options.out)


if __name__ == "__main__":
    main()
