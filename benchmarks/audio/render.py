"""Put the measured tables into docs/results/audio.md, between its markers.

python -m benchmarks.audio.render
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from benchmarks import _harness

PAGE = Path(__file__).parents[2] / "docs" / "results" / "audio.md"


def answers() -> str:
    lines = [
        "| what | test records | exact match | word F1 | audio shuffled | chance | tuned values | CPU seconds per run |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in _harness.read("audio_table")["rows"]:
        first = row["runs"][0]
        chance = "0.20" if "episodes" in row["cell"] else "0.10"
        seconds = sum(run["cpu_seconds"] for run in row["runs"]) / len(row["runs"])
        lines.append(
            f"| {row['cell']} | {first['counts']['test']} | {score(row, 'exact_match')} | {score(row, 'word_f1')} | "
            f"{score(row, 'shuffled')} | {chance} | {first['tuned']:,} | {seconds:.0f} |"
        )
    return "\n".join(lines)


def score(row: dict[str, Any], name: str) -> str:
    return f"{row[name]:.3f} ± {row[f'{name}_std']:.3f}"


def speed() -> str:
    lines = ["| what | measured | agreement (largest relative difference) |", "| --- | ---: | ---: |"]
    for row in _harness.read("audio_speed")["rows"]:
        if row["what"] == "epoch":
            name = f"epoch with {row['encoder']} in every step / over cached outputs, {row['clips']} clips"
        elif row["what"] == "shared":
            name = "step with the support set in all 8 rows / once"
        else:
            inputs = "cached outputs" if row["cached"] else f"audio files, {row['workers']} worker processes"
            lines.append(f"| share of an epoch spent waiting for data, {inputs} | {row['share']:.1%} | |")
            continue
        spread = "one round" if row["spread"] is None else f"spread {row['spread']:.2f}"
        lines.append(f"| {name} | {row['ratio']:.1f} x ({spread}) | {row['max_relative_difference']:.1e} |")
    return "\n".join(lines)


def main() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for name, table in (("answers", answers()), ("speed", speed())):
        text = re.sub(
            f"<!-- {name} -->.*?<!-- /{name} -->",
            f"<!-- {name} -->\n\n{table}\n\n<!-- /{name} -->",
            text,
            flags=re.DOTALL,
        )
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
