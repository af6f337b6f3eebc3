"""The command line that every package shares, built from its `Modality`. Flags are the fields of the options dataclasses."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NoReturn

import click

from pt_core.errors import ConfigError, LostProcess, UserError
from pt_core.run.command import (
    budget,
    compare,
    demo,
    evaluate,
    export,
    fit,
    info,
    methods,
    predict,
    pretrain,
    report,
    resume,
    study,
)
from pt_core.run.declare.process import loading

if TYPE_CHECKING:
    from pt_core.run.declare.modality import Modality

COMMANDS: tuple[Callable[[Modality], click.Command | None], ...] = (
    methods.methods_command,
    methods.backbones_command,
    fit.command,
    budget.command,
    study.command,
    demo.command,
    resume.command,
    evaluate.command,
    predict.command,
    compare.command,
    info.command,
    report.command,
    export.command,
    pretrain.command,
)

LOADING = ("fit", "predict")
"""Commands that say themselves when loading is over and work begins."""


def entry(modality: str) -> Callable[[], None]:
    """A console entry point for the modality named `module:class`; the class is imported when the command runs."""
    module, _, name = modality.partition(":")

    def console() -> None:
        """Console entry point."""
        if sys.argv[1:2] and sys.argv[1] in LOADING:
            loading()
        main(lambda: getattr(importlib.import_module(module), name)())

    return console


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
    except LostProcess as error:
        click.echo(f"error: {error}", err=True)
        _leave(1)
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
        from pt_core.run.train.world import out_of_memory

        problem = out_of_memory(error)
        if problem is None:
            raise
        _stop(debug, [f"error: {problem}"])


def _leave(status: int) -> NoReturn:
    """Exit at once: the backend's own end of a broken group waits for the other side, or prints traces."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


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
    name = modality.package
    group = click.Group(
        name,
        no_args_is_help=True,
        help=f"{name}: prompt tuning of frozen pretrained backbones. Start with `{name} demo`.",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    group.params.append(click.Option(["--debug"], is_flag=True, help="Show the traceback of an error."))
    click.version_option(modality.version(), prog_name=name)(group)
    for make in COMMANDS:
        command = make(modality)
        if command is not None:
            group.add_command(command)
    for further in modality.commands():
        group.add_command(further)
    return group
