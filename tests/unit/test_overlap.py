"""Overlap scores against hand-computed numbers and against torchmetrics."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torchmetrics.functional import classification as oracle

from crossmask.errors import CallError, DataError
from crossmask.metrics.overlap import SCORES, score

FOUR = ("dice", "iou", "precision", "recall")


def pair_of_masks(labels: int):
    shapes = hnp.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=7)
    values = st.integers(0, labels)
    return shapes.flatmap(lambda s: st.tuples(*[hnp.arrays(np.uint8, s, elements=values)] * 2))


def test_closed_form():
    truth = np.zeros((4, 5), np.uint8)
    truth[:2, :3] = 1  # 6 pixels
    prediction = np.zeros_like(truth)
    prediction[1:3, :4] = 1  # 8 pixels, 3 in common
    case = score(prediction, truth)
    assert list(case) == ["tp", "fp", "fn", "tn", *SCORES]
    assert [case[c] for c in ("tp", "fp", "fn", "tn")] == [3, 5, 3, 9]
    assert case["dice"] == pytest.approx(6 / 14)
    assert case["iou"] == pytest.approx(3 / 11)
    assert case["precision"] == pytest.approx(3 / 8)
    assert case["recall"] == pytest.approx(3 / 6)
    assert case["specificity"] == pytest.approx(9 / 14)
    assert case["accuracy"] == pytest.approx(12 / 20)
    assert all(type(case[c]) is int for c in ("tp", "fp", "fn", "tn"))
    assert all(type(case[c]) is float for c in SCORES)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int16, np.int64])
@pytest.mark.parametrize("shape", [(6,), (2, 3), (1, 2, 3), (1, 1, 2, 3)])
def test_any_rank_and_type(dtype, shape):
    truth = np.array([1, 1, 1, 0, 0, 0]).reshape(shape).astype(dtype)
    prediction = np.array([0, 1, 1, 1, 0, 0]).reshape(shape).astype(dtype)
    case = score(prediction, truth, (1.0,) * len(shape))
    assert case["dice"] == pytest.approx(2 / 3)
    assert case["iou"] == 0.5


def test_perfect():
    mask = np.array([[0, 1], [1, 0]])
    assert {column: score(mask, mask)[column] for column in SCORES} == dict.fromkeys(SCORES, 1.0)


def test_everything_is_foreground_leaves_specificity_undefined():
    case = score(np.ones(4, bool), np.ones(4, bool))
    assert case["dice"] == case["accuracy"] == 1
    assert math.isnan(case["specificity"])


@pytest.mark.parametrize(
    ("prediction", "truth", "expected"),
    [([0, 0], [0, 0], 1.0), ([1, 0], [0, 0], 0.0), ([0, 0], [1, 0], 0.0)],
    ids=["both-empty", "truth-empty", "prediction-empty"],
)
def test_empty_masks(prediction, truth, expected):
    case = score(np.array(prediction), np.array(truth))
    assert {column: case[column] for column in FOUR} == dict.fromkeys(FOUR, expected)


@pytest.mark.parametrize(("prediction", "specificity"), [([0, 0], 1.0), ([1, 0], 0.5)])
def test_leave_out_empty_truth(prediction, specificity):
    case = score(np.array(prediction), np.array([0, 0]), empty="leave-out")
    assert all(math.isnan(case[column]) for column in FOUR)
    assert case["specificity"] == case["accuracy"] == specificity
    assert case["fp"] == sum(prediction)


def test_leave_out_keeps_empty_prediction_as_zero():
    assert score(np.array([0, 0]), np.array([1, 0]), empty="leave-out")["dice"] == 0


def test_classes():
    truth = np.array([1, 1, 1, 2, 2, 0, 0, 0])
    prediction = np.array([1, 1, 2, 2, 2, 1, 0, 0])
    case = score(prediction, truth, classes=("cup", "disc"))
    assert [case[f"cup/{c}"] for c in ("tp", "fp", "fn", "tn")] == [2, 1, 1, 4]
    assert [case[f"disc/{c}"] for c in ("tp", "fp", "fn", "tn")] == [2, 1, 0, 5]
    assert case["cup/dice"] == pytest.approx(4 / 6)
    assert case["disc/dice"] == pytest.approx(4 / 5)
    assert case["dice"] == pytest.approx((4 / 6 + 4 / 5) / 2)
    assert case["iou"] == pytest.approx((2 / 4 + 2 / 3) / 2)
    assert "tp" not in case


def test_classes_mean_leaves_nan_out():
    case = score(np.array([1, 2, 0]), np.array([1, 0, 0]), classes=("a", "b"), empty="leave-out")
    assert math.isnan(case["b/dice"])
    assert case["dice"] == case["a/dice"] == 1
    none = score(np.array([0, 0]), np.array([0, 0]), classes=("a", "b"), empty="leave-out")
    assert math.isnan(none["dice"])


def test_many_classes_do_not_overflow_small_types():
    labels = np.arange(256, dtype=np.uint8)
    case = score(labels, labels, classes=[f"c{k}" for k in range(1, 256)])
    assert case["dice"] == 1
    assert case["c255/tp"] == 1


def test_inputs_stay_as_they_are():
    truth = np.arange(3)
    score(truth, truth, classes=("a", "b"))
    assert truth.tolist() == [0, 1, 2]


def test_refusals():
    with pytest.raises(DataError, match=r"shape \(2, 3\) and the truth \(3, 2\)"):
        score(np.zeros((2, 3), int), np.zeros((3, 2), int))
    with pytest.raises(DataError, match="prediction holds labels beyond the classes: 2, 7;"):
        score(np.array([0, 2, 7]), np.array([0, 1, 1]))
    with pytest.raises(DataError, match="truth holds labels beyond the classes: -1;"):
        score(np.array([0, 1]), np.array([0, -1]))
    with pytest.raises(DataError, match="truth holds labels beyond the classes: 255;"):
        score(np.array([0, 1]), np.array([0, 255], np.uint8))
    with pytest.raises(DataError, match="float64 values"):
        score(np.array([0.3]), np.array([1]))
    with pytest.raises(DataError, match="no pixel"):
        score(np.zeros((0, 3), int), np.zeros((0, 3), int))
    for classes in ("foreground", (), ("a", "a")):
        with pytest.raises(CallError, match="classes must be"):
            score(np.array([0]), np.array([0]), classes=classes)
    with pytest.raises(CallError, match="empty must be"):
        score(np.array([0]), np.array([0]), empty="zero")


@settings(max_examples=50, deadline=None)
@given(pair_of_masks(1))
def test_equals_torchmetrics_binary(masks):
    prediction, truth = masks
    assume(prediction.any() and truth.any())
    case = score(prediction, truth)
    tensors = torch.from_numpy(prediction), torch.from_numpy(truth).long()
    assert case["dice"] == pytest.approx(float(oracle.binary_f1_score(*tensors)), abs=1e-6)
    assert case["iou"] == pytest.approx(float(oracle.binary_jaccard_index(*tensors)), abs=1e-6)
    assert case["precision"] == pytest.approx(float(oracle.binary_precision(*tensors)), abs=1e-6)
    assert case["recall"] == pytest.approx(float(oracle.binary_recall(*tensors)), abs=1e-6)
    assert case["accuracy"] == pytest.approx(float(oracle.binary_accuracy(*tensors)), abs=1e-6)
    if not truth.all():
        assert case["specificity"] == pytest.approx(float(oracle.binary_specificity(*tensors)), abs=1e-6)


@settings(max_examples=50, deadline=None)
@given(pair_of_masks(3))
def test_equals_torchmetrics_multiclass(masks):
    prediction, truth = masks
    present = [k for k in (1, 2, 3) if (prediction == k).any() and (truth == k).any()]
    assume(present)
    case = score(prediction, truth, classes=("c1", "c2", "c3"))
    tensors = torch.from_numpy(prediction).long(), torch.from_numpy(truth).long()
    dice = oracle.multiclass_f1_score(*tensors, num_classes=4, average=None)
    iou = oracle.multiclass_jaccard_index(*tensors, num_classes=4, average=None)
    for k in present:
        assert case[f"c{k}/dice"] == pytest.approx(float(dice[k]), abs=1e-6)
        assert case[f"c{k}/iou"] == pytest.approx(float(iou[k]), abs=1e-6)
    assert case["dice"] == pytest.approx(np.mean([case[f"c{k}/dice"] for k in (1, 2, 3)]))


@settings(max_examples=50, deadline=None)
@given(pair_of_masks(1))
def test_swapping_the_masks_swaps_precision_and_recall(masks):
    one, other = score(*masks), score(*masks[::-1])
    assert one["dice"] == other["dice"]
    assert one["precision"] == other["recall"]
    assert one["tp"] + one["fp"] + one["fn"] + one["tn"] == masks[0].size
