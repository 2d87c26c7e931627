"""Parts of a data set. Splitting acts on groups (patients); cases without one are split by image and counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from crossmask.core import rng
from crossmask.data.manifest import Case
from crossmask.errors import CallError, DataError, name_list
from crossmask.rooms import near_miss

SELECTION = "selection"  # the part of train that chooses epoch and threshold
UNUSED = "unused"


@dataclass(frozen=True)
class Split:
    """Which part each case is in (id -> part), and what was noticed."""

    parts: Mapping[str, str]
    ungrouped: int  # cases without a group
    shared_groups: Mapping[str, int]  # part -> its groups that are in train (or selection) too

    def ids(self, part: str) -> list[str]:
        return [i for i, p in self.parts.items() if p == part]


def make(cases: Sequence[Case], *, name: str = "", selection: float = 0.1, seed: int = 0) -> Split:
    """Read the split column ``split:<name>`` (or make one: 70 % train, 10 % valid, 20 % test, by group), then set
    a share of train aside for selection, by group."""
    known = sorted({n for case in cases for n in case.splits})
    if name not in known and (name or known):
        shown = [f"split:{n}" if n else "split" for n in known]
        wanted = f"split:{name}" if name else "split"
        raise CallError(
            f"data.split: the manifest has no column '{wanted}'{near_miss(wanted, shown)} It has: {name_list(shown)}."
        )
    if name in known:
        parts = {case.id: case.splits.get(name, UNUSED) for case in cases}
    else:
        parts = draw(cases, {"train": 0.7, "valid": 0.1, "test": 0.2}, seed)
    train = [case for case in cases if parts[case.id] == "train"]
    if not train:
        raise DataError("no case is in the part 'train'; write 'train' into the split column of some rows.")
    if selection > 0:
        drawn = draw(train, {SELECTION: selection, "train": 1 - selection}, seed)
        if SELECTION not in drawn.values() or "train" not in drawn.values():
            raise DataError(
                f"train has too few groups ({len({unit(c) for c in train})}) to set {selection:.0%} aside for "
                "selection; add cases or change data.selection."
            )
        parts |= drawn
    learnt = {c.group for c in cases if c.group and parts[c.id] in ("train", SELECTION)}
    shared: dict[str, set[str]] = {}
    for case in cases:
        if parts[case.id] not in ("train", SELECTION, UNUSED):
            shared.setdefault(parts[case.id], set())
            if case.group in learnt and case.group:
                shared[parts[case.id]].add(case.group)
    return Split(parts, sum(c.group is None for c in cases), {p: len(g) for p, g in shared.items()})


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
