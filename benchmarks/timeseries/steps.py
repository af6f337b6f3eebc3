"""What a POND step costs: over the number of sources M, with and without drawing at most 4 of them, and over the batch size; and
pre-training of tsai's TST here against tsai's own fit.

    python -m benchmarks.timeseries.steps            # writes timeseries_steps.json and the tables of docs/results/timeseries.md
    python -m benchmarks.timeseries.steps --render

Operations are counted (deterministic); times are medians over alternating rounds on one thread, given as ratios.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks._harness import alternate

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "timeseries_steps.json"
PAGE = ROOT / "docs" / "results" / "timeseries.md"
SOURCES, BATCHES, K = (2, 4, 8, 16, 32), (8, 16, 32, 64), 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--render", action="store_true")
    parser.add_argument("--only", choices=("step", "fit"), help="measure this part, keep the other")
    arguments = parser.parse_args()
    if not arguments.render:
        import torch

        torch.set_num_threads(1)
        found = json.loads(RESULTS.read_text()) if arguments.only else {}
        if arguments.only != "fit":
            found["step"] = steps(arguments.rounds)
        if arguments.only != "step":
            found["fit"] = fit(arguments.rounds)
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    render()


def steps(rounds: int) -> list[dict[str, Any]]:
    """Rows of (sources in the step, windows per source) -> operations and seconds of one joint step with its backward pass."""
    import torch
    from pt_core import Batch
    from pt_core.kernels.flops import flop_counter
    from pt_core.randomness import seeded
    from pt_timeseries.backbones import load_backbone
    from pt_timeseries.methods.pond import POND, PONDConfig
    from pt_timeseries.tasks.classification import DomainClassification

    backbone = load_backbone("builtin:patch_motion")
    labels = list(backbone.head.classes) if backbone.head else []
    cases: list[tuple[str, int, int, int]] = [("all sources", m, m, K) for m in SOURCES]
    cases += [("at most 4 drawn", m, min(m, 4), K) for m in SOURCES]
    cases += [("4 sources, windows per source", 4, 4, k) for k in BATCHES]
    work: list[tuple[dict[str, Any], Callable[[], None]]] = []
    for name, count, drawn, size in cases:
        with seeded(0, "init"):
            task = DomainClassification(labels, sources=[f"s{i}" for i in range(count)])
            method = POND(PONDConfig(), {"backbone": backbone}, task)
        series = torch.randn(size, 6, 128)
        target = torch.arange(size) % len(labels)
        batch = Batch(series, target, torch.arange(size), [str(i) for i in range(size)])
        parts = dict.fromkeys(range(drawn), batch)

        def step(method: POND = method, parts: dict[int, Batch] = parts) -> None:
            objective, _ = method.objectives(parts, torch.Generator().manual_seed(0))
            torch.stack(list(objective.values())).mean().backward()

        with flop_counter() as counter:
            step()
        row = {
            "case": name,
            "sources": count,
            "drawn": drawn,
            "windows": size,
            "gflop": counter.get_total_flops() / 1e9,
        }
        work.append((row, step))
    times = alternate({str(place): step for place, (_, step) in enumerate(work)}, rounds)
    return [{**row, "time": times.ratio(str(place), "0")} for place, (row, _) in enumerate(work)]


def fit(rounds: int) -> dict[str, Any]:
    """Windows per second of one epoch of tsai's TST, here and by tsai's own Learner, on the same windows and with the same batch size."""
    warnings.filterwarnings("ignore")
    import torch
    from pt_timeseries.adapters.encoder import EncoderConfig
    from pt_timeseries.options import PretrainOptions
    from pt_timeseries.pretrain import builtin_windows, pretrain
    from tsai.basics import Learner, TSDataLoaders, TSDatasets
    from tsai.models.TST import TST

    options = PretrainOptions(architecture="tsai:TST", epochs=1, batch_size=64, dim=64, depth=3, heads=4, hidden=128)
    train, _ = builtin_windows(options)
    config = EncoderConfig()
    splits = (list(range(len(train))), list(range(64)))
    data = TSDatasets(train.values.numpy(), train.targets.numpy(), splits=splits, inplace=True)
    loaders = TSDataLoaders.from_dsets(data.train, data.valid, bs=64, num_workers=0, device=torch.device("cpu"))
    sizes = {"n_layers": config.depth, "d_model": 64, "n_heads": 4, "d_ff": 128, "kernel_size": 16, "stride": 8}

    def theirs() -> None:
        net = TST(6, len(train.classes), 128, **sizes)
        learner = Learner(loaders, net, loss_func=torch.nn.CrossEntropyLoss())
        with learner.no_bar(), learner.no_logging():
            learner.fit_one_cycle(1, 1e-3)

    contenders = {"ours": lambda: pretrain(options, train, None, progress=False), "tsai": theirs}
    times = alternate(contenders, rounds, warmup=0)
    return {
        "windows": len(train),
        "ratio": times.ratio("tsai", "ours"),
        "spread": times.spread("tsai", "ours"),
        "rounds": rounds,
    }


def render() -> None:
    found = json.loads(RESULTS.read_text())
    one = next(row for row in found["step"] if row["case"] == "all sources" and row["sources"] == 2)
    lines = [
        "| case | M | drawn | K | GFLOP | x M = 2 | time x M = 2 |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in found["step"]:
        ratio, times = row["gflop"] / one["gflop"], row["time"]
        cells = (
            row["case"],
            row["sources"],
            row["drawn"],
            row["windows"],
            f"{row['gflop']:.2f}",
            f"{ratio:.2f}",
            f"{times:.2f}",
        )
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    own = found["fit"]
    lines += [
        "",
        f"Pre-training of tsai's TST for an epoch of {own['windows']} windows (batch 64), time of tsai's Learner over ours: ",
    ]
    lines[-1] += f"**{own['ratio']:.2f}** (median of {own['rounds']} alternating rounds, spread {own['spread']:.2f})."
    before, _, rest = PAGE.read_text().partition("<!-- steps -->")
    after = rest.partition("<!-- /steps -->")[2]
    text = "\n".join(lines)
    PAGE.write_text(f"{before}<!-- steps -->\n\n{text}\n\n<!-- /steps -->{after}")
    print(text)


if __name__ == "__main__":
    main()
