"""Folds: split columns in which every patient is tested once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from crossmask.data.manifest import Case
from crossmask.data.split import UNUSED, shuffled, unit
from crossmask.errors import CallError, DataError


def add(
    cases: Sequence[Case], count: int, *, need: Sequence[str] = (), rest: str = UNUSED, seed: int = 0
) -> list[Case]:
    """The cases with columns ``split:fold1`` ... ``split:fold<count>``: test for one share of the patients, train for
    the
    others. Same seed, same folds.

    need: modalities that a case must have (and a mask) to take part; the other cases are put into the part ``rest``.
    Raises DataError if there are fewer patients than folds.
    """
    if count < 2:
        raise CallError(f"--folds {count}: two or more are folds.")
    known = {name for case in cases for name in case.images}
    unknown = sorted(set(need) - known)
    if unknown:
        raise CallError(f"--need {unknown[0]}: the manifest has no column 'image:{unknown[0]}'.")
    taking_part = [c for c in cases if c.mask and all(n in c.images for n in need)]
    units = shuffled(taking_part, seed, "folds")
    if len(units) < count:
        what = " and ".join(need) or "an image"
        raise DataError(f"{count} folds need as many patients with a mask and {what}, there are {len(units)}.")
    fold_of = {one: place % count for place, one in enumerate(units)}
    ids = {c.id for c in taking_part}
    found = []
    for case in cases:
        own = fold_of[unit(case)] if case.id in ids else None
        columns = {f"fold{n + 1}": rest if own is None else "test" if own == n else "train" for n in range(count)}
        found.append(replace(case, splits={**case.splits, **columns}))
    return found
