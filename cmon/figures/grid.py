"""Panels side by side on one page, such as one for every layer."""

from collections.abc import Mapping

from matplotlib.axes import Axes

from cmon.figures.style import GREY, NORMAL, PAGE_WIDTH, SMALL, Page, fit, fit_layer

MARGIN, GAP = 0.72, 0.18  # inches left of a row and between its panels


def layer_grid(title: str, below: Mapping[str, str], label: str) -> tuple[Page, dict[str, Axes]]:
    """Make a page with axes for every layer, which share what their y axes say.

    Args:
        title: of the page.
        below: layer -> the line beneath its name, in forward order; at least one.
        label: of the y axis, which only the panels on the left name.
    """
    columns = min(3, len(below)) if len(below) != 4 else 2
    page = Page(PAGE_WIDTH if columns > 1 else 4.0, title)
    width = (page.width - MARGIN + 0.05 - GAP * columns) / columns
    panels = _panels(page, below, columns, width, min(1.9, max(1.45, width * 0.75)), MARGIN, GAP)
    for i, axes in enumerate(panels.values()):
        if i % columns:
            axes.tick_params(axis="y", labelleft=False)
        else:
            axes.set_ylabel(label, labelpad=0)
    return page, panels


def index_grid(title: str, below: Mapping[str, str], height: float = 1.2) -> tuple[Page, dict[str, Axes]]:
    """Make a page with axes, each with a y axis of its own, three in a row or, where there are two or four, two.

    Args:
        title: of the page.
        below: heading -> the line beneath it.
        height: of the axes.
    """
    columns, margin, gap = 2 if len(below) in (2, 4) else min(3, max(1, len(below))), 0.5, 0.5
    page = Page(PAGE_WIDTH if columns > 1 else 4.0, title)
    width = (page.width - margin - 0.15 - (columns - 1) * gap) / columns
    return page, _panels(page, below, columns, width, height, margin, gap)


def _panels(
    page: Page, below: Mapping[str, str], columns: int, width: float, height: float, margin: float, gap: float
) -> dict[str, Axes]:
    """Fill rows of a page with axes under a heading and a line each."""
    down, panels = 0.78, {}
    for i, (heading, line) in enumerate(below.items()):
        left, top = margin + i % columns * (width + gap), page.y + i // columns * (height + down)
        page.text(left, top + 0.08, fit_layer(heading, width, NORMAL, "bold"), weight="bold")
        page.text(left, top + 0.21, fit(line, width + 0.15, SMALL), size=SMALL, color=GREY)
        panels[heading] = page.panel(left, top + 0.28, width, height)
    page.y += -(-len(below) // columns) * (height + down) - 0.1
    return panels
