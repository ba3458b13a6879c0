"""What is there of a study and what is not, from the files alone."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cmon.errors import CmonError, one_line
from cmon.recipes import Plan
from cmon.report import report_state
from cmon.workspace import State, Target, shown


@dataclass(frozen=True)
class FileState:
    """One file of a study: its name below the workspace, and its state."""

    name: str
    state: State


def file_states(plan: Plan) -> Iterator[FileState]:
    """Yield the state of every file that the study should have, in the order of the stages.

    Raises:
        CmonError: where the probe, the concepts or the encoder cannot be read, on which all files rest.
    """
    places, tables, evidence = plan.workspace, plan.study.detector, plan.evidence
    units = (*plan.units, *plan.baselines)
    yield _file(plan, places.evidence, lambda: evidence)
    for unit in units:
        path = places.activations(unit.folder, unit.checkpoint.name)
        yield _file(plan, path, partial(plan.activations, unit))
    for unit in units if "counts" in plan.uses else ():
        path = places.counts(unit.folder, unit.checkpoint.name)
        yield _file(plan, path, partial(plan.counts, unit))
    for table in tables:
        for unit in units:
            path = places.similarity(table.name, unit.folder, unit.checkpoint.name)
            yield _file(plan, path, partial(plan.similarity, table, unit))
    for table in tables:
        yield _file(plan, places.embedding(table.name), partial(plan.embedding, table))
    if plan.study.pairs_of_runs:
        yield _file(plan, places.matches, lambda: plan.matches)
    yield _file(plan, places.report / "index.html", partial(report_state, plan))


def _file(plan: Plan, path: Path, find: Callable[[], Target | State]) -> FileState:
    """Give a file's state; where its inputs cannot be read, such as a checkpoint that is gone, this is the reason."""
    name = shown(path, plan.workspace.root)
    try:
        found = find()
        return FileState(name, found.state() if isinstance(found, Target) else found)
    except CmonError as error:
        reason = one_line(f"{shown(Path(error.where), plan.workspace.root)}: {error.what}")
        return FileState(name, State("stale" if path.exists() else "missing", reason))
