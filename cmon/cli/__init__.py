"""The command line: read the config, call a stage, print, exit; no logic of its own."""

import io
import os
import sys
import warnings
from typing import Annotated, Any, NoReturn

import typer

from cmon import __version__
from cmon.cli import looks, stages
from cmon.console import say
from cmon.errors import CmonError, one_line
from cmon.signals import Stopped, ignore, listen

# typer carries a click of its own from some version on: its base class is taken from wherever typer has it.
UsageError: Any = typer.BadParameter.__base__

app = typer.Typer(
    name="cmon",
    help="Say which concept each neuron of a vision network detects, at every checkpoint of its training.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)


# In the order of --help.
for _command in (
    *(stages.activations, stages.dissect, stages.embed, stages.report, stages.run, stages.submit),
    *(looks.status, looks.plan, looks.inspect, looks.layers, looks.schema),
):
    app.command()(_command)


def main() -> NoReturn:
    """Run the command line; every mistake of a user's is one line, and the exit code tells which kind."""
    listen()
    # Pillow's, which would be lines of their own; who decodes tells of it. Its class would take Pillow's import.
    warnings.filterwarnings("error", "Image size .* exceeds limit")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name may be in no character set
    try:
        code = app(standalone_mode=False, prog_name="cmon")
    except CmonError as error:
        say(error)
        code = error.exit_code
    except Stopped as stopped:
        ignore()
        pieces = f"{stopped.finished} piece{'s' * (stopped.finished != 1)} of work by this run"
        sys.stderr.write(f"stopped: what is done is kept ({pieces}), run the same command to go on{stopped.note}\n")
        code = stopped.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except UsageError as error:
        sys.stderr.write(f"error: {one_line(error.format_message())}\nhint: cmon --help\n")
        code = 2
    sys.exit(code if isinstance(code, int) else 0)
