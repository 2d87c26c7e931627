"""Distances between surfaces, in millimetres: what the page's tables and the terminal say of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from crossmask.report.sentences import Json, known, many, numeric, spread_text, value_text

TOLERANCE = "2 mm"  # of the surface Dice (a test compares it with crossmask.scoring's)
TITLES = {"hd95": "HD95", "hd95_pooled": "HD95, pooled", "assd": "ASSD", "nsd": f"NSD at {TOLERANCE}"}
EXPLAINED = (
    "Of the distances between the two surfaces, HD95 is the larger of the two directed 95th percentiles, HD95 pooled "
    "the 95th percentile of both directions together, and ASSD the mean of both; NSD is the share of both surfaces "
    f"that lies within {TOLERANCE} of the other (1 is best)."
)
FAILED = (
    "Failed: one of the two masks is empty, so that the distance is infinite. Such a case is left out of the means in "
    "millimetres and has NSD 0; where both masks are empty there is nothing to measure."
)
PARTS = " The first table takes each case's mean over the classes or regions below; it fails where one of them does."


def measured(scores: Json) -> bool:
    """Whether the scores hold distances: the cases are volumes whose geometry is known."""
    return all(f"{name}_mean" in scores for name in TITLES)


def cell(name: str, estimate: Json, cases: int | None = None) -> dict[str, str]:
    """Mean, interval, and how many cases it is over. cases: None says the failed ones alone.

    >>> cell("hd95", {"value": 4.25, "low": 3.0, "high": 6.5, "n": 5, "failed": 1}, 6)
    {'value': '4.25', 'spread': '[3.00, 6.50]', 'note': '5 of 6 cases, 1 failed'}
    >>> cell("nsd", {"value": 0.75, "low": 0.5, "high": 0.875, "n": 6, "failed": 0}, 6)["note"]
    '6 cases'
    """
    digits = 3 if name == "nsd" else 2
    n, failed = (int(numeric(estimate.get(key))) for key in ("n", "failed"))
    notes = []
    if cases is not None:
        notes.append(many(n, "case") if n == cases else f"{n} of {many(cases, 'case')}")
    if failed or (cases is not None and name != "nsd"):
        notes.append(f"{failed or 'none'} failed")
    spread = spread_text(estimate, digits=digits) if known(estimate.get("value")) else ""
    return {"value": value_text(estimate, digits=digits), "spread": spread, "note": ", ".join(notes)}


def tables(columns: Sequence[tuple[str, Json]]) -> dict[str, Any] | None:
    """Rows: the four distances over those columns of the scores' table that have them; parts: of the first column,
    class by class. None where nothing was measured."""
    columns = [(title, scores) for title, scores in columns if measured(scores)]
    if not columns:
        return None
    rows = [
        (unit(name), [cell(name, scores[f"{name}_mean"], scores["cases"]) for _, scores in columns]) for name in TITLES
    ]
    right = columns[0][1]
    parts = [
        (part, [cell(name, right[f"{part}/{name}_mean"], right["cases"]) for name in TITLES])
        for part in parts_of(right)
    ]
    return {
        "columns": [(title, many(scores["cases"], "case")) for title, scores in columns],
        "rows": rows,
        "parts": parts,
        "titles": [unit(name) for name in TITLES],
        "about": (EXPLAINED, FAILED + (PARTS if parts else "")),
    }


def unit(name: str) -> str:
    return TITLES[name] if name == "nsd" else f"{TITLES[name]}, mm"


def parts_of(scores: Json) -> list[str]:
    """The classes or regions whose distances are all there."""
    names = [key.removesuffix("/hd95_mean") for key in scores if key.endswith("/hd95_mean")]
    return [part for part in names if all(f"{part}/{name}_mean" in scores for name in TITLES)]


def text_lines(scores: Json) -> list[str]:
    """For the terminal: a line of HD95 and NSD, and one a class or region."""
    if not measured(scores):
        return []
    lines = [text_line(scores, "", "")]
    return lines + [text_line(scores, f"{part}/", f"  {part}: ") for part in parts_of(scores)]


def text_line(scores: Json, prefix: str, before: str) -> str:
    hd95, nsd = (cell(name, scores[f"{prefix}{name}_mean"], scores["cases"]) for name in ("hd95", "nsd"))
    length = " mm" if known(scores[f"{prefix}hd95_mean"].get("value")) else ""
    words = f"{before}HD95 {hd95['value']}{length} {hd95['spread']}".rstrip()
    return f"{words} ({hd95['note']}); {TITLES['nsd']} {nsd['value']} {nsd['spread']}".rstrip()
