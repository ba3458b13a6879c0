"""The commands that only look: at a study's files, at what is left to do, at layers, at checkpoints."""

import contextlib
import json
import sys

import typer

from cmon.arguments import (
    AllowMissingOption,
    ConfigArgument,
    DebugOption,
    DeviceOption,
    JsonOption,
    MissingOption,
    ModelArgOption,
    ModelOption,
    PathsArgument,
    RunOption,
    StateDictKeyOption,
    TrustOption,
    WeightsOption,
    Which,
    read_model,
    read_plan,
)
from cmon.console import say_failures, show_facts, show_table, shown_progress
from cmon.errors import CmonError, ConfigError, StaleInputError


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


def schema() -> None:
    """Print the JSON Schema of the config, for editors."""
    from cmon.config import schema as config_schema

    typer.echo(json.dumps(config_schema(), indent=2))


def layers(
    config: ConfigArgument, run: RunOption = None, as_json: JsonOption = False, debug: DebugOption = False
) -> None:
    """List the layers of each run's model: what they put out, which are chosen."""
    from cmon.hookable import HEADER, asked_runs, run_layers
    from cmon.work import Outcome

    study = read_plan(config)
    shown = []
    failed: list[tuple[str, CmonError]] = []
    for one in asked_runs(study, run or ()):
        try:
            with contextlib.redirect_stdout(sys.stderr):  # a user's model may print, and stdout is for results
                found = run_layers(study, one)
        except CmonError as error:
            failed.append((one.name, error))
            continue
        failed += [(one.name, mistake) for mistake in found.mistakes]
        shown.append(found)
        if not as_json:
            show_table(HEADER, found.rows(), found.remarks(), found.title)
    if as_json:
        typer.echo(json.dumps([found.facts() for found in shown], indent=2))
    if code := say_failures([Outcome(failed=failed)]):
        raise typer.Exit(code)


def inspect(
    paths: PathsArgument,
    model: ModelOption = "",
    model_arg: ModelArgOption = None,
    state_dict_key: StateDictKeyOption = None,
    weights: WeightsOption = Which.RAW,
    allow_missing: AllowMissingOption = None,
    trust_pickle: TrustOption = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Say what checkpoints hold, and whether they match a model.

    Of each: its kind, the step that it tells, tensors and parameters, the share of zeros, NaN, and its like.
    Exits with 1 where one cannot be read, or does not match.
    """
    from cmon.inspection import HEADER, Reading, inspect_checkpoints, inspected_files
    from cmon.models import build_model
    from cmon.work import Outcome

    if (model_arg or allow_missing) and not model:
        raise ConfigError("--model-arg" if model_arg else "--allow-missing", "needs a model", "name one with --model")
    if state_dict_key and weights is Which.EMA:
        raise ConfigError("--weights", "ema is for the usual places", "let --state-dict-key alone name them")
    files = inspected_files(paths)
    alone = len(paths) == 1 and files == paths
    progress = shown_progress(quiet=alone, transient=True)
    with contextlib.redirect_stdout(sys.stderr):  # a user's model may print, and stdout is for results
        built = build_model(*read_model(model, model_arg or ())) if model else None
        reading = Reading(state_dict_key, weights.value, trust_pickle, built, tuple(allow_missing or ()))
        progress.begin("inspecting", len(files))
        try:
            found = inspect_checkpoints(files, reading, progress.advance)
        finally:
            progress.end()
    # On a terminal errors come next, below; elsewhere stdout alone tells them too.
    apart = sys.stdout.isatty()
    if as_json:
        facts = [one.facts() for one in found]
        typer.echo(json.dumps(facts[0] if alone else facts, indent=2))
    elif alone:
        show_facts(found[0].lines(errors=not apart))
    else:
        # Names do on a terminal, where they are of one folder; programs want paths.
        folders = {path.parent for path in files}
        called = (lambda path: path.name) if apart and len(folders) == 1 else str
        rows = [one.row(called(one.path)) for one in found]
        remarks = [one.remarks(not apart, called) for one in found]
        where = f" in {folders.pop()}" if len(folders) == 1 else ""
        show_table(HEADER, rows, remarks, f"{len(found)} checkpoints{where}")
    if code := say_failures([Outcome(failed=[(str(one.path), one.error) for one in found if one.error])]):
        raise typer.Exit(code)
