"""Overlap of two masks: counts, Dice, IoU, precision, recall, specificity, accuracy.

Source: the usual definitions (Metrics Reloaded, Maier-Hein et al. 2024); the rule for empty masks is that of
the LViT and RecLMIS tables (per-case family).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from crossmask.errors import CallError, DataError
from crossmask.metrics._classes import check_classes, check_labels, over_classes

SCORES = ("dice", "iou", "precision", "recall", "specificity", "accuracy")
OF_TRUTH = ("dice", "iou", "precision", "recall")  # what ``empty="leave-out"`` leaves out
TOLERANCE = 1e-9


def score(
    prediction: np.ndarray,
    truth: np.ndarray,
    spacing: tuple[float, ...] | None = None,
    *,
    classes: Sequence[str] = ("foreground",),
    empty: Literal["one", "leave-out"] = "one",
) -> dict[str, float | int]:
    """The overlap columns of one case.

    ``prediction`` and ``truth``: integer or bool label arrays of one shape, any rank; 0 is the background and
    label k+1 is ``classes[k]``. ``spacing`` does not matter to overlap and is not read; it is there so that
    all metrics are called alike.

    Returned for each class: ``tp``, ``fp``, ``fn``, ``tn`` (pixels, int) and ``dice``, ``iou``,
    ``precision``, ``recall``, ``specificity``, ``accuracy`` (float in [0, 1], NaN when undefined). One class:
    plain names. Several: ``"<class>/dice"`` and so on, and the plain scores (not the counts) are the mean
    over the classes without background, NaN left out.

    Empty masks, per class: both empty, dice = iou = precision = recall = 1. Only one of them empty: all four
    are 0, also the one whose denominator is 0 (the precision of an empty prediction, the recall of an empty
    truth). ``empty="leave-out"`` makes the four NaN wherever the truth is empty; the counts, specificity
    (1 - false-positive rate) and accuracy stay. Specificity is NaN where the truth has no background.

    >>> case = score(np.array([[1, 1], [0, 0]]), np.array([[1, 0], [1, 0]]))
    >>> case["tp"], case["fp"], case["fn"], case["tn"], case["dice"], round(case["iou"], 4)
    (1, 1, 1, 1, 0.5, 0.3333)
    >>> both = score(np.array([1, 2, 0]), np.array([1, 0, 0]), classes=("liver", "tumour"))
    >>> both["liver/dice"], both["tumour/dice"], both["dice"]
    (1.0, 0.0, 0.5)
    """
    _check_call(classes, empty)
    confusion = _confusion(np.asarray(prediction), np.asarray(truth), tuple(classes))
    each = {n: _class_columns(confusion, k + 1, leave_out=empty == "leave-out") for k, n in enumerate(classes)}
    return over_classes(each, SCORES)


def _check_call(classes: Sequence[str], empty: str) -> None:
    check_classes(classes)
    if empty not in ("one", "leave-out"):
        raise CallError(f"empty must be 'one' or 'leave-out', not {empty!r}.")


def _confusion(prediction: np.ndarray, truth: np.ndarray, classes: tuple[str, ...]) -> np.ndarray:
    """(K+1, K+1) int pixel counts, row the true label, column the predicted one."""
    if prediction.shape != truth.shape:
        raise DataError(
            f"The prediction has shape {prediction.shape} and the truth {truth.shape}; "
            "overlap needs both on one grid, so put the prediction back on the grid of the truth."
        )
    if truth.size == 0:
        raise DataError(f"The masks have shape {truth.shape} and so hold no pixel; there is nothing to score.")
    check_labels("prediction", prediction, classes, "overlap needs")
    check_labels("truth", truth, classes, "overlap needs")
    size = len(classes) + 1
    pairs = truth.ravel().astype(np.intp) * size + prediction.ravel().astype(np.intp, copy=False)
    return np.bincount(pairs, minlength=size * size).reshape(size, size)


def _class_columns(confusion: np.ndarray, label: int, *, leave_out: bool) -> dict[str, float | int]:
    tp = int(confusion[label, label])
    fp = int(confusion[:, label].sum()) - tp
    fn = int(confusion[label, :].sum()) - tp
    tn = int(confusion.sum()) - tp - fp - fn
    both_empty = 1.0 if tp + fp + fn == 0 else 0.0
    scores = {
        "dice": _ratio(2 * tp, 2 * tp + fp + fn, both_empty),
        "iou": _ratio(tp, tp + fp + fn, both_empty),
        "precision": _ratio(tp, tp + fp, both_empty),
        "recall": _ratio(tp, tp + fn, both_empty),
        "specificity": _ratio(tn, tn + fp, float("nan")),
        "accuracy": _ratio(tp + tn, tp + fp + fn + tn, float("nan")),
    }
    dice, iou = scores["dice"], scores["iou"]
    assert abs(iou - dice / (2 - dice)) < TOLERANCE, f"IoU {iou} does not fit Dice {dice}"
    assert iou <= min(scores["precision"], scores["recall"]) + TOLERANCE, "IoU above precision or recall"
    if leave_out and tp + fn == 0:
        scores |= dict.fromkeys(OF_TRUTH, float("nan"))
    return {"tp": tp, "fp": fp, "fn": fn, "tn": tn, **scores}


def _ratio(part: int, whole: int, otherwise: float) -> float:
    return part / whole if whole else otherwise
