"""What was tried and what came of it, counted."""

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Tally:
    """One kind of fault.

    Args:
        fault: its name.
        tried: how often.
        came: what came of it -> how often.
        wrong: what must not be, a line each.
        skipped: why it could not be tried.
    """

    fault: str
    tried: int = 0
    came: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    skipped: str = ""

    def count(self, what: str, trial: str, complaint: str = "") -> None:
        """Note a trial and what came of it, and what is wrong with that."""
        self.tried += 1
        self.came[what] += 1
        if complaint:
            self.wrong.append(f"{self.fault}: {trial}: {complaint}")


def table(tallies: list[Tally]) -> str:
    """Write all as lines of a table, and below it what is wrong."""
    rows = [("fault", "tried", "what came of it", "lost or wrong")]
    for tally in tallies:
        came = ", ".join(f"{count} {what}" for what, count in tally.came.most_common())
        rows.append(
            (
                tally.fault,
                str(tally.tried),
                f"skipped: {tally.skipped}" * bool(tally.skipped) or came,
                str(len(tally.wrong)),
            )
        )
    widths = [max(len(row[k]) for row in rows) for k in range(4)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*lines, *(f"WRONG {line}" for tally in tallies for line in tally.wrong)])
