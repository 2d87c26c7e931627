"""The page's charts as inline SVG: text and ticks take the page's text colour, data stand in mid-tones that are
legible on light and on dark. The same numbers give the same bytes."""

from __future__ import annotations

import contextlib
import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

INK = "#010203"  # stands for the page's text colour; replaced in the finished SVG
QUIET = "#808890"
COLOURS = ("#3a86d0", "#c9711a", "#2a9768", "#9a6fd0", "#d4526e", "#8a8a3a")
DASHES = ("-", "--", "-.", ":")
WIDTH = 5.6  # inches, 403 units of the SVG: 11-unit text is legible at 350 px and not coarse at 480
POINTS = 300  # a curve's points; more are averaged in bins
RASTERED = 1000  # from so many dots on, a picture is smaller than a drawing

Line = tuple[Sequence[float], Sequence[float]]


@contextlib.contextmanager
def style(name: str) -> Iterator[None]:
    """Matplotlib's defaults, whatever the user's file says, and ours above them."""
    import matplotlib

    ours: dict[str, Any] = {
        "svg.fonttype": "none",  # text stays text, in the page's font
        "svg.hashsalt": name,  # ids differ between the charts of a page, never between two writings
        "text.parse_math": False,
        "font.size": 11,
        "text.color": INK,
        "axes.labelcolor": INK,
        "xtick.labelcolor": INK,
        "ytick.labelcolor": INK,
        "xtick.color": QUIET,
        "ytick.color": QUIET,
        "axes.edgecolor": QUIET,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": QUIET,
        "grid.alpha": 0.25,
        "grid.linewidth": 0.6,
        "legend.frameon": False,
        "lines.linewidth": 1.6,
    }
    with matplotlib.rc_context():
        # Not the backend: to touch it loads pyplot, or switches the caller's.
        defaults: dict[str, Any] = {k: v for k, v in matplotlib.rcParamsDefault.items() if not k.startswith("backend")}
        matplotlib.rcParams.update(defaults | ours)  # type: ignore[arg-type]
        yield


@contextlib.contextmanager
def chart(name: str, height: float, drawn: list[str]) -> Iterator[Any]:
    """Axes to draw on; the finished SVG is appended to ``drawn``."""
    from matplotlib.figure import Figure

    with style(name):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        yield figure.add_subplot()
        stream = io.StringIO()
        figure.savefig(stream, format="svg", transparent=True, dpi=180, metadata={"Date": None, "Creator": None})
    drawn.append(inline(stream.getvalue()))


def inline(svg: str) -> str:
    """Matplotlib's SVG as it may stand in a page: no prologue, no fixed size, no ids but those referred to."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<style type=\"text/css\">.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<g id=\"[^\"]*\"", "<g", svg)
    view = re.search(r"viewBox=\"[^\"]*\"", svg)
    svg = re.sub(r"<svg[^>]*>", f'<svg {view.group(0) if view else ""} role="img">', svg, count=1)
    return svg.replace(INK, "currentColor").strip()


def thousands(value: float, _: object = None) -> str:
    """
    >>> thousands(20000), thousands(2500), thousands(1.5e6), thousands(160)
    ('20k', '2.5k', '1.5M', '160')
    """
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def short(label: str, most: int = 22) -> str:
    """
    >>> short("a name that is far too long"), short("_dice")
    ('a name that is far to…', 'dice')
    """
    label = label.lstrip("_") or "?"  # matplotlib leaves names with a leading underscore out of the legend
    return label if len(label) <= most else f"{label[: most - 1]}…"


def thinned(x: Sequence[float], y: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Finite points; where there are many, the means of equal bins."""
    xs, ys = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    known = np.isfinite(xs) & np.isfinite(ys)
    xs, ys = xs[known], ys[known]
    if len(xs) > POINTS:
        xs, ys = (np.array([part.mean() for part in np.array_split(values, POINTS)]) for values in (xs, ys))
    return xs, ys


def legend_above(axes: Any) -> None:
    """One row where it surely fits the width, else as many columns as do."""
    lengths = [len(label) + 6 for label in axes.get_legend_handles_labels()[1]]  # letters, with the sign before them
    columns = len(lengths) if sum(lengths) <= 58 else max(1, min(4, 58 // max(lengths)))
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(-0.02, 1.0),
        ncols=columns,
        borderaxespad=0.2,
        handlelength=1.8,
        columnspacing=1.2,
    )


def curves(
    name: str,
    lines: Mapping[str, Line],
    *,
    ylabel: str,
    height: float = 2.7,
    mark: tuple[float, str] | None = None,
    dots: bool = False,
    from_zero: bool = False,
) -> str:
    """Named lines over images seen; ``mark``: an upright line at a place, with its words in the legend."""
    drawn: list[str] = []
    with chart(name, height, drawn) as axes:
        for i, (label, (x, y)) in enumerate(lines.items()):
            axes.plot(
                *thinned(x, y),
                label=short(label),
                color=COLOURS[i % len(COLOURS)],
                linestyle=DASHES[i % len(DASHES)],
                marker="o" if dots or len(x) < 3 else None,
                markersize=3.5,
            )
        if mark is not None:
            axes.axvline(mark[0], color=QUIET, linestyle=(0, (2, 2)), linewidth=1.4, label=mark[1])
        axes.set_xlabel("images seen")
        axes.set_ylabel(ylabel)
        axes.xaxis.set_major_formatter(thousands)
        axes.yaxis.set_major_formatter(lambda v, _: f"{v:.6g}")
        axes.margins(x=0.02)
        if from_zero and axes.get_ylim()[0] < axes.get_ylim()[1]:
            axes.set_ylim(bottom=0)
        if len(lines) > 1 or mark is not None:
            legend_above(axes)
    return drawn[0]


def intervals(name: str, rows: Sequence[str], series: Mapping[str, Sequence[Mapping[str, Any]]], *, xlabel: str) -> str:
    """A dot and its interval for each row and series, the first row uppermost."""
    drawn: list[str] = []
    ends = [v for es in series.values() for e in es for v in (e["value"], e["low"], e["high"]) if finite(v)]
    low, high = (min(ends), max(ends)) if ends else (0.0, 1.0)
    pad = max(0.08 * (high - low), 0.02)
    with chart(name, 0.9 + 0.42 * len(rows), drawn) as axes:
        for i, (label, estimates) in enumerate(series.items()):
            colour = COLOURS[i % len(COLOURS)]
            places = np.arange(len(rows)) + (i - (len(series) - 1) / 2) * 0.3
            for place, estimate in zip(places, estimates, strict=True):
                if finite(estimate["low"]) and finite(estimate["high"]):
                    axes.plot([estimate["low"], estimate["high"]], [place] * 2, color=colour, linewidth=2)
            values = [e["value"] for e in estimates]
            axes.plot(values, places, "os^D"[i % 4], color=colour, markersize=6, label=label)
        axes.set_yticks(range(len(rows)), [short(row) for row in rows])
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", visible=False)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlim(max(0.0, low - pad), min(1.0, high + pad) + 0.005)
        axes.set_xlabel(xlabel)
        if len(series) > 1:
            legend_above(axes)
    return drawn[0]


def histogram(name: str, values: np.ndarray, *, xlabel: str) -> str:
    """Cases in bins of 0.05 from 0 to 1, with the mean and the median."""
    drawn: list[str] = []
    with chart(name, 2.7, drawn) as axes:
        axes.hist(values, bins=np.linspace(0, 1, 21).tolist(), color=COLOURS[0], alpha=0.75, rwidth=0.9)
        axes.axvline(values.mean(), color=COLOURS[1], linewidth=1.8, label=f"mean {values.mean():.3f}")
        middle = float(np.median(values))
        axes.axvline(middle, color=COLOURS[2], linestyle="--", linewidth=1.8, label=f"median {middle:.3f}")
        axes.set_xlim(-0.02, 1.02)
        axes.set_xlabel(xlabel)
        axes.set_ylabel("cases")
        axes.yaxis.get_major_locator().set_params(integer=True)
        axes.grid(axis="x", visible=False)
        legend_above(axes)
    return drawn[0]


def scatter(name: str, x: np.ndarray, y: np.ndarray, *, xlabel: str, ylabel: str) -> str:
    """Dots over a logarithmic axis, with the median of each fifth of the cases where there are enough of them."""
    drawn: list[str] = []
    with chart(name, 2.7, drawn) as axes:
        axes.set_xscale("log")
        axes.plot(
            x,
            y,
            "o",
            color=COLOURS[0],
            alpha=0.4 if len(x) > 200 else 0.7,
            markersize=3.5,
            markeredgewidth=0,
            rasterized=len(x) >= RASTERED,
        )
        if len(x) >= 25:
            fifths = np.array_split(np.argsort(x, kind="stable"), 5)
            axes.plot(
                [float(np.exp(np.log(x[part]).mean())) for part in fifths],
                [float(np.median(y[part])) for part in fifths],
                "-s",
                color=COLOURS[1],
                label="median of each fifth of the cases",
            )
            legend_above(axes)
        axes.set_ylim(-0.03, 1.03)
        axes.xaxis.set_major_formatter(thousands)
        axes.xaxis.set_minor_formatter("")
        if x.max() < 20 * x.min():
            axes.xaxis.set_minor_formatter(lambda v, p: thousands(v) if f"{v:e}"[0] in "125" else "")
        axes.set_xlabel(xlabel)
        axes.set_ylabel(ylabel)
    return drawn[0]


def finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
