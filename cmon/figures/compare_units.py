"""Units of one run beside those of another that they are matched with: how alike they respond, and their words."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cmon.figures.columns import chosen, filled
from cmon.figures.comparing import NOTE, Point, one_run, run_looks
from cmon.figures.intervals import plus_minus
from cmon.figures.meaning import near_cosine
from cmon.figures.style import GREY, NORMAL, PAGE_WIDTH, SMALL, Mark, Page, Rows, fit, fit_layer, styled
from cmon.figures.words import Words, compared, resampled
from cmon.records import Match, Table, View
from cmon.statistics.history import Sampled
from cmon.statistics.meaning import pair_cosines

COLUMNS: dict[str, type] = {
    **dict.fromkeys(("kind", "run", "other", "layer", "matched", "checkpoint"), str),
    "step": np.int64,
    "other_checkpoint": str,
    **dict.fromkeys(("other_step", "rank", "unit", "partner"), np.int64),
    **dict.fromkeys(("correlation", "chance_correlation"), np.float64),
    **dict.fromkeys(("concept", "other_concept", "category", "other_category"), str),
    **dict.fromkeys(("score", "other_score"), np.float64),
    **dict.fromkeys(("interpretable", "other_interpretable", "same_word"), np.bool_),
    "cosine": np.float64,
    **dict.fromkeys(("pairs", "units"), np.int64),
    **dict.fromkeys(("units_low", "units_high", "share", "low", "high", "chance", "near"), np.float64),
}
SENSES = {"same_word": "same word", "near_meaning": "near in meaning", "same_category": "same category"}
BY_CORRELATION, SAME_START = "by correlation", "unit by unit, same start"
LEFT, WIDTH, RIGHT, SHARES = 0.55, 2.75, 4.55, 2.2  # inches: where both panels begin, and how wide they are
CHANCE: dict[str, Any] = {"ls": (0, (1, 1.6)), "lw": 1.0}
DEALT: dict[str, Any] = {"marker": "|", "ms": 6.0, "mew": 1.2}


class Shares(NamedTuple):
    """How often the words of matched units agree.

    Args:
        units: (1,) pairs that have two words.
        share: (3,) of these, by SENSES; of those whose words both have a category, the last.
        chance: (3,) the same if words were dealt at random.
    """

    units: Sampled
    share: Sampled
    chance: tuple[float, ...]


def table(view: View) -> Table:
    """List all pairs of units, and how often their words agree.

    Rows of the kind `pair`, highest correlations first; `chance_correlation` is the one of this rank between units that
    were matched with the other run's images permuted, NaN where units are compared by number; `same_word` and `cosine`,
    of the words' features, are of words that units have, interpretable or not. Rows of the other kinds, for each layer
    and other run: `units` of the `pairs` are interpretable in both runs, a `share` of these agree in that sense, and
    `chance` is what dealing the other run's words to these at random gives; of categories, those count whose words both
    have one. What a row does not say is "", False, -1 or NaN.
    """
    near = near_cosine(view)
    rows: list[tuple[Any, ...]] = []
    for match in view.matches:
        rows += _pairs(view, match)
        rows += _senses(view, match, near)
    return filled(rows, COLUMNS)


def _place(view: View, match: Match) -> tuple[Any, ...]:
    study = view.study
    matched = SAME_START if match.same_start else BY_CORRELATION
    own, other = (study.checkpoints[k] for k in (match.checkpoint, match.other_checkpoint))
    names = (study.runs[match.run], study.runs[match.other], study.layers[match.layer], matched)
    return (*names, own.name, own.step, other.name, other.step)


def matched_rows(view: View, match: Match) -> tuple[Rows, Rows]:
    """Return the rows (N,) of the table of units of both units of every pair."""
    found = []
    for checkpoint, units in ((match.checkpoint, match.unit), (match.other_checkpoint, match.partner)):
        rows = view.rows(checkpoint, match.layer)
        order = np.argsort(view.study.units.unit[rows], kind="stable")
        found.append(rows[order[np.searchsorted(view.study.units.unit[rows], units, sorter=order)]])
    return found[0], found[1]


def _pairs(view: View, match: Match) -> Iterator[tuple[Any, ...]]:
    """Yield a row for every pair, highest correlations first, what is not known last."""
    units, concepts = view.study.units, view.study.concepts
    own, other = matched_rows(view, match)
    both = units.alive[own] & units.alive[other]
    cosine = np.full(len(own), np.nan)
    features, words = view.study.concept_features, (units.concept[own][both], units.concept[other][both])
    cosine[both] = pair_cosines(features, features, *words)
    for rank, i in enumerate(np.argsort(-match.correlation, kind="stable").tolist(), start=1):
        pair = (int(own[i]), int(other[i]))
        held = [int(units.concept[row]) if units.alive[row] else -1 for row in pair]
        names = [concepts.names[word] if word >= 0 else "" for word in held]
        categories = [concepts.categories[word] if word >= 0 else "" for word in held]
        scores = [units.score[row] if units.alive[row] else np.nan for row in pair]
        clear = [bool(units.interpretable[row] & units.alive[row]) for row in pair]
        numbers = (rank, match.unit[i], match.partner[i], match.correlation[i], match.chance[rank - 1])
        same = bool(both[i]) and names[0] == names[1]
        said = (*names, *categories, *scores, *clear, same, cosine[i])
        yield ("pair", *_place(view, match), *numbers, *said, -1, -1, *[np.nan] * 7)


def _senses(view: View, match: Match, near: float) -> Iterator[tuple[Any, ...]]:
    """Yield a row for each sense in which words agree."""
    found = shares_of(view, match, near)
    units, units_ends = found.units, found.units.measured().within(0, len(match.unit))
    low, high = found.share.measured().within(0, 1)
    counts = (len(match.unit), units.value[0], units_ends[0][0], units_ends[1][0])
    nothing = (-1, -1, -1, np.nan, np.nan, "", "", "", "", np.nan, np.nan, False, False, False, np.nan)
    for i, sense in enumerate(SENSES):
        numbers = (found.share.value[i], low[i], high[i], found.chance[i], near)
        yield (sense, *_place(view, match), *nothing, *counts, *numbers)


def shares_of(view: View, match: Match, near: float) -> Shares:
    """Compare the words of the pairs that are interpretable in both runs, in every resample of the images too."""
    study, (own, other) = view.study, matched_rows(view, match)
    clear = study.units.alive & study.units.interpretable
    both = clear[own] & clear[other]
    shares = compared(Words.of(study, own[both]), Words.of(study, other[both]), near)
    again = resampled(study, study, own, near, other)
    units = Sampled(np.array([both.sum()], dtype=np.float64), again[:1])
    return Shares(units, Sampled(np.array(shares[:3], dtype=np.float64), again[1:]), shares[3:6])


def applies(view: View) -> str:
    """Say why there is nothing to compare; "" where there is."""
    return one_run(view) or ("" if view.matches else "the runs share no layer")


@styled
def draw(view: View, table: Table) -> Figure:
    """Draw two panels for every layer: correlations by rank, and shares of words that agree."""
    name = fit(view.study.runs[view.run], 2.5)
    page = Page(PAGE_WIDTH, f"{name}: units beside those of other runs, at the end")
    looks = {view.study.runs[run]: look for run, look in run_looks(view).items()}
    for layer in (name for name in view.study.layers if (table["layer"] == name).any()):
        _draw_layer(page, chosen(table, layer=layer), layer, looks, any(view.study.concepts.categories))
    if not len(table["kind"]):
        page.text(0.1, page.y + 0.1, "the runs share no layer", size=SMALL, color=GREY, style="italic")
        page.y += 0.2
    page.legend(_marks(table, looks))
    for near in table["near"][np.isfinite(table["near"])][:1]:
        page.text(0.1, page.y + 0.1, f"near in meaning: cosine of the words' features at least {near:.3g}", size=SMALL)
        page.y += 0.2
    return page.finish(view.caption)


def _marks(table: Table, looks: dict[str, dict[str, Any]]) -> list[Mark]:
    """List a legend's marks: how each other run's units were matched, then what is by chance."""
    others = dict(zip(table["other"].tolist(), table["matched"].tolist(), strict=True))
    said = {BY_CORRELATION: "units matched by correlation", SAME_START: SAME_START}
    marks: list[Mark] = [(f"{other}: {said[matched]}", looks[other]) for other, matched in others.items()]
    if np.isfinite(table["chance_correlation"]).any():
        marks.append(("dotted: by chance, matched with the other's images permuted", {"color": GREY, **CHANCE}))
    if len(marks):
        marks.append(("upright: if words were dealt at random", {"color": GREY, **DEALT}))
    return marks


def _draw_layer(page: Page, rows: Table, layer: str, looks: dict[str, dict[str, Any]], categories: bool) -> None:
    """Draw one layer's panels below a line for each other run."""
    others = list(dict.fromkeys(rows["other"].tolist()))
    page.text(0.1, page.y + 0.1, fit_layer(layer, page.width - 0.2, NORMAL, "bold"), weight="bold")
    for i, other in enumerate(others):
        y = page.y + 0.23 + 0.13 * i
        page.mark(0.18, y - 0.03, looks[other])
        page.text(0.32, y, fit(_said(chosen(rows, other=other)), page.width - 0.42, SMALL), size=SMALL, color=GREY)
    top = page.y + 0.23 + 0.13 * len(others)
    senses = [sense for sense in SENSES if sense != "same_category" or categories]
    height = max(1.1, len(senses) * (0.08 * len(others) + 0.14))
    ranks, shares = page.panel(LEFT, top, WIDTH, height), page.panel(RIGHT, top, SHARES, height)
    _draw_ranks(ranks, rows, others, looks)
    _draw_shares(shares, rows, others, looks, senses)
    for i, sense in enumerate(senses):
        y = top + (i + 0.5) * height / len(senses) + 0.035
        page.text(RIGHT - 0.08, y, SENSES[sense], size=SMALL, ha="right")
    page.y = top + height + 0.5


def _said(rows: Table) -> str:
    """Say of one other run how many pairs there are, how alike they are, and how many have two words."""
    pairs, sense = chosen(rows, kind="pair"), chosen(rows, kind="same_word")
    known = pairs["correlation"][np.isfinite(pairs["correlation"])]
    chance = pairs["chance_correlation"][np.isfinite(pairs["chance_correlation"])]
    median = f"median correlation {np.median(known):.2f}" if len(known) else "no correlation is known"
    by_chance = f" (by chance {np.median(chance):.2f})" if len(known) and len(chance) else ""
    units = sense["units"][0]
    error = max(sense["units_high"][0] - units, units - sense["units_low"][0])
    both = f"{plus_minus(units, error)} of {sense['pairs'][0]:,} pairs interpretable in both"
    return f"{fit(rows['other'][0], 2.2, SMALL)}: {both}, {median}{by_chance}"


def _draw_ranks(axes: Axes, rows: Table, others: list[str], looks: dict[str, dict[str, Any]]) -> None:
    """Draw correlations, and those by chance, from the highest to the lowest."""
    lowest, most = 0.0, 1
    for other in others:
        pairs = chosen(rows, other=other, kind="pair")
        look = {name: how for name, how in looks[other].items() if name in ("color", "ls")}
        axes.plot(pairs["rank"], pairs["chance_correlation"], color=look["color"], zorder=2, **CHANCE)
        few = looks[other] if len(pairs["rank"]) == 1 else look
        axes.plot(pairs["rank"], pairs["correlation"], zorder=3, **{**few, "lw": 1.3})
        both = np.concatenate([pairs["correlation"], pairs["chance_correlation"]])
        lowest = min([lowest, *both[np.isfinite(both)]])
        most = max([most, *pairs["rank"]])
    if not np.isfinite(rows["correlation"]).any():
        axes.text(0.5, 0.5, "no correlation is known", transform=axes.transAxes, **NOTE)
    axes.axhline(0, color=GREY, lw=0.4, zorder=1)
    axes.set(xlim=(0.5, most + 0.5), ylim=(max(1.05 * lowest, -1.02) if lowest < 0 else 0, 1))
    axes.locator_params(axis="x", nbins=6, integer=True)
    axes.locator_params(axis="y", nbins=5)
    axes.set_xlabel("pairs, most alike first", labelpad=2)
    axes.set_ylabel("correlation", labelpad=2)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_shares(
    axes: Axes, rows: Table, others: list[str], looks: dict[str, dict[str, Any]], senses: list[str]
) -> None:
    """Draw a line for every sense, with a mark for every other run."""
    for i, sense in enumerate(senses):
        for j, other in enumerate(others):
            row, look = chosen(rows, other=other, kind=sense), looks[other]
            y = i + (j - (len(others) - 1) / 2) * 0.72 / len(others)
            point = Point(row["share"][0], row["low"][0], row["high"][0], look)
            axes.hlines(y, point.low, point.high, color=look["color"], lw=0.9, zorder=2)
            axes.plot(row["chance"][0], y, color=look["color"], ls="none", clip_on=False, zorder=2, **DEALT)
            axes.plot(point.value, y, clip_on=False, zorder=3, **{**look, "ls": "none"})
    if not (rows["units"] > 0).any():
        axes.text(0.5, 0.5, "no pair has two words", transform=axes.transAxes, **NOTE)
    axes.set(xlim=(0, 1), ylim=(len(senses) - 0.5, -0.5), yticks=[])
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25", "50", "75", "100 %"])
    axes.set_xlabel("share of these pairs", labelpad=2)
    axes.spines[["top", "right"]].set_visible(False)
