"""Few-shot classification of real text on a frozen language model: a table over seeds, as JSON and Markdown.

    python -m benchmarks.language.real_text --data DIR [--seeds 3] [--backbone builtin:lm_docs]

DIR holds `sentence_classification`, `ag_news` and `intents`. Shots are the TOTAL number of labelled examples; where a data set has more
classes than shots, the cell is left out and listed. TREC is cut to its four largest classes but one (questions for a reason, a person, a
place, a number), CLINC150 to the first intent of its first four domains, so that 4 and 8 shots can be shared evenly. The last weights are
taken (no validation data in few-shot learning), and the test part is a fixed subset of `--limit` rows. Everything is scored by label words;
the chance level stands beside the results.

Every finished cell is written at once; a second call with the same backbone and options goes on where the first one stopped.
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
from pt_core.run.declare.resolve import resolve
from pt_core.run.fit.execute import execute
from pt_core.run.fit.prepare import prepare
from pt_core.run.train.evaluate import evaluate
from pt_core.run.train.world import World
from pt_language.modality import Language

from benchmarks._harness import RESULTS, machine, write

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
        "template": "input: {title} {description} output: {label}",
    },
    "trec, 4 classes": {
        "folder": "sentence_classification",
        "files": ("trec6_train.csv", "trec6_test.csv"),
        "words": ("0=reason", "3=person", "4=place", "5=number"),
        "where": ("label=0|3|4|5",),
    },
    "intents, 4 classes": {
        "folder": "intents",
        "files": ("clinc150_train.csv", "clinc150_test.csv"),
        "words": ("freeze_account=account", "replacement_card_duration=card", "food_last=food", "what_song=song"),
        "where": ("intent=freeze_account|replacement_card_duration|food_last|what_song",),
        "template": "input: {text} output: {intent}",
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


def cells(data: Path, options: Any, backbone: Any, known: set[tuple[Any, ...]]) -> Iterator[dict[str, Any]]:
    """Rows that are not known yet."""
    for name, spec in SETS.items():
        folder = data / spec["folder"]
        for shots in SHOTS:
            classes = len(spec["words"])
            if shots % classes:
                row = {"data": name, "shots": shots, "left out": f"{classes} classes cannot share {shots} shots evenly"}
                yield from [] if key(row) in known else [row]
                continue
            for label, own in METHODS.items():
                if (name, shots, label) not in known:
                    yield cell(name, spec, folder, shots // classes, label, own, options, backbone)


def key(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["data"], row["shots"], row.get("method")


def cell(
    name: str, spec: dict[str, Any], folder: Path, per_class: int, label: str, own: dict[str, Any], options: Any, backbone: Any
) -> dict[str, Any]:  # fmt: skip
    shots = per_class * len(spec["words"])
    found: dict[str, Any] = {"data": name, "shots": shots, "method": label, "chance": 1 / len(spec["words"])}
    train, test = (folder / file for file in spec["files"])
    tested: list[float] = []
    trained: list[float] = []
    started = time.process_time()
    for seed in range(options.seeds):
        settings = {
            "data": (f"train={train}", f"test={test}"), "shots": per_class, "seed": seed, "limit": options.limit, "device": "cpu",
            "label_words": spec["words"], "max_text_tokens": 40, "val_fraction": 0.05, "select": False, "eval_every": 10_000,
            "batch_size": 8, "where": spec.get("where", ()), "template": spec.get("template"), **own,
        }  # fmt: skip
        method = settings.pop("method")
        if method != "icl":
            settings["steps"] = options.steps
        with tempfile.TemporaryDirectory() as out:
            try:
                ready = prepare(
                    Language(), resolve(Language(), method, settings), lambda text: None, {"backbone": backbone}
                )
                info = execute(Language(), ready, Path(out) / "run", lambda text: None, report=False)
            except UserError as error:
                return {**found, "left out": str(error)}
        tested.append(info["results"]["test"]["accuracy"])
        shown = evaluate(ready.method, ready.data["train"], World(ready.spec.train), 8, seed).metrics["accuracy"]
        trained.append(shown)
        found["tuned"] = info["parameters"]["tuned"]
    spread = statistics.stdev(tested) if len(tested) > 1 else 0.0
    seconds = round((time.process_time() - started) / options.seeds, 2)
    return {
        **found,
        "accuracy": statistics.mean(tested),
        "spread": spread,
        "each": tested,
        "accuracy on the shots": statistics.mean(trained),
        "cpu seconds": seconds,
    }


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
    sizes = f"--seeds {options.seeds} --steps {options.steps} --limit {options.limit}"
    content = {
        "command": f"python -m benchmarks.language.real_text --data DIR {sizes}",
        "machine": machine(),
        "backbone": options.backbone,
        "fingerprint": backbone.fingerprint().exact[:16],
    }
    path = options.out or RESULTS / "language_real_text.json"
    rows = []
    if path.exists():
        before = json.loads(path.read_text())
        if all(before[name] == content[name] for name in ("command", "backbone", "fingerprint")):
            rows = before["rows"]
    for row in cells(options.data, options, backbone, {key(row) for row in rows}):
        print(json.dumps(row), flush=True)
        rows.append(row)
        write("language_real_text", content, rows, path)


if __name__ == "__main__":
    main()
