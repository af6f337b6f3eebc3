"""Commands that only pt-language has: inspect, import-peft and serve (`export --format peft` is the way back)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from pt_core.errors import UserError

from pt_language.server.command import serve

if TYPE_CHECKING:
    from pt_core.run.declare.modality import Modality


def commands(modality: Modality) -> Sequence[click.Command]:
    return inspect(modality), import_peft(modality), serve(modality)


def inspect(modality: Modality) -> click.Command:
    @click.command()
    @click.argument("run", type=click.Path(path_type=Path))
    @click.option("--backbone", help="Backbone to use instead of the recorded one.")
    @click.option("--json", "as_json", is_flag=True, help="Print JSON.")
    def inspect(run: Path, backbone: str | None, as_json: bool) -> None:
        """Nearest tokens, norms, drift and attention of a tuned prompt."""
        from pt_language.inspection import inspect_run

        found = inspect_run(modality, run, backbone)
        if as_json:
            click.echo(json.dumps(found, indent=1))
        else:
            say(found)
            click.echo(f"next: pt-language predict {run} TEXT...")

    return inspect


def say(found: Mapping[str, Any]) -> None:
    """Print what `inspect_run` found."""
    click.echo(found["method"])
    for row in found["tensors"]:
        drift = f"  drift {row['drift']}" if "drift" in row else ""
        shape = "x".join(map(str, row["shape"]))
        click.echo(f"{row['tensor']:<24} {shape:>16}  norm {row['norm']:<10} rows {row['mean row norm']:<8}{drift}")
    for row in found["rows"]:
        drift = f"  drift {row['drift']:<8}" if "drift" in row else ""
        click.echo(f"row {row['row']:>4}  norm {row['norm']:<8}{drift}  {row['nearest tokens (cosine)']}")
    for layer, mass in enumerate(found["attention"]):
        click.echo(f"layer {layer:>3}  attention to the prompt {mass:.3f}")


def import_peft(modality: Modality) -> click.Command:
    @click.command("import-peft")
    @click.argument("folder", type=click.Path(path_type=Path))
    @click.option("--backbone", required=True, help="The model that the prompt was tuned on.")
    @click.option(
        "--template",
        default="{text} {answer}",
        show_default=True,
        help="How texts become prompts; the answer comes last.",
    )
    @click.option(
        "--label-words", default="", help="CLASS=WORD,... for a classifier by label words; left out: generation."
    )
    @click.option("--out", type=click.Path(path_type=Path), required=True, help="Artifact folder to write.")
    def import_peft(folder: Path, backbone: str, template: str, label_words: str, out: Path) -> None:
        """Read a PEFT folder (or a published .npy prompt) into an artifact that can be predicted with, served and tuned on."""
        from pt_core.saving import card_of, save_artifact

        from pt_language.backbones import load_backbone
        from pt_language.interop.foreign import read_foreign
        from pt_language.interop.incoming import build
        from pt_language.tasks.classification import TextClassification
        from pt_language.tasks.generation import Generation

        if out.exists():
            raise UserError(f"{out} exists; choose another --out")
        foreign = read_foreign(folder)  # before any weight of the backbone is read
        for note in foreign.notes:
            click.echo(note, err=True)
        pairs = [entry.partition("=") for entry in label_words.split(",") if entry]
        task = (
            TextClassification([p[0] for p in pairs], template, [p[2] or p[0] for p in pairs])
            if pairs
            else Generation(template)
        )
        name, method = build(foreign, load_backbone(backbone), task)
        save_artifact(out, method, card_of(method, f"{modality.package}/{name}"))
        click.echo(f"wrote {out} ({method.parameter_count():,} values of {name})")
        click.echo(f"next: pt-language predict {out} TEXT...")

    return import_peft
