"""The command line: read the config, call a stage, print, exit; no logic of its own."""

import contextlib
import io
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from cmon import __version__
from cmon.console import Stopped, run_stage, say, say_failures, stop_on_signals
from cmon.errors import CmonError, StaleInputError, one_line

if TYPE_CHECKING:
    from cmon.recipes import Plan
    from cmon.work import Options, Outcome

# typer carries a click of its own from some version on: its base class is taken from wherever typer has it.
UsageError: Any = typer.BadParameter.__base__

app = typer.Typer(
    name="cmon",
    help="Say which concept each neuron of a vision network detects, at every checkpoint of its training.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

ConfigArgument = Annotated[Path, typer.Argument(help="The study's TOML file.", show_default=False)]
RunOption = Annotated[list[str] | None, typer.Option("--run", help="Only this run (repeatable).")]
CheckpointOption = Annotated[list[str] | None, typer.Option("--checkpoint", help="Only this checkpoint (repeatable).")]
ForceOption = Annotated[bool, typer.Option("--force", help="Make again what is current.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Say what would be made, and make nothing.")]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1 or mps.")]
QuietOption = Annotated[bool, typer.Option("--quiet", help="Say nothing but errors.")]
TrustOption = Annotated[bool, typer.Option("--trust-pickle", help="Let checkpoints and encoder weights run code.")]
ProfileOption = Annotated[bool, typer.Option("--profile", help="Say where the seconds and bytes of a stage went.")]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


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


@app.command()
def activations(
    config: ConfigArgument,
    run: RunOption = None,
    checkpoint: CheckpointOption = None,
    force: ForceOption = False,
    dry_run: DryRunOption = False,
    device: DeviceOption = "auto",
    trust_pickle: TrustOption = False,
    quiet: QuietOption = False,
    profile: ProfileOption = False,
    debug: DebugOption = False,
) -> None:
    """Run every checkpoint over the probe, and the image-text model over probe and concepts."""
    from cmon.activations import record_activations

    options = _options(run, checkpoint, force, dry_run, device, trust_pickle)
    _exit([run_stage("activations", record_activations, _plan(config), options, quiet, profile)])


@app.command()
def dissect(
    config: ConfigArgument,
    run: RunOption = None,
    checkpoint: CheckpointOption = None,
    force: ForceOption = False,
    dry_run: DryRunOption = False,
    quiet: QuietOption = False,
    profile: ProfileOption = False,
    debug: DebugOption = False,
) -> None:
    """Give every unit its concepts."""
    from cmon.dissect import dissect_checkpoints

    options = _options(run, checkpoint, force, dry_run)
    _exit([run_stage("dissect", dissect_checkpoints, _plan(config), options, quiet, profile)])


@app.command()
def embed(
    config: ConfigArgument,
    force: ForceOption = False,
    dry_run: DryRunOption = False,
    device: DeviceOption = "auto",
    trust_pickle: TrustOption = False,
    quiet: QuietOption = False,
    profile: ProfileOption = False,
    debug: DebugOption = False,
) -> None:
    """Place all units in one space, and in one plane."""
    from cmon.embed import embed_study

    options = _options(None, None, force, dry_run, device, trust_pickle)
    _exit([run_stage("embed", embed_study, _plan(config), options, quiet, profile)])


@app.command()
def report(
    config: ConfigArgument,
    force: ForceOption = False,
    dry_run: DryRunOption = False,
    quiet: QuietOption = False,
    profile: ProfileOption = False,
    debug: DebugOption = False,
) -> None:
    """Draw the figures, and one page that shows them."""
    from cmon.report import report_study

    plan, options = _plan(config), _options(None, None, force, dry_run)
    _exit([run_stage("report", report_study, plan, options, quiet, profile)])
    if not dry_run:
        typer.echo(plan.workspace.report / "index.html")


@app.command()
def run(
    config: ConfigArgument,
    force: ForceOption = False,
    dry_run: DryRunOption = False,
    device: DeviceOption = "auto",
    trust_pickle: TrustOption = False,
    quiet: QuietOption = False,
    profile: ProfileOption = False,
    debug: DebugOption = False,
) -> None:
    """Run the four stages in order: activations, dissect, embed, report."""
    plan = _plan(config)
    if dry_run:
        from cmon.status import file_states

        for file in file_states(plan):
            if force or not file.state.current:
                typer.echo(f"{file.name}: {file.state}")
        return
    from cmon.activations import record_activations
    from cmon.dissect import dissect_checkpoints
    from cmon.embed import embed_study
    from cmon.report import report_study

    options = _options(None, None, force, dry_run, device, trust_pickle)
    recorded = run_stage("activations", record_activations, plan, options, quiet, profile)
    labelled = run_stage("dissect", dissect_checkpoints, plan, options, quiet, profile)
    if recorded.failed:
        # What has no activations now has just been told why.
        labelled.failed = [failure for failure in labelled.failed if not isinstance(failure[1], StaleInputError)]
    outcomes = [recorded, labelled]
    if any(outcome.failed for outcome in outcomes):
        if not quiet:
            sys.stderr.write("embed, report: not made, since they need every checkpoint\n")
    else:
        outcomes.append(run_stage("embed", embed_study, plan, options, quiet, profile))
        outcomes.append(run_stage("report", report_study, plan, options, quiet, profile))
    _exit(outcomes)
    typer.echo(plan.workspace.report / "index.html")


@app.command()
def status(config: ConfigArgument, debug: DebugOption = False) -> None:
    """Say of every file: current, missing or stale, and why. Exits with 3 where one is not current."""
    from cmon.status import file_states

    plan = _plan(config)
    states = list(file_states(plan))
    for file in states:
        typer.echo(f"{file.state.status:8} {file.name}" + (f"  ({file.state.reason})" if file.state.reason else ""))
    if plan.workspace.root.is_dir():
        plan.memory.save()
    if not all(file.state.current for file in states):
        raise typer.Exit(StaleInputError.exit_code)


@app.command()
def plan(
    config: ConfigArgument, device: DeviceOption = "auto", trust_pickle: TrustOption = False, debug: DebugOption = False
) -> None:
    """Say what is left to do: how many minutes, how much disk and memory, from samples that are timed now."""
    from cmon.estimate import estimate_lines

    study = _plan(config)
    with contextlib.redirect_stdout(sys.stderr):
        lines = list(estimate_lines(study, _options(None, None, False, False, device, trust_pickle)))
    if study.workspace.root.is_dir():
        study.memory.save()
    typer.echo("\n".join(lines))


@app.command()
def schema() -> None:
    """Print the JSON Schema of the config, for editors."""
    from cmon.config import schema as config_schema

    typer.echo(json.dumps(config_schema(), indent=2))


def main() -> NoReturn:
    """Run the command line; every mistake of a user's is one line, and the exit code tells which kind."""
    stop_on_signals()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name may be in no character set
    try:
        code = app(standalone_mode=False, prog_name="cmon")
    except CmonError as error:
        say(error)
        code = error.exit_code
    except Stopped as stopped:
        sys.stderr.write("stopped: what is done is kept, run the same command to go on\n")
        code = stopped.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except UsageError as error:
        sys.stderr.write(f"error: {one_line(error.format_message())}\nhint: cmon --help\n")
        code = 2
    sys.exit(code if isinstance(code, int) else 0)


def _exit(outcomes: "list[Outcome]") -> None:
    """Say what failed, and exit with the code that tells."""
    if code := say_failures(outcomes):
        raise typer.Exit(code)


def _plan(config: Path) -> "Plan":
    from cmon.config import read_config
    from cmon.recipes import plan_study

    return plan_study(read_config(config))


def _options(
    runs: list[str] | None,
    checkpoints: list[str] | None,
    force: bool,
    dry_run: bool,
    device: str = "auto",
    trust_pickle: bool = False,
) -> "Options":
    from cmon.work import Options

    return Options(tuple(runs or ()), tuple(checkpoints or ()), force, dry_run, device, trust_pickle)
