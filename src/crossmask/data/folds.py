"""Split columns for a manifest: folds, in which every patient is tested once, and parts of given shares."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from crossmask.data.manifest import Case
from crossmask.data.near import joined
from crossmask.data.split import LEARNT, UNUSED, draw, shuffled, unit
from crossmask.errors import CallError, DataError


def add(
    cases: Sequence[Case], count: int, *, need: Sequence[str] = (), rest: str = UNUSED, seed: int = 0
) -> list[Case]:
    """The cases with columns ``split:fold1`` ... ``split:fold<count>``: test for one share of the patients, train for
    the others. Same seed, same folds.

    need: modalities that a case must have (and a mask) to take part; the other cases are put into the part ``rest``
    (``unused`` in a fold that has another visit of the patient on the other side).
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
        own = fold_of.get(unit(case))
        columns = {}
        for n in range(count):
            of_patient = None if own is None else "test" if own == n else "train"
            columns[f"fold{n + 1}"] = of_patient if of_patient and case.id in ids else beside(rest, of_patient)
        found.append(replace(case, splits={**case.splits, **columns}))
    return found


def beside(rest: str, part: str | None) -> str:
    """Where a case that takes no part goes whose patient does (by another visit): not to the other side of the split.

    >>> beside("flair-only", None), beside("flair-only", "test"), beside("flair-only", "train"), beside("train", "test")
    ('flair-only', 'flair-only', 'unused', 'unused')
    """
    return rest if part is None or (rest in LEARNT) == (part == "train") else UNUSED


def parts(
    cases: Sequence[Case],
    shares: Mapping[str, float],
    *,
    name: str = "",
    together: Sequence[Sequence[str]] = (),
    seed: int = 0,
) -> list[Case]:
    """The cases with a column ``split`` (``split:<name>``): each patient in one part, the shares met as nearly as whole
    patients allow. together: ids that stay in one part although no group says so (near-duplicates)."""
    if not shares or any(not share > 0 for share in shares.values()) or abs(sum(shares.values()) - 1) > 1e-6:
        told = ",".join(f"{part}={share:g}" for part, share in shares.items())
        raise CallError(
            f"--parts {told}: the shares must be positive and add up to 1, as in train=0.7,valid=0.1,test=0.2."
        )
    place = {case.id: n for n, case in enumerate(cases)}
    first: dict[str, int] = {}
    pairs = [(first.setdefault(case.group, n), n) for n, case in enumerate(cases) if case.group]
    pairs += [(place[ids[0]], place[other]) for ids in together for other in ids[1:]]
    units = joined(len(cases), pairs)
    drawn = draw([replace(c, group=str(u)) for c, u in zip(cases, units, strict=True)], shares, seed)
    return [replace(case, splits={**case.splits, name: drawn[case.id]}) for case in cases]


def without(cases: Sequence[Case], ids: Collection[str]) -> list[Case]:
    """The cases, those of these ids and of their patients in the part 'unused' of every split; where there is no split
    yet, without them."""
    units = {unit(case) for case in cases if case.id in ids}
    names = {name for case in cases for name in case.splits}
    if not names:
        return [case for case in cases if unit(case) not in units]
    return [replace(c, splits=dict.fromkeys(names, UNUSED)) if unit(c) in units else c for c in cases]
