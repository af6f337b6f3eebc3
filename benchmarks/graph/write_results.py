"""docs/results/graph.md from benchmarks/results/graph_table.json and graph_rollouts.json: `python -m benchmarks.graph.write_results`."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks._harness import read

PAGE = Path(__file__).parents[2] / "docs" / "results" / "graph.md"
NAMES = {
    "linear": "head alone (`linear`)",
    "gpf": "GPF",
    "gpf_plus": "GPF-plus",
    "all_in_one": "All-in-One",
    "graph_prompt": "GraphPrompt",
    "gppt": "GPPT",
    "relief": "RELIEF",
    "full": "full fine-tuning",
}
SETS = {"bbbp": "BBBP", "bace": "BACE", "clintox": "ClinTox", "tox21": "Tox21", "cora": "Cora (accuracy)"}


def spread(values: Sequence[float]) -> str:
    if not values:
        return "–"
    deviation = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.1f}{deviation}"


def table(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    sets = [name for name in SETS if any(run["set"] == name for run in runs)]
    lines = ["| method | " + " | ".join(SETS[name] for name in sets) + " |", "|---|" + "---:|" * len(sets)]
    for method, shown in NAMES.items():
        cells = [
            spread([run["test"][run["metric"]] for run in runs if (run["set"], run["method"]) == (name, method)])
            for name in sets
        ]
        if any(cell != "–" for cell in cells):
            lines.append(f"| {shown} | " + " | ".join(cells) + " |")
    return lines


def policies(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [
        "| set | coverage (PCR) | size (APM) | return of the policy | return of a random policy | policy above random |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, shown in SETS.items():
        own = [run for run in runs if run["set"] == name and run["method"] == "relief"]
        if not own:
            continue
        mean = {
            key: statistics.mean(run["test"].get(key, 0.0) if key in ("pcr", "apm") else run[key] for run in own)
            for key in ("pcr", "apm", "return_joint", "return_random")
        }
        wins = sum(run["return_joint"] > run["return_random"] for run in own)
        lines.append(
            f"| {shown.split()[0]} | {mean['pcr']:.2f} | {mean['apm']:.3f} | {mean['return_joint']:+.4f} | "
            f"{mean['return_random']:+.4f} | {wins} of {len(own)} seeds |"
        )
    return lines


def verdict(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Where RELIEF's mean is above or below the others', by the numbers."""

    def mean(name: str, method: str) -> float:
        found = [run["test"][run["metric"]] for run in runs if (run["set"], run["method"]) == (name, method)]
        return statistics.mean(found) if found else float("nan")

    lines = []
    for name, shown in SETS.items():
        relief = mean(name, "relief")
        if relief != relief:
            continue
        others = {
            method: mean(name, method)
            for method in NAMES
            if method != "relief" and mean(name, method) == mean(name, method)
        }
        above = [NAMES[method].replace("`", "") for method, value in others.items() if relief > value]
        below = [NAMES[method].replace("`", "") for method, value in others.items() if relief <= value]
        said = f"above that of {', '.join(above)}" if above else "above that of no other method"
        rest = f"not above {', '.join(below)}" if below and above else ""
        lines.append(f"- {shown.split()[0]}: RELIEF's mean is {said}{'; ' + rest if rest else ''}.")
    return lines


def shortfall(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """What of the planned five seeds is missing."""
    seeds = {(name, method): 0 for name in SETS for method in NAMES}
    for run in runs:
        seeds[run["set"], run["method"]] += 1
    done = [count for (name, method), count in seeds.items() if method not in ("graph_prompt", "gppt")]
    if min(done) >= 5:
        return []
    head = f"Five seeds were planned; what could be run so far has {min(done)} to {max(done)} per cell: hardly any spread is known,"
    return [
        head,
        "and no cell says which method is better. The command above adds the missing runs to what is there.",
        "",
    ]


def counts(runs: Sequence[Mapping[str, Any]]) -> str:
    parts = []
    for name, shown in SETS.items():
        own = [run for run in runs if run["set"] == name]
        if own:
            size = own[0]["counts"]
            parts.append(f"{shown.split()[0]} {size['train']}/{size['val']}/{size['test']}")
    return "; ".join(parts)


def speed(found: Mapping[str, Any]) -> list[str]:
    head = (
        "8 graphs, nodes",
        "environment steps",
        "per CPU second",
        "faster than published",
        "buffer smaller",
        "largest reward difference",
    )
    lines = [f"| {' | '.join(head)} |", "|" + "---:|" * len(head)]
    for row in found["rows"]:
        agreement = f"{row['largest_reward_difference']:.1e} (rewards up to {row['largest_reward']:.2f})"
        cells = [
            row["nodes"],
            row["environment_steps"],
            f"{row['steps_per_second']:.0f}",
            f"{row['faster']} x",
            f"{row['smaller']} x",
        ]
        lines.append(f"| {' | '.join(map(str, cells))} | {agreement} |")
    return lines


def critics(found: Mapping[str, Any]) -> list[str]:
    lines = [
        "| critic | values | CPU seconds, whole run | seconds of the last epoch | peak memory above start | return | test ROC-AUC | PCR |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row['critic']} | {row['critic_values']:,} | {row['cpu_seconds']} | {row['last_epoch_seconds']:.1f} | "
        f"{row['peak_bytes_above_start'] / 1e9:.2f} GB | {row['mean_return']:+.4f} | {row['test']['roc_auc']:.3f} | "
        f"{row['test']['pcr']:.2f} |"
        for row in found["critics"]
    ]
    return lines


def render() -> str:
    """The page."""
    results, rollouts = read("graph_table"), read("graph_rollouts")
    runs = results["runs"]
    lines = [
        "# Results of pt-graph",
        "",
        "Generated by `python -m benchmarks.graph.write_results` from committed measurements; the runs are those of",
        "`python benchmarks/graph/table.py --data DIR` (one CPU thread; settings are at the head of that file).",
        "",
        "## 50-shot molecules and 10-shot Cora",
        "",
        f"Test ROC-AUC x 100 (Cora: accuracy x 100), mean ± standard deviation over seeds. Network: `{results['backbone']}`",
        "(5-layer GCN, width 300, context prediction; the published tables use 5-layer GIN weights, which could not be had). Cora: a",
        "2-layer GIN of width 128 that the script pretrains by masked edges on the same graphs (2 hops, 5 to 150 nodes; published: 4 hops)",
        "without labels. Scaffold split; the 50 molecules are the same for all seeds.",
        f"Graphs in train/val/test: {counts(runs)}.",
        "Larger validation and test parts are sampled, for all methods alike. Frozen networks run as in evaluation throughout.",
        "",
        *table(runs),
        "",
        *shortfall(runs),
        *verdict(runs),
        "",
        "These are short runs: RELIEF trains 6 epochs (published: 50 to 100) behind 60 passes of the head without prompts, with the pooled",
        "critic and 10 head steps per pass; GPF and GPF-plus train 40 epochs (published: 100) and take the last one; the others 20 to",
        "100 epochs. The table says how these implementations behave at this size, not how the published ones rank.",
        "",
        "## What the policy does",
        "",
        "Mean over seeds. A return is the drop of the loss over an episode on the training graphs, under the final head; the random policy",
        "picks a uniform node and a content uniform in ± z_max at every step.",
        "",
        *policies(runs),
        "",
        "After so few epochs the prompts are small (APM) and the policy's return is close to zero: RELIEF is on "
        "the molecules nearly its own head.",
        "Being above the random policy mostly means doing no harm; it does not show that the prompts help.",
        "",
        "## Rollouts",
        "",
        "One rollout batch of BBBP against a transcription of the published loop (two forwards per step, float64, dense buffer, all graphs",
        "until the longest ends), same noise: `python -m benchmarks.graph.rollouts --data DIR`. Ratios of CPU time, median over rounds.",
        "",
        *speed(rollouts),
        "",
        "Whole runs of 2 epochs with either critic, each in a process of its own (times were taken on a shared, busy machine):",
        "",
        *critics(rollouts),
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(render(), encoding="utf-8")


if __name__ == "__main__":
    main()
