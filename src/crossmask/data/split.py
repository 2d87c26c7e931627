"""Parts of a data set. Splitting acts on groups (patients); cases without one are split by image and counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from crossmask.core import rng
from crossmask.data.manifest import Case
from crossmask.errors import CallError, DataError, name_list
from crossmask.rooms import near_miss

SELECTION = "selection"  # the part of train that chooses epoch and threshold
UNLABELLED = "unlabelled"  # the part of train whose masks are not there or not shown
UNUSED = "unused"
LEARNT = ("train", SELECTION, UNLABELLED)


@dataclass(frozen=True)
class Split:
    """Which part each case is in (id -> part), and what was noticed."""

    parts: Mapping[str, str]
    ungrouped: int  # cases without a group
    shared_groups: Mapping[str, int]  # part -> its groups that are in train (or selection) too

    def ids(self, part: str) -> list[str]:
        return [i for i, p in self.parts.items() if p == part]


def make(
    cases: Sequence[Case], *, name: str = "", selection: float | str = 0.1, labelled: float | str = "all", seed: int = 0
) -> Split:
    """Read the split column ``split:<name>`` (or make one: 70 % train, 10 % valid, 20 % test, by group), then set
    some of train aside for selection and hide the masks of some, by group.

    selection: a share of train, a number of groups (1 or more), or the name of a part that chooses instead.
    labelled: 'all', a share of what is left (below 1), or a number of groups (1 or more); the lists of one seed are
    nested, so that 10 % holds the 5 %.
    """
    parts = column(cases, name, seed)
    train = [case for case in cases if parts[case.id] == "train"]
    if not train:
        raise DataError("no case is in the part 'train'; write 'train' into the split column of some rows.")
    if isinstance(selection, str):
        if selection not in parts.values():
            known = sorted(set(parts.values()))
            raise CallError(f"data.selection: no case is in the part '{selection}'. There are: {name_list(known)}.")
        parts |= {i: SELECTION for i, part in parts.items() if part == selection}
    elif selection > 0:
        parts |= set_aside(train, selection, seed)
    shown = [case for case in train if parts[case.id] == "train" and case.mask]
    parts |= {case.id: UNLABELLED for case in train if parts[case.id] == "train" and not case.mask}
    if labelled != "all":
        parts |= hide(shown, float(labelled), seed)
    learnt = {c.group for c in cases if c.group and parts[c.id] in LEARNT}
    shared: dict[str, set[str]] = {}
    for case in cases:
        if parts[case.id] not in (*LEARNT, UNUSED):
            shared.setdefault(parts[case.id], set())
            if case.group in learnt and case.group:
                shared[parts[case.id]].add(case.group)
    return Split(parts, sum(c.group is None for c in cases), {p: len(g) for p, g in shared.items()})


def column(cases: Sequence[Case], name: str, seed: int) -> dict[str, str]:
    """id -> part, from the manifest's column or drawn."""
    known = sorted({n for case in cases for n in case.splits})
    if name not in known and (name or known):
        shown = [f"split:{n}" if n else "split" for n in known]
        wanted = f"split:{name}" if name else "split"
        raise CallError(
            f"data.split: the manifest has no column '{wanted}'{near_miss(wanted, shown)} It has: {name_list(shown)}."
        )
    if name in known:
        return {case.id: case.splits.get(name, UNUSED) for case in cases}
    return draw(cases, {"train": 0.7, "valid": 0.1, "test": 0.2}, seed)


def set_aside(train: Sequence[Case], selection: float, seed: int) -> dict[str, str]:
    """Part of train for selection, by group: a share of the cases with a mask, or a number of groups that have one. The
    cases without a mask of a group that is set aside go with it."""
    shown = [case for case in train if case.mask]
    units = {unit(case) for case in shown}
    if not units:
        return {}
    if selection < 1:
        drawn = draw(shown, {SELECTION: selection, "train": 1 - selection}, seed)
        chosen = {unit(case) for case in shown if drawn[case.id] == SELECTION}
    else:
        chosen = set(shuffled(shown, seed, "selection")[: int(selection)])
    if not chosen or len(chosen) == len(units) or len(chosen) < int(selection):
        share = f"{selection:.0%}" if selection < 1 else f"{selection:g}"
        raise DataError(
            f"train has too few groups with a mask ({len(units)}) to set {share} aside for selection; add cases or "
            "change data.selection."
        )
    return {case.id: SELECTION for case in train if unit(case) in chosen}


def hide(shown: Sequence[Case], labelled: float, seed: int) -> dict[str, str]:
    """Which of the labelled train cases hide their masks: all but the first groups of one shuffled list."""
    units = shuffled(shown, seed, "labelled")
    if labelled >= 1:
        if len(units) < labelled:
            raise DataError(f"data.labelled: train has {len(units)} groups with masks, not {labelled:g}.")
        keep = set(units[: int(labelled)])
    else:
        sizes = Counter(unit(case) for case in shown)
        before = np.cumsum([0, *(sizes[one] for one in units)])[:-1]  # cases in the groups before this one
        keep = {one for one, seen in zip(units, before.tolist(), strict=True) if seen < labelled * len(shown)}
    return {case.id: UNLABELLED for case in shown if unit(case) not in keep}


def shuffled(cases: Sequence[Case], seed: int, what: str) -> list[tuple[str, str]]:
    """The groups of these cases in a fixed random order."""
    units = sorted({unit(case) for case in cases})
    rng(seed, what).shuffle(units)
    return units


def unit(case: Case) -> tuple[str, str]:
    """What is kept together: the group, or the case alone where none is known."""
    return ("group", case.group) if case.group else ("case", case.id)


def draw(cases: Sequence[Case], shares: Mapping[str, float], seed: int) -> dict[str, str]:
    """Deal units to parts so that the shares of cases are met as nearly as whole units allow."""
    members: dict[tuple[str, str], list[str]] = {}
    for case in sorted(cases, key=lambda c: c.id):
        members.setdefault(unit(case), []).append(case.id)
    units = list(members)
    rng(seed, "split").shuffle(units)
    left = {part: share * len(cases) for part, share in shares.items()}
    parts: dict[str, str] = {}
    for one in units:
        part = max(left, key=lambda p: left[p])
        left[part] -= len(members[one])
        parts |= dict.fromkeys(members[one], part)
    return parts
