"""One self-contained page: every figure with what it shows, its data, the settings and the provenance."""

import json
from dataclasses import dataclass
from typing import Any

from cmon import __version__
from cmon.fingerprint import Json


@dataclass(frozen=True)
class Picture:
    """One figure on the page.

    Args:
        title: a heading.
        explanation: what is seen.
        png: the picture in base64.
        links: its files, relative to the page; the last is its data.
    """

    title: str
    explanation: str
    png: str
    links: list[str]


@dataclass(frozen=True)
class Section:
    """One detector's figures of one run, of several, or those that compare two detectors.

    Args:
        detector: its name, or both.
        run: its name, or the runs'.
        caption: the settings in one line.
        warning: what a reader should know before believing the scores; "" where nothing.
        pictures: the figures.
        layers: rows of the layer table at the first and the last step; none where runs or detectors are compared.
        notes: what is notable about the list of concepts.
        folder: where units.csv, layers.csv and concepts.csv lie, relative to the page.
    """

    detector: str
    run: str
    caption: str
    warning: str
    pictures: list[Picture]
    layers: list[dict[str, Any]]
    notes: list[str]
    folder: str


def render(sections: list[Section], settings: dict[str, Any], made: Json) -> str:
    """Return the page as HTML that needs no other file and no network."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("cmon"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = _number
    return environment.get_template("index.html").render(
        sections=sections,
        settings=json.dumps(settings, indent=2, ensure_ascii=False),
        provenance=json.dumps(made, indent=2, ensure_ascii=False),
        version=__version__,
    )


def _number(value: Any) -> str:
    """Write a number for a table: whole ones whole, others with three figures, NaN as a dash."""
    if isinstance(value, float):
        return "–" if value != value else f"{value:.3g}"
    return str(value)
