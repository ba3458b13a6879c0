"""What is there of a study and what is not, from the files alone."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cmon.errors import CmonError, one_line
from cmon.recipes import Plan, Unit
from cmon.report import report_state
from cmon.workspace import State, Target, shown


@dataclass(frozen=True)
class FileState:
    """One file of a study: its name below the workspace, its state, and the unit of work that it is of, if of one."""

    name: str
    state: State
    unit: str = ""

    @property
    def lacks(self) -> bool:
        """Tell whether it is yet to be made; what waits for a checkpoint that is being written is not."""
        return self.state.status not in ("current", "left")


def file_states(plan: Plan) -> Iterator[FileState]:
    """Yield the state of every file that the study should have, in the order of the stages.

    Raises:
        CmonError: where the probe, the concepts or the encoder cannot be read, on which all files rest.
    """
    places, tables, evidence = plan.workspace, plan.study.detector, plan.evidence
    units = (*plan.units, *plan.baselines)
    yield _file(plan, places.evidence, lambda: evidence)
    aside = {name: reason for run in plan.study.run for name, reason in plan.roster.aside(run).items()}
    for name, reason in {**plan.left, **aside}.items():
        yield FileState(shown(places.activations(*name.split("/")), places.root), State("left", reason), name)
    for unit in units:
        path = places.activations(unit.folder, unit.checkpoint.name)
        yield _unit_file(plan, path, unit, partial(plan.activations, unit))
    for unit in units if "counts" in plan.uses else ():
        path = places.counts(unit.folder, unit.checkpoint.name)
        yield _unit_file(plan, path, unit, partial(plan.counts, unit))
    for table in tables:
        for unit in units:
            path = places.similarity(table.name, unit.folder, unit.checkpoint.name)
            yield _unit_file(plan, path, unit, partial(plan.similarity, table, unit))
    for table in tables:
        yield _file(plan, places.embedding(table.name), partial(plan.embedding, table))
    if plan.study.pairs_of_runs:
        yield _file(plan, places.matches, lambda: plan.matches)
    yield _file(plan, places.report / "index.html", partial(report_state, plan))


def missing_units(states: Iterable[FileState]) -> list[str]:
    """Name the units of work, as run/checkpoint, that lack a current file of their own; not those that are left."""
    lacking = (file.unit for file in states if file.lacks)
    return [unit for unit in dict.fromkeys(lacking) if unit]


def _unit_file(plan: Plan, path: Path, unit: Unit, find: Callable[[], Target]) -> FileState:
    """Give the state of a unit's file; what is not there needs no look at the checkpoint's bytes."""
    if not path.exists() and (unit.seed is not None or Path(unit.where).exists()):
        return FileState(shown(path, plan.workspace.root), State("missing"), unit.name)
    return _file(plan, path, find, unit.name)


def _file(plan: Plan, path: Path, find: Callable[[], Target | State], unit: str = "") -> FileState:
    """Give a file's state; where its inputs cannot be read, such as a checkpoint that is gone, this is the reason."""
    name = shown(path, plan.workspace.root)
    try:
        found = find()
        return FileState(name, found.state() if isinstance(found, Target) else found, unit)
    except CmonError as error:
        reason = one_line(f"{shown(Path(error.where), plan.workspace.root)}: {error.what}")
        return FileState(name, State("stale" if path.exists() else "missing", reason), unit)
