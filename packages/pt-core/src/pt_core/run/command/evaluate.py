"""`eval RUN --data D`: metrics of a tuned method on labelled data."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pt_core.errors import UserError
from pt_core.run.command import flags
from pt_core.run.command.runs import is_run, open_run, say, split_own

if TYPE_CHECKING:
    from pt_core.run.declare.modality import Modality


def command(modality: Modality) -> click.Command:
    @click.pass_context
    def callback(ctx: click.Context, /, run: Path, **values: Any) -> None:
        words, own = split_own(modality, [str(run), *ctx.args], ctx.command)
        if not words:
            raise UserError("no RUN given; usage: eval RUN --data DATA")
        if len(words) > 1 and is_run(Path(words[0])):
            raise UserError(f"unexpected argument {words[1]!r}")
        evaluate_run(modality, Path(words[0]), **values, own=own)

    return flags.OpenCommand(
        "eval",
        help="Evaluate a run on labelled data.",
        callback=callback,
        params=[
            flags.run_argument(),
            click.Option(["--data"], required=True, help="Labelled data, as in `fit`."),
            click.Option(["--role"], default="test", show_default=True, help="Part of the data to evaluate on."),
            flags.json_option(),
            flags.class_names_option(),
            *flags.backbone_options(),
        ],
    )


def evaluate_run(
    modality: Modality,
    run: Path,
    data: str,
    role: str,
    as_json: bool,
    backbone: Sequence[str],
    weights: Sequence[str],
    allow_backbone_mismatch: bool,
    class_names: str | None = None,
    own: Mapping[str, Any] | None = None,
) -> None:
    from pt_core.run.data.sampling import with_classes
    from pt_core.run.declare.options import build_all
    from pt_core.run.declare.resolve import read_config
    from pt_core.run.train.evaluate import evaluate
    from pt_core.run.use.predict import predict_options

    predictor = open_run(modality, run, backbone, weights, allow_backbone_mismatch, class_names)
    predict_options(modality, predictor.method, own or {})
    known = {field.name for field in dataclasses.fields(modality.data_options)}
    config = run / "config.yaml"
    stored = read_config(config)[1] if config.is_file() else {}
    options = build_all({"data": modality.data_options}, {k: v for k, v in stored.items() if k in known})["data"]
    roles = modality.load_data(data, options, int(stored.get("sampling_seed") or stored.get("seed") or 0))
    if role not in roles:
        raise UserError(f"{data} has no part {role!r}; it has: {', '.join(roles)} (choose with --role)")
    for text in (text for part in roles.values() for text in getattr(part, "notes", ())):
        say(text)
    part = with_classes(roles[role], predictor.method.task.class_names())
    predictor.method.task.check_dataset(part, role)
    method = predictor.method
    dataset = modality.bind(part, method.backbones, method.task, options, training=False)
    result = evaluate(method, dataset, predictor.world, method.task.eval_batch, 0)
    if as_json:
        flags.echo_json({"role": role, "samples": len(dataset), "metrics": result.metrics, "notes": predictor.notes})
        return
    click.echo(f"{role}: {len(dataset)} samples")
    for name, value in result.metrics.items():
        click.echo(f"  {name:<20} {value:.4f}")
