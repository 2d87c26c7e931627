"""Parts of a data set: groups stay together, whatever the rows' order, and what is odd is counted or refused."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossmask.data.manifest import Case
from crossmask.data.split import SELECTION, UNUSED, draw, make, unit
from crossmask.errors import CallError, DataError


def case(name: object, group: str | None = None, **splits: str) -> Case:
    return Case(
        id=str(name),
        images={"": f"{name}.png"},
        mask=f"{name}_mask.png",
        group=group,
        splits={k.strip("_"): v for k, v in splits.items()},
    )


GROUPED = st.lists(st.none() | st.sampled_from("abcdefghijklmnop"), min_size=12, max_size=60)


@settings(max_examples=100, deadline=None)
@given(groups=GROUPED, seed=st.integers(0, 5), order=st.randoms())
def test_groups_never_straddle_and_the_order_of_rows_is_nothing(groups, seed, order):
    cases = [case(n, group) for n, group in enumerate(groups)]
    shuffled = list(cases)
    order.shuffle(shuffled)
    try:
        made = make(cases, seed=seed)
    except DataError:  # a few large groups cannot be dealt in such shares
        with pytest.raises(DataError, match="too few groups"):
            make(shuffled, seed=seed)
        return
    parts: dict[str, set[str]] = {}
    for c in cases:
        if c.group:
            parts.setdefault(c.group, set()).add(made.parts[c.id])
    assert all(len(there) == 1 for there in parts.values())
    assert made.parts.keys() == {c.id for c in cases}
    assert made.ungrouped == groups.count(None)
    assert not any(made.shared_groups.values())
    assert make(shuffled, seed=seed).parts == made.parts


def test_a_drawn_split_meets_its_shares():
    made = make([case(n) for n in range(1000)])
    assert Counter(made.parts.values()) == {"train": 630, SELECTION: 70, "valid": 100, "test": 200}
    assert len(made.ids("test")) == 200
    assert make([case(n) for n in range(1000)], seed=1).parts != made.parts


def test_a_given_split_is_kept_but_for_the_selection():
    rows = [case(n, f"g{n}", lvit="train" if n < 40 else "valid" if n < 50 else "test") for n in range(60)]
    rows.append(case("x", None))
    made = make(rows, name="lvit")
    assert made.ids("valid") == [str(n) for n in range(40, 50)]
    assert made.ids("test") == [str(n) for n in range(50, 60)]
    assert made.ids(UNUSED) == ["x"]
    assert len(made.ids(SELECTION)) == 4
    assert made.ungrouped == 1
    assert make(rows, name="lvit", selection=0).ids(SELECTION) == []


def test_groups_shared_with_train_are_counted_by_part():
    rows = [case(n, f"g{n}", _="train") for n in range(20)]
    rows += [case(f"v{n}", f"g{n}", _="valid") for n in range(3)] + [
        case("w", "new", _="valid"),
        case("t", "g0", _="test"),
    ]
    rows += [case("u", "g1", _="test"), case("u2", "g1", _="test"), case("n", None, _="test")]
    made = make(rows)
    assert made.shared_groups == {"valid": 3, "test": 2}


@pytest.mark.parametrize(("name", "hint"), [("lvti", "did you mean 'split:lvit'?"), ("", "'split', did you mean")])
def test_an_unknown_split_suggests_the_near_miss(name, hint):
    with pytest.raises(CallError) as caught:
        make([case(n, lvit="train") for n in range(20)], name=name)
    assert hint in str(caught.value)


def test_too_few_groups_are_a_sentence():
    with pytest.raises(DataError, match=r"train has too few groups with a mask \(1\) to set 10% aside for selection"):
        make([case(n, "only", _="train") for n in range(10)])
    with pytest.raises(DataError, match="no case is in the part 'train'"):
        make([case(n, f"{n}", _="test") for n in range(10)])


def test_a_case_and_a_group_of_one_name_are_two():
    assert unit(case("a")) != unit(case("b", "a"))


def test_a_large_group_goes_whole():
    rows = [case(n, "big" if n < 50 else None) for n in range(100)]
    parts = draw(rows, {"train": 0.7, "test": 0.3}, 0)
    assert len({parts[str(n)] for n in range(50)}) == 1
    assert set(parts.values()) == {"train", "test"}


@given(st.integers(0, 20), st.sampled_from([0.05, 0.1, 0.3, 2, 5]))
def test_labelled_lists_are_fixed_nested_and_by_patient(seed: int, labelled: float):
    cases = [case(n, f"p{n // 3}") for n in range(90)]
    made = make(cases, labelled=labelled, selection=3, seed=seed)
    assert made == make(cases, labelled=labelled, selection=3, seed=seed)
    shown = {c.group for c in cases if made.parts[c.id] == "train"}
    hidden = {c.group for c in cases if made.parts[c.id] == "unlabelled"}
    chosen = {c.group for c in cases if made.parts[c.id] == SELECTION}
    assert len(chosen) == 3
    assert not shown & hidden
    assert not chosen & (shown | hidden)
    count = sum(part in ("train", "unlabelled") for part in made.parts.values())
    if labelled >= 1:
        assert len(shown) == labelled
    else:
        assert labelled * count <= sum(part == "train" for part in made.parts.values()) < labelled * count + 3
    more = make(cases, labelled=0.5, selection=3, seed=seed)
    assert shown <= {c.group for c in cases if more.parts[c.id] == "train"}


def test_a_part_of_the_manifest_may_choose():
    cases = [case(n, f"p{n}", _="valid" if n < 5 else "train") for n in range(20)]
    made = make(cases, selection="valid")
    assert Counter(made.parts.values()) == {SELECTION: 5, "train": 15}
    with pytest.raises(CallError, match="no case is in the part 'vaild'"):
        make(cases, selection="vaild")
    with pytest.raises(DataError, match="too few groups"):
        make(cases, selection=15)
    with pytest.raises(DataError, match="train has 15 groups with masks, not 30"):
        make(cases, selection=0, labelled=30)


@pytest.mark.parametrize("seed", range(6))
def test_a_share_for_selection_is_of_the_cases_with_a_mask(seed: int):
    cases = [case(n, f"p{n % 100}", _="train") for n in range(200)]
    cases = [c if n < 20 else replace(c, mask=None) for n, c in enumerate(cases)]
    made = make(cases, selection=0.1, seed=seed)
    chosen = {c.group for c in cases if made.parts[c.id] == SELECTION}
    assert len(chosen) == 2
    assert Counter(made.parts.values()) == {"train": 18, SELECTION: 4, "unlabelled": 178}  # a patient goes whole


def test_train_without_masks_is_unlabelled():
    cases = [case(n) if n % 2 else replace(case(n), mask=None) for n in range(20)]
    made = make(cases, selection=0)
    masked = {c.id for c in cases if c.mask}
    assert {i for i, p in made.parts.items() if p == "train"} <= masked
    assert not {i for i, p in made.parts.items() if p == "unlabelled"} & masked
