"""Flags: the fields of the options dataclasses as click options, and the arguments that several commands share."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pt_core.errors import ConfigError, nearest

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


def class_names_option() -> click.Option:
    return click.Option(["--class-names"], help="Other classes, as a file or a,b,c, where the tuned method allows it.")


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
        *host_params(modality, method),
        click.Option(["--recipe"], help="Published hyper-parameter set: a name in the package, or a YAML file."),
        click.Option(["--config", "config_file"], type=FOLDER, help="config.yaml of an earlier run to repeat."),
    ]


def host_params(modality: Modality, method: str) -> list[click.Parameter]:
    """The flags that choose a strategy's hosts. Their own options are read by `StrictCommand`, the default host's are in the help."""
    params: list[click.Parameter] = []
    for role, default in modality.registry.info(method).hosts.items():
        shared = modality.registry.shared(method, role)
        if shared is not None:
            text = f"Method in the role {role} (default: that of --{shared}, with its options)."
        else:
            options = ", ".join(field.name for field in dataclasses.fields(modality.registry.load(default).Config))
            text = (
                f"Method that is tuned in the role {role}; its options are --{role}.NAME VALUE ({default}: {options})."
            )
            text += f"  [default: {default}]"
        params.append(click.Option([f"--{role}"], help=text, metavar="METHOD"))
    return params


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
    """Collects unknown flags instead of stopping at the first, so that one validator reports every problem together.

    Options of hosts, `--ROLE.NAME VALUE`, belong to a method that is known only when all flags are read: they are kept aside in
    `ctx.meta["pt.hosts"]`, by their names in a configuration.
    """

    ignore_unknown_options = True
    allow_extra_args = True

    def __init__(self, name: str, hosts: Iterable[str] = (), **settings: Any) -> None:
        super().__init__(name, **settings)
        self.hosts = tuple(hosts)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        args, ctx.meta["pt.hosts"] = _host_options(args, self.hosts)
        problems: list[str] = []
        while True:
            try:
                rest = super().parse_args(ctx, list(args))
                break
            except click.BadOptionUsage as error:  # no value where one belongs, or the other way round
                problems.append(error.format_message().rstrip("."))
                args = _without(args, error.option_name)
        known = [name for param in self.params for name in param.opts]
        ctx.meta["pt.problems"] = problems + [
            f"unknown option {flag!r}{nearest(flag, known)}"
            if flag.startswith("-")
            else f"unexpected argument {flag!r}"
            for flag in _unknown(ctx.args)
        ]
        ctx.args = []
        return rest


class OpenCommand(click.Command):
    """A command on a tuned method, whose own flags are known only when its card is read: `own_flags` of the leftovers finds them."""

    ignore_unknown_options = True
    allow_extra_args = True


def own_flags(
    words: Sequence[str], switches: Mapping[str, bool], declared: Iterable[str]
) -> tuple[list[str], dict[str, Any]]:
    """(other words, flag name -> value) among leftover words; a flag that nobody knows takes no word with it.

    Args:
        switches: name of a flag of the method's own -> whether it is one without a value, as in `--name` and `--no-name`.
        declared: the flags that the command itself knows, for the hint.

    Raises:
        ConfigError: all flags that are unknown, and those without the value that they need.
    """
    rest: list[str] = []
    found: dict[str, Any] = {}
    problems: list[str] = []
    known = ["--" + name.replace("_", "-") for name in switches] + list(declared)
    waiting = list(words)
    while waiting:
        word = waiting.pop(0)
        flag, given, value = word.partition("=")
        name = flag.removeprefix("--").replace("-", "_")
        positive = name.removeprefix("no_")
        if not word.startswith("--"):
            rest.append(word)
        elif switches.get(name) is False:
            if given or (waiting and not waiting[0].startswith("--")):
                found[name] = value if given else waiting.pop(0)
            else:
                problems.append(f"option {flag!r} requires an argument")
        elif switches.get(positive):
            found[positive] = value if given else name == positive
        else:
            problems.append(f"unknown option {flag!r}{nearest(flag, known)}")
    if problems:
        raise ConfigError(problems)
    return rest, found


def _host_options(args: Sequence[str], roles: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """(other arguments, `role.name` -> `Words`). `--no-role.name` and `--role.no-name` both are `role.no_name`."""
    from pt_core.run.declare.hosts import Words

    rest: list[str] = []
    found: dict[str, Any] = {}
    waiting = list(args)
    while waiting:
        word = waiting.pop(0)
        flag, equals, value = word.partition("=")
        negated = flag.startswith("--no-") and flag[5:].partition(".")[0] in roles
        role, dot, option = flag.removeprefix("--no-" if negated else "--").partition(".")
        if not (word.startswith("--") and dot and role in roles):
            rest.append(word)
            continue
        name = f"{role}.{'no_' if negated else ''}{option.replace('-', '_')}"
        follows = not equals and waiting and not waiting[0].startswith("--")
        typed = value if equals else waiting.pop(0) if follows else None
        found[name] = Words((*found.pop(name, ()), typed))
    return rest, found


def _without(args: Sequence[str], flag: str) -> list[str]:
    """The arguments without a flag that lacks its value, which is the last word, or has one too many."""
    kept = [word for word in args if not word.startswith(f"{flag}=")]
    return kept[:-1] if kept[-1:] == [flag] else kept


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
