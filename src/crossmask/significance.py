"""Whether a difference between runs may be chance: a test over patients, corrected for how many were asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from crossmask import statistics
from crossmask.core import rng
from crossmask.errors import CallError

if TYPE_CHECKING:
    import pandas as pd

DRAWS = 9999
BATCH = 500  # draws at once, so that memory stays small


def sign_flip(first: pd.DataFrame, second: pd.DataFrame, *, column: str = "dice", seed: int = 0) -> float:
    """The two-sided p of no difference in the mean of ``column``: each patient's two answers exchanged at random (9,999
    draws; all exchanges where there are fewer). NaN where there are fewer than two patients.

    Both tables as in ``statistics.paired_difference``; a case counts if it is finite in both.

    >>> import pandas as pd
    >>> one = pd.DataFrame({"id": list("abcdef"), "dice": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]})
    >>> sign_flip(one, one.assign(dice=one.dice + 0.1))
    0.03125
    """
    from scipy.stats import permutation_test

    sums, counts = statistics.paired_sums(first, second, column)
    sums = np.rint(sums[counts > 0] * 1e10)  # whole numbers, so that ties are ties
    if len(sums) < 2:
        return float("nan")
    if not sums.any():
        return 1.0
    found = permutation_test(
        (sums, np.zeros_like(sums)),
        lambda a, b, axis: (a - b).sum(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=DRAWS,
        batch=BATCH,
        rng=rng(seed, "sign flip"),
    )
    return float(found.pvalue)


def holm(ps: Mapping[str, float]) -> dict[str, float]:
    """The p of each question, larger as more were asked at once (Holm 1979). NaN stays and is not counted.

    >>> holm({"a": 0.01, "b": 0.04, "c": float("nan")})
    {'a': 0.02, 'b': 0.04, 'c': nan}
    """
    try:
        from statsmodels.stats.multitest import multipletests
    except ImportError as error:
        raise CallError("compare.holm needs statsmodels: pip install 'crossmask[stats]'.") from error
    asked = {name: p for name, p in ps.items() if not np.isnan(p)}
    if not asked:
        return dict(ps)
    corrected = multipletests(list(asked.values()), method="holm")[1]
    return {**ps, **{name: float(p) for name, p in zip(asked, corrected, strict=True)}}
