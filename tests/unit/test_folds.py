"""Folds: every patient is tested once, and never in the fold that trains on him."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from crossmask.cli import app
from crossmask.data import folds, manifest
from crossmask.data.manifest import Case
from crossmask.errors import CallError, DataError


def case(name: int, group: str | None, modalities: tuple[str, ...] = ("flair", "t1")) -> Case:
    return Case(f"c{name}", {m: f"{name}_{m}.nii" for m in modalities}, group=group, mask=f"{name}_seg.nii")


@given(st.lists(st.sampled_from("abcdefghij"), min_size=12, max_size=40), st.integers(2, 3), st.integers(0, 5))
def test_every_patient_is_tested_once(groups: list[str], count: int, seed: int) -> None:
    cases = [case(n, g) for n, g in enumerate(groups)]
    if len(set(groups)) < count:
        return
    made = folds.add(cases, count, seed=seed)
    for one in made:
        assert sorted(one.splits.values()).count("test") == 1
    for n in range(count):
        tested = {c.group for c in made if c.splits[f"fold{n + 1}"] == "test"}
        learnt = {c.group for c in made if c.splits[f"fold{n + 1}"] == "train"}
        assert tested
        assert not tested & learnt
    assert folds.add(cases, count, seed=seed) == made


def test_cases_that_lack_a_modality_stand_apart() -> None:
    cases = [*(case(n, str(n)) for n in range(4)), case(9, "9", ("flair",))]
    made = folds.add(cases, 2, need=["flair", "t1"], rest="flair-only")
    assert made[-1].splits == {"fold1": "flair-only", "fold2": "flair-only"}
    with pytest.raises(CallError, match="no column 'image:t2'"):
        folds.add(cases, 2, need=["t2"])
    with pytest.raises(DataError, match="6 folds need as many patients with a mask and flair and t1, there are 4"):
        folds.add(cases, 6, need=["flair", "t1"])


@pytest.mark.parametrize("rest", ["flair-only", "train"])
def test_another_visit_of_a_patient_is_not_on_the_other_side(rest: str) -> None:
    lacking = replace(case(9, "0", ("flair",)), id="visit2")
    made = folds.add([*(case(n, str(n)) for n in range(4)), lacking], 2, need=["flair", "t1"], rest=rest)
    for fold in ("fold1", "fold2"):
        of_patient, other = made[0].splits[fold], made[-1].splits[fold]
        assert other == (rest if (rest == "train") == (of_patient == "train") else "unused")


@pytest.mark.parametrize("given", ["--near-duplicates", "--name x"])
def test_what_goes_with_parts_alone_is_refused_with_folds(given: str, tmp_path: Path) -> None:
    table = manifest.write(tmp_path / "cases.csv", [])
    done = CliRunner().invoke(app, ["data", "split", str(table), *given.split()])
    assert isinstance(done.exception, CallError)
    assert f"{given.split()[0]}: goes with --parts alone" in str(done.exception)


def test_command_line(tmp_path: Path) -> None:
    cases = [case(n, str(n)) for n in range(4)]
    for one in cases:
        for file in (*one.images.values(), one.mask):
            (tmp_path / str(file)).touch()
    manifest.write(
        tmp_path / "cases.csv",
        [
            Case(
                c.id,
                {m: str(tmp_path / f) for m, f in c.images.items()},
                group=c.group,
                mask=str(tmp_path / str(c.mask)),
            )
            for c in cases
        ],
    )
    told = CliRunner().invoke(app, ["data", "split", str(tmp_path / "cases.csv"), "--folds", "2", "--need", "flair,t1"])
    assert told.exit_code == 0, told.output
    again = manifest.read(tmp_path / "cases.csv")
    assert {"fold1", "fold2"} == set(again[0].splits)
