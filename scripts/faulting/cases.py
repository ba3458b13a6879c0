"""A hostile input: what it spoils of a study, and what a command may then come to."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from faulting.study import Study


@dataclass(frozen=True)
class Case:
    """One hostile input.

    Args:
        name: what it is.
        spoil: puts it into a study whose inputs are whole.
        words: the command that meets it.
        works: must the command end well, since an odd input is a right one.
    """

    name: str
    spoil: Callable[[Study], object]
    words: tuple[str, ...] = ("activations",)
    works: bool = False


def images_only(study: Study) -> None:
    """Make the probe a plain folder of images, and drop the detector that needs masks."""
    images = study.folder / "images"
    images.mkdir()
    for name in (study.folder / "images.txt").read_text().split():
        (images / name).write_bytes((study.folder / "broden" / "images" / name).read_bytes())
    study.edit('kind = "broden"\npath = "broden"', 'path = "images"')
    study.edit('[[detector]]\nkind = "network_dissection"\ntau = 0.05\n', "")


def edits(prefix: str, changes: dict[str, tuple[str, str]], words: tuple[str, ...] = ("run",)) -> Iterator[Case]:
    """Yield a case for each change of the config: a text, and what comes into its place."""
    for name, (old, new) in changes.items():
        yield Case(f"{prefix}: {name}", lambda study, old=old, new=new: study.edit(old, new), words)
