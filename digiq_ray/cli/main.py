"""The ``digiq`` command: a table of commands that are imported when they are called, and one place for errors.

Help of the group imports neither torch, Ray nor pydantic. Whatever goes wrong on purpose ends in one line on stderr and
an exit code: 2 for wrong usage or input, 1 for another failure of the run, 130 for an interrupt. What nobody expected
keeps its traceback (exit code 1).
"""

from __future__ import annotations

import difflib
import importlib
import os
import select
import sys
from collections.abc import Mapping, Sequence

import click

from digiq_ray import __version__
from digiq_ray.core.errors import DigiQError, DiskFullError, error_chain, is_disk_full

#: Name of each command, in the order of the help: where it is (``module:attribute``), and what it does in a few words.
COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("digiq_ray.cli.pipeline:demo", "the whole recipe on simulated phones, in minutes"),
    "run": ("digiq_ray.cli.pipeline:run", "the offline pipeline from a configuration, skipping what is done"),
    "collect": ("digiq_ray.cli.pipeline:collect", "episodes from the behaviour policy on a farm"),
    "candidates": ("digiq_ray.cli.pipeline:candidates", "K actions per state from the behaviour policy"),
    "finetune": ("digiq_ray.cli.pipeline:finetune", "stage 1: does this action change the screen?"),
    "embed": ("digiq_ray.cli.pipeline:embed", "frozen features of states and candidates"),
    "train-critic": ("digiq_ray.cli.pipeline:train_critic", "Q and V by TD on the features"),
    "train-policy": ("digiq_ray.cli.pipeline:train_policy", "best-of-N extraction, and the baselines beside it"),
    "evaluate": ("digiq_ray.cli.pipeline:evaluate", "success rates with confidence intervals on held-out tasks"),
    "rank": ("digiq_ray.cli.pipeline:rank", "whether the critic ranks candidates, by the simulator's oracle"),
    "serve": ("digiq_ray.cli.serve:serve", "policy, candidates, features and Q-values over HTTP"),
    "farm": ("digiq_ray.cli.farm:farm", "devices: check, run, list, restart, logs, drain"),
    "doctor": ("digiq_ray.cli.doctor:doctor", "what this machine can run, and how to mend what is missing"),
    "import": ("digiq_ray.cli.legacy:import_", "the original's trajectory files and task lists"),
    "export-legacy": ("digiq_ray.cli.legacy:export_legacy", "a store as a file that the original code trains on"),
    "data": ("digiq_ray.cli.data:data", "what is in a data set; verify, compact, snapshot, export"),
}

_STDOUT = 1


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called.

    Args:
        table: Name of each command to ``("module:attribute", short help)``.
    """

    def __init__(self, *, table: Mapping[str, tuple[str, str]]) -> None:
        super().__init__(name="digiq", help="Offline reinforcement learning of agents that operate phones (Digi-Q).")
        self.table = table

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of the table."""
        return list(self.table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports and returns one command; ``None`` if there is none of that name."""
        if cmd_name not in self.table:
            return None
        module, _, attribute = self.table[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command), f"{module}:{attribute} is not a click command"
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click's, but an unknown command names the nearest."""
        if args[0] not in self.table:
            close = difflib.get_close_matches(args[0], self.table, n=1)
            hint = f"did you mean {close[0]}?" if close else f"{ctx.command_path} --help lists the commands"
            raise _Hinted(f"no such command {args[0]}; {hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes names and short helps without importing anything."""
        if self.table:
            with formatter.section("Commands"):
                formatter.write_dl([(name, text) for name, (_, text) in self.table.items()])


class _Hinted(click.UsageError):
    """A usage error whose message says how to mend it."""


def main(argv: Sequence[str] | None = None, *, table: Mapping[str, tuple[str, str]] | None = None) -> int:
    """Runs one command and returns its exit code.

    Args:
        argv: The words after ``digiq``; those of the process if left out.
        table: The commands; ``COMMANDS`` if left out.

    Raises:
        Exception: whatever no command raises on purpose, so that its traceback is seen.
    """
    _keep_ray_on_loopback()
    version = click.version_option(__version__, prog_name="digiq")
    group = version(LazyGroup(table=COMMANDS if table is None else table))
    try:
        with group.make_context("digiq", list(sys.argv[1:] if argv is None else argv)) as context:
            group.invoke(context)
            sys.stdout.flush()
        return 0
    except click.exceptions.Exit as done:
        return done.exit_code
    except (KeyboardInterrupt, click.Abort):
        return _fail("interrupted; the same command again continues", 130)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return 2
    except click.ClickException as error:
        return _fail(_usage_line(error), 2)
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _reader_is_gone():
            _discard_output()
            return 1
        if is_disk_full(error):
            _discard_output()
            return _fail(_disk_full_line(error), DiskFullError.exit_code)
        mended = _without_ray(error)
        if not isinstance(mended, DigiQError):
            raise
        return _fail(str(mended) or type(mended).__name__, mended.exit_code)


def _keep_ray_on_loopback() -> None:
    """A Ray that a command starts for itself listens on 127.0.0.1 alone.

    Ray reads this when it is imported, and on Linux would otherwise listen on every interface. A cluster that
    ``RAY_ADDRESS`` names must reach its drivers.
    """
    if not os.environ.get("RAY_ADDRESS"):
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"


def _fail(line: str, code: int) -> int:
    click.echo(f"digiq: {' '.join(line.split())}", err=True)
    return code


def _usage_line(error: click.ClickException) -> str:
    path = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "digiq"
    if isinstance(error, _Hinted):
        return error.format_message()
    if isinstance(error, click.NoSuchOption):
        hint = f"did you mean {error.possibilities[0]}?" if error.possibilities else f"{path} --help lists the options"
        return f"no such option {error.option_name}; {hint}"
    message = error.format_message().rstrip(".")
    return f"{message[:1].lower()}{message[1:]}; see {path} --help"


def _disk_full_line(error: BaseException) -> str:
    links = list(error_chain(error))
    typed = [link for link in links if isinstance(link, DiskFullError)]
    if typed and str(typed[-1]):
        return str(typed[-1])
    names = [link.filename for link in links if isinstance(link, OSError) and link.filename]
    place = f" for {names[-1]}" if names else ""
    return (
        f"no space is left on the disk{place}: make room or write elsewhere, then give the same command again; "
        "what was published before is whole"
    )


def _without_ray(error: BaseException) -> BaseException:
    """What a Ray task raised, without Ray's wrappers: those hold it in ``cause``."""
    for link in error_chain(error):
        if not isinstance(getattr(link, "cause", None), BaseException):
            return link
    return error


def _reader_is_gone() -> bool:
    """Whether stdout is a pipe that nobody reads any more (``digiq ... | head``)."""
    poller = select.poll()
    poller.register(_STDOUT, 0)
    return bool(poller.poll(0))


def _discard_output() -> None:
    """Sends what stdout cannot take to nowhere, so that the exit of the process does not fail once more."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), _STDOUT)


if __name__ == "__main__":
    sys.exit(main())
