"""Run folders as `fit` leaves them, written by hand: finished, failed, interrupted, running; with every kind of panel."""

import base64
import json
import math
import struct
import zlib

import yaml

HOSTILE = (
    "<script>document.title='x'</script>",
    "<img src=//evil.example/x.png onerror=alert(1)>",
    '"><b onmouseover=alert(1)>&amp;',
    "</style></title></svg><!--",
    "日本語 ß $x^2$ {{ 7*7 }}",
    "a" * 120,
)
"""Names of classes, samples and files that would do harm unescaped."""


def png(size=24, grey=128):
    """A grey PNG; made here so that no picture library is needed."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", size, size, 8, 0, 0, 0, 0)
    rows = b"".join(b"\0" + bytes((grey + 5 * x) % 256 for x in range(size)) for _ in range(size))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def lines(steps=60, stages=("train",), metrics=("accuracy", "nll")):
    """metrics.jsonl of a run that learns."""
    found = []
    for number, stage in enumerate(stages, 1):
        for step in range(1, steps + 1):
            share = step / steps
            where = {"stage": stage, "stage_number": number, "step": step}
            rate = 0.5 * (1 + math.cos(math.pi * share)) * 1e-2
            row = {"loss": 2.3 * math.exp(-2 * share), "lr": rate, "grad_norm": 1 + share, "seconds": 0.0123}
            found.append({**where, "split": "train", **row, "accuracy": 0.2 + 0.7 * share})
            if step % 10 == 0:
                found.append({**where, "split": "val", **dict.fromkeys(metrics, 0.1 + 0.8 * share)})
    return found


def confusion(names):
    size = len(names)
    matrix = [[20 if i == j else (3 if (i + 1) % size == j else 0) for j in range(size)] for i in range(size)]
    return {"kind": "confusion", "title": "Confusion matrix (test)", "data": {"labels": list(names), "matrix": matrix}}


def samples(names, count=12):
    picture = base64.b64encode(png()).decode()
    items = []
    for i in range(count):
        label, guess = names[i % len(names)], names[(i + (i % 3 == 0)) % len(names)]
        item = {"id": f"photos/{label}/{i}.jpg", "label": label, "predicted": guess, "score": 0.9 - 0.05 * i}
        items.append({**item, "correct": label == guess, "picture": picture if i != 5 else None})
    return {"kind": "images", "title": "Sample predictions (test, wrong ones first)", "data": {"items": items}}


def every_kind(names):
    """One panel of each kind."""
    rows = [
        {"class": name, "precision": 0.91, "recall": 0.5 + 0.01 * i, "support": 20 + i} for i, name in enumerate(names)
    ]
    heat = {"values": [[i * j / 9 for j in range(10)] for i in range(4)], "x_label": "token", "y_label": "layer"}
    points = {f"series {k}": [(x, x**2 + k) for x in range(8)] for k in range(3)}
    return [
        confusion(names),
        {"kind": "table", "title": "Per class (test)", "data": {"rows": rows}},
        samples(names),
        {
            "kind": "bars",
            "title": "Norm of the tuned tensors",
            "note": "A bar per layer.",
            "data": {f"prompt[{i}]": 1 + i for i in range(6)},
        },
        {"kind": "heatmap", "title": "Attention to the prompt", "data": {**heat, "value_label": "share"}},
        {
            "kind": "lines",
            "title": "Lines of a task",
            "data": {"series": points, "x_label": "threshold", "y_label": "recall"},
        },
        {"kind": "text", "title": "Text of a method", "data": {"text": "first line\nsecond line " + "w" * 300}},
    ]


def status(names=("ant", "bee", "cat"), state="finished", seed=0, method="pt-toy/prompt", tuned=71, **changes):
    """run.json as `fit` writes it."""
    run = {
        "method": method,
        "title": "Prompts for Vectors",
        "status": state,
        "backbone": {"source": "tiny:0", "parameters": 1072},
        "parameters": {"tuned": tuned, "backbone": 1072, "share": tuned / 1072},
        "seeds": {"seed": seed, "init": seed, "data": seed, "sampling": seed},
        "data": {"source": ["photos"], "counts": {"train": 40, "val": 10, "test": 11}, "classes": list(names)},
        "environment": {"python": "3.11", "torch": "2.14", "threads": 1, "cuda": None},
        "command": ["pt-toy", "fit", "prompt", "--data", "photos"],
        "select": ["accuracy", "max"],
        "notes": ["no val part: 10 of 50 training samples split off (stratified, seed 0)"],
        "audit": {"counts": {"train": dict.fromkeys(names, 13)}, "warnings": ["repeated samples in train: 2 (a = b)"]},
        "started": "2026-01-01T10:00:00+00:00",
        "processes": 1,
    }
    if state == "finished":
        run |= {
            "results": {"val": {"accuracy": 0.8, "nll": 0.6}, "test": {"accuracy": 0.75, "nll": 0.7, "macro_f1": 0.74}},
            "time": {"fit_seconds": 12.3, "evaluate_seconds": 0.2},
            "finished": "2026-01-01T10:00:13+00:00",
        }
    return {**run, **changes}


def write_run(folder, run, panels=None, metrics=(), config=None, failure=None):
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(run))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics))
    options = {"lr": 0.01, "prompt_length": 10, **(config or {})}
    (folder / "config.yaml").write_text(yaml.safe_dump({"method": "prompt", "options": options}))
    if panels is not None:
        (folder / "report.json").write_text(json.dumps({"panels": panels}))
    if failure is not None:
        (folder / "failure.json").write_text(json.dumps(failure))
    return folder


def rich_run(folder, names=("ant", "bee", "cat", "dog")):
    """A finished run whose page has everything."""
    return write_run(folder, status(names), every_kind(list(names)), lines(stages=("warm", "main")))
