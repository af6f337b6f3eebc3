"""Flags: the fields of the options dataclasses as click options, and the arguments that several commands share."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pt_core.errors import nearest

if TYPE_CHECKING:
    from pt_core.run.declare.modality import Modality

MULTIPLE = "(repeatable)"
FOLDER = click.Path(path_type=Path)


def out_option(text: str = "Folder to write.", required: bool = False) -> click.Option:
    return click.Option(["--out"], type=FOLDER, help=text, required=required)


def json_option() -> click.Option:
    return click.Option(["--json", "as_json"], is_flag=True, help="Print JSON for scripts.")


def run_argument() -> click.Argument:
    return click.Argument(["run"], type=FOLDER)


def backbone_options() -> list[click.Parameter]:
    """What commands that load a tuned artifact take."""
    return [
        click.Option(
            ["--backbone"],
            multiple=True,
            help=f"Backbone to use instead of the recorded source, or ROLE=SPEC. {MULTIPLE}",
        ),
        click.Option(
            ["--weights"],
            multiple=True,
            help=f"Local weight file or folder for the backbone, or ROLE=FILE. {MULTIPLE}",
        ),
        click.Option(
            ["--allow-backbone-mismatch"], is_flag=True, help="Accept another backbone than the one tuned on."
        ),
    ]


def options_of(classes: Mapping[str, type], defaults: Mapping[str, Any] | None = None) -> list[click.Parameter]:
    """Click options for the fields of dataclasses; values stay strings and are validated later, all together."""
    from pt_core.run.declare.options import choices, field_docs, hints, is_flag, is_sequence

    params: list[click.Parameter] = []
    for cls in classes.values():
        docs, types = field_docs(cls), hints(cls)
        for field in dataclasses.fields(cls):
            default = (defaults or {}).get(field.name, field.default)
            flag = "--" + field.name.replace("_", "-")
            text = docs.get(field.name, "")
            values = choices(types[field.name])
            if values:
                text += f" One of: {', '.join(map(str, values))}."
            if default is not dataclasses.MISSING and default is not None and default != ():
                text += f"  [default: {default}]"
            if is_flag(types[field.name]):
                params.append(click.Option([f"{flag}/--no-{flag[2:]}"], default=None, help=text))
            elif is_sequence(types[field.name]):
                params.append(click.Option([flag], multiple=True, help=f"{text} {MULTIPLE}".strip(), metavar="VALUE"))
            else:
                params.append(click.Option([flag], default=None, help=text, metavar="VALUE"))
    return params


def given(values: Mapping[str, Any]) -> dict[str, Any]:
    """The options a user really gave."""
    return {key: value for key, value in values.items() if value is not None and value != ()}


def method_params(modality: Modality, method: str) -> list[click.Parameter]:
    """Flags of a method's run, and where else its options come from."""
    from pt_core.run.declare.resolve import option_classes

    cls = modality.registry.load(method)
    return [
        *options_of(option_classes(modality, cls.Config), cls.recipe),
        click.Option(["--recipe"], help="Published hyper-parameter set: a name in the package, or a YAML file."),
        click.Option(["--config", "config_file"], type=FOLDER, help="config.yaml of an earlier run to repeat."),
    ]


class MethodGroup(click.Group):
    """`fit METHOD`: the subcommands are the methods, imported only when one is named."""

    def __init__(
        self, modality: Modality, name: str, help_: str, make: Callable[[Modality, str], click.Command]
    ) -> None:
        super().__init__(name, help=help_, subcommand_metavar="METHOD [OPTIONS]", no_args_is_help=True)
        self.modality, self.make = modality, make

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.modality.registry.infos())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return self.make(self.modality, self.modality.registry.info(cmd_name).id)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Methods"):
            formatter.write_dl(
                [(info.id, f"{info.title}. Tunes {info.tunes}.") for info in self.modality.registry.infos().values()]
            )


class StrictCommand(click.Command):
    """Collects unknown flags instead of stopping at the first, so that one validator reports every problem together."""

    ignore_unknown_options = True
    allow_extra_args = True

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        rest = super().parse_args(ctx, args)
        known = [name for param in self.params for name in param.opts]
        ctx.meta["pt.problems"] = [
            f"unknown option {flag!r}{nearest(flag, known)}"
            if flag.startswith("-")
            else f"unexpected argument {flag!r}"
            for flag in _unknown(ctx.args)
        ]
        ctx.args = []
        return rest


def _unknown(args: list[str]) -> list[str]:
    """Flags among leftover arguments; the value behind an unknown flag is not a second problem."""
    found: list[str] = []
    after_flag = False
    for argument in args:
        if argument.startswith("--") or not after_flag:
            found.append(argument.partition("=")[0])
        after_flag = argument.startswith("--") and "=" not in argument
    return found


def echo_json(value: Any) -> None:
    click.echo(json.dumps(value, default=str))
