"""Scores by kind of case, from the ``stratum:<name>`` columns of per-case tables (``strata.py`` writes them)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from crossmask import statistics

COLUMN = "stratum:"
MEASURED = ("border_contrast", "size")  # all other strata are columns of the manifest
SHARE = "text_share"
THIRDS = ("lowest third", "middle third", "highest third")


def summarise(table: Any, *, seed: int = 0) -> dict[str, list[dict[str, Any]]]:
    """Name -> its strata with both Dice families: thirds of a number, the values of anything else, largest first.

    table: per-case rows of one variant.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for column in (c for c in table.columns if str(c).startswith(COLUMN)):
        found[column.removeprefix(COLUMN)] = [
            {"stratum": name, "cases": len(rows)}
            | {
                k: v.to_dict()
                for k, v in statistics.summarise(rows, seed=seed).items()
                if k in ("dice_mean", "dice_pooled")
            }
            for name, rows in split_by(table, column)
            if len(rows)
        ]
    return found


def split_by(table: Any, column: str) -> list[tuple[str, Any]]:
    """(name, rows) of each stratum of a column; rows without a value are 'not known'."""
    import pandas as pd

    values = pd.to_numeric(table[column], errors="coerce")
    told = table[column].notna() & (table[column].astype(str).str.strip() != "")
    if told.any() and values[told].notna().all() and values[told].nunique() > 6:
        low, high = values.quantile(1 / 3), values.quantile(2 / 3)
        places = np.where(values <= low, 0, np.where(values <= high, 1, 2))
        ends = [f"up to {low:.3g}", f"{low:.3g} to {high:.3g}", f"above {high:.3g}"]
        strata = [
            (f"{name} ({end})", table[told & (places == n)])
            for n, (name, end) in enumerate(zip(THIRDS, ends, strict=True))
        ]
    else:
        counts = table[column][told].astype(str).value_counts()
        strata = [(str(value), table[told & (table[column].astype(str) == value)]) for value in counts.index]
    return [*strata, ("not known", table[~told])]


def share_summary(table: Any, *, seed: int = 0) -> dict[str, Any] | None:
    """The mean share of the words, its rank correlation with the measured strata, and with border contrast where size
    is held (large lesions have faint borders); None where there is no share."""
    if SHARE not in table.columns or table[SHARE].isna().all():
        return None
    measured = [n for n in MEASURED if f"{COLUMN}{n}" in table.columns]
    correlations: Mapping[str, Any] = {
        n: statistics.correlation(table, SHARE, f"{COLUMN}{n}", seed=seed).to_dict() for n in measured
    }
    summary = {"mean": statistics.mean(table, SHARE, seed=seed).to_dict(), "correlation": correlations}
    if set(measured) == set(MEASURED):
        held = statistics.correlation(table, SHARE, f"{COLUMN}border_contrast", given=f"{COLUMN}size", seed=seed)
        summary["size_held"] = {"border_contrast": held.to_dict()}
    return summary
