"""What metrics of label masks share: the call's classes, the labels there may be, the columns of several classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from crossmask.errors import CallError, DataError, name_list

Columns = Mapping[str, float | int]


def check_classes(classes: Sequence[str]) -> None:
    if isinstance(classes, str) or not classes or len(set(classes)) != len(classes):
        raise CallError(f"classes must be a list of one or more different names, not {classes!r}.")


def check_labels(side: str, labels: np.ndarray, classes: Sequence[str], what: str) -> None:
    """Whole numbers from 0 to the number of classes. side: 'prediction' or 'truth'; what: what needs them."""
    if labels.dtype != np.bool_ and not np.issubdtype(labels.dtype, np.integer):
        raise DataError(
            f"The {side} holds {labels.dtype} values; {what} whole-number labels, so threshold or round it first."
        )
    if labels.min() < 0 or labels.max() > len(classes):
        values = np.unique(labels)
        beyond = values[(values < 0) | (values > len(classes))]
        raise DataError(
            f"The {side} holds labels beyond the classes: {name_list(beyond)}; "
            f"allowed are 0 (background) to {len(classes)} ({name_list(classes)})."
        )


def over_classes(each: Mapping[str, Columns], scores: Sequence[str]) -> dict[str, float | int]:
    """One class: its columns. Several: ``<class>/<column>``, and each of ``scores`` as the mean over the classes, NaN
    left out.

    >>> over_classes({"liver": {"dice": 1.0}, "tumour": {"dice": 0.5}}, ["dice"])
    {'liver/dice': 1.0, 'tumour/dice': 0.5, 'dice': 0.75}
    """
    if len(each) == 1:
        return dict(next(iter(each.values())))
    columns = {f"{name}/{column}": value for name, of_class in each.items() for column, value in of_class.items()}
    return columns | {score: mean([of_class[score] for of_class in each.values()]) for score in scores}


def mean(values: Sequence[float]) -> float:
    """The mean without NaN; NaN if nothing else is there."""
    known = [value for value in values if value == value]
    return sum(known) / len(known) if known else float("nan")
