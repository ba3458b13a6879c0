"""The look that all figures share: colours, type, pages that grow downwards, labels that keep apart."""

import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, wraps
from pathlib import Path
from typing import IO, Any, ParamSpec, TypeVar

import matplotlib.style
import numpy as np
import numpy.typing as npt
from matplotlib import colormaps, font_manager
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.text import Text
from matplotlib.textpath import text_to_path

from cmon.errors import one_line
from cmon.records import Pixels

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")
Points = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]
Extent = tuple[float, float]
Rows = npt.NDArray[np.intp]
Mark = tuple[str, dict[str, Any]]  # a legend's text, and the Line2D or (with a facecolor) Rectangle beside it

PAGE_WIDTH = 7.0  # inches: two columns of a paper
SMALL, NORMAL, LARGE = 7.0, 7.5, 9.0  # points; nothing is set smaller than SMALL
LINE = 0.145  # inches from one line of type to the next

INK, GREY, FAINT = "#222222", "#666666", "#cccccc"
NOT_INTERPRETABLE, DEAD, NO_CATEGORY, OTHER = "#e3e3e3", "#8c8c8c", "#4d4d4d", "#c9b8a3"
# Okabe and Ito's colours, then Tol's muted ones: both keep apart for colour-blind readers.
CYCLE = ("#0072b2", "#56b4e9", "#009e73", "#cc79a7", "#e69f00", "#d55e00", "#f0e442")
MORE = ("#332288", "#882255", "#44aa99", "#999933", "#117733", "#aa4499", "#661100", "#ddcc77")
BRODEN = ("object", "part", "scene", "material", "texture", "color", "shape")
CATEGORIES = dict(zip(BRODEN, CYCLE, strict=True))
# Families that hold letters which DejaVu lacks; those that are installed are used, in this order.
FALLBACK_FONTS = (
    "Noto Sans CJK JP",
    "Noto Sans",
    "Arial Unicode MS",
    "Hiragino Sans",
    "Yu Gothic",
    "Microsoft YaHei",
)


@cache
def _families() -> tuple[str, ...]:
    installed = {entry.name for entry in font_manager.fontManager.ttflist}
    return ("DejaVu Sans", *(name for name in FALLBACK_FONTS if name in installed))


@cache
def _letters() -> frozenset[int]:
    """Collect the code points that some font of ours can draw."""
    paths = {font_manager.findfont(font_manager.FontProperties(family=[name])) for name in _families()}
    return frozenset(code for path in paths for code in FT2Font(str(path)).get_charmap())


def printable(text: object, most: int = 300) -> str:
    """Return one line of text with a box for each letter that no installed font holds."""
    return "".join(c if ord(c) in _letters() else "□" for c in one_line(text, most))


def styled(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Run a function under the figures' settings, whatever a user's matplotlibrc says."""
    look = {
        "text.parse_math": False,  # words are data: "$" and "_" mean themselves
        "text.hinting": "none",  # letters then take the same room at every resolution
        "font.size": NORMAL,
        "axes.linewidth": 0.5,
        "axes.edgecolor": GREY,
        "axes.labelsize": SMALL,
        "xtick.labelsize": SMALL,
        "ytick.labelsize": SMALL,
        "xtick.major.width": 0.5,
        "ytick.major.width": 0.5,
        "text.color": INK,
        "hatch.linewidth": 0.4,
        "pdf.fonttype": 42,  # TrueType: what publishers ask for, and text that can be searched
        "svg.hashsalt": "cmon",
    }

    @wraps(function)
    def inside(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        with matplotlib.style.context(["default", {**look, "font.family": list(_families())}]):
            return function(*args, **kwargs)

    return inside


@styled
def save(figure: Figure, target: Path | IO[bytes], form: str, dpi: int) -> None:
    """Write a figure as png, pdf or svg; equal figures give equal bytes."""
    dates: dict[str, dict[str, Any]] = {
        "png": {"Software": None},
        "pdf": {"CreationDate": None},
        "svg": {"Date": None},
    }
    figure.savefig(target, format=form, dpi=dpi, metadata=dates[form])


def category_colours(names: Iterable[str]) -> dict[str, str]:
    """Give every category a colour: Broden's theirs, the others, by alphabet, what no other one has.

    Beyond fifteen categories colours recur.
    """
    names = set(names)
    colours = {name: CATEGORIES[name] for name in CATEGORIES if name in names}
    free = [colour for colour in (*CYCLE, *MORE) if colour not in colours.values()]
    others = sorted(names - set(colours) - {""})
    colours |= {name: free[i % len(free)] for i, name in enumerate(others)}
    return colours | ({"": NO_CATEGORY} if "" in names else {})


def edged(colour: str) -> dict[str, Any]:
    """Return what keeps a thin line of a light colour, such as yellow, visible on paper: a darker edge."""
    red, green, blue = to_rgb(colour)
    if 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.7:
        return {}
    darker = to_hex((0.55 * red, 0.55 * green, 0.55 * blue))
    return {"path_effects": [withStroke(linewidth=2.0, foreground=darker)]}


def layer_colours(layers: Sequence[str]) -> dict[str, str]:
    """Give layers colours from dark to light in forward order; neighbours differ in lightness too."""
    places = np.linspace(0.02, 0.84, max(len(layers), 2))
    return {layer: to_hex(colormaps["plasma"](place)) for layer, place in zip(layers, places, strict=False)}


@cache
def text_width(text: str, size: float = NORMAL, weight: str = "normal") -> float:
    """Measure printable text in inches, without a figure."""
    font = font_manager.FontProperties(family=list(_families()), size=size, weight=weight)
    width, _, _ = text_to_path.get_text_width_height_descent(text, font, False)
    return float(width) / 72


def fit(text: object, width: float, size: float = NORMAL, weight: str = "normal") -> str:
    """Cut text so that it takes at most `width` inches; what was cut ends in an ellipsis."""
    line = printable(text)
    if text_width(line, size, weight) <= width:
        return line
    while line and text_width(line + "…", size, weight) > width:
        line = line[:-1].rstrip()
    return line + "…"


def fit_layer(name: str, width: float, size: float = NORMAL, weight: str = "normal") -> str:
    """Shorten a layer's name to at most `width` inches so that layers stay apart: by their numbers and last level.

    Its levels become their first letter and their digits, from the first level on, as many as need be.
    """
    levels = printable(name).split(".")
    for i, level in enumerate(levels[:-1]):
        if text_width(".".join(levels), size, weight) > width:
            levels[i] = level[:1] + "".join(c for c in level[1:] if c.isdigit())
    return fit(".".join(levels), width, size, weight)


def wrapped(text: object, width: float, size: float = NORMAL, weight: str = "normal") -> list[str]:
    """Break text into lines of at most `width` inches; may be empty."""
    lines: list[str] = []
    for word in printable(text, 5000).split():
        for piece in textwrap.wrap(word, max(8, int(width * 12))):
            longer = f"{lines[-1]} {piece}" if lines else piece
            if lines and text_width(longer, size, weight) <= width:
                lines[-1] = longer
            else:
                lines.append(fit(piece, width, size, weight))
    return lines


class Page:
    """A figure that is filled from the top; it gets its height and its caption when it is finished.

    All lengths are inches from the upper left corner; `y` is where the next thing may begin.
    """

    def __init__(self, width: float, title: str) -> None:
        self.width, self.y = width, 0.08
        self.figure = Figure(figsize=(width, 1.0))
        # A vector file would otherwise melt all pictures into one as large as the page.
        self.figure.suppressComposite = True
        self.backdrop = self.figure.add_axes((0, 0, 1, 1))
        self.backdrop.set_axis_off()
        self._panels: list[tuple[Axes, tuple[float, float, float, float]]] = []
        for line in wrapped(title, width - 0.2, LARGE, "bold"):
            self.y += 0.17
            self.text(0.1, self.y, line, size=LARGE, weight="bold")
        self.y += 0.14

    def panel(self, left: float, top: float, width: float, height: float) -> Axes:
        """Add axes."""
        axes = self.figure.add_axes((0, 0, 1, 1))
        self._panels.append((axes, (left, top, width, height)))
        return axes

    def text(self, x: float, y: float, text: str, size: float = NORMAL, **how: Any) -> Text:
        """Write one line with its baseline at y."""
        return self.backdrop.text(x, y, text, size=size, **how)

    def heading(self, left: float, title: str, below: str, width: float) -> None:
        """Write a panel's title with a line beneath it; they take 0.3 inches below `y`."""
        self.text(left, self.y + 0.1, fit(title, width, NORMAL, "bold"), weight="bold")
        self.text(left, self.y + 0.24, fit(below, width, SMALL), size=SMALL, color=GREY)

    def mark(self, x: float, y: float, how: Mapping[str, Any]) -> None:
        """Draw a legend's mark: a box where `how` has a facecolor, else a line with its marker."""
        if "facecolor" in how:
            self.backdrop.add_patch(Rectangle((x - 0.045, y - 0.045), 0.09, 0.09, **{"lw": 0.0, **how}))
        else:
            line = Line2D([x - 0.08, x, x + 0.08], [y, y, y], markevery=[1], **{"lw": 0.0, **how})
            self.backdrop.add_line(line)

    def picture(self, pixels: Pixels, left: float, top: float, side: float) -> None:
        """Fit an image (h, w, 3) into a square; tiny ones keep their pixels' edges."""
        height, width = (side * n / max(pixels.shape[:2]) for n in pixels.shape[:2])
        left, top = left + (side - width) / 2, top + (side - height) / 2
        how = "nearest" if max(pixels.shape[:2]) <= 48 else "antialiased"
        extent = (left, left + width, top + height, top)
        image = AxesImage(self.backdrop, interpolation=how, extent=extent, origin="upper")
        image.set_data(pixels)
        image.set_clip_path(self.backdrop.patch)
        self.backdrop.add_image(image)

    def legend(self, marks: Sequence[Mark]) -> None:
        """Set marks with their texts below all that is there: in one line, or else in aligned columns."""
        room = self.width - 0.2
        marks = [(fit(text, room - 0.3, SMALL), how) for text, how in marks]
        cells = [text_width(text, SMALL) + 0.42 for text, _ in marks]
        columns = max(1, int((room + 0.2) / max(cells, default=1)))
        if sum(cells) <= room + 0.2:
            columns = max(1, len(marks))
        else:
            cells = [max(cells)] * len(marks)
        for i, (text, how) in enumerate(marks):
            x, y = 0.1 + sum(cells[: i % columns]), self.y + (i // columns + 0.5) * LINE
            self.mark(x + 0.08, y, how)
            self.text(x + 0.22, y + 0.035, text, size=SMALL)
        self.y += -(-len(marks) // columns) * LINE + (0.06 if marks else 0)

    def finish(self, settings: str) -> Figure:
        """Print the settings small beneath all else, then give everything its place."""
        self.y += 0.06
        for line in wrapped(settings, self.width - 0.2, SMALL):
            self.y += 0.125
            self.text(0.1, self.y, line, size=SMALL, color=GREY)
        height = self.y + 0.08
        self.figure.set_size_inches(self.width, height)
        self.backdrop.set(xlim=(0, self.width), ylim=(height, 0))
        for axes, (left, top, wide, tall) in self._panels:
            bottom = 1 - (top + tall) / height
            axes.set_position((left / self.width, bottom, wide / self.width, tall / height))
        return self.figure
