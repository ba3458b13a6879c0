"""The command line: read the config, call a stage, print, exit; no logic of its own."""

import contextlib
import io
import json
import os
import sys
import warnings
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from cmon import __version__
from cmon.arguments import (
    CheckpointOption,
    ConfigArgument,
    DebugOption,
    DeviceOption,
    DryRunOption,
    ForceOption,
    ManifestOption,
    MissingOption,
    ProfileOption,
    QuietOption,
    RequeueOption,
    RunOption,
    SbatchArgument,
    ShardOption,
    ShardsOption,
    TrustOption,
    WaitOption,
    WatchOption,
    read_plan,
    read_shard,
)
from cmon.console import run_stage, say, say_failures, say_left, shown_progress
from cmon.errors import CmonError, StaleInputError, one_line
from cmon.signals import Stopped, ignore, listen

if TYPE_CHECKING:
    from cmon.work import Outcome

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


@app.command()
def activations(
    config: ConfigArgument,
    run: RunOption = None,
    checkpoint: CheckpointOption = None,
    shard: ShardOption = "",
    manifest: ManifestOption = None,
    requeue: RequeueOption = False,
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
    from cmon.slurm import requeued
    from cmon.work import Options

    options = Options(run or (), checkpoint or (), force, dry_run, device, trust_pickle, read_shard(shard))
    with requeued(requeue):
        _exit([run_stage("activations", record_activations, read_plan(config, manifest), options, quiet, profile)])


@app.command()
def dissect(
    config: ConfigArgument,
    run: RunOption = None,
    checkpoint: CheckpointOption = None,
    shard: ShardOption = "",
    manifest: ManifestOption = None,
    requeue: RequeueOption = False,
    wait: WaitOption = 0.0,
    force: ForceOption = False,
    dry_run: DryRunOption = False,
    quiet: QuietOption = False,
    profile: ProfileOption = False,
    debug: DebugOption = False,
) -> None:
    """Give every unit its concepts."""
    from cmon.dissect import dissect_checkpoints
    from cmon.slurm import requeued
    from cmon.work import Options

    options = Options(run or (), checkpoint or (), force, dry_run, shard=read_shard(shard), wait_s=wait)
    with requeued(requeue):
        _exit([run_stage("dissect", dissect_checkpoints, read_plan(config, manifest), options, quiet, profile)])


@app.command()
def embed(
    config: ConfigArgument,
    manifest: ManifestOption = None,
    wait: WaitOption = 0.0,
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
    from cmon.work import Options

    options = Options(force=force, dry_run=dry_run, device=device, trust_pickle=trust_pickle, wait_s=wait)
    _exit([run_stage("embed", embed_study, read_plan(config, manifest), options, quiet, profile)])


@app.command()
def report(
    config: ConfigArgument,
    manifest: ManifestOption = None,
    force: ForceOption = False,
    dry_run: DryRunOption = False,
    quiet: QuietOption = False,
    profile: ProfileOption = False,
    debug: DebugOption = False,
) -> None:
    """Draw the figures, and one page that shows them."""
    from cmon.report import report_study
    from cmon.work import Options

    plan = read_plan(config, manifest)
    _exit([run_stage("report", report_study, plan, Options(force=force, dry_run=dry_run), quiet, profile)])
    if not dry_run:
        typer.echo(plan.workspace.report / "index.html")


@app.command()
def run(
    config: ConfigArgument,
    watch: WatchOption = None,
    force: ForceOption = False,
    dry_run: DryRunOption = False,
    device: DeviceOption = "auto",
    trust_pickle: TrustOption = False,
    quiet: QuietOption = False,
    profile: ProfileOption = False,
    debug: DebugOption = False,
) -> None:
    """Run the four stages in order: activations, dissect, embed, report."""
    plan = read_plan(config)
    if dry_run:
        from cmon.status import file_states

        for file in file_states(plan):
            if force or not file.state.current:
                typer.echo(f"{file.name}: {file.state}")
        return
    from cmon import pipeline
    from cmon.work import Options

    options = Options(force=force, device=device, trust_pickle=trust_pickle)
    if watch is None:
        _exit(pipeline.run_all(plan, options, quiet, profile))
    elif code := pipeline.watch(lambda: read_plan(config), options, quiet, profile, watch):
        raise typer.Exit(code)
    typer.echo(plan.workspace.report / "index.html")


@app.command()
def submit(
    config: ConfigArgument,
    sbatch: SbatchArgument = None,
    shards: ShardsOption = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the scripts, and submit nothing.")] = False,
    device: DeviceOption = "auto",
    trust_pickle: TrustOption = False,
    debug: DebugOption = False,
) -> None:
    """Share the work among jobs of a Slurm cluster, and print their numbers as JSON."""
    from cmon.submit import prepare, submit_jobs
    from cmon.work import Options

    plan = read_plan(config)
    options = Options(device=device, trust_pickle=trust_pickle)
    submission = prepare(plan, config, shards, sbatch or (), options)
    say_left(plan.left, shown_progress(quiet=False))
    typer.echo(submission.text() if dry_run else json.dumps(submit_jobs(submission)))
    if plan.workspace.root.is_dir():
        plan.memory.save()


@app.command()
def status(config: ConfigArgument, missing: MissingOption = False, debug: DebugOption = False) -> None:
    """Say of every file: current, missing or stale, and why. Exits with 3 where one is not current."""
    from cmon.status import file_states, missing_units

    plan = read_plan(config)
    states = list(file_states(plan))
    for unit in missing_units(states) if missing else ():
        typer.echo(unit)
    for file in () if missing else states:
        typer.echo(f"{file.state.status:8} {file.name}" + (f"  ({file.state.reason})" if file.state.reason else ""))
    if plan.workspace.root.is_dir():
        plan.memory.save()
    if any(file.lacks for file in states):
        raise typer.Exit(StaleInputError.exit_code)


@app.command()
def plan(
    config: ConfigArgument, device: DeviceOption = "auto", trust_pickle: TrustOption = False, debug: DebugOption = False
) -> None:
    """Say what is left to do: how many minutes, how much disk and memory, from samples that are timed now."""
    from cmon.estimate import estimate_lines
    from cmon.work import Options

    study = read_plan(config)
    with contextlib.redirect_stdout(sys.stderr):
        lines = list(estimate_lines(study, Options(device=device, trust_pickle=trust_pickle)))
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


def _exit(outcomes: "list[Outcome]") -> None:
    """Say what failed, and exit with the code that tells."""
    if code := say_failures(outcomes):
        raise typer.Exit(code)
