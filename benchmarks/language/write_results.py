"""docs/results/language.md from the JSON of `real_text`, `peft_speed` and `generation_speed`, and the built-in model's recipe.

python -m benchmarks.language.write_results
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
HOW = """Accuracy, mean ± standard deviation over seeds; shots are the total number of labelled examples. All
classes are told by label words."""
MEANING = """Chance is 0.5 (sst2, subj) and 0.25 (the others). The built-in model of 1.2 M parameters read the documentation of
Python's standard library only; it compares texts by the words they share and knows nothing of sentiment, news or questions.

- sst2, subj, ag_news, trec: nearly everything is within 0.06 of chance, that is within two standard deviations of it (IAPT's 0.379 on
  trec has a deviation of 0.12; LoRA on subj and ag_news is a little above). These rows say nothing about the papers' claims.
- intents (texts of a class share words, also with their label word) is the one set where examples in context help. There CPT is level
  with ICL at 4 shots and ahead at 8 (0.486 against 0.340, but its own deviation over three seeds is 0.146, on 48 test texts), and
  against prompt tuning with 50 tokens it is ahead by 0.05 to 0.06. LoRA (9,216 values) is ahead of all of them.
- IAPT with 4 tokens per layer is not below prompt tuning with 50 tokens in any cell. It has four times as many values, and both
  know the shots by heart: IAPT is right on 0.51, prompt tuning on 0.57 more of the shots than of the test texts.

So CPT against ICL is undecided here, and IAPT's claim to match long prompts holds on this model, most of it near chance. A model with
knowledge of the texts would be needed to say more."""


def table(rows: list[dict[str, Any]]) -> list[str]:
    """One row per data set and method, one column per number of shots."""
    shots = sorted({row["shots"] for row in rows})
    done = [row for row in rows if "accuracy" in row]
    lines = [
        "| data | method | tuned values | " + " | ".join(f"{n} shots" for n in shots) + " |",
        "|---|---|---|" + "---|" * len(shots),
    ]
    for data, method in dict.fromkeys((row["data"], row["method"]) for row in done):
        found = {row["shots"]: row for row in done if (row["data"], row["method"]) == (data, method)}
        tuned = f"{next(iter(found.values()))['tuned']:,}" if method != "cpt" else "L x 128"
        cells = [f"{found[n]['accuracy']:.3f} ± {found[n]['spread']:.3f}" if n in found else "–" for n in shots]
        lines.append(f"| {data} | {method} | {tuned} | " + " | ".join(cells) + " |")
    left = [
        f"- {row['data']}, {row['shots']} shots{', ' + row['method'] if 'method' in row else ''}: {row['left out']}"
        for row in rows
        if "left out" in row
    ]
    return lines + (["", "Left out:", "", *left] if left else [])


def verdicts(rows: list[dict[str, Any]]) -> list[str]:
    """The issue's questions, answered by counting cells."""
    by = {(row["data"], row["shots"], row["method"]): row["accuracy"] for row in rows if "accuracy" in row}
    places = sorted({key[:2] for key in by})

    def count(one: str, other: str) -> str:
        both = [place for place in places if (*place, one) in by and (*place, other) in by]
        wins = sum(by[(*place, one)] > by[(*place, other)] for place in both)
        gap = sum(by[(*place, one)] - by[(*place, other)] for place in both) / max(1, len(both))
        return f"- {one} above {other} in {wins} of {len(both)} cells, mean difference {gap:+.3f}"

    pairs = (
        ("cpt", "icl"),
        ("cpt", "prompt_tuning, 50 tokens"),
        ("iapt, 4 tokens", "prompt_tuning, 50 tokens"),
        ("iapt, 4 tokens", "prompt_tuning, 4 tokens"),
    )
    return [count(*pair) for pair in pairs]


def generation(found: dict[str, Any]) -> list[str]:
    """Tables of `generation_speed`."""
    phases = [row for row in found["rows"] if "contender" in row]
    tenants = [row for row in found["rows"] if "tenants" in row]
    requests = next(row for row in found["rows"] if "first / later" in row)
    iapt = next(row for row in phases if row["contender"] == "iapt")
    slower = iapt["lora, all linear / this"]
    lines = [
        "",
        "## Generation: IAPT against unmerged LoRA",
        "",
        f"`{found['command']}`: 8 instructions of 64 tokens, 32 new tokens, CPU seconds of one thread, medians of rounds in changing",
        "order (load at the start {}). Numbers are times of the bare model's; steps are decoding steps with a cache.".format(
            found["load"]
        ),
        "",
        "| contender | tuned values | prefill | step | prefill and 31 steps | spread of steps | tokens/s |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in phases:
        ratios = row["times of the bare model"]
        cells = [
            row["contender"],
            f"{row['values']:,}",
            *(f"{ratios[name]:.2f}" for name in ("prefill", "step", "whole")),
        ]
        lines.append(
            f"| {' | '.join([*cells, format(row['spread']['step'], '.2f'), format(row['tokens per second'], ',')])} |"
        )
    lines += [
        "",
        f"With as many tuned values, unmerged LoRA takes {slower['whole']:.2f} times as long as IAPT (steps: {slower['step']:.2f}).",
        f"IAPT's generators ran {iapt['generator calls per layer']:.0f} time per layer, and "
        f"{iapt['tokens equal to whole passes']:.0%} of its tokens equal those of whole forward passes.",
        "",
        "## Many prompts in one batch, through PromptServer",
        "",
        "64 requests of 16 tokens, 16 new tokens each; LoRA is PEFT's mixed-batch inference (`adapter_names`, rank 8 on q and v).",
        "",
        "| tenants | mixed / one prompt | spread | time LoRA / ours | tokens/s ours | tokens/s LoRA | rows equal to requests alone |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in tenants:
        rate = row["tokens per second"]
        cells = [
            str(row["tenants"]),
            f"{row['mixed / one prompt']:.2f}",
            f"{row['spread']:.2f}",
            f"{row['lora / ours']:.2f}",
        ]
        cells += [f"{rate['ours']:,}", f"{rate['lora']:,}", f"{row['rows equal to requests alone']:.0%}"]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        f"A tenant's first request ({requests['setting']}) takes {requests['first / later']:.1f} times as long as its later",
        f"ones: the prompt was computed {requests['prompts computed in five requests']} time in five requests.",
    ]
    return lines


def model() -> list[str]:
    """What the built-in model can do, from its recipe."""
    card = json.loads((ROOT / "packages/pt-language/src/pt_language/assets/lm_docs/recipe.json").read_text())
    recipe = card["recipe"]
    found = {
        name.removeprefix("held out, "): value for name, value in card["results"].items() if name.startswith("held")
    }
    settings = list(dict.fromkeys(name.split(", ", 1)[1] for name in found))
    kinds = list(dict.fromkeys(name.split(", ", 1)[0] for name in found))
    lines = [
        "## The built-in model",
        "",
        f"`pt-language pretrain` made it: {card['parameters']:,} parameters, {recipe['steps']:,} steps of",
        f"{recipe['tokens_per_step']:,} tokens, {card['seconds'] / 60:.0f} minutes on a busy machine. Accuracy in context",
        "on label words and library modules that it never saw; the query is not among the examples (except for `same text`).",
        "",
        "| examples of a class have in common | " + " | ".join(settings) + " |",
        "|---|" + "---|" * len(settings),
    ]
    lines += [
        f"| {kind} | " + " | ".join(f"{found[f'{kind}, {name}']:.3f}" for name in settings) + " |" for kind in kinds
    ]
    return [*lines, ""]


def main() -> None:
    text = json.loads((RESULTS / "language_real_text.json").read_text())
    speed = json.loads((RESULTS / "language_peft_speed.json").read_text())
    lines = [
        "# pt-language: results",
        "",
        *model(),
        "## Few-shot classification of real text",
        "",
        f"`{text['command']}` on `{text['backbone']}` (fingerprint {text['fingerprint']}). {HOW}",
        "",
        *([text["note"], ""] if "note" in text else []),
        *table(text["rows"]),
        "",
        *verdicts(text["rows"]),
        "",
        MEANING,
        "",
        "## Against HF PEFT",
        "",
        f"`{speed['command']}`, {speed['machine']['cpu']}, torch {speed['machine']['torch']}, PEFT {speed['machine']['peft']}.",
        f"The machine's load at the start was {speed['load']}: ratios of alternating runs, not seconds, are what to read.",
        "",
        "| setting | time PEFT / ours | spread | FLOPs ours / PEFT | peak memory ours / PEFT | largest difference of gradients |",
        "|---|---|---|---|---|---|",
    ]
    for row in speed["rows"]:
        if "peft / ours" in row:
            memory = f"{row['peak memory ours / peft']:.2f}" if "peak memory ours / peft" in row else "–"
            cells = [
                row["setting"],
                f"{row['peft / ours']:.2f}",
                f"{row['spread']:.2f}",
                f"{row['flops ours / peft']:.3f}",
                memory,
            ]
            lines.append(f"| {' | '.join([*cells, format(row['gradient difference'], '.1e')])} |")
    lines += [
        "",
        "| setting | time LoRA (PEFT) / ours | mixed / one prompt | tokens/s ours | tokens/s LoRA |",
        "|---|---|---|---|---|",
    ]
    for row in speed["rows"]:
        if "mixed / one prompt" in row:
            rate = row["tokens per second"]
            cells = [row["setting"], f"{row['peft lora / ours']:.2f}", f"{row['mixed / one prompt']:.2f}"]
            lines.append(f"| {' | '.join([*cells, format(rate['ours'], ','), format(rate['peft lora'], ',')])} |")
    lines += generation(json.loads((RESULTS / "language_generation_speed.json").read_text()))
    (ROOT / "docs" / "results" / "language.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
