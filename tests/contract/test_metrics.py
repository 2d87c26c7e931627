"""What every metric keeps, found by discovery. That it equals its oracle is tested in tests/unit."""

from __future__ import annotations

import inspect
import math

import numpy as np
import pytest

from crossmask import rooms

NAMES = rooms.names("metric")
each_metric = pytest.mark.parametrize("name", NAMES)
WITHOUT_LENGTH = {"overlap"}  # overlap of masks does not move with the spacing
SHAPES = [(12, 17), (5, 12, 17)]
SHARES = ("dice", "iou", "precision", "recall", "specificity", "accuracy")


def square(shape: tuple[int, ...], start: int, stop: int) -> np.ndarray:
    mask = np.zeros(shape, np.uint8)
    mask[..., start:stop, start:stop] = 1
    return mask


def unit(shape: tuple[int, ...], scale: float = 1.0) -> tuple[float, ...]:
    return (scale,) * len(shape)


def is_length(column: str) -> bool:
    return any(part in column for part in ("hd", "asd", "assd")) or column.endswith("_mm")


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(
        (isinstance(a[k], float) and math.isnan(a[k]) and math.isnan(b[k])) or a[k] == b[k] for k in a
    )


def test_all_are_found():
    assert len(NAMES) >= 1
    assert set(NAMES) >= WITHOUT_LENGTH | {"surface"}


@each_metric
def test_door(name):
    parameters = list(inspect.signature(rooms.door("metric", name)).parameters)
    assert parameters[:3] == ["prediction", "truth", "spacing"]


@each_metric
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("ours", "truths"),
    [((2, 6), (2, 6)), ((2, 6), (3, 8)), ((0, 0), (0, 0)), ((2, 6), (0, 0)), ((0, 0), (2, 6)), ((0, 12), (2, 6))],
    ids=["perfect", "overlapping", "both-empty", "truth-empty", "prediction-empty", "large"],
)
def test_columns_are_always_the_same_numbers(name, shape, ours, truths):
    score = rooms.door("metric", name)
    prediction, truth = square(shape, *ours), square(shape, *truths)
    before = prediction.copy(), truth.copy()
    case = score(prediction, truth, unit(shape))
    assert list(case) == list(score(square(shape, 2, 6), square(shape, 2, 6), unit(shape)))
    assert all(isinstance(value, int | float) for value in case.values())
    alone = prediction.any() != truth.any()  # then, and only then, a distance has no end
    assert not any(math.isinf(value) for column, value in case.items() if not (alone and is_length(column)))
    assert np.array_equal(prediction, before[0])
    assert np.array_equal(truth, before[1])
    assert same(case, score(prediction.astype(bool), truth.astype(bool), unit(shape)))
    for column in {*SHARES, "nsd"} & case.keys():
        assert math.isnan(case[column]) or 0 <= case[column] <= 1


@each_metric
@pytest.mark.parametrize("shape", SHAPES)
def test_spacing(name, shape):
    score = rooms.door("metric", name)
    prediction, truth = square(shape, 2, 6), square(shape, 3, 8)
    once, twice = (score(prediction, truth, unit(shape, s)) for s in (1.0, 2.0))
    if name in WITHOUT_LENGTH:
        assert same(once, twice)
        assert same(once, score(prediction, truth, None))
    else:  # lengths double, shares stay or (those with a tolerance in mm) may move
        assert not same(once, twice)
        for column in once:
            if is_length(column):
                assert twice[column] == pytest.approx(2 * once[column])


def test_overlap_perfect_and_empty():
    score = rooms.door("metric", "overlap")
    full, nothing = square((8, 8), 2, 5), square((8, 8), 0, 0)
    perfect = score(full, full)
    assert [perfect[c] for c in SHARES] == [1.0] * 6
    both = score(nothing, nothing)
    assert [both[c] for c in SHARES] == [1.0] * 6
    for case in (score(full, nothing), score(nothing, full)):
        assert [case[c] for c in ("dice", "iou", "precision", "recall")] == [0.0] * 4


def test_surface_perfect_and_empty():
    score = rooms.door("metric", "surface")
    full, nothing = square((8, 8), 2, 5), square((8, 8), 0, 0)
    assert score(full, full) == {"hd95": 0, "hd95_pooled": 0, "assd": 0, "nsd": 1}
    assert all(math.isnan(value) for value in score(nothing, nothing).values())
    for pair in ((full, nothing), (nothing, full)):
        assert score(*pair) == {"hd95": math.inf, "hd95_pooled": math.inf, "assd": math.inf, "nsd": 0}
