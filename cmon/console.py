"""What a command says on its terminal: how far a stage is, what came of it, and what went wrong.

Progress goes to stderr: a bar on a terminal, else one flushed line per unit of work or per 30 seconds.
"""

import contextlib
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cmon.errors import CmonError, listing, one_line
from cmon.profiling import Profile, duration
from cmon.signals import listening
from cmon.work import Options, Outcome, Progress, peak_memory_mib

if TYPE_CHECKING:
    from cmon.recipes import Plan

LINE_EVERY_S = 30.0
LOOK_EVERY_S = 0.2
LONGEST_CELL, MOST_NAMES = 1000, 4


class Quiet:
    """Says nothing, and stops between units of work where a signal asks for it."""

    def __init__(self) -> None:
        self._signals, self._waits_for = listening(), ""

    def line(self, text: str) -> None:
        """Say nothing."""

    def begin(self, label: str, total: int) -> None:
        """Say nothing."""

    def advance(self, count: int = 1, name: str = "") -> None:
        """Say nothing."""

    def end(self) -> None:
        """Say nothing."""

    def done(self, name: str) -> None:
        """Count a unit of work that is finished and kept."""
        self.advance(1, name)
        self.kept()

    def failed(self, name: str) -> None:
        """Count a unit of work that failed."""
        self.advance(1, f"{name} failed")
        self._signals.pause()

    def kept(self) -> None:
        """Note that all so far is kept."""
        self._signals.kept()

    def wait(self, what: str, pause_s: float = LOOK_EVERY_S) -> None:
        """Pause, and say once what for."""
        if what != self._waits_for:
            self.line(f"waiting: {what}")
        self._waits_for = what
        self._signals.pause()
        time.sleep(pause_s)


class Lines(Quiet):
    """Writes lines, for logs."""

    def __init__(self) -> None:
        super().__init__()
        self._label, self._total, self._done = "", 0, 0
        self._start = self._said = time.monotonic()

    def line(self, text: str) -> None:
        """Say one thing."""
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()

    def begin(self, label: str, total: int) -> None:
        """Begin to count up to `total`."""
        self._label, self._total, self._done = label, total, 0
        self._start = self._said = time.monotonic()

    def advance(self, count: int = 1, name: str = "") -> None:
        """Count on, and say so for a unit of work, or when 30 seconds have passed."""
        self._done += count
        now = time.monotonic()
        if not name and now - self._said < LINE_EVERY_S:
            return
        self._said = now
        elapsed_s = now - self._start
        left_s = elapsed_s / max(self._done, 1) * (self._total - self._done)
        rate = self._done / max(elapsed_s, 1e-9)
        speed = f"{rate:.0f}/s" if rate >= 10 else f"{1 / rate:.1f} s each"
        what = f"{self._label} {self._done}/{self._total}" + (f" {name}" if name else "")
        self.line(f"{what}  {speed}, {duration(left_s)} left")

    def end(self) -> None:
        """End the count."""


class Bars(Quiet):
    """Draws a bar, for terminals; one that is transient is gone at its end."""

    def __init__(self, transient: bool) -> None:
        super().__init__()
        self._transient = transient
        from rich.console import Console

        self._console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
        self._bar: Any = None
        self._task: Any = None

    def line(self, text: str) -> None:
        """Say one thing."""
        self._console.print(text)

    def begin(self, label: str, total: int) -> None:
        """Begin to count up to `total`."""
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self.end()
        columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Progress(
            TextColumn(columns[0], markup=False),
            *columns[1:],
            TextColumn("{task.fields[name]}", markup=False),
            console=self._console,
            transient=self._transient,
        )
        self._bar.start()
        self._task = self._bar.add_task(label, total=total, name="")

    def advance(self, count: int = 1, name: str = "") -> None:
        """Count on."""
        if self._bar is not None:
            self._bar.update(self._task, advance=count, **({"name": name} if name else {}))

    def end(self) -> None:
        """End the count."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def shown_progress(quiet: bool, transient: bool = False) -> Quiet:
    """Return what says how far a command is: nothing, a bar on a terminal, or lines."""
    return Quiet() if quiet else Bars(transient) if sys.stderr.isatty() else Lines()


def run_stage(
    name: str,
    stage: Callable[["Plan", Options, Progress], Outcome],
    plan: "Plan",
    options: Options,
    quiet: bool,
    profile: bool,
) -> Outcome:
    """Run one stage and say in a line what came of it, and what it spent its time on where that is asked."""
    progress = shown_progress(quiet)
    options = replace(options, profile=Profile())
    start = time.monotonic()
    try:
        if not options.dry_run:
            plan.workspace.sweep()
        with contextlib.redirect_stdout(sys.stderr):  # a user's model may print, and stdout is for results
            outcome = stage(plan, options, progress)
    finally:
        progress.end()
        if not options.dry_run:
            plan.memory.save()
    for made in outcome.made if options.dry_run else ():
        sys.stdout.write(f"{made}\n")
    for warning in dict.fromkeys(outcome.warnings):
        progress.line(f"warning: {warning}")
    say_left(outcome.left, progress)
    for reason in dict.fromkeys(outcome.aside.values()):  # several runs may look into one folder
        progress.line(f"not counted: {reason}")
    counts = f"{len(outcome.made)} made, {outcome.current} current"
    counts += "".join(
        f", {len(some)} {what}" for what, some in (("left", outcome.left), ("failed", outcome.failed)) if some
    )
    elapsed_s = time.monotonic() - start
    progress.line(f"{name}: {counts} ({duration(elapsed_s)})")
    for line in options.profile.lines(elapsed_s, peak_memory_mib()) if profile else ():
        progress.line(line)
    return outcome


def show_table(
    header: Sequence[str], rows: Sequence[Sequence[object]], remarks: Sequence[Sequence[str]], title: str
) -> None:
    """Print a table, whole numbers at the right of their columns.

    On a terminal it is drawn for its width, with the remarks below it. Elsewhere it is a line a row without the title,
    in columns that are two blanks apart, an empty cell a "-", the remarks last: for programs such as awk.

    Args:
        header: what the columns are called.
        rows: of as many cells.
        remarks: on each row.
        title: of the table.
    """
    numeric = [any(map(_is_number, column)) for column in zip(*rows, strict=True)]
    if sys.stdout.isatty():
        _draw_table(header, rows, title, numeric)
        for remark, names in _alike(
            (remark, str(row[0])) for row, on in zip(rows, remarks, strict=True) for remark in on
        ):
            whose = "all" if len(names) == len(rows) > 1 else listing(names, MOST_NAMES)
            sys.stdout.write(f"{whose}: {one_line(remark, LONGEST_CELL)}\n")
        return
    told = [[*row, "; ".join(on)] for row, on in zip(rows, remarks, strict=True)]
    lines = [[*header, "notes"], *([one_line(cell, LONGEST_CELL) or "-" for cell in row] for row in told)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = zip(line, widths, [*numeric, False], strict=True)
        text = "  ".join(cell.rjust(width) if right else cell.ljust(width) for cell, width, right in cells)
        sys.stdout.write(f"{text.rstrip()}\n")


def _is_number(cell: object) -> bool:
    return isinstance(cell, int) or str(cell).endswith("%")


def _draw_table(header: Sequence[str], rows: Sequence[Sequence[object]], title: str, numeric: Sequence[bool]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for name, right in zip(header, numeric, strict=True):
        table.add_column(name, justify="right" if right else "left", no_wrap=right, overflow="fold")
    for row in rows:
        texts = (f"{cell:,}" if isinstance(cell, int) else one_line(cell, LONGEST_CELL) for cell in row)
        table.add_row(*map(Text, texts))
    console = Console(highlight=False)
    console.print(Text(one_line(title, LONGEST_CELL), style="bold"))
    console.print(table)


def _alike(remarks: Iterable[tuple[str, str]]) -> Iterable[tuple[str, list[str]]]:
    """Gather the names that share a remark."""
    found: dict[str, list[str]] = {}
    for remark, name in remarks:
        found.setdefault(remark, []).append(name)
    return found.items()


def show_facts(facts: Mapping[str, object]) -> None:
    """Print what is known of one thing, a line each: what it is called, a colon, and what it is."""
    width = max(map(len, facts)) + 1
    for name, fact in facts.items():
        sys.stdout.write(f"{name + ':':{width}} {one_line(fact, LONGEST_CELL)}\n")


def say_left(left: dict[str, str], progress: Quiet) -> None:
    """Say which checkpoints are left for the next time, and why, by unit of work."""
    for reason in left.values():
        progress.line(f"left for the next time: {reason}")


def say_failures(outcomes: list[Outcome]) -> int:
    """Say what failed, each mistake once, and return the exit code that tells: 0 where nothing did."""
    failed = [failure for outcome in outcomes for failure in outcome.failed]
    alike: dict[tuple[str, str], list[tuple[str, CmonError]]] = {}
    for name, error in failed:
        alike.setdefault((error.what, error.hint), []).append((name, error))
    for group in alike.values():
        first = group[0][1]
        others = list(dict.fromkeys(name for name, error in group if error.where != first.where))
        say(first, f" (and {len(others)} more: {listing(others, 4)})" if others else "")
    codes = {error.exit_code for _, error in failed}
    return 0 if not codes else codes.pop() if len(codes) == 1 else 1


def say(error: CmonError, others: str = "") -> None:
    """Say a mistake in a line, and what mends it in another."""
    if "--debug" in sys.argv:
        import traceback

        traceback.print_exception(error)
    sys.stderr.write(f"error: {one_line(error.where, 400)}{others}: {one_line(error.what, 1000)}\n")
    if error.hint:
        sys.stderr.write(f"hint: {one_line(error.hint, 1000)}\n")
    sys.stderr.flush()
