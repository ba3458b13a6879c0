"""The commands that make something: the four stages, all of them in order, and jobs of a cluster that do."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from cmon.arguments import (
    CheckpointOption,
    ConfigArgument,
    DebugOption,
    DeviceOption,
    DryRunOption,
    ForceOption,
    ManifestOption,
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
from cmon.console import run_stage, say_failures, say_left, shown_progress

if TYPE_CHECKING:
    from cmon.work import Outcome


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


def _exit(outcomes: "list[Outcome]") -> None:
    """Say what failed, and exit with the code that tells."""
    if code := say_failures(outcomes):
        raise typer.Exit(code)
