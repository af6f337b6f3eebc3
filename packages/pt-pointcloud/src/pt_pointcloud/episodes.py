"""`pt-pointcloud episodes`: few-shot episodes (n-way k-shot), each a run of its own, and their mean."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from pt_core.run.declare.modality import Modality


def episodes_command(modality: Modality) -> click.Command:
    """The command; its options beyond these are set with --set NAME=VALUE, as the flags of `fit METHOD`."""

    def callback(**values: Any) -> None:
        run_episodes(modality, **values)

    return click.Command(
        "episodes",
        help="Few-shot episodes: N ways, K shots, mean and std over episodes (as on ModelNet40: 10 episodes, 20 queries per class).",
        callback=callback,
        params=[
            click.Argument(["method"]),
            click.Option(["--data"], required=True, help="Labelled clouds, as in `fit`; its parts are pooled."),
            click.Option(["--ways"], type=click.IntRange(2), default=5, show_default=True, help="Classes per episode."),
            click.Option(
                ["--shots"], type=click.IntRange(1), default=10, show_default=True, help="Training clouds per class."
            ),
            click.Option(
                ["--queries"], type=click.IntRange(1), default=20, show_default=True, help="Test clouds per class."
            ),
            click.Option(
                ["--episodes"], type=click.IntRange(1), default=10, show_default=True, help="Number of episodes."
            ),
            click.Option(["--backbone"], help="As in `fit`."),
            click.Option(
                ["--set", "settings"],
                multiple=True,
                metavar="NAME=VALUE",
                help="Any flag of `fit METHOD`. (repeatable)",
            ),
            click.Option(
                ["--out"], type=click.Path(path_type=Path), help="Folder to write (default: runs/episodes-METHOD-N)."
            ),
            click.Option(["--json", "as_json"], is_flag=True, help="Print JSON for scripts."),
        ],
    )


def run_episodes(
    modality: Modality,
    method: str,
    data: str,
    ways: int,
    shots: int,
    queries: int,
    episodes: int,
    backbone: str | None,
    settings: tuple[str, ...],
    out: Path | None,
    as_json: bool,
) -> dict[str, Any]:
    """Run all episodes below `out`; the last weights count, because an episode has no validation part.

    Raises:
        ConfigError, DataError: as `fit`; all options are checked before the first episode.
    """
    from pt_core.errors import ConfigError
    from pt_core.run.command.runs import check_out, free_folder, run_fit, say
    from pt_core.run.declare.resolve import resolve
    from pt_core.run.fit.prepare import load_backbones

    options: dict[str, Any] = {
        "data": (data,),
        "ways": ways,
        "shots": shots,
        "exact_shots": True,  # an episode of fewer shots is another benchmark
        "queries": queries,
        "val_fraction": 0.0,
        "epochs": 150,
    }
    if backbone is not None:
        options["backbone"] = (backbone,)
    for text in settings:
        name, equal, value = text.partition("=")
        if not equal:
            raise ConfigError(f"--set {text!r} is not of the form NAME=VALUE")
        options[name.strip().replace("-", "_").lstrip("_")] = value
    folder = out or free_folder(Path("runs"), f"episodes-{method}")
    check_out(folder)
    specs = [resolve(modality, method, {**options, "episode": episode}) for episode in range(episodes)]
    info = modality.registry.joined(specs[0].method, specs[0].host_ids)
    networks = load_backbones(modality, specs[0], info, say)
    scores = []
    for number, spec in enumerate(specs):
        status = run_fit(modality, spec, folder / f"episode-{number:02d}", networks, quiet=True)
        scores.append(float(status["results"]["test"]["accuracy"]))
        say(f"episode {number}: accuracy {scores[-1]:.4f}")
    summary = {
        "method": method,
        "ways": ways,
        "shots": shots,
        "queries": queries,
        "accuracies": scores,
        "mean": statistics.mean(scores),
        "std": statistics.stdev(scores) if episodes > 1 else 0.0,
    }
    (folder / "episodes.json").write_text(json.dumps(summary, indent=1) + "\n")
    if as_json:
        click.echo(json.dumps(summary))
    else:
        click.echo(
            f"{method}: {ways}-way {shots}-shot accuracy {summary['mean']:.4f} ± {summary['std']:.4f} over {episodes} episodes"
        )
        say(f"next: {modality.package} compare {folder}/episode-*")
    return summary
