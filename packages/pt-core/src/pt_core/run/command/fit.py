"""`fit METHOD`: tune a method on data, or the best of a small grid of settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pt_core.errors import ConfigError
from pt_core.run.command.flags import MULTIPLE, MethodGroup, StrictCommand, given, method_params, out_option
from pt_core.run.command.runs import collect, free_folder, run_fit, say, summary
from pt_core.run.declare.process import launched_processes, launched_rank

if TYPE_CHECKING:
    from pt_core.run.declare.modality import Modality


def command(modality: Modality) -> click.Command:
    return MethodGroup(modality, "fit", "Tune METHOD on your data.", _of_method)


def _of_method(modality: Modality, method: str) -> click.Command:
    params = [
        *method_params(modality, method),
        out_option("Run folder to write (default: runs/METHOD-N)."),
        click.Option(["--print-config"], is_flag=True, help="Print the resolved configuration and stop."),
        click.Option(
            ["--search"],
            multiple=True,
            help=f"Values to try, NAME=V1,V2,...; the best on validation is kept. {MULTIPLE}",
        ),
    ]
    info = modality.registry.info(method)
    needs = "; ".join(f"{role}: {what}" for role, what in info.needs.items()) or "none"
    text = f"{info.title}.\n\nTunes {info.tunes}. Data: {needs}."

    @click.pass_context
    def callback(ctx: click.Context, /, **kwargs: Any) -> None:
        fit(modality, method, {**kwargs, **ctx.meta["pt.hosts"]}, ctx.meta["pt.problems"])

    return StrictCommand(method, info.hosts, help=text, callback=callback, params=params)


def fit(modality: Modality, method: str, values: dict[str, Any], problems: Sequence[str]) -> None:
    out, print_config, search = values.pop("out"), values.pop("print_config"), values.pop("search")
    if out is None and not print_config and launched_processes() > 1:
        problems = [*problems, "--out is needed with several processes"]
    asked = dict(values)
    written = None if print_config else out
    spec = collect(modality, method, values, problems, written, trains=not print_config, grid=search)
    if print_config:
        import yaml

        click.echo(yaml.safe_dump({"method": spec.method, "options": spec.flat()}, sort_keys=False), nl=False)
        return
    if out is None:
        out = free_folder(Path("runs"), method)
    if search:
        search_grid(modality, method, asked, search, out)
        return
    status = run_fit(modality, spec, out)
    if launched_rank() == 0:
        summary(modality, status, out)


def search_grid(modality: Modality, method: str, asked: Mapping[str, Any], grid: Sequence[str], out: Path) -> None:
    """Every point is a run of its own below OUT/search; the best on validation becomes OUT. A point stands over all other options."""
    from pt_core.run.command.search import parse_grid, search
    from pt_core.run.declare.resolve import read_config, resolve

    points = parse_grid(list(grid))
    flags = given(asked)
    config_file, recipe = flags.pop("config_file", None), flags.pop("recipe", None)
    below = {} if config_file is None else {str(config_file): read_config(config_file)[1]}
    layers = {**below, "the command line": flags}
    specs = [resolve(modality, method, point, recipe, layers) for point in points]  # `collect` has checked them
    name, mode = "", "max"

    def evaluate(point: Mapping[str, Any]) -> float:
        nonlocal name, mode
        number = points.index(dict(point))
        status = run_fit(modality, specs[number], out / "search" / f"{number:02d}", quiet=number > 0)
        if not status["select"]:
            raise ConfigError("--search needs a metric that runs are selected by; this task has none")
        name, mode = status["select"]
        value = status["results"]["val"].get(name)  # absent where the data do not define it
        if value is None:
            return float("-inf")
        return float(value) if mode == "max" else -float(value)

    result = search(points, evaluate, "max")
    click.echo(result.table())
    say(f"best on validation: {dict(result.best)}; running it into {out}")
    summary(modality, run_fit(modality, specs[result.index], out, quiet=True), out)
