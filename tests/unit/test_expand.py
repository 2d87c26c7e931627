"""CMG-Net's twenty-four copies: what they are, and that their split leaks and says so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from crossmask.cli import app
from crossmask.data import manifest
from crossmask.data.expand import expand
from crossmask.data.images import read_image
from crossmask.data.manifest import Case
from crossmask.data.masks import read_mask
from crossmask.errors import CasesError


@pytest.fixture
def cases(tmp_path: Path) -> list[Case]:
    found = []
    y, x = np.mgrid[:120, :120] - 59.5
    for n in range(6):
        inside = (x - 8) ** 2 + (y + 4 * n - 8) ** 2 < 400
        picture = np.where(inside[..., None], (90, 50, 40), (210, 170, 150)).astype(np.uint8)
        Image.fromarray(picture).save(tmp_path / f"{n}.png")
        Image.fromarray(inside).save(tmp_path / f"{n}_mask.png")
        free, texts = {"age": "40"}, {"": "A brown lesion."}
        mask = str(tmp_path / f"{n}_mask.png")
        found.append(Case(str(n), {"": str(tmp_path / f"{n}.png")}, mask=mask, texts=texts, free=free))
    return found


def test_twenty_four_copies_move_with_their_masks(cases: list[Case], tmp_path: Path) -> None:
    copies = expand(cases, tmp_path / "out", size=64)[6:]
    assert len(copies) == len({c.id for c in copies}) == 6 * 24
    for copy in copies:
        picture, (mask, _) = read_image(copy.images[""]).pixels, read_mask(str(copy.mask))
        assert picture.shape == (3, 64, 64)
        assert mask.shape == (64, 64)
        dark = picture.mean(0) < 130
        assert 2 * (dark & (mask > 0)).sum() / (dark.sum() + mask.sum()) > 0.95
        assert picture.min() > 5  # no black corner
        assert copy.texts == {"": "A brown lesion."}
        assert copy.group == copy.free["copy_of"] == copy.id.split("_")[0]
    kinds = {c.id.split("_")[2]: read_image(c.images[""]).pixels for c in copies if c.id.startswith("0_045")}
    assert set(kinds) == {"plain", "blurred", "shifted"}
    shift = kinds["shifted"].astype(int) - kinds["plain"]
    assert len({int(v) for v in np.unique(shift)}) <= 3
    assert np.abs(np.diff(kinds["blurred"].astype(int))).max() < np.abs(np.diff(kinds["plain"].astype(int))).max()
    again = expand(cases, tmp_path / "again", size=64)[6:]
    assert all(
        Path(a.images[""]).read_bytes() == Path(b.images[""]).read_bytes() for a, b in zip(copies, again, strict=True)
    )


def test_the_papers_split_leaks_and_groups_tell(cases: list[Case], tmp_path: Path) -> None:
    own = [replace(c, splits={"fixed": "train"}) for c in cases]
    both = expand(own, tmp_path / "out", size=32)
    assert [c.splits for c in both[:6]] == [{"fixed": "train", "paper": "unused", "by-source": "unused"}] * 6
    assert [c.group for c in both[:6]] == [c.id for c in cases]  # one unit with its copies
    copies = both[6:]
    assert {c.splits["fixed"] for c in copies} == {"unused"}
    parts = {p: {c.group for c in copies if c.splits["paper"] == p} for p in ("train", "valid", "test")}
    assert parts["test"] <= parts["train"]
    counts = [sum(c.splits["paper"] == p for c in copies) for p in ("train", "valid", "test")]
    assert counts == pytest.approx([0.8 * 144, 14.4, 14.4], abs=1)
    clean = {p: {c.group for c in copies if c.splits["by-source"] == p} for p in ("train", "valid", "test")}
    assert sum(len(groups) for groups in clean.values()) == len(set.union(*clean.values())) == 6


def test_near_duplicates_stay_on_one_side(cases: list[Case], tmp_path: Path) -> None:
    def part_of_source(**options: list[list[str]]) -> dict[str, str]:
        copies = expand(cases, tmp_path / "out", size=32, **options)[6:]
        return {c.free["copy_of"]: c.splits["by-source"] for c in copies}

    apart = part_of_source()
    pair = list({part: i for i, part in apart.items()}.values())[:2]
    assert apart[pair[0]] != apart[pair[1]]
    together = part_of_source(together=[pair])
    assert together[pair[0]] == together[pair[1]]


def test_a_sentence_that_names_a_place_stays_with_what_is_not_turned(cases: list[Case], tmp_path: Path) -> None:
    texts = {"": "A brown lesion in the upper left.", "plain": "A brown lesion."}
    copies = expand([replace(cases[0], texts=texts)], tmp_path / "out", size=32)[1:]
    assert all(c.texts == (texts if "_000_" in c.id else {"plain": texts["plain"]}) for c in copies)


def test_what_cannot_be_read_is_named(cases: list[Case], tmp_path: Path) -> None:
    Path(cases[2].images[""]).write_bytes(b"x")
    with pytest.raises(CasesError, match="case '2'"):
        expand(cases, tmp_path / "out", size=32)


def test_a_mask_of_another_size_and_several_pictures_are_named(cases: list[Case], tmp_path: Path) -> None:
    Image.open(Path(str(cases[0].mask))).resize((24, 40)).save(tmp_path / "m.png")
    two = replace(cases[1], images={"a": cases[1].images[""], "b": cases[2].images[""]})
    with pytest.raises(CasesError) as caught:
        expand([replace(cases[0], mask=str(tmp_path / "m.png")), two], tmp_path / "out", size=32)
    assert "the mask is 24x40 pixels, its image" in str(caught.value)
    assert "has 2 pictures (a, b)" in str(caught.value)


def test_the_command(cases: list[Case], tmp_path: Path) -> None:
    table = manifest.write(tmp_path / "cases.csv", cases)
    done = CliRunner().invoke(app, ["data", "expand", str(table), "-o", str(tmp_path / "out"), "--size", "32"])
    assert done.exit_code == 0, done.output
    assert "leaks" in done.output
    assert len(manifest.read(tmp_path / "out" / "cases.csv")) == 150
