"""Near-duplicates: one thing pictured under several ids, found by what the pictures show.

Two pictures are near-duplicates if their fine detail agrees (hair, dots, ruler marks), turned or mirrored or not; that
both show a dark spot in the middle says nothing, so what is coarse is taken away first. Nor does one and the same frame
(a microscope's dark rim, a coloured marker): each place counts relative to how strong the detail around it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from crossmask.data.images import read_image
from crossmask.data.manifest import Case

SIDE = 64  # pixels of the small picture that is compared
COARSE = 3.0  # standard deviation, in its pixels, of what is taken away
FAINT = 0.01  # strength of detail, black to white being 1, below which it is noise
LIKENESS = 0.75  # correlation of the details above which two pictures are near-duplicates
BLOCK = 512


def detail(pixels: np.ndarray) -> np.ndarray:
    """(1, h, w) in [0, 1] -> (SIDE, SIDE): the fine detail, mean 0 and length 1 (0 for a picture without any)."""
    small = np.asarray(Image.fromarray(pixels[0]).resize((SIDE, SIDE), Image.Resampling.BOX), np.float32)
    fine = small - ndimage.gaussian_filter(small, COARSE, mode="nearest")
    fine /= np.sqrt(ndimage.gaussian_filter(fine**2, COARSE, mode="nearest") + FAINT**2)
    fine -= fine.mean()
    length = float(np.linalg.norm(fine))
    return fine / length if length > 1e-6 else np.zeros_like(fine)


def clusters(
    cases: Sequence[Case], *, likeness: float = LIKENESS, tick: Callable[[int, int], None] | None = None
) -> list[tuple[str, ...]]:
    """The ids of near-duplicates (by each case's first picture), two or more together. Raises DataError for a picture
    that cannot be read."""
    details = details_of(cases, tick)
    pairs = [(i, j) for i, j in alike(details, details, likeness) if i < j]
    labels = joined(len(cases), pairs)
    members: dict[int, list[str]] = {}
    for case, label in zip(cases, labels.tolist(), strict=True):
        members.setdefault(label, []).append(case.id)
    return [tuple(ids) for ids in members.values() if len(ids) > 1]


def shared(
    cases: Sequence[Case],
    others: Sequence[Case],
    *,
    likeness: float = LIKENESS,
    tick: Callable[[int, int], None] | None = None,
) -> dict[str, list[str]]:
    """Which cases show a picture that ``others`` hold too: id -> their ids. Raises DataError for one that cannot be
    read."""
    details = details_of([*cases, *others], tick)
    found: dict[str, list[str]] = {}
    for i, j in alike(details[: len(cases)], details[len(cases) :], likeness):
        found.setdefault(cases[i].id, []).append(others[j].id)
    return found


def details_of(cases: Sequence[Case], tick: Callable[[int, int], None] | None = None) -> np.ndarray:
    """(N, SIDE, SIDE) of each case's first picture."""
    details = np.zeros((len(cases), SIDE, SIDE), np.float32)
    for place, case in enumerate(cases):
        details[place] = detail(read_image(next(iter(case.images.values())), channels=1).unit())
        if tick:
            tick(place + 1, len(cases))
    return details


def alike(details: np.ndarray, others: np.ndarray, likeness: float) -> list[tuple[int, int]]:
    """Pairs (i, j) whose details correlate, one of them turned or mirrored."""
    flat = details.reshape(len(details), -1)
    found: set[tuple[int, int]] = set()
    for mirrored in (others, others[:, :, ::-1]):
        for quarters in range(4):
            turned = np.rot90(mirrored, quarters, (1, 2)).reshape(len(others), -1)
            for start in range(0, len(flat), BLOCK):
                rows, columns = np.nonzero(flat[start : start + BLOCK] @ turned.T >= likeness)
                found |= set(zip((rows + start).tolist(), columns.tolist(), strict=True))
    return sorted(found)


def joined(count: int, pairs: Sequence[tuple[int, int]]) -> np.ndarray:
    """(count,) the same number for all that pairs connect."""
    one, other = np.array(pairs, int).reshape(-1, 2).T
    graph = coo_array((np.ones(len(one), bool), (one, other)), (count, count))
    return connected_components(graph, directed=False)[1]
