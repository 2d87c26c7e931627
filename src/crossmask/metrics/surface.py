"""Distances between the surfaces of two masks: HD95 in its two definitions, mean distance, surface Dice (NSD).

Sources: HD95 and the symmetric mean distance as MONAI computes them (``compute_hausdorff_distance`` with
``percentile=95``, ``compute_average_surface_distance`` with ``symmetric=True``), the pooled HD95 as MedPy does
(``hd95``), surface Dice after Nikolov et al. 2018 as DeepMind's surface-distance does
(``compute_surface_dice_at_tolerance``). None of them is needed here; the tests compare with all three.
"""

from __future__ import annotations

import csv
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from crossmask.errors import CallError, DataError
from crossmask.metrics._classes import check_classes, check_labels, over_classes

SCORES = ("hd95", "hd95_pooled", "assd", "nsd")
PERCENTILE = 95
NEAR = 4  # distances up to this many of the smallest step are looked up place by place
BLOCK = 8192  # points looked up at once, so that the places fit the processor's cache
VOXELS_PER_QUERY = 10  # a question to the tree takes about as long as this many voxels of a distance transform
NORMALS = Path(__file__).with_name("surface_normals.csv")

Spacing = tuple[float, ...]
Shells = tuple[tuple[float, np.ndarray], ...]  # a length in mm and the (k, rank) steps or (k,) shifts that have it


def score(
    prediction: np.ndarray,
    truth: np.ndarray,
    spacing: tuple[float, ...] | None = None,
    *,
    classes: Sequence[str] = ("foreground",),
    tolerance_mm: float = 2.0,
    empty: Literal["count", "diagonal"] = "count",
) -> dict[str, float | int]:
    """The surface columns of one case, in mm, on the grid that the masks have.

    ``prediction`` and ``truth``: integer or bool label arrays of one shape, ``(H, W)`` or ``(D, H, W)``; 0 is
    the background and label k+1 is ``classes[k]``. ``spacing``: mm between neighbours along each axis, in the
    order of the axes. None means unit spacing: all lengths, ``tolerance_mm`` too, are then in pixels.

    Returned for each class (float):

    - ``hd95``: the larger of the two directed 95th percentiles (MONAI).
    - ``hd95_pooled``: the 95th percentile of both directions' distances together (MedPy ``hd95``).
    - ``assd``: the mean of both directions' distances together, each surface pixel counting once. MONAI's
      symmetric average surface distance and MedPy's ``assd`` are this same number; it is neither the mean of
      the two directed means nor weighted by area (DeepMind's).
    - ``nsd``: the share of both surfaces, weighted by area (in 2D length), that lies within ``tolerance_mm``
      (this included) of the other, in [0, 1] (DeepMind's surface elements).

    The surface of the first three is the pixels of the mask with a face neighbour outside of it; what lies
    beyond the image is outside. Percentiles are interpolated linearly. ``nsd`` takes the corners between
    pixels as surface; a distance is rounded as the oracle rounds it, so ties with the tolerance fall alike.

    One class: plain names. Several: ``"<class>/hd95"`` and so on, and the plain names are the mean over the
    classes without background, NaN left out (infinite if one class is).

    Empty masks, per class: both empty, all four are NaN (left out of means). Only one of them empty: nsd is 0
    and the distances are infinite, to be reported as a count of failed cases beside the mean of the others;
    ``empty="diagonal"`` puts the length of the image's diagonal (its extent, pixels times spacing) there.

    >>> truth = np.zeros((8, 8), int)
    >>> truth[2:5, 2:5] = 1
    >>> case = score(np.roll(truth, 2, axis=1), truth, (1.0, 0.5), tolerance_mm=0.5)
    >>> case["hd95"], case["assd"], round(case["nsd"], 3)
    (1.0, 0.5, 0.621)
    >>> score(np.zeros((6, 8), int), np.ones((6, 8), int))
    {'hd95': inf, 'hd95_pooled': inf, 'assd': inf, 'nsd': 0.0}
    >>> score(np.zeros((6, 8), int), np.ones((6, 8), int), empty="diagonal")["hd95"]
    10.0
    """
    _check_call(classes, tolerance_mm, empty)
    prediction, truth = np.asarray(prediction), np.asarray(truth)
    mm = _check_grid(prediction, truth, spacing)
    check_labels("prediction", prediction, classes, "surfaces need")
    check_labels("truth", truth, classes, "surfaces need")
    failed = math.inf
    if empty == "diagonal":
        failed = math.hypot(*(n * step for n, step in zip(truth.shape, mm, strict=True)))
    each = {
        name: _class_columns(prediction == label, truth == label, mm, tolerance_mm, failed)
        for label, name in enumerate(classes, 1)
    }
    return over_classes(each, SCORES)


def directed_distances(
    prediction: np.ndarray, truth: np.ndarray, spacing: tuple[float, ...] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """From every surface pixel of each mask the distance to the other mask's surface, in mm.

    ``prediction`` and ``truth``: masks of one shape, 2D or 3D, what is not 0 is inside; neither may be empty.
    Returned: ``(n,)`` distances from the prediction's surface and ``(m,)`` from the truth's, in the order in
    which the pixels lie in the array.

    >>> [d.tolist() for d in directed_distances(np.array([[1, 1, 0, 0, 1]]), np.array([[1, 0, 0, 0, 0]]))]
    [[0.0, 1.0, 4.0], [0.0]]
    """
    prediction, truth = np.asarray(prediction) != 0, np.asarray(truth) != 0
    mm = _check_grid(prediction, truth, spacing)
    if not (prediction.any() and truth.any()):
        raise DataError("A mask without foreground has no surface to measure from; leave such a case out.")
    grid, ours, theirs = _cropped(prediction, truth, mm)
    return _both_ways(grid, _surface(grid, ours), _surface(grid, theirs))


def _check_call(classes: Sequence[str], tolerance_mm: float, empty: str) -> None:
    check_classes(classes)
    if not 0 <= tolerance_mm < math.inf:
        raise CallError(f"tolerance_mm must be a length of 0 mm or more, not {tolerance_mm!r}.")
    if empty not in ("count", "diagonal"):
        raise CallError(f"empty must be 'count' or 'diagonal', not {empty!r}.")


def _check_grid(prediction: np.ndarray, truth: np.ndarray, spacing: Sequence[float] | None) -> Spacing:
    """The spacing as numbers, once the masks and it are found to fit."""
    if prediction.shape != truth.shape:
        raise DataError(
            f"The prediction has shape {prediction.shape} and the truth {truth.shape}; "
            "distances need both on one grid, so put the prediction back on the grid of the truth."
        )
    if truth.ndim not in (2, 3) or truth.size == 0:
        raise DataError(
            f"The masks have shape {truth.shape}; surfaces are those of pictures (H, W) or volumes (D, H, W) "
            "with at least one pixel."
        )
    mm = (1.0,) * truth.ndim if spacing is None else tuple(float(step) for step in spacing)
    if len(mm) != truth.ndim:
        raise DataError(
            f"The spacing {mm} has {len(mm)} numbers and the masks have shape {truth.shape}; "
            "give one number in mm for each axis, in the order of the axes."
        )
    if not all(0 < step < math.inf for step in mm):
        raise DataError(f"The spacing {mm} holds what is no length; give positive numbers in mm.")
    return mm


def _class_columns(
    prediction: np.ndarray, truth: np.ndarray, spacing: Spacing, tolerance_mm: float, failed: float
) -> dict[str, float | int]:
    """The columns of two bool masks; ``failed`` is the distance where one of them is empty."""
    there = int(prediction.any()) + int(truth.any())
    if there < 2:
        distance, share = (failed, 0.0) if there else (math.nan, math.nan)
        return dict.fromkeys(SCORES, distance) | {"nsd": share}
    grid, *masks = _cropped(prediction, truth, spacing)
    ours, theirs = _both_ways(grid, _surface(grid, masks[0]), _surface(grid, masks[1]))
    return {
        "hd95": float(max(np.percentile(ours, PERCENTILE), np.percentile(theirs, PERCENTILE))),
        "hd95_pooled": float(np.percentile(np.concatenate([ours, theirs]), PERCENTILE)),
        "assd": float((ours.sum() + theirs.sum()) / (ours.size + theirs.size)),
        "nsd": _nsd(grid, masks[0], masks[1], tolerance_mm),
    }


@dataclass(frozen=True)
class _Grid:
    """A box around two masks, padded so far that no step to a near place leaves it; arrays on it lie flat."""

    shape: tuple[int, ...]
    spacing: Spacing
    strides: np.ndarray  # (rank,) what one step along each axis is on the flat array
    shells: Shells  # with (k,) shifts on the flat array


def _cropped(prediction: np.ndarray, truth: np.ndarray, spacing: Spacing) -> tuple[_Grid, np.ndarray, np.ndarray]:
    """The box around the union and both masks on it, flat, bool. The union must not be empty."""
    union, box = prediction | truth, []
    for axis in range(union.ndim):
        across = tuple(a for a in range(union.ndim) if a != axis)
        inside = np.flatnonzero(union.any(axis=across))
        box.append(slice(int(inside[0]), int(inside[-1]) + 1))
        union = union[(slice(None),) * axis + (box[-1],)]
    shells = _shells(spacing, NEAR * min(spacing))
    pad = np.max([steps.max(axis=0) for _, steps in shells], axis=0) + 1
    shape = tuple(int(n) for n in np.array(union.shape) + 2 * pad)
    inner = tuple(slice(p, p + n) for p, n in zip(pad, union.shape, strict=True))
    ours, theirs = np.zeros(shape, bool), np.zeros(shape, bool)
    ours[inner], theirs[inner] = prediction[tuple(box)], truth[tuple(box)]
    strides = np.array(ours.strides)
    shifts = tuple((length, steps @ strides) for length, steps in shells)
    return _Grid(shape, spacing, strides, shifts), ours.ravel(), theirs.ravel()


@lru_cache(maxsize=64)
def _shells(spacing: Spacing, radius: float) -> Shells:
    """All steps to places within ``radius`` mm, ``(k, rank)`` ints, by their length, the shortest first."""
    radius *= 1 + 1e-9  # a place at the very radius is in, however its length was rounded
    reach = [int(radius / step) for step in spacing]
    steps = np.array(list(itertools.product(*(range(-n, n + 1) for n in reach))))
    lengths = _lengths(steps.T, spacing)
    kept = np.flatnonzero(lengths <= radius)
    kept = kept[np.argsort(lengths[kept], kind="stable")]
    steps, lengths = steps[kept], lengths[kept]
    ends = np.flatnonzero(np.diff(lengths)) + 1
    return tuple((float(lengths[part[0]]), steps[part]) for part in np.split(np.arange(len(kept)), ends))


def _lengths(steps: np.ndarray, spacing: Spacing) -> np.ndarray:
    """``(rank, n)`` ints -> ``(n,)`` mm, rounded as SciPy's distance transform does."""
    mm = steps * np.array(spacing)[:, None]
    return np.sqrt(np.add.reduce(mm * mm, axis=0))


def _surface(grid: _Grid, mask: np.ndarray) -> np.ndarray:
    """Where the mask has a face neighbour outside of it: flat bool -> flat bool."""
    inner = mask.copy()
    for stride in grid.strides:
        inner[stride:] &= mask[:-stride]
        inner[:-stride] &= mask[stride:]
    return mask & ~inner


def _codes(grid: _Grid, mask: np.ndarray) -> np.ndarray:
    """Which of the 4 or 8 pixels around each pixel's lower corner are inside, one bit each: flat uint8."""
    bits = mask.view(np.uint8)
    codes = np.zeros_like(bits)
    for bit, steps in enumerate(itertools.product((0, 1), repeat=len(grid.shape))):
        back = int(np.dot(steps, grid.strides))
        codes[back:] |= bits[: bits.size - back] << np.uint8(bit)
    return codes


def _both_ways(
    grid: _Grid, ours: np.ndarray, theirs: np.ndarray, limit: float = math.inf
) -> tuple[np.ndarray, np.ndarray]:
    """The distances from each True place of ``ours`` to the nearest of ``theirs``, and back (flat bool arrays)."""
    return (
        _nearest(grid, np.flatnonzero(ours), theirs, limit),
        _nearest(grid, np.flatnonzero(theirs), ours, limit),
    )


def _nearest(grid: _Grid, points: np.ndarray, target: np.ndarray, limit: float) -> np.ndarray:
    """``(n,)`` distances in mm from ``points`` (flat indices); right up to ``limit``, beyond it just larger.

    Most points have the other surface close by: places are looked up from the nearest outwards, the first hit
    is the distance. What is found nowhere near is left to a tree or a distance transform.
    """
    found = np.full(points.size, math.inf)
    unfound = [np.empty(0, np.intp)]
    for start in range(0, points.size, BLOCK):
        waiting = points[start : start + BLOCK]
        rows = np.arange(start, start + waiting.size)
        for length, shifts in grid.shells:
            if length > limit or not rows.size:
                break
            hit = target[waiting + shifts[:, None]].any(axis=0)
            found[rows[hit]] = length
            waiting, rows = waiting[~hit], rows[~hit]
        unfound.append(rows)
    rows = np.concatenate(unfound)
    if rows.size and limit > grid.shells[-1][0]:
        found[rows] = _far(grid, points[rows], target, limit)
    return found


def _far(grid: _Grid, points: np.ndarray, target: np.ndarray, limit: float) -> np.ndarray:
    """As ``_nearest``, at any distance: a tree of the target's places, or for many points a distance transform."""
    here = np.stack(np.unravel_index(points, grid.shape))
    if points.size * VOXELS_PER_QUERY > target.size:
        nearest = ndimage.distance_transform_edt(
            ~target.reshape(grid.shape), sampling=grid.spacing, return_distances=False, return_indices=True
        )
        return _lengths(nearest.reshape(len(grid.shape), -1)[:, points] - here, grid.spacing)
    places = np.stack(np.unravel_index(np.flatnonzero(target), grid.shape))
    mm = np.array(grid.spacing)
    tree = cKDTree(places.T * mm, leafsize=32, balanced_tree=False, compact_nodes=False)
    _, index = tree.query(here.T * mm, distance_upper_bound=limit * (1 + 1e-9))
    none_within = places.shape[1]  # what the tree answers then; any place will do, it is beyond the limit
    return _lengths(places[:, np.minimum(index, none_within - 1)] - here, grid.spacing)


def _nsd(grid: _Grid, prediction: np.ndarray, truth: np.ndarray, tolerance_mm: float) -> float:
    areas = _areas(grid.spacing)
    codes = [_codes(grid, mask) for mask in (prediction, truth)]
    corners = [(code != 0) & (code != len(areas) - 1) for code in codes]
    both = _both_ways(grid, corners[0], corners[1], limit=tolerance_mm)
    within = total = 0.0
    for code, corner, distances in zip(codes, corners, both, strict=True):
        area = areas[code[corner]]
        total += float(area.sum())
        within += float(area[distances <= tolerance_mm].sum())
    return within / total


@lru_cache(maxsize=64)
def _areas(spacing: Spacing) -> np.ndarray:
    """``(16,)`` mm or ``(256,)`` mm²: the surface that runs through a corner, by which pixels around it are inside."""
    rank = len(spacing)
    last = 2 ** (2**rank) - 1
    faces = np.array([math.prod(spacing[:axis] + spacing[axis + 1 :]) for axis in range(rank)])
    areas = np.zeros(last + 1)
    with NORMALS.open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(line for line in stream if not line.startswith("#")):
            if int(row["rank"]) == rank:
                normals = np.array([[int(digit) / 8 for digit in group] for group in row["normals"].split()])
                code = int(row["code"])
                areas[code] = areas[last - code] = np.linalg.norm(normals * faces, axis=1).sum()
    return areas
