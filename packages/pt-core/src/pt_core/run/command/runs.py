"""Starting a run, for every command and the API: where it goes, what is checked first, what is said at its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pt_core.errors import ConfigError, UserError
from pt_core.run.command.flags import given
from pt_core.run.declare.process import launched_rank, working

if TYPE_CHECKING:
    from pt_core.backbone import Backbone
    from pt_core.run.declare.modality import Modality
    from pt_core.run.declare.resolve import Layers, Note
    from pt_core.run.declare.spec import RunSpec
    from pt_core.run.use.predict import Predictor


def say(text: str) -> None:
    """A line for the user, once per run of several processes."""
    if launched_rank() == 0:
        click.echo(text, err=True)


def free_folder(parent: Path, name: str) -> Path:
    """The first of name-1, name-2 ... that does not exist. All processes of a run must agree, so it is chosen before training starts."""
    number = 1
    while (parent / f"{name}-{number}").exists():
        number += 1
    return parent / f"{name}-{number}"


def collect(
    modality: Modality,
    method: str,
    values: dict[str, Any],
    problems: Sequence[str],
    out: Path | None = None,
    loads: bool = True,
    trains: bool = True,
    grid: Sequence[str] = (),
) -> RunSpec:
    """Flags over --config over --recipe; unknown flags, invalid values, wrong paths and names are reported together.

    Args:
        loads: whether the command will read weights.
        trains: whether it will train, and so needs data and a device.
        grid: entries of --search.

    Raises:
        ConfigError: everything that is wrong with the command line, before any data or weights are read.
    """
    from pt_core.run.declare.resolve import read_config

    config_file, recipe = values.pop("config_file", None), values.pop("recipe", None)
    found = [*problems, *out_problems(out)]
    below: dict[str, dict[str, Any]] = {}
    if config_file is not None:
        try:
            named, below[str(config_file)] = read_config(config_file)
        except ConfigError as error:
            named = None
            found += error.problems
        if named is not None and named != method:
            found.append(f"{config_file} is a configuration of {named!r}, not of {method!r}")
    return settle(modality, method, given(values), recipe, below, found, loads, trains, grid, note=say)


def settle(
    modality: Modality,
    method: str,
    values: Mapping[str, Any],
    recipe: str | None,
    below: Layers | None = None,
    problems: Sequence[str] = (),
    loads: bool = True,
    trains: bool = True,
    grid: Sequence[str] = (),
    loaded: bool = False,
    note: Note | None = None,
) -> RunSpec:
    """The run that options describe. See `settled` and `collect` for the arguments.

    Raises:
        ConfigError: `problems`, and all that is wrong with the options.
    """
    from pt_core.run.fit.settle import settled

    spec, found = settled(modality, method, values, recipe, below, problems, loads, trains, loaded, note)
    found += [
        problem for problem in grid_problems(modality, method, values, recipe, below, grid) if problem not in found
    ]
    if spec is None or found:
        raise ConfigError(list(dict.fromkeys(found)))
    return spec


def grid_problems(
    modality: Modality,
    method: str,
    values: Mapping[str, Any],
    recipe: str | None,
    below: Layers | None,
    grid: Sequence[str],
) -> list[str]:
    """What is wrong with --search: its form, the names in it and, point by point, the values."""
    from pt_core.run.command.search import parse_grid
    from pt_core.run.declare.resolve import resolve

    if not grid:
        return []
    try:
        points = parse_grid(grid)
    except ConfigError as error:
        return error.problems
    found: list[str] = []
    for point in points:
        try:
            resolve(modality, method, point, recipe, {**(below or {}), "the command line": values})
        except ConfigError as error:
            found += error.problems
    return list(dict.fromkeys(found))


def run_fit(
    modality: Modality,
    spec: RunSpec,
    out: Path,
    backbones: Mapping[str, Backbone] | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Prepare and execute a run; nothing is written before everything was checked."""
    from pt_core.run.fit.execute import execute
    from pt_core.run.fit.prepare import prepare

    tell = (lambda text: None) if quiet else say
    check_out(out)
    prepared = prepare(modality, spec, tell, backbones)
    working()
    return execute(modality, prepared, out, tell)


def check_out(out: Path) -> None:
    """Refuse a folder that cannot take a new run.

    Raises:
        UserError: it is a file, cannot be written, or holds a run.
    """
    problems = out_problems(out)
    if problems:
        raise UserError(problems[0])


def out_problems(out: Path | None) -> list[str]:
    """What speaks against writing a new run to `out`."""
    import os

    if out is None:
        return []
    if out.exists() and not out.is_dir():
        return [f"--out {out} is a file; name a folder"]
    if (out / "run.json").exists():
        return [f"{out} already holds a run; choose another --out, or continue it with `resume {out}`"]
    existing = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    if not existing.is_dir():
        return [f"--out {out}: {existing} is a file, not a folder"]
    if not os.access(existing, os.W_OK | os.X_OK):
        return [f"--out {out} cannot be written: no permission in {existing}; choose another --out"]
    return []


def summary(modality: Modality, status: Mapping[str, Any], out: Path) -> None:
    """The last lines of `fit` and `resume`."""
    results = status.get("results", {})
    for role in ("val", "test"):
        if role in results:
            # The metric that selects comes first.
            ordered = sorted(results[role].items(), key=lambda item: item[0] not in status["select"][:1])
            shown = ", ".join(f"{name} {value:.4f}" for name, value in ordered[:4])
            click.echo(f"{role}: {shown}")
    parameters = status["parameters"]
    share = f" ({parameters['share']:.2%} of the backbone)" if parameters.get("share") else ""
    click.echo(
        f"tuned {parameters['tuned']:,} parameters{share} in {status['time']['fit_seconds']:.1f} s; report: {out / 'report.html'}"
    )
    click.echo(f"next: {modality.package} predict {out} {modality.input_name}...")


def split_own(modality: Modality, words: Sequence[str], command: click.Command) -> tuple[list[str], dict[str, Any]]:
    """(other words, flag name -> value) of the leftover words of a command on a run, whose method (and the hosts of which) may have flags
    of their own. Looked at before any weights are read.

    Raises:
        ConfigError: all flags that neither the command nor the method knows, and those without the value they need.
    """
    import dataclasses

    from pt_core.artifact import read_artifact
    from pt_core.run.command.flags import own_flags
    from pt_core.run.declare.options import hints, is_flag

    run = next((Path(word) for word in words if is_run(Path(word))), None)
    if run is None or not any(word.startswith("--") for word in words):  # without a run, that is what is told
        return [word for word in words if not word.startswith("--")], {}
    card = read_artifact(run).card
    ids = [card["method"].partition("/")[2], *(host["method"] for host in card["hosts"].values())]
    own = (modality.predict_options, *(modality.registry.load(name).PredictOptions for name in ids))
    kinds = [kind for kind in own if kind is not None]
    switches = {field.name: is_flag(hints(kind)[field.name]) for kind in kinds for field in dataclasses.fields(kind)}
    return own_flags(
        words, switches, [flag for param in command.params for flag in param.opts if flag.startswith("--")]
    )


def is_run(path: Path) -> bool:
    """Whether this is a run folder or an artifact."""
    try:
        return any((path / name).is_file() for name in ("run.json", "card.json", "tuned/card.json"))
    except OSError:  # no name that a file can have
        return False


def open_run(
    modality: Modality,
    run: Path,
    backbone: Sequence[str],
    weights: Sequence[str],
    allow_backbone_mismatch: bool,
    class_names: str | None = None,
    **how: Any,
) -> Predictor:
    """A tuned artifact for a command that uses it, on other class names where some are given; what was noticed while loading is said.
    `how` are further arguments of `pt_core.run.use.predict.load`."""
    from pt_core.run.declare.class_names import read_class_names
    from pt_core.run.use.predict import load

    predictor = load(
        modality,
        run,
        backbone=backbone,
        weights=weights,
        allow_backbone_mismatch=allow_backbone_mismatch,
        class_names=None if class_names is None else read_class_names(class_names),
        **how,
    )
    for note in predictor.notes:
        say(note)
    return predictor
