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

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from crossmask.core import rng
from crossmask.errors import CallError, DataError, name_list

if TYPE_CHECKING:
    import pandas as pd

COUNTS = ("tp", "fp", "fn")
SCORES = ("dice", "iou", "precision", "recall")
CHUNK = 2_000_000  # draws held at once, 16 MB a copy
HITS = (0.5, 0.6, 0.7, 0.8, 0.9)  # IoU that a case must pass
TOLERANCE = 1e-9

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
    _check_call(resamples, confidence)
    cases = _ordered(cases)
    prefixes = _prefixes(cases)
    columns = _counts(cases, prefixes)
    for prefix in dict.fromkeys(("", *prefixes)):
        for name in SCORES:
            columns |= _summable(f"{prefix}{name}", _score(cases, prefix, name, prefixes))

    def statistics(sums: Columns) -> Columns:
        return _all_scores(sums, prefixes)

    estimates = _bootstrap(columns, cases, statistics, resamples, seed, confidence)
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
    cases = _ordered(cases)
    names = [str(c) for c in cases.columns if str(c).rpartition("/")[2] in columns]
    summed: Columns = {}
    for name in names:
        summed |= _summable(name, _numbers(cases, name))
    if not names:
        return {}

    def statistics(sums: Columns) -> Columns:
        return {f"{name}_mean": _mean_of(sums, name) for name in names}

    found = _bootstrap(summed, cases, statistics, resamples, seed, 0.95)
    failed = {name: int(np.isinf(cases[name].astype(float)).sum()) for name in names}
    return {f"{n}_mean": found[f"{n}_mean"].to_dict() | {"failed": failed[n]} for n in names}


def hits(cases: pd.DataFrame, *, resamples: int = 2000, seed: int = 0) -> dict[str, Estimate]:
    """``p@0.5`` to ``p@0.9``: the share of cases whose IoU is above that, with a 95 % interval (P@X of referring
    segmentation; Yuan et al., TGRS 2024). A case of empty truth that is answered so has IoU 1; LAVT's code gives it 0.

    >>> import pandas as pd
    >>> hits(pd.DataFrame({"id": ["a", "b"], "iou": [0.55, 0.95]}))["p@0.6"].value
    0.5
    """
    cases = _ordered(cases)
    iou = _numbers(cases, "iou")
    summed: Columns = {}
    for level in HITS:
        summed |= _summable(f"p@{level}", np.where(np.isnan(iou), np.nan, iou > level))

    def statistics(sums: Columns) -> Columns:
        return {f"p@{level}_mean": _mean_of(sums, f"p@{level}") for level in HITS}

    found = _bootstrap(summed, cases, statistics, resamples, seed, 0.95)
    return {name.removesuffix("_mean"): estimate for name, estimate in found.items()}


def mean(cases: pd.DataFrame, column: str, *, resamples: int = 2000, seed: int = 0) -> Estimate:
    """The mean of any numeric column over the cases that have it, with a 95 % interval.

    >>> import pandas as pd
    >>> mean(pd.DataFrame({"id": ["a", "b"], "x": [1.0, 2.0]}), "x").value
    1.5
    """
    cases = _ordered(cases)
    return _bootstrap(_summable("x", _numbers(cases, column)), cases, _mean_only, resamples, seed, 0.95)["x_mean"]


def correlation(cases: pd.DataFrame, one: str, other: str, *, resamples: int = 2000, seed: int = 0) -> Estimate:
    """Spearman's rank correlation of two numeric columns, with a 95 % interval (percentile bootstrap over groups, the
    ranks taken anew in each draw). Cases that lack one of the two stay out.

    >>> import pandas as pd
    >>> found = correlation(pd.DataFrame({"id": list("abcd"), "x": [1, 2, 3, 4], "y": [1, 4, 9, 16]}), "x", "y")
    >>> round(found.value, 6), found.n
    (1.0, 4)
    """
    _check_call(resamples, 0.95)
    from scipy import stats

    cases = _ordered(cases)
    pairs = np.stack([_numbers(cases, one), _numbers(cases, other)], 1)
    kept = ~np.isnan(pairs).any(1)
    codes, unit = _codes([g for g, keep in zip(_groups(cases), kept, strict=True) if keep])
    pairs = pairs[kept]

    def rank_correlation(rows: np.ndarray) -> float:
        ranks = stats.rankdata(rows, axis=0)
        spread = ranks.std(0)
        if len(rows) < 3 or not spread.all():
            return float("nan")
        return float(((ranks - ranks.mean(0)) / spread).prod(1).mean())

    members = [np.flatnonzero(codes == code) for code in range(codes.max(initial=-1) + 1)]
    generator = rng(seed, "correlation")
    drawn = [
        rank_correlation(
            pairs[np.concatenate([members[m] for m in generator.integers(len(members), size=len(members))])]
        )
        for _ in range(resamples if len(members) > 2 else 0)
    ]
    low, high = _quantiles(np.array(drawn), [0.025, 0.975])
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

    ``column``: any numeric column of both tables, for the mean of the per-case differences (a case counts
    only if it is finite in both); or ``dice_pooled``, ``iou_pooled`` (``precision_``, ``recall_``, also as
    ``"<class>/dice_pooled"``) for the difference of the pooled scores. Cases are matched by ``id`` as text.
    Groups are those of ``first``, and of ``second`` where ``first`` does not know; resampled as in
    ``summarise``, both tables by the same draws.

    >>> import pandas as pd
    >>> one = pd.DataFrame({"id": ["a", "b", "c"], "dice": [0.5, 0.75, 1.0]})
    >>> two = pd.DataFrame({"id": ["c", "b", "a"], "dice": [1.0, 1.0, 0.75]})
    >>> round(paired_difference(one, two, resamples=100).value, 4)
    0.1667
    """
    _check_call(resamples, 0.95)
    first, second = _shared(first, second)
    scope, _, name = column.rpartition("/")
    if not name.endswith("_pooled"):
        columns = _summable("x", _numbers(second, column) - _numbers(first, column))
        statistics: Callable[[Columns], Columns] = _mean_only
    else:
        prefixes = (f"{scope}/",) if scope else _prefixes(first)
        statistics, columns = _pooled_difference(first, second, name.removesuffix("_pooled"), prefixes)
    return _bootstrap(columns, first, statistics, resamples, seed, 0.95)["x_mean"]


def paired_sums(first: pd.DataFrame, second: pd.DataFrame, column: str) -> tuple[np.ndarray, np.ndarray]:
    """(G,) sums of ``second`` minus ``first`` over each group's cases, and (G,) how many cases; groups as in
    ``paired_difference``."""
    first, second = _shared(first, second)
    columns = _summable("x", _numbers(second, column) - _numbers(first, column))
    codes, _ = _codes(_groups(first))
    return np.bincount(codes, columns["x/sum"]), np.bincount(codes, columns["x/n"])


def _mean_only(sums: Columns) -> Columns:
    return {"x_mean": _mean_of(sums, "x")}


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


def _mean_of(sums: Columns, name: str) -> np.ndarray:
    """Sum by number, NaN where nothing entered."""
    n = sums[f"{name}/n"]
    return np.where(n > 0, sums[f"{name}/sum"] / np.maximum(n, 1), np.nan)


def _all_scores(sums: Columns, prefixes: tuple[str, ...]) -> Columns:
    """All that ``summarise`` gives, from sums of any shape."""
    out = {}
    for prefix in dict.fromkeys(("", *prefixes)):
        for name in SCORES:
            scopes = (prefix,) if prefix else prefixes
            out[f"{prefix}{name}_pooled"] = _mean_pooled(sums, name, scopes)
        for name in SCORES:
            out[f"{prefix}{name}_mean"] = _mean_of(sums, f"{prefix}{name}")
    return out


def _check_consistent(estimates: Mapping[str, Estimate], prefixes: tuple[str, ...]) -> None:
    """Dice = 2 IoU / (1 + IoU) holds for each class's pooled scores (not for means over classes)."""
    for prefix in prefixes:
        dice, iou = estimates[f"{prefix}dice_pooled"].value, estimates[f"{prefix}iou_pooled"].value
        assert abs(dice - 2 * iou / (1 + iou)) < TOLERANCE, f"pooled Dice {dice} does not fit IoU {iou}"


# ---------------------------------------------------------------- the table


def _ordered(cases: pd.DataFrame) -> pd.DataFrame:
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


def _shared(first: pd.DataFrame, second: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of the cases that both hold, in one order, the first with all groups that are known."""
    first, second = _ordered(first), _ordered(second)
    both = set(first["id"]) & set(second["id"])
    if not both:
        raise DataError(
            f"The two tables share no case: the first holds {name_list(first['id'], shown=3)}, "
            f"the second {name_list(second['id'], shown=3)}; compare runs that scored the same split."
        )
    first = first[first["id"].isin(both)].reset_index(drop=True)
    second = second[second["id"].isin(both)].reset_index(drop=True)
    groups = [a if a is not None else b for a, b in zip(_groups(first), _groups(second), strict=True)]
    first["group"] = np.array(groups, dtype=object)
    return first, second


def _prefixes(cases: pd.DataFrame) -> tuple[str, ...]:
    """``("",)`` for a table of one class, else ``("<class>/", ...)`` in the table's order."""
    prefixes = tuple(str(c)[:-2] for c in cases.columns if str(c).endswith("/tp"))
    return prefixes or ("",)


def _numbers(cases: pd.DataFrame, column: str) -> np.ndarray:
    """(N,) float64; NaN where missing or not finite."""
    if column not in cases.columns:
        raise DataError(f"The per-case table has no column '{column}'; it has {name_list(cases.columns, shown=40)}.")
    import pandas as pd

    try:
        values = pd.to_numeric(cases[column]).to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise DataError(f"Column '{column}' of the per-case table holds something that is no number.") from error
    return np.where(np.isfinite(values), values, np.nan)


def _counts(cases: pd.DataFrame, prefixes: tuple[str, ...]) -> Columns:
    """(N,) float each: the counts, and ``<prefix>cases`` = 1 where known; ``cases`` = 1 if any class is."""
    columns: Columns = {}
    for prefix in prefixes:
        of_class = np.stack([_numbers(cases, prefix + count) for count in COUNTS])
        known = ~np.isnan(of_class).any(axis=0)
        columns |= dict(zip((prefix + c for c in COUNTS), np.where(known, of_class, 0.0), strict=True))
        columns[f"{prefix}cases"] = known.astype(np.float64)
    columns["cases"] = np.max([columns[f"{prefix}cases"] for prefix in prefixes], axis=0)
    return columns


def _score(cases: pd.DataFrame, prefix: str, name: str, prefixes: tuple[str, ...]) -> np.ndarray:
    """(N,) per-case scores: the column, or where the table lacks precision or recall, from the counts."""
    if prefix + name in cases.columns or name in ("dice", "iou"):
        return _numbers(cases, prefix + name)
    if prefix not in prefixes:  # several classes, plain: the mean over those that are not NaN
        of_classes = np.stack([_score(cases, each, name, prefixes) for each in prefixes])
        known = ~np.isnan(of_classes)
        total, n = np.where(known, of_classes, 0.0).sum(axis=0), known.sum(axis=0)
        return np.where(n > 0, total / np.maximum(n, 1), np.nan)
    counts = _counts(cases, (prefix,))
    out = np.isnan(_numbers(cases, f"{prefix}dice")) | (counts[f"{prefix}cases"] == 0)
    return np.where(out, np.nan, _pooled_of(counts, name, prefix))


def _summable(name: str, values: np.ndarray) -> Columns:
    """Two columns whose sums give the mean without NaN."""
    known = ~np.isnan(values)
    return {f"{name}/sum": np.where(known, values, 0.0), f"{name}/n": known.astype(np.float64)}


def _groups(cases: pd.DataFrame) -> list[Any]:
    """The group of each case, None if unknown."""
    import pandas as pd

    if "group" not in cases.columns:
        return [None] * len(cases)
    return [None if pd.isna(group) or not str(group).strip() else group for group in cases["group"]]


def _codes(groups: list[Any]) -> tuple[np.ndarray, str]:
    """(N,) group numbers, each unknown group its own, and the unit that this resamples."""
    numbers: dict[Any, int] = {}
    codes = [numbers.setdefault(("case", i) if g is None else ("group", g), len(numbers)) for i, g in enumerate(groups)]
    return np.array(codes), "groups" if any(g is not None for g in groups) else "cases"


# ---------------------------------------------------------------- the bootstrap


def _check_call(resamples: int, confidence: float) -> None:
    if resamples < 1:
        raise CallError(f"resamples must be 1 or more, not {resamples}.")
    if not 0 < confidence < 1:
        raise CallError(f"confidence must lie between 0 and 1, not {confidence}.")


def _bootstrap(
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
    codes, unit = _codes(_groups(cases))
    names = list(columns)
    sums = np.stack([np.bincount(codes, weights=columns[name]) for name in names], axis=1)  # (G, columns)

    def scores(totals: np.ndarray) -> Columns:  # (R, columns)
        return statistics(dict(zip(names, totals.T, strict=True)))

    point = scores(sums.sum(axis=0, keepdims=True))
    drawn = scores(_resampled(sums, resamples, seed)) if len(sums) > 1 else {}
    tail = (1 - confidence) / 2
    estimates = {}
    for name, value in point.items():
        entered = sums[:, names.index(_number_column(name, names))]
        low = high = float("nan")
        if np.count_nonzero(entered) > 1:
            low, high = _quantiles(drawn[name], [tail, 1 - tail])
        estimates[name] = Estimate(float(value[0]), low, high, round(entered.sum()), unit)
    return estimates


def _quantiles(values: np.ndarray, at: list[float]) -> list[float]:
    """Of the values that are not NaN (a draw may hold no case that has a score)."""
    known = values[~np.isnan(values)]
    return [float(q) for q in np.quantile(known, at)] if len(known) else [float("nan")] * len(at)


def _number_column(statistic: str, names: list[str]) -> str:
    """The column that counts the cases which entered a statistic."""
    scope, _, plain = statistic.rpartition("/")
    if plain.endswith("_mean"):
        return f"{statistic.removesuffix('_mean')}/n"
    return f"{scope}/cases" if scope else "cases"


def _resampled(sums: np.ndarray, resamples: int, seed: int) -> np.ndarray:
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
