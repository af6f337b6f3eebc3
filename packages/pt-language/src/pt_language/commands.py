"""Commands that only pt-language has: inspect, serve, and the exchange with PEFT."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--backbone", help="Backbone to use instead of the recorded one.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def inspect(run: Path, backbone: str | None, as_json: bool) -> None:
    """Nearest tokens, norms, drift and attention of a tuned prompt."""
    from pt_language.inspection import inspect_run

    found = inspect_run(run, backbone)
    if as_json:
        click.echo(json.dumps(found, indent=1))
        return
    click.echo(found["method"])
    for row in found["tensors"]:
        click.echo(
            f"{row['tensor']:<24} {'x'.join(map(str, row['shape'])):>16}  norm {row['norm']:<10} rows {row['mean row norm']}"
        )
    for row in found["rows"]:
        drift = f"  drift {row['drift']:<8}" if "drift" in row else ""
        click.echo(f"row {row['row']:>4}  norm {row['norm']:<8}{drift}  {row['nearest tokens (cosine)']}")
    for layer, mass in enumerate(found["attention"]):
        click.echo(f"layer {layer:>3}  attention to the prompt {mass:.3f}")
    click.echo(f"next: pt-language predict {run} TEXT...")


@click.command("export-peft")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder to write.")
@click.option("--base-model", default=None, help="base_model_name_or_path to record (default: the backbone's source).")
def export_peft(run: Path, out: Path, base_model: str | None) -> None:
    """Write a tuned prompt as a PEFT folder."""
    from pt_language.api import load
    from pt_language.interop import export_peft as write

    write(load(run).method, out, base_model)
    click.echo(f"wrote {out}: adapter_config.json and adapter_model.safetensors")
    click.echo(f"next: peft.PeftModel.from_pretrained(model, '{out}')")


@click.command("import-peft")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--backbone", required=True, help="The model that the prompt was tuned on.")
@click.option(
    "--template", default="{text} {answer}", show_default=True, help="How texts become prompts; the answer comes last."
)
@click.option("--label-words", default="", help="CLASS=WORD,... for a classifier by label words; left out: generation.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Artifact folder to write.")
def import_peft(folder: Path, backbone: str, template: str, label_words: str, out: Path) -> None:
    """Read a PEFT folder into an artifact that can be predicted with, served and tuned on."""
    from pt_core.artifact import card_of, save_artifact
    from pt_core.run.commands import check_out

    from pt_language.backbones import load_backbone
    from pt_language.interop import import_peft as read
    from pt_language.tasks.text import Generation, TextClassification

    check_out(out)
    pairs = [entry.partition("=") for entry in label_words.split(",") if entry]
    task = (
        TextClassification([p[0] for p in pairs], template, [p[2] or p[0] for p in pairs])
        if pairs
        else Generation(template)
    )
    name, method = read(folder, load_backbone(backbone), task)
    save_artifact(out, method, card_of(method, f"pt-language/{name}"))
    click.echo(f"wrote {out} ({method.parameter_count():,} values of {name})")
    click.echo(f"next: pt-language predict {out} TEXT...")


@click.command()
@click.argument("runs", nargs=-1, required=True)
@click.option("--backbone", help="Backbone of all runs (default: the recorded one).")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(1, 65535), help="Port to listen on.")
@click.option("--max-batch", default=32, show_default=True, type=click.IntRange(1), help="Rows that decode together.")
@click.option(
    "--max-queue", default=256, show_default=True, type=click.IntRange(1), help="Waiting requests; more get status 429."
)
@click.option(
    "--max-tokens", default=256, show_default=True, type=click.IntRange(1), help="Longest answer a request may ask for."
)
@click.option("--allow-changes", is_flag=True, help="Let clients add and remove prompts (POST and DELETE /v1/prompts).")
def serve(
    runs: tuple[str, ...], backbone: str | None, host: str, port: int, max_batch: int, max_queue: int, max_tokens: int,
    allow_changes: bool,
) -> None:  # fmt: skip
    """Serve tuned prompts over HTTP, many over one backbone: RUNS are folders, or NAME=FOLDER."""
    from pt_language.serve import run_server

    run_server(runs, backbone, host, port, max_batch, max_queue, max_tokens, allow_changes)


COMMANDS = (inspect, export_peft, import_peft, serve)
