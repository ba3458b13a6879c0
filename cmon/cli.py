"""The command line: read the config, call a stage, print, exit; no logic of its own."""

import contextlib
import io
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from cmon import __version__
from cmon.console import Bars, Lines, Quiet, Stopped, duration, stop_on_signals
from cmon.errors import CmonError, StaleInputError, listing, one_line

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
    debug: DebugOption = False,
) -> None:
    """Run every checkpoint over the probe, and the image-text model over probe and concepts."""
    from cmon.activations import record_activations

    options = _options(run, checkpoint, force, dry_run, device, trust_pickle)
    _finish([_stage("activations", record_activations, _plan(config), options, quiet)])


@app.command()
def dissect(
    config: ConfigArgument,
    run: RunOption = None,
    checkpoint: CheckpointOption = None,
    force: ForceOption = False,
    dry_run: DryRunOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Give every unit its concepts."""
    from cmon.dissect import dissect_checkpoints

    options = _options(run, checkpoint, force, dry_run)
    _finish([_stage("dissect", dissect_checkpoints, _plan(config), options, quiet)])


@app.command()
def embed(
    config: ConfigArgument,
    force: ForceOption = False,
    dry_run: DryRunOption = False,
    device: DeviceOption = "auto",
    trust_pickle: TrustOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Place all units in one space, and in one plane."""
    from cmon.embed import embed_study

    options = _options(None, None, force, dry_run, device, trust_pickle)
    _finish([_stage("embed", embed_study, _plan(config), options, quiet)])


@app.command()
def report(
    config: ConfigArgument,
    force: ForceOption = False,
    dry_run: DryRunOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Draw the figures, and one page that shows them."""
    from cmon.report import report_study

    plan, options = _plan(config), _options(None, None, force, dry_run)
    _finish([_stage("report", report_study, plan, options, quiet)])
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
    recorded = _stage("activations", record_activations, plan, options, quiet)
    labelled = _stage("dissect", dissect_checkpoints, plan, options, quiet)
    if recorded.failed:
        # What has no activations now has just been told why.
        labelled.failed = [failure for failure in labelled.failed if not isinstance(failure[1], StaleInputError)]
    outcomes = [recorded, labelled]
    if any(outcome.failed for outcome in outcomes):
        if not quiet:
            sys.stderr.write("embed, report: not made, since they need every checkpoint\n")
    else:
        outcomes.append(_stage("embed", embed_study, plan, options, quiet))
        outcomes.append(_stage("report", report_study, plan, options, quiet))
    _finish(outcomes)
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
        _say(error)
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


def _stage(
    name: str,
    stage: Callable[["Plan", "Options", Any], "Outcome"],
    plan: "Plan",
    options: "Options",
    quiet: bool,
) -> "Outcome":
    """Run one stage and say in a line what came of it."""
    progress = Quiet() if quiet else Bars() if sys.stderr.isatty() else Lines()
    start = time.monotonic()
    try:
        with contextlib.redirect_stdout(sys.stderr):  # a user's model may print, and stdout is for results
            outcome = stage(plan, options, progress)
    finally:
        progress.end()
        if not options.dry_run:
            plan.memory.save()
    if options.dry_run:
        for made in outcome.made:
            typer.echo(made)
    for warning in dict.fromkeys(outcome.warnings):
        progress.line(f"warning: {warning}")
    counts = f"{len(outcome.made)} made, {outcome.current} current" + (
        f", {len(outcome.failed)} failed" if outcome.failed else ""
    )
    progress.line(f"{name}: {counts} ({duration(time.monotonic() - start)})")
    return outcome


def _finish(outcomes: "list[Outcome]") -> None:
    """Say what failed, each mistake once, and exit with the code that tells."""
    failed = [failure for outcome in outcomes for failure in outcome.failed]
    alike: dict[tuple[str, str], list[tuple[str, CmonError]]] = {}
    for name, error in failed:
        alike.setdefault((error.what, error.hint), []).append((name, error))
    for group in alike.values():
        first = group[0][1]
        others = list(dict.fromkeys(name for name, error in group if error.where != first.where))
        _say(first, f" (and {len(others)} more: {listing(others, 4)})" if others else "")
    if failed:
        codes = {error.exit_code for _, error in failed}
        raise typer.Exit(codes.pop() if len(codes) == 1 else 1)


def _say(error: CmonError, others: str = "") -> None:
    if "--debug" in sys.argv:
        import traceback

        traceback.print_exception(error)
    sys.stderr.write(f"error: {one_line(error.where, 400)}{others}: {one_line(error.what, 1000)}\n")
    if error.hint:
        sys.stderr.write(f"hint: {one_line(error.hint, 1000)}\n")
    sys.stderr.flush()
