"""Near-duplicates are found by their detail, and parts keep them and patients together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from crossmask.cli import app
from crossmask.data import folds, manifest, near
from crossmask.data.manifest import Case
from crossmask.errors import CallError


def lesion(seed: int, size: int = 160) -> Image.Image:
    """A dark spot in the middle, as all of them have, and detail of its own."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size - 0.5
    spot = 190 - 110 * np.exp(-(x**2 + y**2) / 0.04)
    rough = np.asarray(Image.fromarray(random.normal(0, 1, (40, 40)).astype(np.float32)).resize((size, size)))
    grey = (spot + 14 * rough).clip(0, 255)
    return Image.fromarray(np.stack([grey, 0.8 * grey, 0.7 * grey], -1).astype(np.uint8))


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[Case]:
    folder = tmp_path_factory.mktemp("skin")
    pictures = {f"lesion{n}": lesion(n) for n in range(12)}
    pictures["turned"] = pictures["lesion0"].transpose(Image.Transpose.ROTATE_90)
    pictures["mirrored"] = pictures["lesion0"].transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    pictures["smaller"] = pictures["lesion1"].resize((120, 120), Image.Resampling.LANCZOS)
    bright = np.asarray(pictures["lesion2"], np.float32) * 0.8 + 30
    pictures["brighter"] = Image.fromarray(bright.clip(0, 255).astype(np.uint8))
    for name, picture in pictures.items():
        picture.save(folder / f"{name}.jpg", quality=85)
    return [Case(name, {"": str(folder / f"{name}.jpg")}) for name in pictures]


def test_near_duplicates_are_found_and_nothing_else(cases: list[Case]) -> None:
    found = {frozenset(ids) for ids in near.clusters(cases)}
    assert found == {
        frozenset({"lesion0", "turned", "mirrored"}),
        frozenset({"lesion1", "smaller"}),
        frozenset({"lesion2", "brighter"}),
    }


def test_one_and_the_same_frame_makes_no_duplicates(tmp_path: Path) -> None:
    y, x = np.mgrid[:160, :160] - 79.5
    light = 1 / (1 + np.exp(np.hypot(y, x) - 72))  # a microscope's dark rim: the strongest edge, the same everywhere
    for n in range(4):
        framed = (np.asarray(lesion(n)) * light[..., None]).astype(np.uint8)
        Image.fromarray(framed).save(tmp_path / f"{n}.png")
    assert near.clusters([Case(str(n), {"": str(tmp_path / f"{n}.png")}) for n in range(4)]) == []


def test_pictures_without_detail_are_no_duplicates(tmp_path: Path) -> None:
    for name in ("a", "b"):
        Image.new("L", (80, 80), 100).save(tmp_path / f"{name}.png")
    assert near.clusters([Case(n, {"": str(tmp_path / f"{n}.png")}) for n in "ab"]) == []


@given(
    st.lists(st.sampled_from(["", "a", "b", "c", "d"]), min_size=10, max_size=40),
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=4),
    st.integers(0, 3),
)
def test_parts_keep_patients_and_duplicates_together(
    groups: list[str], twins: list[tuple[int, int]], seed: int
) -> None:
    cases = [Case(str(n), {"": f"{n}.png"}, group=g or None) for n, g in enumerate(groups)]
    together = [(str(a), str(b)) for a, b in twins]
    shares = {"train": 0.7, "valid": 0.1, "test": 0.2}
    made = folds.parts(cases, shares, name="fixed", together=together, seed=seed)
    part = {c.id: c.splits["fixed"] for c in made}
    assert set(part.values()) <= set(shares)
    assert [(c.id, c.group, c.images) for c in made] == [(c.id, c.group, c.images) for c in cases]
    for group in set(groups) - {""}:
        assert len({part[c.id] for c in cases if c.group == group}) == 1
    for a, b in together:
        assert part[a] == part[b]
    assert made == folds.parts(cases, shares, name="fixed", together=together, seed=seed)


def test_shares_are_met() -> None:
    cases = [Case(str(n), {"": f"{n}.png"}) for n in range(1000)]
    made = folds.parts(cases, {"train": 0.7, "valid": 0.1, "test": 0.2})
    counts = {p: sum(c.splits[""] == p for c in made) for p in ("train", "valid", "test")}
    assert counts == {"train": 700, "valid": 100, "test": 200}


@pytest.mark.parametrize("shares", [{}, {"train": 0.5}, {"train": 1.2, "test": -0.2}, {"train": float("nan")}])
def test_shares_that_are_none(shares: dict[str, float]) -> None:
    with pytest.raises(CallError, match="add up to 1"):
        folds.parts([Case("a", {"": "a.png"})], shares)


def test_the_command(cases: list[Case], tmp_path: Path) -> None:
    table = manifest.write(tmp_path / "cases.csv", cases)
    call = ["data", "split", str(table), "--parts", "train=0.5,test=0.5", "--name", "fixed", "--near-duplicates"]
    done = CliRunner().invoke(app, call)
    assert done.exit_code == 0, done.output
    assert "3 sets of near-duplicates, 7 cases" in done.output
    part = {c.id: c.splits["fixed"] for c in manifest.read(table)}
    assert part["lesion0"] == part["turned"] == part["mirrored"]
    wrong = CliRunner().invoke(app, ["data", "split", str(table), "--parts", "train"])
    assert isinstance(wrong.exception, CallError)


def test_pictures_of_two_sets_are_found_and_put_aside(cases: list[Case], tmp_path: Path) -> None:
    ours = [replace(c, id=f"our {c.id}", splits={"": "train"}) for c in cases if c.id.startswith("lesion")]
    ours[5] = replace(ours[5], group="a")
    ours[6] = replace(ours[6], group="a")
    theirs = [c for c in cases if c.id in ("turned", "smaller", "brighter", "lesion5")]
    assert near.shared(ours, theirs) == {
        "our lesion0": ["turned"],
        "our lesion1": ["smaller"],
        "our lesion2": ["brighter"],
        "our lesion5": ["lesion5"],
    }
    one, other = manifest.write(tmp_path / "one.csv", ours), manifest.write(tmp_path / "other.csv", theirs)
    found = CliRunner().invoke(app, ["data", "overlap", str(one), str(other)])
    assert found.exit_code == 1, found.output
    assert "4 of 12 cases of one.csv show a picture that other.csv holds too" in found.output
    clean = tmp_path / "clean.csv"
    assert CliRunner().invoke(app, ["data", "overlap", str(one), str(other), "-o", str(clean)]).exit_code == 0
    unused = {c.id for c in manifest.read(clean) if c.splits[""] == "unused"}
    assert unused == {f"our lesion{n}" for n in (0, 1, 2, 5, 6)}  # 6 is of the same patient as 5
    assert CliRunner().invoke(app, ["data", "overlap", str(clean), str(one), "--json"]).exit_code == 1
    plain = [replace(c, splits={}) for c in ours]  # no split yet: the pictures are left out, the rest is split as ever
    assert {c.id for c in folds.without(plain, {"our lesion5"})} == {c.id for c in plain} - {
        "our lesion5",
        "our lesion6",
    }
    rest = manifest.write(tmp_path / "rest.csv", [c for c in ours if c.id not in unused])
    assert CliRunner().invoke(app, ["data", "overlap", str(rest), str(other)]).exit_code == 0
