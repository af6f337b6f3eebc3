"""The command line that every package shares, built from its `Modality`. Flags are the fields of the options dataclasses."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pt_core.errors import ConfigError, UserError, nearest

if TYPE_CHECKING:
    from pt_core.run.modality import Modality

MULTIPLE = "(repeatable)"


def main(modality: Callable[[], Modality], args: Sequence[str] | None = None) -> None:
    """Entry point: run the command line and turn a user's mistakes into one line and exit status 2."""
    arguments = list(sys.argv[1:] if args is None else args)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        group = build(modality())
        # The command's own name, however it was started.
        status = group(args=arguments, prog_name=group.name, standalone_mode=False)
        sys.exit(status if isinstance(status, int) else 0)
    except ConfigError as error:
        _stop(debug, [f"error: {problem}" for problem in error.problems], everywhere=True)
    except UserError as error:
        _stop(debug, [f"error: {error}"])
    except click.exceptions.Abort:
        sys.exit(130)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        sys.exit(2)
    except click.ClickException as error:
        hint = f"; see `{error.ctx.command_path} --help`" if isinstance(error, click.UsageError) and error.ctx else ""
        _stop(debug, [f"error: {error.format_message().rstrip('.')}{hint}"])
    except SystemExit as stop:
        message = getattr(stop, "message", None)
        if message:
            click.echo(message, err=True)
        raise
    except (MemoryError, RuntimeError) as error:
        from pt_core.run.world import out_of_memory

        problem = out_of_memory(error)
        if problem is None:
            raise
        _stop(debug, [f"error: {problem}"])


def _stop(debug: bool, lines: list[str], everywhere: bool = False) -> None:
    """Exit with status 2. Of several processes the first one speaks for all where the problem is the same `everywhere`."""
    rank = os.environ.get("RANK", "0")
    if debug:
        import traceback

        traceback.print_exc()
    for line in lines if rank == "0" else [] if everywhere else [f"process {rank}: {line}" for line in lines]:
        click.echo(line, err=True)
    sys.exit(2)


def build(modality: Modality) -> click.Group:
    """The command group of a package."""
    command = modality.package
    group = click.Group(
        command,
        no_args_is_help=True,
        help=f"{command}: prompt tuning of frozen pretrained backbones. Start with `{command} demo`.",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    group.params.append(click.Option(["--debug"], is_flag=True, help="Show the traceback of an error."))
    click.version_option(modality.version(), prog_name=command)(group)

    def add(name: str, help_: str, callback: Callable[..., Any], params: list[click.Parameter]) -> None:
        group.add_command(click.Command(name, help=help_, callback=callback, params=params))

    out = click.Option(["--out"], type=click.Path(path_type=Path), help="Folder to write.")
    runs = click.Argument(["runs"], nargs=-1, required=True, type=click.Path(path_type=Path))
    run = click.Argument(["run"], type=click.Path(path_type=Path))
    as_json = click.Option(["--json", "as_json"], is_flag=True, help="Print JSON for scripts.")
    backbone = [
        click.Option(
            ["--backbone"],
            multiple=True,
            help="Backbone to use instead of the recorded source, or ROLE=SPEC. (repeatable)",
        ),
        click.Option(
            ["--weights"],
            multiple=True,
            help="Local weight file or folder for the backbone, or ROLE=FILE. (repeatable)",
        ),
        click.Option(
            ["--allow-backbone-mismatch"], is_flag=True, help="Accept another backbone than the one tuned on."
        ),
    ]
    from pt_core.run import commands as c

    add(
        "methods",
        "List the methods: id, what they tune, which data they need.",
        lambda as_json: c.methods(modality, as_json),
        [as_json],
    )
    add("backbones", "List what --backbone accepts.", lambda: c.backbones(modality), [])
    group.add_command(_MethodGroup(modality, "fit", "Tune METHOD on your data.", _fit_command))
    group.add_command(
        _MethodGroup(
            modality,
            "budget",
            "Tokens, FLOPs, memory and tuned parameters of METHOD, before training.",
            _budget_command,
        )
    )
    demos = [demo.name for demo in modality.demos()]
    add(
        "demo",
        f"Compare methods on built-in data; nothing is downloaded. Demos: {', '.join(demos) or 'none'}.",
        lambda name, seeds, fast, out: c.demo(modality, name, seeds, fast, out),
        [
            click.Argument(["name"], required=False),
            click.Option(
                ["--seeds"],
                type=click.IntRange(1),
                default=1,
                show_default=True,
                help="Seeds per method; mean and std.",
            ),
            click.Option(["--fast"], is_flag=True, help="A short version for checks (<= 20 s)."),
            out,
        ],
    )
    add(
        "resume",
        "Continue an interrupted run exactly where it stopped.",
        lambda run, checkpoint, allow_topology_change: c.resume(modality, run, checkpoint, allow_topology_change),
        [
            run,
            click.Option(["--checkpoint"], help="Name of a checkpoint (default: the newest)."),
            click.Option(["--allow-topology-change"], is_flag=True, help="Accept another number of processes."),
        ],
    )
    data = click.Option(["--data"], required=True, help="Labelled data, as in `fit`.")
    role = click.Option(["--role"], default="test", show_default=True, help="Part of the data to evaluate on.")
    add(
        "eval",
        "Evaluate a run on labelled data.",
        lambda **kw: c.evaluate_run(modality, **kw),
        [run, data, role, as_json, *backbone],
    )
    add(
        "predict",
        f"Predict {modality.input_name}s: `predict RUN {modality.input_name}...`, or several runs with --route or --ensemble.",
        lambda **kw: c.predict(modality, **kw),
        [
            click.Argument(["items"], nargs=-1, required=True),
            click.Option(
                ["--route"],
                help="With several runs: column of the input table (CSV/Parquet) that names the run for each row.",
            ),
            click.Option(["--ensemble"], is_flag=True, help="With several runs: predict by the mean of their outputs."),
            click.Option(["--batch-size"], type=click.IntRange(1), default=32, show_default=True),
            click.Option(["--out"], type=click.Path(path_type=Path), help="CSV, JSONL or Parquet file to write."),
            as_json,
            *(options_of({"predict": predict_options}) if (predict_options := modality.predict_options) else ()),
            *backbone,
        ],
    )
    add(
        "compare",
        "Compare runs: table with mean and std over seeds, and a page.",
        lambda runs, out: c.compare(runs, out),
        [runs, out],
    )
    add("info", "What a run or artifact holds.", lambda run, as_json: c.info(modality, run, as_json), [run, as_json])
    add(
        "export",
        "Export a tuned artifact, or backbone and prompt as one program.",
        lambda **kw: c.export(modality, **kw),
        [
            run,
            click.Option(["--out"], type=click.Path(path_type=Path), required=True, help="File or folder to write."),
            click.Option(
                ["--format", "format_"],
                type=click.Choice(["artifact", "torch.export", "onnx", *modality.export_formats()]),
                default="artifact",
                show_default=True,
            ),
            click.Option(["--inference-only"], is_flag=True, help="Leave out what only further tuning needs."),
            *backbone,
        ],
    )
    options = modality.pretrain_options()
    if options is not None:
        params = options_of({"pretrain": options})
        add(
            "pretrain",
            "Pretrain a small backbone on labelled data of your own, or on built-in pictures.",
            lambda out, **kw: c.pretrain(modality, kw, out),
            [
                click.Option(
                    ["--out"], type=click.Path(path_type=Path), required=True, help="File to write (.safetensors)."
                ),
                *params,
            ],
        )
    for command_ in modality.commands():
        group.add_command(command_)
    return group


class _MethodGroup(click.Group):
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


class _StrictCommand(click.Command):
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


def options_of(classes: Mapping[str, type], defaults: Mapping[str, Any] | None = None) -> list[click.Parameter]:
    """Click options for the fields of dataclasses; values stay strings and are validated later, all together."""
    from pt_core.run.options import choices, field_docs, hints, is_flag, is_sequence

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


def _method_params(modality: Modality, method: str) -> list[click.Parameter]:
    from pt_core.run.fit import option_classes

    cls = modality.registry.load(method)
    return [
        *options_of(option_classes(modality, cls.Config), cls.recipe),
        click.Option(["--recipe"], help="Published hyper-parameter set: a name in the package, or a YAML file."),
        click.Option(
            ["--config", "config_file"],
            type=click.Path(path_type=Path),
            help="config.yaml of an earlier run to repeat.",
        ),
    ]


def _fit_command(modality: Modality, method: str) -> click.Command:
    from pt_core.run import commands as c

    params = [
        *_method_params(modality, method),
        click.Option(["--out"], type=click.Path(path_type=Path), help="Run folder to write (default: runs/METHOD-N)."),
        click.Option(["--print-config"], is_flag=True, help="Print the resolved configuration and stop."),
        click.Option(
            ["--search"],
            multiple=True,
            help="Values to try, NAME=V1,V2,...; the best on validation is kept. (repeatable)",
        ),
    ]
    info = modality.registry.info(method)
    needs = "; ".join(f"{role}: {what}" for role, what in info.needs.items())
    text = f"{info.title}.\n\nTunes {info.tunes}. Data: {needs}."

    @click.pass_context
    def callback(ctx: click.Context, /, **kwargs: Any) -> None:
        c.fit(modality, method, kwargs, ctx.meta["pt.problems"])

    return _StrictCommand(method, help=text, callback=callback, params=params)


def _budget_command(modality: Modality, method: str) -> click.Command:
    from pt_core.run import commands as c

    @click.pass_context
    def callback(ctx: click.Context, /, as_json: bool, **kwargs: Any) -> None:
        c.budget(modality, method, kwargs, ctx.meta["pt.problems"], as_json)

    as_json = click.Option(["--json", "as_json"], is_flag=True, help="Print JSON for scripts.")
    params = [
        *_method_params(modality, method),
        click.Option(["--classes"], type=click.IntRange(2), default=10, show_default=True),
        as_json,
    ]
    return _StrictCommand(
        method, help="Cost of this method, counted without weights.", callback=callback, params=params
    )


def echo_json(value: Any) -> None:
    click.echo(json.dumps(value, default=str))
