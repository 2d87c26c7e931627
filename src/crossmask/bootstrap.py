"""Percentile bootstraps of per-case tables (Efron & Tibshirani 1993, chapter 13) that resample groups (patients), since
the images of one patient are not independent.

Statistics are functions of sums over cases, so that a draw of groups is a weighted sum and nothing is looped over.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from crossmask.core import rng
from crossmask.errors import CallError, DataError, name_list

if TYPE_CHECKING:
    import pandas as pd

CHUNK = 2_000_000  # draws held at once, 16 MB a copy

Columns = dict[str, np.ndarray]  # sums by name, all of one shape


@dataclass(frozen=True)
class Estimate:
    """A number and its interval.

    ``n`` is the number of cases that entered it (NaN scores do not); ``unit`` says what was resampled for
    the interval, ``"groups"`` or ``"cases"``. ``low`` and ``high`` are NaN where no interval can be had
    (fewer than two groups).

    >>> print(Estimate(0.888, 0.88, 0.896, n=40, unit="groups"))
    0.888 [0.880, 0.896]
    """

    value: float
    low: float
    high: float
    n: int
    unit: str

    def to_dict(self) -> dict[str, Any]:
        """For JSON, which knows no NaN: what cannot be estimated is None."""
        return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in asdict(self).items()}

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


# --- the table -------------------------------------------------------------------------------------------------------


def ordered(cases: pd.DataFrame) -> pd.DataFrame:
    """The rows sorted by ``id`` as text, so that the interval does not hang on their order."""
    if "id" not in cases.columns:
        raise DataError(f"The per-case table has no column 'id'; it has {name_list(cases.columns)}.")
    if len(cases) == 0:
        raise DataError("The per-case table holds no cases; there is nothing to summarise.")
    cases = cases.assign(id=cases["id"].astype(str)).sort_values("id", kind="stable", ignore_index=True)
    repeated = cases.loc[cases["id"].duplicated(), "id"].unique()
    if len(repeated):
        raise DataError(f"The per-case table holds cases more than once: {name_list(repeated)}; keep one row each.")
    return cases


def of_both(first: pd.DataFrame, second: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of the cases that both hold, in one order, the first with all groups that are known."""
    first, second = ordered(first), ordered(second)
    both = set(first["id"]) & set(second["id"])
    if not both:
        raise DataError(
            f"The two tables share no case: the first holds {name_list(first['id'], shown=3)}, "
            f"the second {name_list(second['id'], shown=3)}; compare runs that scored the same split."
        )
    first = first[first["id"].isin(both)].reset_index(drop=True)
    second = second[second["id"].isin(both)].reset_index(drop=True)
    groups = [a if a is not None else b for a, b in zip(groups_of(first), groups_of(second), strict=True)]
    first["group"] = np.array(groups, dtype=object)
    return first, second


def numbers(cases: pd.DataFrame, column: str) -> np.ndarray:
    """(N,) float64; NaN where missing or not finite."""
    if column not in cases.columns:
        raise DataError(f"The per-case table has no column '{column}'; it has {name_list(cases.columns, shown=40)}.")
    import pandas as pd

    try:
        values = pd.to_numeric(cases[column]).to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise DataError(f"Column '{column}' of the per-case table holds something that is no number.") from error
    return np.where(np.isfinite(values), values, np.nan)


def summable(name: str, values: np.ndarray) -> Columns:
    """Two columns whose sums give the mean without NaN."""
    known = ~np.isnan(values)
    return {f"{name}/sum": np.where(known, values, 0.0), f"{name}/n": known.astype(np.float64)}


def groups_of(cases: pd.DataFrame) -> list[Any]:
    """The group of each case, None if unknown."""
    import pandas as pd

    if "group" not in cases.columns:
        return [None] * len(cases)
    return [None if pd.isna(group) or not str(group).strip() else group for group in cases["group"]]


def codes_of(groups: list[Any]) -> tuple[np.ndarray, str]:
    """(N,) group numbers, each unknown group its own, and the unit that this resamples."""
    seen: dict[Any, int] = {}
    codes = [seen.setdefault(("case", i) if g is None else ("group", g), len(seen)) for i, g in enumerate(groups)]
    return np.array(codes, dtype=int), "groups" if any(g is not None for g in groups) else "cases"


def mean_of(sums: Columns, name: str) -> np.ndarray:
    """Sum by number, NaN where nothing entered."""
    n = sums[f"{name}/n"]
    return np.where(n > 0, sums[f"{name}/sum"] / np.maximum(n, 1), np.nan)


# --- the bootstrap ---------------------------------------------------------------------------------------------------


def check_call(resamples: int, confidence: float) -> None:
    if resamples < 1:
        raise CallError(f"resamples must be 1 or more, not {resamples}.")
    if not 0 < confidence < 1:
        raise CallError(f"confidence must lie between 0 and 1, not {confidence}.")


def bootstrap(
    columns: Columns,
    cases: pd.DataFrame,
    statistics: Callable[[Columns], Columns],
    resamples: int,
    seed: int,
    confidence: float,
) -> dict[str, Estimate]:
    """Each statistic of the columns' sums, with its percentile interval over groups.

    ``statistics`` maps sums of shape (R,) to scores of shape (R,).
    """
    codes, unit = codes_of(groups_of(cases))
    names = list(columns)
    sums = np.stack([np.bincount(codes, weights=columns[name]) for name in names], axis=1)  # (G, columns)

    def scores(totals: np.ndarray) -> Columns:  # (R, columns)
        return statistics(dict(zip(names, totals.T, strict=True)))

    point = scores(sums.sum(axis=0, keepdims=True))
    drawn = scores(resampled(sums, resamples, seed)) if len(sums) > 1 else {}
    tail = (1 - confidence) / 2
    estimates = {}
    for name, value in point.items():
        entered = sums[:, names.index(_number_column(name, names))]
        low = high = float("nan")
        if np.count_nonzero(entered) > 1:
            low, high = quantiles(drawn[name], [tail, 1 - tail])
        estimates[name] = Estimate(float(value[0]), low, high, round(entered.sum()), unit)
    return estimates


def quantiles(values: np.ndarray, at: list[float]) -> list[float]:
    """Of the values that are not NaN (a draw may hold no case that has a score)."""
    known = values[~np.isnan(values)]
    return [float(q) for q in np.quantile(known, at)] if len(known) else [float("nan")] * len(at)


def _number_column(statistic: str, names: list[str]) -> str:
    """The column that counts the cases which entered a statistic."""
    scope, _, plain = statistic.rpartition("/")
    if plain.endswith("_mean"):
        return f"{statistic.removesuffix('_mean')}/n"
    return f"{scope}/cases" if scope else "cases"


def resampled(sums: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """(G, columns) sums of each group -> (resamples, columns) sums of G groups drawn with replacement.

    The draws are counted to multinomial weights, (chunk, G), and one matrix product adds up.
    """
    groups = len(sums)
    generator = rng(seed, "bootstrap")
    chunk = max(1, CHUNK // groups)
    parts = []
    for start in range(0, resamples, chunk):
        rows = min(chunk, resamples - start)
        drawn = generator.integers(groups, size=(rows, groups))
        drawn += np.arange(rows)[:, None] * groups
        weights = np.bincount(drawn.ravel(), minlength=rows * groups).reshape(rows, groups)
        parts.append(weights.astype(np.float64) @ sums)
    return np.concatenate(parts)
