"""What is there of a study and what is not, from the files alone."""

from collections.abc import Iterator
from dataclasses import dataclass

from cmon.errors import CheckpointError
from cmon.recipes import Plan, Unit
from cmon.report import report_state
from cmon.workspace import State, shown


@dataclass(frozen=True)
class FileState:
    """One file of a study: its name below the workspace, and its state."""

    name: str
    state: State


def file_states(plan: Plan) -> Iterator[FileState]:
    """Yield the state of every file that the study should have, in the order of the stages."""
    root = plan.workspace.root
    yield FileState(shown(plan.evidence.path, root), plan.evidence.state())
    for unit in plan.units:
        yield FileState(shown(plan.workspace.activations(*_place(unit)), root), _activations(plan, unit))
    for table in plan.study.detector:
        for unit in plan.units:
            path = plan.workspace.similarity(table.name, *_place(unit))
            usable = _activations(plan, unit).status != "damaged"
            state = plan.similarity(table, unit).state() if usable else State("stale", "no activations")
            yield FileState(shown(path, root), state)
    for table in plan.study.detector:
        target = plan.embedding(table)
        yield FileState(shown(target.path, root), target.state())
    yield FileState(shown(plan.workspace.report / "index.html", root), report_state(plan))
    plan.memory.save()


def _place(unit: Unit) -> tuple[str, str]:
    return unit.run.name, unit.checkpoint.name


def _activations(plan: Plan, unit: Unit) -> State:
    try:
        return plan.activations(unit).state()
    except CheckpointError as error:
        return State("damaged", error.what)
