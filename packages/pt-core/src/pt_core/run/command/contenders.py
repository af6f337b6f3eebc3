"""The demonstration that every package has: methods compared on built-in data, as a table and a page."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from pt_core.run.declare.modality import Modality


def compare_methods(
    modality: Modality,
    out: Path,
    contenders: Mapping[str, Mapping[str, Any]],
    *,
    intro: str,
    next_: str,
    seeds: int = 1,
    metric: str = "accuracy",
    further: Sequence[str] = (),
    roles: Sequence[str] = ("backbone",),
    finish: Callable[[], None] | None = None,
) -> None:
    """Run every contender with every seed below `out`, print a row for each, and write a comparison page.

    Args:
        contenders: name -> `method` and the options of its runs.
        intro: what is compared, said first.
        next_: the command to try next, said last.
        metric: the test metric to show.
        further: more test metrics to show, a column each.
        roles: backbone roles whose default networks are loaded once, for all runs.
        finish: says more, before the last line.
    """
    from pt_core.run.command.runs import check_out, run_fit, say
    from pt_core.run.declare.resolve import resolve
    from pt_core.run.report import compare

    check_out(out)
    say(intro)
    backbones = {role: modality.load_backbone(modality.default_backbone(role), None, None, role) for role in roles}
    head = f"test {metric}"
    width = max(12, *(len(name) for name in contenders))
    room = max(14, len(head))
    more = "".join(f" {name:>{max(8, len(name))}}" for name in further)
    click.echo(f"{'method':<{width}} {'tuned parameters':>17} {'of backbone':>12} {head:>{room}}{more} {'seconds':>8}")
    runs: list[Path] = []
    for name, options in contenders.items():
        statuses = []
        for seed in range(seeds):
            own = {**options, "seed": seed}
            folder = out / name / f"seed-{seed}"
            statuses.append(run_fit(modality, resolve(modality, own.pop("method"), own), folder, backbones, quiet=True))
            runs.append(folder)
        scores = [status["results"]["test"][metric] for status in statuses]
        shown = f"{statistics.mean(scores):.3f}" + (f" ± {statistics.stdev(scores):.3f}" if seeds > 1 else "")
        parameters = statuses[0]["parameters"]
        seconds = statistics.mean(status["time"]["fit_seconds"] for status in statuses)
        share = "–" if parameters["share"] is None else f"{parameters['share']:.2%}"
        means = [statistics.mean(status["results"]["test"][key] for status in statuses) for key in further]
        cells = "".join(f" {mean:>{max(8, len(key))}.3f}" for key, mean in zip(further, means, strict=True))
        click.echo(f"{name:<{width}} {parameters['tuned']:>17,} {share:>12} {shown:>{room}}{cells} {seconds:>8.1f}")
    compare(runs, out / "compare.html")
    click.echo(f"report: {runs[-1] / 'report.html'}; comparison: {out / 'compare.html'}")
    if finish is not None:
        finish()
    click.echo(f"next: {next_}")
