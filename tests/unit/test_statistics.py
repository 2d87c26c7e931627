"""Pooled and mean scores against hand-computed numbers; the bootstrap against scipy's."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torchmetrics.functional import classification as oracle

from crossmask import bootstrap, statistics
from crossmask.errors import CallError, DataError
from crossmask.metrics.overlap import score
from crossmask.statistics import Estimate, dice_pooled, iou_pooled, paired_difference, summarise


def table(counts, *, groups=None) -> pd.DataFrame:
    """One row per (tp, fp, fn)."""
    rows = []
    for i, (tp, fp, fn) in enumerate(counts):
        dice, iou = dice_pooled(tp, fp, fn), iou_pooled(tp, fp, fn)
        rows.append({"id": f"case{i:04d}", "tp": tp, "fp": fp, "fn": fn, "tn": 5, "dice": dice, "iou": iou})
    out = pd.DataFrame(rows)
    return out if groups is None else out.assign(group=groups)


def random_table(n: int, seed: int = 0, groups=None) -> pd.DataFrame:
    return table(np.random.default_rng(seed).integers(1, 100, size=(n, 3)).tolist(), groups=groups)


def width(estimate: Estimate) -> float:
    return estimate.high - estimate.low


def same(one: Estimate, other: Estimate) -> bool:
    left, right = one.to_dict(), other.to_dict()
    return all(a == b or (a != a and b != b) for a, b in zip(left.values(), right.values(), strict=True))


def test_estimate():
    estimate = Estimate(0.8881, 0.88, 0.8961, 12, "groups")
    assert str(estimate) == "0.888 [0.880, 0.896]"
    assert estimate.to_dict() == {"value": 0.8881, "low": 0.88, "high": 0.8961, "n": 12, "unit": "groups"}


def test_pooled_closed_form():
    assert dice_pooled(3, 5, 3) == pytest.approx(6 / 14)
    assert iou_pooled(3, 5, 3) == pytest.approx(3 / 11)
    assert dice_pooled(0, 0, 0) == iou_pooled(0, 0, 0) == 1
    assert dice_pooled(0, 1, 0) == iou_pooled(0, 0, 1) == 0
    assert dice_pooled(10**13, 0, 0) == 1


def test_summarise_closed_form():
    out = summarise(table([(8, 2, 0), (1, 1, 2), (0, 0, 0)]), resamples=50)
    assert list(out) == [f"{s}_{f}" for f in ("pooled", "mean") for s in ("dice", "iou", "precision", "recall")]
    expected = {
        "dice_pooled": 18 / 23,  # 2*9 / (2*9 + 3 + 2)
        "iou_pooled": 9 / 14,
        "precision_pooled": 9 / 12,
        "recall_pooled": 9 / 11,
        "dice_mean": (16 / 18 + 2 / 5 + 1) / 3,
        "iou_mean": (8 / 10 + 1 / 4 + 1) / 3,
        "precision_mean": (8 / 10 + 1 / 2 + 1) / 3,
        "recall_mean": (1 + 1 / 3 + 1) / 3,
    }
    assert {k: e.value for k, e in out.items()} == pytest.approx(expected)
    assert {e.n for e in out.values()} == {3}
    assert {e.unit for e in out.values()} == {"cases"}
    assert all(e.low <= e.value <= e.high for e in out.values())


@pytest.mark.parametrize(
    ("counts", "expected"),
    [([(5, 0, 0)] * 3, 1.0), ([(0, 0, 0)] * 3, 1.0), ([(0, 4, 0)] * 3, 0.0), ([(0, 0, 4)] * 3, 0.0)],
    ids=["perfect", "both-empty", "truth-empty", "prediction-empty"],
)
def test_summarise_extremes(counts, expected):
    for estimate in summarise(table(counts), resamples=20).values():
        assert (estimate.value, estimate.low, estimate.high) == (expected, expected, expected)


def test_nan_scores_stay_out_of_the_mean_but_not_of_the_counts():
    cases = table([(8, 2, 0), (1, 1, 2), (0, 7, 0)])
    cases.loc[2, ["dice", "iou"]] = np.nan  # truth empty, left out
    out = summarise(cases, resamples=50)
    assert out["dice_mean"].value == pytest.approx((16 / 18 + 2 / 5) / 2)
    assert out["precision_mean"].value == pytest.approx((8 / 10 + 1 / 2) / 2)
    assert out["dice_mean"].n == out["precision_mean"].n == 2
    assert out["dice_pooled"].value == pytest.approx(18 / (18 + 10 + 2))
    assert out["dice_pooled"].n == 3


def test_all_scores_nan():
    cases = table([(0, 1, 0)] * 3).assign(dice=np.nan, iou=np.nan)
    out = summarise(cases, resamples=20)["dice_mean"]
    assert math.isnan(out.value)
    assert math.isnan(out.low)
    assert out.n == 0


def test_missing_counts_leave_the_case_out():
    cases = table([(8, 2, 0), (1, 1, 2)]).astype({"tp": float})
    cases.loc[1, "tp"] = np.nan
    out = summarise(cases, resamples=20)
    assert out["dice_pooled"].value == pytest.approx(16 / 18)
    assert out["dice_pooled"].n == 1
    assert math.isnan(out["dice_pooled"].low)  # one case cannot vary
    assert out["dice_mean"].n == 2


def test_own_precision_column_is_used():
    cases = table([(8, 2, 0), (1, 1, 2)]).assign(precision=[0.25, 0.75])
    assert summarise(cases, resamples=10)["precision_mean"].value == 0.5


def test_several_classes():
    truth = [np.array([1, 1, 1, 2, 2, 0, 0, 0]), np.array([1, 0, 0, 0, 0, 0, 0, 0])]
    prediction = [np.array([1, 1, 2, 2, 2, 1, 0, 0]), np.array([1, 1, 0, 0, 0, 0, 0, 0])]
    rows = [score(p, t, classes=("cup", "disc")) for p, t in zip(prediction, truth, strict=True)]
    out = summarise(pd.DataFrame(rows).assign(id=["a", "b"]), resamples=20)
    assert len(out) == 24
    assert out["cup/dice_pooled"].value == pytest.approx(6 / 9)  # tp 3, fp 2, fn 1
    assert out["disc/dice_pooled"].value == pytest.approx(4 / 5)  # tp 2, fp 1, fn 0
    assert out["dice_pooled"].value == pytest.approx((6 / 9 + 4 / 5) / 2)
    assert out["cup/iou_mean"].value == pytest.approx((2 / 4 + 1 / 2) / 2)
    assert out["disc/dice_mean"].value == pytest.approx((4 / 5 + 1) / 2)
    assert out["dice_mean"].value == pytest.approx(np.mean([r["dice"] for r in rows]))
    assert out["disc/recall_pooled"].n == 2


def test_several_classes_without_precision_columns_agree_with_those_that_have_them():
    rng = np.random.default_rng(0)
    rows = [score(*rng.integers(0, 3, (2, 9)), classes=("a", "b"), empty="leave-out") for _ in range(8)]
    full = pd.DataFrame(rows).assign(id=range(8))
    bare = full[[c for c in full.columns if not c.endswith(("precision", "recall"))]]
    one, other = summarise(full, resamples=20), summarise(bare, resamples=20)
    assert all(one[k].value == pytest.approx(other[k].value) for k in one)


@settings(max_examples=30, deadline=None)
@given(st.tuples(*[hnp.arrays(np.uint8, (4, 3, 3), elements=st.integers(0, 1))] * 2))
def test_pooled_equals_torchmetrics_over_all_pixels(masks):
    prediction, truth = masks
    assume(prediction.any() and truth.any())
    rows = [score(p, t) for p, t in zip(prediction, truth, strict=True)]
    out = summarise(pd.DataFrame(rows).assign(id=range(4)), resamples=5)
    tensors = torch.from_numpy(prediction), torch.from_numpy(truth).long()
    assert out["dice_pooled"].value == pytest.approx(float(oracle.binary_f1_score(*tensors)), abs=1e-6)
    assert out["iou_pooled"].value == pytest.approx(float(oracle.binary_jaccard_index(*tensors)), abs=1e-6)
    assert out["recall_pooled"].value == pytest.approx(float(oracle.binary_recall(*tensors)), abs=1e-6)
    assert out["iou_pooled"].low <= out["iou_pooled"].high


# ---------------------------------------------------------------- intervals


@pytest.mark.parametrize("confidence", [0.95, 0.8])
def test_interval_agrees_with_scipy(confidence):
    cases = random_table(60)
    ours = summarise(cases, resamples=8000, confidence=confidence)["dice_mean"]
    theirs = scipy.stats.bootstrap(
        (cases["dice"].to_numpy(),),
        np.mean,
        n_resamples=8000,
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert ours.low == pytest.approx(theirs.low, abs=0.05 * width(ours))
    assert ours.high == pytest.approx(theirs.high, abs=0.05 * width(ours))


def test_interval_of_pooled_ratio_agrees_with_scipy():
    cases = random_table(50, seed=3)
    ours = summarise(cases, resamples=8000)["iou_pooled"]
    theirs = scipy.stats.bootstrap(
        tuple(cases[c].to_numpy() for c in ("tp", "fp", "fn")),
        lambda tp, fp, fn, axis: tp.sum(axis) / (tp + fp + fn).sum(axis),
        paired=True,
        n_resamples=8000,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert ours.low == pytest.approx(theirs.low, abs=0.05 * width(ours))
    assert ours.high == pytest.approx(theirs.high, abs=0.05 * width(ours))


def test_grouped_duplicates_widen_the_interval():
    cases = random_table(40)
    copies = [cases.assign(id=cases["id"] + f"-{k}", group=cases["id"]) for k in range(4)]
    grouped = summarise(pd.concat(copies))
    ungrouped = summarise(pd.concat(copies).drop(columns="group"))
    alone = summarise(cases)
    for name in ("dice_mean", "dice_pooled"):
        assert grouped[name].value == pytest.approx(ungrouped[name].value)
        assert width(grouped[name]) == pytest.approx(2 * width(ungrouped[name]), rel=0.15)
        assert width(grouped[name]) == pytest.approx(width(alone[name]), rel=1e-9)  # same draws
        assert (grouped[name].unit, ungrouped[name].unit) == ("groups", "cases")
        assert (grouped[name].n, alone[name].n) == (160, 40)


@pytest.mark.parametrize("unknown", [None, np.nan, "", pd.NA])
def test_cases_of_unknown_group_are_their_own(unknown):
    cases = random_table(30)
    free = summarise(cases)
    missing = summarise(cases.assign(group=pd.Series([unknown] * 30, dtype=object)))
    assert all(same(free[k], missing[k]) for k in free)
    part = summarise(cases.assign(group=pd.Series(["p"] + [unknown] * 29, dtype=object)))
    assert part["dice_mean"].unit == "groups"
    assert part["dice_mean"].low == free["dice_mean"].low


def test_one_group_has_no_interval():
    for estimate in summarise(random_table(5, groups=["p"] * 5), resamples=20).values():
        assert math.isfinite(estimate.value)
        assert math.isnan(estimate.low)
        assert math.isnan(estimate.high)
        assert estimate.unit == "groups"
    assert math.isnan(summarise(random_table(1), resamples=20)["dice_mean"].low)


def test_one_group_left_by_nan_has_no_interval():
    cases = random_table(4, groups=["p", "p", "q", "r"])
    cases.loc[2:, "dice"] = np.nan
    out = summarise(cases, resamples=20)
    assert out["dice_mean"].n == 2
    assert math.isnan(out["dice_mean"].low)
    assert math.isfinite(out["iou_mean"].low)


def test_seed():
    cases = random_table(30)
    first, again, other = summarise(cases), summarise(cases), summarise(cases, seed=1)
    assert first == again
    assert first["dice_mean"].value == other["dice_mean"].value
    assert first["dice_mean"].low != other["dice_mean"].low


def test_row_order_does_not_matter():
    cases = random_table(50, groups=[f"p{i % 7}" if i % 3 else None for i in range(50)])
    shuffled = cases.sample(frac=1, random_state=0)
    assert summarise(cases, resamples=300) == summarise(shuffled, resamples=300)
    other = random_table(50, seed=9)
    assert paired_difference(cases, other, resamples=300) == paired_difference(
        shuffled, other.sample(frac=1, random_state=1), resamples=300
    )


def test_drawing_in_chunks_keeps_the_number_of_draws(monkeypatch):
    sums = np.ones((7, 2))
    monkeypatch.setattr(bootstrap, "CHUNK", 20)
    totals = bootstrap.resampled(sums, 11, seed=0)
    assert totals.shape == (11, 2)
    assert (totals == 7).all()


# ---------------------------------------------------------------- differences


def test_paired_difference_closed_form():
    first = pd.DataFrame({"id": ["a", "b", "c"], "dice": [0.5, 0.7, 0.9]})
    second = pd.DataFrame({"id": ["d", "c", "b"], "dice": [0.1, 0.8, 0.9]})
    out = paired_difference(first, second, resamples=200)
    assert out.value == pytest.approx((0.2 - 0.1) / 2)
    assert (out.low, out.high) == pytest.approx((-0.1, 0.2))
    assert (out.n, out.unit) == (2, "cases")


def test_paired_difference_takes_another_column_and_leaves_infinite_out():
    first = pd.DataFrame({"id": [1, 2, 3], "hd95": [2.0, np.inf, 4.0]})
    second = pd.DataFrame({"id": ["1", "2", "3"], "hd95": [3.0, 1.0, 7.0]})
    out = paired_difference(first, second, column="hd95", resamples=50)
    assert out.value == 2
    assert out.n == 2


def test_paired_difference_pooled():
    first, second = table([(8, 2, 0), (1, 1, 2)]), table([(8, 0, 0), (3, 1, 0)])
    dice = paired_difference(first, second, column="dice_pooled", resamples=50)
    assert dice.value == pytest.approx(22 / 23 - 18 / 23)
    assert dice.n == 2
    iou = paired_difference(first, second, column="iou_pooled", resamples=50)
    assert iou.value == pytest.approx(11 / 12 - 9 / 14)


def test_paired_difference_pooled_of_classes():
    names = ("a/tp", "a/fp", "a/fn", "b/tp", "b/fp", "b/fn")

    def of(a, b):
        return pd.DataFrame([a + b], columns=names).assign(id="x")

    first, second = of((1, 1, 0), (1, 0, 0)), of((1, 0, 0), (1, 0, 1))
    assert paired_difference(first, second, column="a/iou_pooled").value == pytest.approx(0.5)
    assert paired_difference(first, second, column="b/iou_pooled").value == pytest.approx(-0.5)
    assert paired_difference(first, second, column="iou_pooled").value == pytest.approx(0)


@pytest.mark.parametrize("column", ["dice", "iou", "dice_pooled", "iou_pooled"])
def test_paired_difference_with_itself_is_nothing(column):
    cases = random_table(20, groups=[f"p{i // 3}" for i in range(20)])
    out = paired_difference(cases, cases, column=column, resamples=50)
    assert out == Estimate(0.0, 0.0, 0.0, 20, "groups")


def test_paired_difference_turns_its_sign():
    first, second = random_table(20), random_table(20, seed=1)
    there, back = (paired_difference(*t, column="dice_pooled") for t in ((first, second), (second, first)))
    assert there.value == pytest.approx(-back.value)
    assert there.low == pytest.approx(-back.high)


def test_paired_difference_uses_the_groups_of_either():
    first, second = random_table(12), random_table(12, seed=1)
    groups = [f"p{i // 4}" for i in range(12)]
    expected = paired_difference(first.assign(group=groups), second)
    assert expected.unit == "groups"
    assert paired_difference(first, second.assign(group=groups)) == expected
    assert math.isnan(paired_difference(first.assign(group="p"), second).low)


# ---------------------------------------------------------------- refusals


def test_refusals():
    cases = random_table(3)
    with pytest.raises(DataError, match="holds no cases"):
        summarise(cases.iloc[:0])
    with pytest.raises(DataError, match="no column 'id'"):
        summarise(cases.drop(columns="id"))
    with pytest.raises(DataError, match="no column 'fp'"):
        summarise(cases.drop(columns="fp"))
    with pytest.raises(DataError, match="no column 'iou'"):
        summarise(cases.drop(columns="iou"))
    with pytest.raises(DataError, match="more than once: case0001;"):
        summarise(pd.concat([cases, cases.iloc[1:2]]))
    with pytest.raises(DataError, match=r"'dice' .* no number"):
        summarise(cases.assign(dice="good"))
    with pytest.raises(DataError, match="share no case: the first holds case0000"):
        paired_difference(cases, cases.assign(id=["x", "y", "z"]))
    with pytest.raises(DataError, match="no column 'hd95'"):
        paired_difference(cases, cases, column="hd95")
    with pytest.raises(CallError, match="no pooled score is called 'hd95_pooled'"):
        paired_difference(cases, cases, column="hd95_pooled")
    with pytest.raises(CallError, match="resamples"):
        summarise(cases, resamples=0)
    with pytest.raises(CallError, match="confidence"):
        summarise(cases, confidence=95)


@given(st.lists(st.tuples(*[st.integers(0, 50)] * 3), min_size=1, max_size=30))
def test_hits_are_shares_of_cases(counts):
    found = statistics.hits(table(counts), resamples=10)
    iou = np.array([iou_pooled(*c) for c in counts])
    for level in statistics.HITS:
        assert found[f"p@{level}"].value == pytest.approx((iou > level).mean())
    values = [found[f"p@{level}"].value for level in statistics.HITS]
    assert values == sorted(values, reverse=True)
