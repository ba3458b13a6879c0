"""The step of each checkpoint of a run: from the config, its content, its name, or its place."""

import re
from collections.abc import Mapping, Sequence

from cmon.config import Run
from cmon.errors import CheckpointError, CmonError, ConfigError, listing

# How a name says the step: earlier ones win.
STEP_WORDS = ("epochs?", "steps?|iter(?:ation)?s?")
STEPS_HINT = "list the run's steps in the config, as `steps`"


def resolve_steps(run: Run, names: Sequence[str], content: Sequence[Mapping[str, int]]) -> tuple[int, ...]:
    """Say the step of each checkpoint of a run.

    The config's list wins; then the epoch that the contents tell, where all do, then their step; then the number
    after the word epoch in all names, then after step or iteration; each where it tells all apart; then the last
    number of each name; then, where none tells anything, the place in order, from 0.

    Args:
        run: the run.
        names: of its checkpoints, in natural order.
        content: what each content says: its "epoch", its "step", both or neither.

    Raises:
        ConfigError: where the config's list does not fit.
        CheckpointError: where two checkpoints have one step, or one has none.
    """
    if run.steps is not None:
        if len(run.steps) != len(names):
            what = f"lists {len(run.steps)} steps for {len(names)} checkpoints"
            raise ConfigError(f"run {run.name}: steps", what, f"one for each of {listing(names)}")
        return _distinct(run, names, run.steps, ConfigError)
    by_word = [[number_after(word, name) for name in names] for word in STEP_WORDS]
    by_content = [[said.get(unit) for said in content] for unit in ("epoch", "step")]
    sources = [source for source in [*by_content, *by_word] if None not in source]
    for source in sources:
        if len(set(source)) == len(source):
            return tuple(step for step in source if step is not None)
    if sources:
        return _distinct(run, names, [step for step in sources[0] if step is not None], CheckpointError)
    return _distinct(run, names, _mixed_steps(run, names, by_content, by_word), CheckpointError)


def number_after(word: str, name: str) -> int | None:
    """Read the number after a word: epoch=3, epoch_003, Epoch3."""
    match = re.search(rf"(?<![a-z])(?:{word})[^a-z0-9]*([0-9]{{1,18}})(?![0-9])", name.lower())
    return int(match[1]) if match else None


def last_number(name: str) -> int | None:
    """Read the last whole number; 0.95 is an accuracy, not a step."""
    numbers = [number for number in re.findall(r"[0-9]+(?:\.[0-9]+)*", name) if number.isdigit() and len(number) < 19]
    return int(numbers[-1]) if numbers else None


def _mixed_steps(
    run: Run,
    names: Sequence[str],
    by_content: Sequence[Sequence[int | None]],
    by_word: Sequence[Sequence[int | None]],
) -> list[int]:
    """Take each step from the name, else from the content; from the place only where none tells any."""
    steps: list[int | None] = []
    for told in zip(*by_word, map(last_number, names), *by_content, strict=True):
        steps.append(next((step for step in told if step is not None), None))
    known = [step for step in steps if step is not None]
    if not known:
        return list(range(len(names)))
    if len(known) < len(steps):
        what = f"{names[steps.index(None)]} tells no step, in its name or content, while others do"
        raise CheckpointError(f"run {run.name}", what, STEPS_HINT)
    return known


def _distinct(run: Run, names: Sequence[str], steps: Sequence[int], kind: type[CmonError]) -> tuple[int, ...]:
    first: dict[int, str] = {}
    for name, step in zip(names, steps, strict=True):
        if step in first:
            raise kind(f"run {run.name}", f"{first[step]} and {name} both have step {step}", STEPS_HINT)
        first[step] = name
    return tuple(steps)
