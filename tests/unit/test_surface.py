"""Surface scores against hand-computed numbers, brute force, MONAI, MedPy and DeepMind's surface-distance."""

from __future__ import annotations

import math
from functools import cache
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial.distance import cdist

from crossmask.errors import CallError, DataError
from crossmask.metrics import surface
from crossmask.metrics.surface import SCORES, directed_distances, score

LENGTHS = ("hd95", "hd95_pooled", "assd")
MM = 1e-4  # what may lie between us and an oracle; MONAI answers in float32
SEEDS, CASES = range(10), 100


class Case(NamedTuple):
    prediction: np.ndarray
    truth: np.ndarray
    spacing: tuple[float, ...]
    tolerance_mm: float
    columns: dict

    def oracle(self, function, **options):
        return function(self.prediction, self.truth, voxelspacing=self.spacing, **options)


def blob(shape: tuple[int, ...], low: int, high: int) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[(slice(low, high),) * len(shape)] = True
    return mask


def random_mask(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Noise of any density, one pixel, all, a box up to the border or smooth blobs; never empty."""
    kind = rng.integers(6)
    mask = np.zeros(shape, bool)
    if kind == 0:
        mask = rng.random(shape) < rng.choice([0.02, 0.3, 0.5, 0.95])
    elif kind == 1:
        mask[...] = True
    elif kind == 2:
        mask[tuple(slice(0, rng.integers(1, n + 1)) for n in shape)] = True
    elif kind > 3:
        mask = ndimage.gaussian_filter(rng.standard_normal(shape), 1.5) > 0.05
    if not mask.any():
        mask[tuple(rng.integers(0, n) for n in shape)] = True
    return mask


def random_case(rng: np.random.Generator) -> Case:
    rank = int(rng.choice([2, 2, 3]))
    shape = tuple(int(n) for n in rng.integers(1, 25 if rank == 2 else 12, rank))
    round_steps = rng.choice([0.5, 0.7, 0.8, 1.0, 1.5, 2.5, 5.0], rank)  # make ties with the tolerance
    spacing = tuple(float(s) for s in (round_steps if rng.random() < 0.6 else rng.uniform(0.3, 3, rank)))
    tolerance = float(rng.choice([0, 0.5, 1, 2, 2.1, 4, 7.5]))
    prediction, truth = random_mask(rng, shape), random_mask(rng, shape)
    return Case(prediction, truth, spacing, tolerance, score(prediction, truth, spacing, tolerance_mm=tolerance))


@cache
def random_cases(seed: int) -> list[Case]:
    rng = np.random.default_rng(seed)
    return [random_case(rng) for _ in range(CASES)]


def brute_force(prediction: np.ndarray, truth: np.ndarray, spacing: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    points = [np.argwhere(mask ^ ndimage.binary_erosion(mask)) * np.array(spacing) for mask in (prediction, truth)]
    between = cdist(*points)
    return between.min(axis=1), between.min(axis=0)


@st.composite
def two_masks(draw):
    """Two masks of one shape that are not empty, and a spacing."""
    shape = draw(st.one_of(st.tuples(*[st.integers(1, 12)] * 2), st.tuples(*[st.integers(1, 7)] * 3)))
    spacing = tuple(draw(st.sampled_from([0.5, 0.7, 1.0, 1.5, 4.0])) for _ in shape)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return random_mask(rng, shape), random_mask(rng, shape), spacing


def test_closed_form_in_the_plane():
    truth, prediction = np.zeros((10, 20), np.uint8), np.zeros((10, 20), np.uint8)
    truth[4, 2:6] = 1
    prediction[4, 2:12] = 1  # six pixels too long
    case = score(prediction, truth, (2.0, 0.5))
    assert list(case) == list(SCORES)
    assert all(type(value) is float for value in case.values())
    away = [0, 0, 0, 0, 0.5, 1, 1.5, 2, 2.5, 3]
    assert case["hd95"] == pytest.approx(np.percentile(away, 95))
    assert case["hd95_pooled"] == pytest.approx(np.percentile(away + [0] * 4, 95))
    assert case["assd"] == pytest.approx(sum(away) / 14)


def test_closed_form_of_the_surface_share():
    # one pixel: four corners, each with half a diagonal; moved by three, no corner is within 2, all are within 3
    one, other = np.zeros((5, 9), bool), np.zeros((5, 9), bool)
    one[2, 2] = other[2, 5] = True
    assert score(one, other, tolerance_mm=1.9)["nsd"] == 0
    assert score(one, other, tolerance_mm=2)["nsd"] == 0.5  # the two corners that face each other, of four
    assert score(one, other, tolerance_mm=3)["nsd"] == 1
    # a bar of two pixels against its left one: 2 straight + 4 diagonal elements against 4 diagonal ones
    bar = one.copy()
    bar[2, 3] = True
    diagonal = math.sqrt(0.5)
    expected = (2 * diagonal + 2 + 4 * diagonal) / (4 * diagonal + 2 + 4 * diagonal)
    assert score(bar, one, tolerance_mm=0)["nsd"] == pytest.approx(expected)


@pytest.mark.parametrize("rank", [2, 3])
def test_perfect(rank):
    mask = blob((9,) * rank, 2, 6)
    assert score(mask, mask) == {"hd95": 0.0, "hd95_pooled": 0.0, "assd": 0.0, "nsd": 1.0}


@pytest.mark.parametrize("rank", [2, 3])
def test_empty_masks(rank):
    full, nothing = blob((9,) * rank, 2, 6), np.zeros((9,) * rank, bool)
    spacing = (0.5, 1.0, 2.0)[:rank]
    for empty in ("count", "diagonal"):
        assert all(math.isnan(value) for value in score(nothing, nothing, spacing, empty=empty).values())
    for pair in ((full, nothing), (nothing, full)):
        assert score(*pair, spacing) == dict.fromkeys(LENGTHS, math.inf) | {"nsd": 0.0}
        diagonal = 9 * math.hypot(*spacing)
        assert score(*pair, spacing, empty="diagonal") == pytest.approx(dict.fromkeys(LENGTHS, diagonal) | {"nsd": 0})
    assert score(full, full, empty="diagonal")["hd95"] == 0


def test_no_spacing_is_unit_spacing():
    one, other = blob((8, 9), 1, 4), blob((8, 9), 2, 7)
    assert score(one, other) == score(one, other, (1, 1))
    assert score(one, other) == score(one, other, np.array([1.0, 1.0]))


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int16, np.int64])
def test_types_and_memory_orders(dtype):
    rng = np.random.default_rng(0)
    one, other = random_mask(rng, (5, 9, 7)), blob((5, 9, 7), 1, 4)
    spacing = (2.0, 0.5, 1.0)
    expected = score(one, other, spacing)
    assert score(one.astype(dtype), other.astype(dtype), spacing) == expected
    assert score(np.asfortranarray(one.astype(dtype)), np.asfortranarray(other.astype(dtype)), spacing) == expected
    flipped = score(one[::-1, :, ::-1].astype(dtype), other[::-1, :, ::-1].astype(dtype), spacing)
    assert flipped == pytest.approx(expected)


def test_inputs_stay_as_they_are():
    one, other = blob((8, 9), 1, 4), blob((8, 9), 2, 7)
    one.flags.writeable = other.flags.writeable = False
    before = one.copy(), other.copy()
    score(one, other)
    directed_distances(one, other)
    assert np.array_equal(one, before[0])
    assert np.array_equal(other, before[1])


def test_classes():
    truth = np.zeros((12, 12), np.uint8)
    truth[1:5, 1:5], truth[7:10, 7:10] = 1, 2
    prediction = np.zeros_like(truth)
    prediction[1:5, 2:6], prediction[6:10, 7:10] = 1, 2
    case = score(prediction, truth, (1.0, 2.0), classes=("cup", "disc"))
    cup = score(prediction == 1, truth == 1, (1.0, 2.0))
    disc = score(prediction == 2, truth == 2, (1.0, 2.0))
    assert list(case) == [f"{name}/{column}" for name in ("cup", "disc") for column in SCORES] + list(SCORES)
    assert {column: case[f"cup/{column}"] for column in SCORES} == cup
    assert {column: case[f"disc/{column}"] for column in SCORES} == disc
    assert {column: case[column] for column in SCORES} == {c: pytest.approx((cup[c] + disc[c]) / 2) for c in SCORES}


def test_classes_mean_leaves_nan_out_and_keeps_what_failed():
    truth = np.zeros((9, 9), np.uint8)
    truth[1:4, 1:4] = 1
    case = score(truth, truth, classes=("a", "b"))
    assert math.isnan(case["b/hd95"])
    assert (case["hd95"], case["nsd"]) == (0, 1)
    missed = score(truth, np.where(np.eye(9, dtype=bool) & (truth == 0), 2, truth), classes=("a", "b"))
    assert (missed["a/hd95"], missed["b/hd95"], missed["hd95"], missed["nsd"]) == (0, math.inf, math.inf, 0.5)
    none = score(np.zeros((3, 3), int), np.zeros((3, 3), int), classes=("a", "b"))
    assert all(math.isnan(value) for value in none.values())


def test_refusals():
    flat = np.zeros((3, 4), int)
    with pytest.raises(DataError, match=r"shape \(3, 4\) and the truth \(4, 3\)"):
        score(flat, flat.T)
    for shape in ((5,), (2, 2, 2, 2), (0, 3)):
        with pytest.raises(DataError, match="surfaces are those of pictures"):
            score(np.zeros(shape, int), np.zeros(shape, int))
    with pytest.raises(DataError, match=r"spacing \(1.0, 1.0, 1.0\) has 3 numbers and the masks have shape \(3, 4\)"):
        score(flat, flat, (1, 1, 1))
    for spacing in ((1, 0), (1, -1), (1, math.nan), (math.inf, 1)):
        with pytest.raises(DataError, match="no length"):
            score(flat, flat, spacing)
    with pytest.raises(DataError, match="prediction holds labels beyond the classes: 2;"):
        score(flat + 2, flat)
    with pytest.raises(DataError, match="truth holds labels beyond the classes: -1;"):
        score(flat, flat - 1)
    with pytest.raises(DataError, match="float64 values"):
        score(flat + 0.3, flat)
    with pytest.raises(DataError, match="no surface"):
        directed_distances(flat, flat + 1)
    for classes in ("foreground", (), ("a", "a")):
        with pytest.raises(CallError, match="classes must be"):
            score(flat, flat, classes=classes)
    for tolerance in (-1, math.nan, math.inf):
        with pytest.raises(CallError, match="tolerance_mm must be"):
            score(flat, flat, tolerance_mm=tolerance)
    with pytest.raises(CallError, match="empty must be"):
        score(flat, flat, empty="zero")


@settings(max_examples=60, deadline=None)
@given(two_masks())
def test_equals_brute_force(case):
    prediction, truth, spacing = case
    ours, theirs = directed_distances(prediction, truth, spacing)
    expected = brute_force(prediction, truth, spacing)
    assert ours == pytest.approx(expected[0], abs=1e-9)
    assert theirs == pytest.approx(expected[1], abs=1e-9)
    columns = score(prediction, truth, spacing)
    assert columns["hd95"] == pytest.approx(max(np.percentile(d, 95) for d in expected), abs=1e-9)
    assert columns["hd95_pooled"] == pytest.approx(np.percentile(np.concatenate(expected), 95), abs=1e-9)
    assert columns["assd"] == pytest.approx(np.concatenate(expected).mean(), abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(two_masks())
def test_either_mask_may_come_first(case):
    prediction, truth, spacing = case
    assert score(prediction, truth, spacing) == score(truth, prediction, spacing)


@settings(max_examples=60, deadline=None)
@given(two_masks())
def test_doubled_spacing_doubles_distances(case):
    prediction, truth, spacing = case
    once = score(prediction, truth, spacing, tolerance_mm=1.5)
    twice = score(prediction, truth, tuple(2 * s for s in spacing), tolerance_mm=3)
    assert twice == pytest.approx({column: once[column] * (2 if column in LENGTHS else 1) for column in SCORES})


@settings(max_examples=60, deadline=None)
@given(two_masks(), st.integers(0, 5), st.integers(0, 5))
def test_where_the_masks_lie_does_not_matter(case, before, after):
    prediction, truth, spacing = case
    placed = [np.pad(mask, (before, after)) for mask in (prediction, truth)]
    assert score(*placed, spacing) == score(prediction, truth, spacing)
    turned = score(np.moveaxis(prediction, 0, -1), np.moveaxis(truth, 0, -1), (*spacing[1:], spacing[0]))
    lengths = {column: pytest.approx(value) for column, value in score(prediction, truth, spacing).items()}
    assert {c: turned[c] for c in LENGTHS} == {c: lengths[c] for c in LENGTHS}


@settings(max_examples=60, deadline=None)
@given(two_masks())
def test_share_grows_with_the_tolerance(case):
    prediction, truth, spacing = case
    shares = [score(prediction, truth, spacing, tolerance_mm=t)["nsd"] for t in (0, 0.7, 2, 6, 1000)]
    assert shares == sorted(shares)
    assert shares[0] >= 0
    assert shares[-1] == 1


@pytest.mark.parametrize("voxels_per_query", [0, 10**9], ids=["tree", "transform"])
@pytest.mark.parametrize(("near", "block"), [(0, 8192), (1, 7), (2.5, 1)])
def test_every_way_of_searching_answers_the_same(monkeypatch, near, block, voxels_per_query):
    cases = random_cases(0)[:40]
    monkeypatch.setattr(surface, "NEAR", near)
    monkeypatch.setattr(surface, "BLOCK", block)
    monkeypatch.setattr(surface, "VOXELS_PER_QUERY", voxels_per_query)
    for case in cases:
        again = score(case.prediction, case.truth, case.spacing, tolerance_mm=case.tolerance_mm)
        assert again == pytest.approx(case.columns, abs=1e-9)


def test_dense_noise_far_from_the_truth_is_not_left_to_the_tree(monkeypatch):
    monkeypatch.setattr(surface, "cKDTree", None)
    noise = np.random.default_rng(0).random((24, 24, 24)) < 0.5
    noise[:12] = False
    truth = blob(noise.shape, 2, 3)
    noise[2, 2, 2] = True
    ours, theirs = directed_distances(noise, truth, (1.5, 1.0, 0.8))
    expected = brute_force(noise, truth, (1.5, 1.0, 0.8))
    assert ours == pytest.approx(expected[0])
    assert theirs == pytest.approx(expected[1])


@pytest.mark.parametrize("seed", SEEDS)
def test_equals_monai(seed):
    metrics = pytest.importorskip("monai.metrics")
    torch = pytest.importorskip("torch")
    for case in random_cases(seed):
        one_hot = [torch.from_numpy(np.stack([~m, m])[None]).float() for m in (case.prediction, case.truth)]
        hd95 = metrics.compute_hausdorff_distance(*one_hot, percentile=95, spacing=case.spacing)
        assd = metrics.compute_average_surface_distance(*one_hot, symmetric=True, spacing=case.spacing)
        assert case.columns["hd95"] == pytest.approx(hd95.item(), rel=0, abs=MM)
        assert case.columns["assd"] == pytest.approx(assd.item(), rel=0, abs=MM)


@pytest.mark.parametrize("seed", SEEDS)
def test_equals_medpy(seed):
    oracle = pytest.importorskip("medpy.metric.binary")
    for case in random_cases(seed):
        assert case.columns["hd95_pooled"] == pytest.approx(case.oracle(oracle.hd95), rel=0, abs=MM)
        assert case.columns["assd"] == pytest.approx(case.oracle(oracle.assd), rel=0, abs=MM)


@pytest.mark.parametrize("seed", SEEDS)
def test_equals_surface_distance(seed):
    """Half of the spacings make distances that should tie with the tolerance but for rounding: no case is spared."""
    oracle = pytest.importorskip("surface_distance")
    for case in random_cases(seed):
        distances = oracle.compute_surface_distances(case.truth, case.prediction, case.spacing)
        nsd = oracle.compute_surface_dice_at_tolerance(distances, case.tolerance_mm)
        assert case.columns["nsd"] == pytest.approx(nsd, rel=0, abs=1e-9)


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.7, 2.5), (1.0, 1.0, 1.0), (2.5, 0.7, 1.3)])
def test_areas_equal_surface_distance(spacing):
    tables = pytest.importorskip("surface_distance.lookup_tables")
    make = (
        tables.create_table_neighbour_code_to_contour_length
        if len(spacing) == 2
        else tables.create_table_neighbour_code_to_surface_area
    )
    assert surface._areas(spacing) == pytest.approx(make(spacing), rel=1e-12)
