"""The signals that end a command: at once, or after the unit of work in hand.

SIGINT and SIGTERM end it at once. SIGUSR1, by which a scheduler warns of a job's end, ends it once the unit in hand is
done.
"""

import signal
import sys
from types import FrameType

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGUSR1: 75}
ASK_AGAIN_S = 0.01


class Stopped(BaseException):
    """A signal asked for the end: not an error, so that no handler of errors takes it for one.

    Args:
        number: of the signal; SIGUSR1 where the end of a job's time has come.
        finished: how many pieces of work this process has finished: units, evidence, caches.
    """

    def __init__(self, number: int, finished: int) -> None:
        self.number, self.finished, self.note = number, finished, ""

    @property
    def exit_code(self) -> int:
        """Return what the process is to end with."""
        return EXIT_CODES[signal.Signals(self.number)]


class Signals:
    """What this process does at signals, and how much of its work it has finished until then."""

    def __init__(self) -> None:
        self.finished = 0
        self.warned = False

    def __call__(self, number: int, _: FrameType | None) -> None:
        """Note SIGUSR1, and raise Stopped at the others."""
        if number == signal.SIGUSR1:
            self.warned = True
        else:
            raise Stopped(number, self.finished)

    def kept(self) -> None:
        """Count a piece of work that is finished and kept, and stop here if that was asked for."""
        self.finished += 1
        self.pause()

    def pause(self) -> None:
        """Stop here, where nothing is in hand, if that was asked for."""
        if self.warned:
            raise Stopped(signal.SIGUSR1, self.finished)


def listen() -> None:
    """Raise Stopped in the main thread at signals; those that are ignored stay so, as nohup and a script's & do it."""
    signals = Signals()
    for number in EXIT_CODES:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signals)
    sys.unraisablehook = _ask_again


def listening() -> Signals:
    """Return what listens to this process's signals; where nothing does, one that hears nothing."""
    handlers = map(signal.getsignal, EXIT_CODES)
    return next((handler for handler in handlers if isinstance(handler, Signals)), Signals())


def ignore() -> None:
    """Hear no more signals: the process is about to end."""
    for number in EXIT_CODES:
        signal.signal(number, signal.SIG_IGN)


def _ask_again(swallowed: "sys.UnraisableHookArgs") -> None:
    """Raise Stopped once more where Python has swallowed it, as it does what a weak reference's callback raises.

    While HDF5 is at work h5py has so many of these that every fifth signal would be lost.
    """
    stopped = swallowed.exc_value
    if not isinstance(stopped, Stopped):
        sys.__unraisablehook__(swallowed)
        return
    again = stopped

    def stop(*_: object) -> None:
        raise again

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, ASK_AGAIN_S)
