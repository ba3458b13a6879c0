"""Put the table of the checkpoints that are recognised into README, from their registry."""

import re
from pathlib import Path

from cmon.checkpoints import recognised

README = Path(__file__).resolve().parents[1] / "README.md"
PLACE = re.compile(r"(<!-- kinds: scripts/update_readme.py -->\n).*?(<!-- /kinds -->)", flags=re.DOTALL)


def updated(text: str) -> str:
    """Return README's text with the table as it should be."""
    assert len(PLACE.findall(text)) == 1, "README has one place for the table"
    return PLACE.sub(lambda found: f"{found[1]}{recognised()}{found[2]}", text)


if __name__ == "__main__":
    README.write_text(updated(README.read_text(encoding="utf-8")), encoding="utf-8")
