"""The exchange test against scipy's exact answer and its own promise; Holm against a hand-made list."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from crossmask.significance import holm, sign_flip


def frame(dice, groups=None) -> pd.DataFrame:
    made = pd.DataFrame({"id": [f"c{n}" for n in range(len(dice))], "dice": np.asarray(dice, float)})
    return made if groups is None else made.assign(group=groups)


@settings(deadline=None)
@given(st.lists(st.integers(-20, 20), min_size=2, max_size=8))
def test_few_cases_are_exchanged_in_all_ways(differences) -> None:
    d = np.array(differences) / 100
    ways = np.array(np.meshgrid(*[[1, -1]] * len(d))).reshape(len(d), -1)
    sums = (ways * d[:, None]).sum(0)
    wanted = np.mean(np.abs(sums) >= abs(d.sum()) - 1e-9)
    assert sign_flip(frame(np.full(len(d), 0.5)), frame(0.5 + d)) == pytest.approx(wanted, abs=1e-9)


def test_many_cases_agree_with_the_t_test() -> None:
    generator = np.random.default_rng(0)
    one = generator.random(200)
    two = one + generator.normal(0.01, 0.05, 200)
    ours = sign_flip(frame(one), frame(two))
    assert ours == pytest.approx(scipy.stats.ttest_rel(two, one).pvalue, abs=0.01)
    assert ours == sign_flip(frame(one), frame(two))


def test_pictures_of_a_patient_move_together() -> None:
    """Ten pictures of one patient are one witness, not ten."""
    one, two = frame(np.full(20, 0.5)), frame(np.full(20, 0.6))
    assert sign_flip(one, two) < 0.001
    groups = ["a"] * 10 + ["b"] * 10
    assert sign_flip(one.assign(group=groups), two.assign(group=groups)) == 0.5
    assert np.isnan(sign_flip(one.assign(group="a"), two.assign(group="a")))
    assert sign_flip(one, one) == 1.0


def test_holm() -> None:
    corrected = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005, "e": float("nan")})
    assert np.isnan(corrected.pop("e"))
    assert corrected == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})
    assert list(holm({"a": float("nan")})) == ["a"]
