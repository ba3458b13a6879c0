"""A panel for every layer, side by side, on one page."""

from collections.abc import Mapping

from matplotlib.axes import Axes

from cmon.figures.style import GREY, NORMAL, PAGE_WIDTH, SMALL, Page, fit


def layer_grid(title: str, below: Mapping[str, str], label: str) -> tuple[Page, dict[str, Axes]]:
    """Make a page with axes for every layer.

    Args:
        title: of the page.
        below: layer -> the line beneath its name, in forward order; at least one.
        label: of the y axis, which only the panels on the left name.
    """
    columns = min(3, len(below)) if len(below) != 4 else 2
    page = Page(PAGE_WIDTH if columns > 1 else 4.0, title)
    width = (page.width - 0.67 - 0.18 * columns) / columns
    height, down = min(1.9, max(1.45, width * 0.75)), 0.78
    panels = {}
    for i, (layer, line) in enumerate(below.items()):
        left, top = 0.72 + i % columns * (width + 0.18), page.y + i // columns * (height + down)
        page.text(left, top + 0.08, fit(layer, width, NORMAL, "bold"), weight="bold")
        page.text(left, top + 0.21, fit(line, width, SMALL), size=SMALL, color=GREY)
        panels[layer] = page.panel(left, top + 0.28, width, height)
        if i % columns:
            panels[layer].tick_params(axis="y", labelleft=False)
        else:
            panels[layer].set_ylabel(label, labelpad=0)
    page.y += -(-len(below) // columns) * (height + down) - 0.1
    return page, panels
