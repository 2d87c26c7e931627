"""From per-case rows to a table's numbers: pooled and per-case means with bootstrap intervals over patients.

Two families, never mixed: *pooled* scores come from the counts summed over all cases (LanGuideMedSeg's and
MMI-UNet's numbers), *mean* scores are the mean of the per-case scores (LViT's, RecLMIS's). Intervals are
percentile bootstraps (Efron & Tibshirani 1993, chapter 13) that resample groups (patients), since the images
of one patient are not independent.

A per-case table has one row per case: ``id`` (unique), ``group`` (missing, None, NaN or blank: unknown), the
counts ``tp``, ``fp``, ``fn`` and the scores ``dice``, ``iou`` as ``crossmask.metrics.overlap.score`` gives
them; with several classes the counts and scores of each as ``<class>/tp`` and so on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from crossmask.bootstrap import (
    Columns,
    Estimate,
    bootstrap,
    check_call,
    codes_of,
    groups_of,
    mean_of,
    numbers,
    of_both,
    ordered,
    quantiles,
    summable,
)
from crossmask.core import rng
from crossmask.errors import CallError, name_list

if TYPE_CHECKING:
    import pandas as pd

COUNTS = ("tp", "fp", "fn")
SCORES = ("dice", "iou", "precision", "recall")
HITS = (0.5, 0.6, 0.7, 0.8, 0.9)  # IoU that a case must pass
TOLERANCE = 1e-9


def dice_pooled(tp: float, fp: float, fn: float) -> float:
    """Dice in [0, 1] of counts summed over a split; 1 if truth and prediction are empty throughout.

    >>> dice_pooled(30, 10, 10), dice_pooled(0, 0, 0), dice_pooled(0, 0, 5)
    (0.75, 1.0, 0.0)
    """
    return float(_pooled("dice", *map(np.asarray, (tp, fp, fn))))


def iou_pooled(tp: float, fp: float, fn: float) -> float:
    """IoU in [0, 1] of counts summed over a split; 1 if truth and prediction are empty throughout.

    >>> iou_pooled(30, 10, 10), iou_pooled(0, 0, 0), iou_pooled(0, 5, 0)
    (0.6, 1.0, 0.0)
    """
    return float(_pooled("iou", *map(np.asarray, (tp, fp, fn))))


def summarise(
    cases: pd.DataFrame, *, resamples: int = 2000, seed: int = 0, confidence: float = 0.95
) -> dict[str, Estimate]:
    """The pooled and the mean ``dice``, ``iou``, ``precision`` and ``recall`` of a per-case table.

    Keys: ``dice_pooled``, ``dice_mean`` and so on, values in [0, 1]. With several classes also
    ``"<class>/dice_pooled"`` and so on; the plain pooled scores are then the mean over the classes of each
    class's pooled score, the plain means those of the table's plain columns. Where the table has no
    ``precision`` or ``recall`` they are computed from the counts, and are NaN where ``dice`` is.

    Interval: percentile bootstrap over groups (all cases of a group together, a case without a group is its
    own). Empty masks: the mean scores as the table has them; pooled, 1 if a class is empty in every truth
    and prediction, else 0 for a denominator of 0. The pooled scores take every case, also those whose score
    was left out as NaN; only a case without counts stays out. The order of the rows does not matter.

    >>> import pandas as pd
    >>> table = pd.DataFrame({"id": ["a", "b"], "tp": [8, 1], "fp": [2, 1], "fn": [2, 1],
    ...                       "dice": [0.8, 0.5], "iou": [8 / 12, 1 / 3]})
    >>> out = summarise(table, resamples=100)
    >>> out["dice_pooled"].value, out["dice_mean"].value, out["dice_mean"].n, out["dice_mean"].unit
    (0.75, 0.65, 2, 'cases')
    """
    check_call(resamples, confidence)
    cases = ordered(cases)
    prefixes = _prefixes(cases)
    columns = _counts(cases, prefixes)
    for prefix in dict.fromkeys(("", *prefixes)):
        for name in SCORES:
            columns |= summable(f"{prefix}{name}", _score(cases, prefix, name, prefixes))

    def statistics(sums: Columns) -> Columns:
        return _all_scores(sums, prefixes)

    estimates = bootstrap(columns, cases, statistics, resamples, seed, confidence)
    _check_consistent(estimates, prefixes)
    return estimates


def distances(
    cases: pd.DataFrame, columns: Sequence[str], *, resamples: int = 2000, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """``<column>_mean`` of each of the columns that the table has, also as ``<part>/<column>``: the mean over the cases
    whose value is finite, with its 95 % interval, and ``failed``, the number of infinite ones (one mask empty).

    >>> import pandas as pd
    >>> found = distances(pd.DataFrame({"id": ["a", "b", "c"], "hd95": [2.0, 4.0, float("inf")]}), ["hd95"])
    >>> found["hd95_mean"]["value"], found["hd95_mean"]["n"], found["hd95_mean"]["failed"]
    (3.0, 2, 1)
    """
    cases = ordered(cases)
    names = [str(c) for c in cases.columns if str(c).rpartition("/")[2] in columns]
    summed: Columns = {}
    for name in names:
        summed |= summable(name, numbers(cases, name))
    if not names:
        return {}

    def statistics(sums: Columns) -> Columns:
        return {f"{name}_mean": mean_of(sums, name) for name in names}

    found = bootstrap(summed, cases, statistics, resamples, seed, 0.95)
    failed = {name: int(np.isinf(cases[name].astype(float)).sum()) for name in names}
    return {f"{n}_mean": found[f"{n}_mean"].to_dict() | {"failed": failed[n]} for n in names}


def hits(cases: pd.DataFrame, *, resamples: int = 2000, seed: int = 0) -> dict[str, Estimate]:
    """``p@0.5`` to ``p@0.9``: the share of cases whose IoU is above that, with a 95 % interval (P@X of referring
    segmentation; Yuan et al., TGRS 2024). A case of empty truth that is answered so has IoU 1; LAVT's code gives it 0.

    >>> import pandas as pd
    >>> hits(pd.DataFrame({"id": ["a", "b"], "iou": [0.55, 0.95]}))["p@0.6"].value
    0.5
    """
    cases = ordered(cases)
    iou = numbers(cases, "iou")
    summed: Columns = {}
    for level in HITS:
        summed |= summable(f"p@{level}", np.where(np.isnan(iou), np.nan, iou > level))

    def statistics(sums: Columns) -> Columns:
        return {f"p@{level}_mean": mean_of(sums, f"p@{level}") for level in HITS}

    found = bootstrap(summed, cases, statistics, resamples, seed, 0.95)
    return {name.removesuffix("_mean"): estimate for name, estimate in found.items()}


def mean(cases: pd.DataFrame, column: str, *, resamples: int = 2000, seed: int = 0) -> Estimate:
    """The mean of any numeric column over the cases that have it, with a 95 % interval.

    >>> import pandas as pd
    >>> mean(pd.DataFrame({"id": ["a", "b"], "x": [1.0, 2.0]}), "x").value
    1.5
    """
    cases = ordered(cases)
    return bootstrap(summable("x", numbers(cases, column)), cases, _mean_only, resamples, seed, 0.95)["x_mean"]


def correlation(
    cases: pd.DataFrame, one: str, other: str, *, given: str | None = None, resamples: int = 2000, seed: int = 0
) -> Estimate:
    """Spearman's rank correlation of two numeric columns, with a 95 % interval (percentile bootstrap over groups, the
    ranks taken anew in each draw). Cases that lack one of the columns stay out.

    given: a third column that is held, for the partial correlation: what of the ranks a line in its ranks explains is
    taken off both.

    >>> import pandas as pd
    >>> found = correlation(pd.DataFrame({"id": list("abcd"), "x": [1, 2, 3, 4], "y": [1, 4, 9, 16]}), "x", "y")
    >>> round(found.value, 6), found.n
    (1.0, 4)
    """
    check_call(resamples, 0.95)
    from scipy import stats

    cases = ordered(cases)
    pairs = np.stack([numbers(cases, name) for name in (one, other, given) if name is not None], 1)
    kept = ~np.isnan(pairs).any(1)
    codes, unit = codes_of([g for g, keep in zip(groups_of(cases), kept, strict=True) if keep])
    pairs = pairs[kept]

    def rank_correlation(rows: np.ndarray) -> float:
        ranks = stats.rankdata(rows, axis=0)
        ranks -= ranks.mean(0)
        if len(rows) < 3 or not ranks.any(0).all():
            return float("nan")
        left, held = ranks[:, :2], ranks[:, 2:]
        if given is not None:
            left = left - held * (held.T @ left) / (held**2).sum()
        spread = np.sqrt((left**2).sum(0))
        if (spread < 1e-9 * np.sqrt((ranks[:, :2] ** 2).sum(0))).any():  # all of it is explained by what is held
            return float("nan")
        return float((left / spread).prod(1).sum())

    members = [np.flatnonzero(codes == code) for code in range(codes.max(initial=-1) + 1)]
    generator = rng(seed, "correlation")
    drawn = [
        rank_correlation(
            pairs[np.concatenate([members[m] for m in generator.integers(len(members), size=len(members))])]
        )
        for _ in range(resamples if len(members) > 2 else 0)
    ]
    low, high = quantiles(np.array(drawn), [0.025, 0.975])
    return Estimate(rank_correlation(pairs), low, high, len(pairs), unit)


def paired_difference(
    first: pd.DataFrame,
    second: pd.DataFrame,
    *,
    column: str = "dice",
    resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """``second`` minus ``first`` over the cases that both tables hold, with a 95 % interval.

    ``column``: any numeric column of both tables (``hd95_pooled`` is one), for the mean of the per-case differences (a
    case counts only if it is finite in both); or ``dice_pooled``, ``iou_pooled`` (``precision_``, ``recall_``, also as
    ``"<class>/dice_pooled"``) for the difference of the pooled scores. Cases are matched by ``id`` as text.
    Groups are those of ``first``, and of ``second`` where ``first`` does not know; resampled as in
    ``summarise``, both tables by the same draws.

    >>> import pandas as pd
    >>> one = pd.DataFrame({"id": ["a", "b", "c"], "dice": [0.5, 0.75, 1.0]})
    >>> two = pd.DataFrame({"id": ["c", "b", "a"], "dice": [1.0, 1.0, 0.75]})
    >>> round(paired_difference(one, two, resamples=100).value, 4)
    0.1667
    """
    check_call(resamples, 0.95)
    first, second = of_both(first, second)
    scope, _, name = column.rpartition("/")
    if column in first.columns or not name.endswith("_pooled"):
        columns = summable("x", numbers(second, column) - numbers(first, column))
        statistics: Callable[[Columns], Columns] = _mean_only
    else:
        prefixes = (f"{scope}/",) if scope else _prefixes(first)
        statistics, columns = _pooled_difference(first, second, name.removesuffix("_pooled"), prefixes)
    return bootstrap(columns, first, statistics, resamples, seed, 0.95)["x_mean"]


def unpaired_difference(
    first: pd.DataFrame, second: pd.DataFrame, *, column: str = "dice", resamples: int = 2000, seed: int = 0
) -> Estimate:
    """The mean of ``column`` over ``second`` minus that over ``first``, whose cases are others, with a 95 % interval.

    Groups are resampled over both tables together, so that one with cases in both counts as one.

    >>> import pandas as pd
    >>> one = pd.DataFrame({"id": ["a", "b"], "dice": [0.5, 0.75]})
    >>> two = pd.DataFrame({"id": ["a", "c", "d"], "dice": [1.0, 1.0, 0.25]})
    >>> round(unpaired_difference(one, two, resamples=100).value, 4)
    0.125
    """
    check_call(resamples, 0.95)
    import pandas as pd

    first, second = ordered(first), ordered(second)
    both = pd.concat([first.assign(id="1 " + first["id"]), second.assign(id="2 " + second["id"])], ignore_index=True)
    values, later = numbers(both, column), np.arange(len(both)) >= len(first)
    columns = summable("1", np.where(later, np.nan, values)) | summable("2", np.where(later, values, np.nan))
    columns["x/n"] = columns["1/n"] + columns["2/n"]
    return bootstrap(columns, both, lambda s: {"x_mean": mean_of(s, "2") - mean_of(s, "1")}, resamples, seed, 0.95)[
        "x_mean"
    ]


def paired_sums(first: pd.DataFrame, second: pd.DataFrame, column: str) -> tuple[np.ndarray, np.ndarray]:
    """(G,) sums of ``second`` minus ``first`` over each group's cases, and (G,) how many cases; groups as in
    ``paired_difference``."""
    first, second = of_both(first, second)
    columns = summable("x", numbers(second, column) - numbers(first, column))
    codes, _ = codes_of(groups_of(first))
    return np.bincount(codes, columns["x/sum"]), np.bincount(codes, columns["x/n"])


def _mean_only(sums: Columns) -> Columns:
    return {"x_mean": mean_of(sums, "x")}


def _pooled_difference(
    first: pd.DataFrame, second: pd.DataFrame, name: str, prefixes: tuple[str, ...]
) -> tuple[Callable[[Columns], Columns], Columns]:
    """The statistic and its per-case columns: the counts of both, where both have them."""
    if name not in SCORES:
        known_names = name_list(f"{score}_pooled" for score in SCORES)
        raise CallError(f"no pooled score is called '{name}_pooled'; there are: {known_names}.")
    before, after = _counts(first, prefixes), _counts(second, prefixes)
    known = [(before[f"{prefix}cases"] * after[f"{prefix}cases"]) for prefix in prefixes]
    columns = {"x/n": np.max(known, axis=0)}
    for side, counts in (("1/", before), ("2/", after)):
        for prefix, both in zip(prefixes, known, strict=True):
            columns |= {f"{side}{prefix}{count}": counts[prefix + count] * both for count in COUNTS}

    def statistics(sums: Columns) -> Columns:
        return {"x_mean": _mean_pooled(sums, name, prefixes, "2/") - _mean_pooled(sums, name, prefixes, "1/")}

    return statistics, columns


# ---------------------------------------------------------------- the scores of sums


def _pooled(name: str, tp: np.ndarray, fp: np.ndarray, fn: np.ndarray) -> np.ndarray:
    """One pooled score of summed counts, element by element: 1 if all are 0, else 0 where undefined."""
    part, whole = {
        "dice": (2 * tp, 2 * tp + fp + fn),
        "iou": (tp, tp + fp + fn),
        "precision": (tp, tp + fp),
        "recall": (tp, tp + fn),
    }[name]
    return np.where(whole > 0, part / np.where(whole > 0, whole, 1), np.where(tp + fp + fn > 0, 0.0, 1.0))


def _pooled_of(sums: Mapping[str, np.ndarray], name: str, prefix: str) -> np.ndarray:
    return _pooled(name, *(sums[prefix + count] for count in COUNTS))


def _mean_pooled(sums: Columns, name: str, prefixes: tuple[str, ...], side: str = "") -> np.ndarray:
    return np.mean([_pooled_of(sums, name, side + prefix) for prefix in prefixes], axis=0)


def _all_scores(sums: Columns, prefixes: tuple[str, ...]) -> Columns:
    """All that ``summarise`` gives, from sums of any shape."""
    out = {}
    for prefix in dict.fromkeys(("", *prefixes)):
        for name in SCORES:
            scopes = (prefix,) if prefix else prefixes
            out[f"{prefix}{name}_pooled"] = _mean_pooled(sums, name, scopes)
        for name in SCORES:
            out[f"{prefix}{name}_mean"] = mean_of(sums, f"{prefix}{name}")
    return out


def _check_consistent(estimates: Mapping[str, Estimate], prefixes: tuple[str, ...]) -> None:
    """Dice = 2 IoU / (1 + IoU) holds for each class's pooled scores (not for means over classes)."""
    for prefix in prefixes:
        dice, iou = estimates[f"{prefix}dice_pooled"].value, estimates[f"{prefix}iou_pooled"].value
        assert abs(dice - 2 * iou / (1 + iou)) < TOLERANCE, f"pooled Dice {dice} does not fit IoU {iou}"


# ---------------------------------------------------------------- the table


def _prefixes(cases: pd.DataFrame) -> tuple[str, ...]:
    """``("",)`` for a table of one class, else ``("<class>/", ...)`` in the table's order."""
    prefixes = tuple(str(c)[:-2] for c in cases.columns if str(c).endswith("/tp"))
    return prefixes or ("",)


def _counts(cases: pd.DataFrame, prefixes: tuple[str, ...]) -> Columns:
    """(N,) float each: the counts, and ``<prefix>cases`` = 1 where known; ``cases`` = 1 if any class is."""
    columns: Columns = {}
    for prefix in prefixes:
        of_class = np.stack([numbers(cases, prefix + count) for count in COUNTS])
        known = ~np.isnan(of_class).any(axis=0)
        columns |= dict(zip((prefix + c for c in COUNTS), np.where(known, of_class, 0.0), strict=True))
        columns[f"{prefix}cases"] = known.astype(np.float64)
    columns["cases"] = np.max([columns[f"{prefix}cases"] for prefix in prefixes], axis=0)
    return columns


def _score(cases: pd.DataFrame, prefix: str, name: str, prefixes: tuple[str, ...]) -> np.ndarray:
    """(N,) per-case scores: the column, or where the table lacks precision or recall, from the counts."""
    if prefix + name in cases.columns or name in ("dice", "iou"):
        return numbers(cases, prefix + name)
    if prefix not in prefixes:  # several classes, plain: the mean over those that are not NaN
        of_classes = np.stack([_score(cases, each, name, prefixes) for each in prefixes])
        known = ~np.isnan(of_classes)
        total, n = np.where(known, of_classes, 0.0).sum(axis=0), known.sum(axis=0)
        return np.where(n > 0, total / np.maximum(n, 1), np.nan)
    counts = _counts(cases, (prefix,))
    out = np.isnan(numbers(cases, f"{prefix}dice")) | (counts[f"{prefix}cases"] == 0)
    return np.where(out, np.nan, _pooled_of(counts, name, prefix))
