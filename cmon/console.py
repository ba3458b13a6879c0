"""What a command says on its terminal: how far a stage is, what came of it, and what went wrong.

Progress goes to stderr: a bar on a terminal, else one flushed line per unit of work or per 30 seconds.
"""

import contextlib
import sys
import time
from collections.abc import Callable
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
    """Draws a bar, for terminals."""

    def __init__(self) -> None:
        super().__init__()
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


def shown_progress(quiet: bool) -> Quiet:
    """Return what says how far a command is: nothing, a bar on a terminal, or lines."""
    return Quiet() if quiet else Bars() if sys.stderr.isatty() else Lines()


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
    counts = f"{len(outcome.made)} made, {outcome.current} current"
    counts += "".join(
        f", {len(some)} {what}" for what, some in (("left", outcome.left), ("failed", outcome.failed)) if some
    )
    elapsed_s = time.monotonic() - start
    progress.line(f"{name}: {counts} ({duration(elapsed_s)})")
    for line in options.profile.lines(elapsed_s, peak_memory_mib()) if profile else ():
        progress.line(line)
    return outcome


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
