"""Real multi-domain sets: POND against its ablation and baselines, every target with several seeds; writes JSON and a table.

    python benchmarks/timeseries/real_sets.py --data FOLDER        # FOLDER holds har_phone_watch/ and cwru_bearing/
    python benchmarks/timeseries/real_sets.py --render             # the table from the JSON

Step 1 is run once per target and seed on that target's sources, and all methods start from the same frozen encoder. Finished runs are
kept in the JSON: a second call goes on where the first stopped. Settings were tried on subject 12 of the phone set only, which is not
among the targets.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "timeseries_real.json"
TABLE = ROOT / "docs" / "results" / "timeseries.md"
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Scenario:
    name: str
    file: str
    target: str
    data: dict[str, Any]
    encoder: dict[str, Any]
    prompt: int
    shots: int


HAR: dict[str, Any] = {
    "patch": 16,
    "patch_stride": 16,
    "depth": 2,
    "dim": 64,
    "epochs": 10,
    "batch_size": 64,
    "lr": 2e-3,
}
CWRU: dict[str, Any] = {
    "patch": 32,
    "patch_stride": 32,
    "depth": 2,
    "dim": 64,
    "epochs": 12,
    "batch_size": 64,
    "lr": 2e-3,
}
SCENARIOS = (
    *(Scenario(f"phone, subject {s}", "har_phone_watch/sp.npz", str(s), {}, HAR, 32, 3) for s in (2, 5, 8, 11, 17)),
    Scenario("phone -> watch", "har_phone_watch", "sw:*", {"sources": ("sp:*",), "skip_files": True}, HAR, 32, 3),
    Scenario("bearing, load 3", "cwru_bearing", "*:3", {}, CWRU, 64, 3),
)
METHODS: dict[str, dict[str, Any]] = {
    "source_only": {"epochs": 3},
    "common_prompt": {"epochs": 6},
    "pond": {"epochs": 6},
    "coral": {"epochs": 4},
    "codats": {"epochs": 4},
    "full": {"epochs": 40},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--render", action="store_true")
    arguments = parser.parse_args()
    if not arguments.render:
        if arguments.data is None:
            parser.error("--data FOLDER is needed")
        measure(arguments.data, arguments.seeds)
    render()


def measure(data: Path, seeds: Sequence[int]) -> None:
    for seed in seeds:
        for scenario in SCENARIOS:
            done = {(run["scenario"], run["seed"], run["method"]) for run in read()["runs"]}
            todo = [method for method in METHODS if (scenario.name, seed, method) not in done]
            if todo:
                with tempfile.TemporaryDirectory() as folder:
                    store(one(scenario, seed, todo, data, Path(folder)))


def read() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {"runs": []}
    return found


def store(runs: list[dict[str, Any]]) -> None:
    """Add runs to the JSON; several processes may do so."""
    with (Path(tempfile.gettempdir()) / "timeseries_real.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        stored = read()
        known = {(run["scenario"], run["seed"], run["method"]) for run in stored["runs"]}
        stored["runs"] += [run for run in runs if (run["scenario"], run["seed"], run["method"]) not in known]
        stored["settings"] = {"har": HAR, "cwru": CWRU, "methods": METHODS, "seeds": SEEDS}
        RESULTS.write_text(json.dumps(stored, indent=1) + "\n")


def one(scenario: Scenario, seed: int, methods: list[str], data: Path, folder: Path) -> list[dict[str, Any]]:
    from pt_core.run.declare.resolve import resolve
    from pt_core.run.fit.execute import execute
    from pt_core.run.fit.prepare import prepare
    from pt_timeseries.backbones import load_backbone
    from pt_timeseries.modality import TimeSeries
    from pt_timeseries.pretrain import options_of, run

    modality, source = TimeSeries(), str(data / scenario.file)
    shared = {"target": (scenario.target,), "seed": seed, **scenario.data}
    file = folder / "encoder.safetensors"
    step1 = run(options_of({**shared, **scenario.encoder, "data": source}), file, progress=False)
    backbone = load_backbone(f"file:{file}")
    found = []
    for method in methods:
        options = {**shared, **METHODS[method], "data": (source,), "target_shots": scenario.shots}
        if method in ("pond", "common_prompt"):
            options["prompt_length"] = scenario.prompt
        began = time.process_time()
        prepared = prepare(modality, resolve(modality, method, options), lambda text: None, {"backbone": backbone})
        status = execute(modality, prepared, folder / method, lambda text: None, report=False)
        shutil.rmtree(folder / method)
        row = {
            "scenario": scenario.name,
            "seed": seed,
            "method": method,
            "macro_f1": status["results"]["test"]["macro_f1"],
            "accuracy": status["results"]["test"]["accuracy"],
            "val_macro_f1": status["results"]["val"]["macro_f1"],
            "tuned": prepared.method.parameter_count(),
            "test_windows": len(prepared.data["test"]),
            "sources": len(prepared.task.sources),  # type: ignore[attr-defined]
            "cpu_seconds": round(time.process_time() - began, 1),
            "step1_val_macro_f1": step1.val_macro_f1,
        }
        if method == "pond":
            row["chosen"] = prepared.task.sources[int(prepared.method.chosen)]  # type: ignore[attr-defined]
        found.append(row)
        print(
            f"{scenario.name:<20} seed {seed}  {method:<14} {row['macro_f1']:.3f}  {row['cpu_seconds']:.0f} s",
            flush=True,
        )
    return found


def render() -> None:
    stored = read()
    TABLE.parent.mkdir(parents=True, exist_ok=True)
    names = list(METHODS)
    lines = [f"| target | windows | {' | '.join(names)} |", f"| --- | ---: | {' | '.join('---:' for _ in names)} |"]
    means: dict[str, list[float]] = {name: [] for name in names}
    for scenario in SCENARIOS:
        runs = [run for run in stored["runs"] if run["scenario"] == scenario.name]
        if not runs:
            continue
        cells = []
        for name in names:
            scores = [run["macro_f1"] for run in runs if run["method"] == name]
            means[name].append(statistics.mean(scores))
            spread = f" ± {statistics.stdev(scores):.3f}" if len(scores) > 1 else ""
            cells.append(f"{statistics.mean(scores):.3f}{spread}")
        sizes = sorted({run["test_windows"] for run in runs})
        lines.append(f"| {scenario.name} | {sizes[0]}-{sizes[-1]} | {' | '.join(cells)} |")
    lines.append(f"| **mean** | | {' | '.join(f'**{statistics.mean(means[name]):.3f}**' for name in names)} |")
    before, _, rest = TABLE.read_text().partition("<!-- table -->") if TABLE.is_file() else ("", "", "")
    after = rest.partition("<!-- /table -->")[2]
    text = "\n".join(lines)
    TABLE.write_text(f"{before}<!-- table -->\n\n{text}\n\n<!-- /table -->{after}")
    print(text)


if __name__ == "__main__":
    main()
