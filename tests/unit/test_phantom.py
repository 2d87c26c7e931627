"""The phantom: complete or absent, the same every time, and a sentence that decides which lesion is meant."""

from __future__ import annotations

import itertools
import json
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from crossmask.data import manifest, phantom, phantom_sentences
from crossmask.data.images import read_image
from crossmask.data.masks import read_mask
from crossmask.data.phantom import ZONES
from crossmask.data.sides import swap_places, swap_sides
from crossmask.errors import CallError, DataError

CASES, SIZE = 80, 48
MEANINGS = {" ".join(zone) for zone in ZONES}
OTHER = {"left": "right", "upper": "lower"} | {"right": "left", "lower": "upper"}


def everything(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return phantom.make(tmp_path_factory.mktemp("phantom") / "set", cases=CASES, size=SIZE).parent


@pytest.fixture(scope="module")
def rows(folder: Path) -> list[manifest.Case]:
    return manifest.read(folder / "cases.csv")


def meaning(case: manifest.Case) -> str:
    return case.free["meaning"]


# The folder


def test_same_settings_same_bytes_whatever_the_number_of_cases(folder: Path, tmp_path: Path) -> None:
    few = 20
    first = everything(phantom.make(tmp_path / "one", cases=few, size=SIZE).parent)
    assert first == everything(phantom.make(tmp_path / "two", cases=few, size=SIZE).parent)
    whole = everything(folder)
    files = {name: content for name, content in first.items() if name.endswith(".png")}
    assert len(files) > few
    assert files == {name: content for name, content in whole.items() if name in files}
    # Columns may stand in another order, so rows are compared as cases.
    wide = manifest.read(folder / "cases.csv")[:few]
    for a, b in zip(manifest.read(tmp_path / "one" / "cases.csv"), wide, strict=True):
        assert (a.id, a.group, a.splits, a.texts, a.free, a.mask is None) == (
            b.id,
            b.group,
            b.splits,
            b.texts,
            b.free,
            b.mask is None,
        )


def test_other_seed_other_films(folder: Path, tmp_path: Path) -> None:
    other = everything(phantom.make(tmp_path / "set", cases=8, size=SIZE, seed=1).parent)
    whole = everything(folder)
    assert all(other[name] != whole[name] for name in other if name.startswith("images"))
    assert json.loads(other["phantom.json"])["hash"] != json.loads(whole["phantom.json"])["hash"]


def test_layout(folder: Path, rows: list[manifest.Case]) -> None:
    assert {p.name for p in folder.iterdir()} == {"images", "masks", "cases.csv", "phantom.json"}
    assert [r.id for r in rows] == [f"phantom_{i:05d}" for i in range(1, CASES + 1)]
    assert len(list((folder / "masks").iterdir())) == sum(r.mask is not None for r in rows)
    for row in rows:
        picture = read_image(row.images[""])
        assert picture.pixels.shape == (1, SIZE, SIZE)
        assert picture.pixels.dtype == np.uint8
        assert picture.bits == 8
        assert picture.pixels.std() > 25  # neither flat nor washed out
        assert (row.text_origin, row.side_convention, row.source) == ("report", "image", "phantom")
        assert row.spacing == pytest.approx((320 / SIZE, 320 / SIZE), rel=1e-5)
        if row.mask:
            assert read_mask(row.mask)[1] == ()  # 0 and 255 only, nothing to note


def test_summary(folder: Path, rows: list[manifest.Case]) -> None:
    summary = json.loads((folder / "phantom.json").read_text(encoding="utf-8"))
    counts = Counter((r.splits[""], meaning(r)) for r in rows)
    assert summary["counts"] == {
        part: {m: counts[part, m] for m in [*(" ".join(z) for z in ZONES), "all"]}
        for part in ("train", "valid", "test")
    }
    assert summary["without_mask"] == sum(r.mask is None for r in rows)
    assert summary["without_text"] == sum(not r.texts for r in rows)


def test_again_returns_what_stands(folder: Path) -> None:
    def stamps() -> dict[Path, int]:
        return {p: p.stat().st_mtime_ns for p in folder.rglob("*")}

    before = stamps()
    assert phantom.make(folder, cases=CASES, size=SIZE) == folder / "cases.csv"
    assert stamps() == before


@pytest.mark.parametrize("change", [{"cases": 9}, {"size": 64}, {"seed": 5}, {"without_text": 0.2}])
def test_other_settings_are_refused(folder: Path, change: dict) -> None:
    before = everything(folder)
    with pytest.raises(DataError, match="choose another folder"):
        phantom.make(folder, **({"cases": CASES, "size": SIZE} | change))
    assert everything(folder) == before


@pytest.mark.parametrize(("name", "content"), [("notes.txt", "mine"), ("phantom.json", "[1]"), ("phantom.json", "{")])
def test_foreign_folder_is_refused_and_untouched(tmp_path: Path, name: str, content: str) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / name).write_text(content, encoding="utf-8")
    for out in (own, own / name):
        with pytest.raises(DataError, match="choose another folder"):
            phantom.make(out, cases=8, size=32)
    assert everything(tmp_path) == {f"own/{name}": content.encode()}


def test_empty_folder_and_relative_path_serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "set").mkdir()
    seen: list[tuple[int, int]] = []
    made = phantom.make("set", cases=8, size=32, progress=lambda done, total: seen.append((done, total)))
    assert made == Path("set/cases.csv")
    assert seen == [(k, 8) for k in range(1, 9)]
    assert {r.splits[""] for r in manifest.read(made)} == {"train", "valid", "test"}


def test_complete_or_absent(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        phantom.make(tmp_path / "set", cases=8, size=32, progress=stop)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"cases": 7},
        {"cases": 9.5},
        {"cases": True},
        {"size": 31},
        {"seed": "x"},
        {"without_text": -0.1},
        {"without_text": 0.91},
        {"without_mask": float("nan")},
        {"without_mask": "many"},
    ],
)
def test_silly_arguments(tmp_path: Path, wrong: dict) -> None:
    with pytest.raises(CallError, match=f"{next(iter(wrong))}=.* is not possible; give"):
        phantom.make(tmp_path / "set", **wrong)
    assert list(tmp_path.iterdir()) == []


# Masks


def test_masks_mean_what_the_sentence_says(rows: list[manifest.Case]) -> None:
    seen = Counter(meaning(r) for r in rows)
    assert set(seen) == MEANINGS | {"all"}
    for index, row in enumerate(rows):
        film = phantom.draw(0, index, SIZE)
        assert np.array_equal(read_image(row.images[""]).pixels[0], film.pixels)
        if row.mask is None:
            assert row.texts
            continue
        mask = read_mask(row.mask)[0]
        if not row.texts:
            assert meaning(row) == "all"
            assert np.array_equal(mask, film.lesions.any(axis=0))
            continue
        side, height = meaning(row).split()
        half = mask[:, : SIZE // 2] if side == "left" else mask[:, SIZE // 2 :]
        assert half.sum() >= 0.95 * mask.sum(), row.id
        middle = np.mean([np.nonzero(m)[0].mean() for m in film.lesions])
        rows_of = np.nonzero(mask)[0]
        assert np.mean(rows_of < middle if height == "upper" else rows_of > middle) >= 0.95, row.id
        for swap in (swap_sides, swap_places):  # the other lesions the words could mean lie elsewhere
            assert swap(meaning(row)) in MEANINGS - {meaning(row)}


@pytest.mark.parametrize("size", [32, 48, 64])
def test_four_lesions_apart(size: int) -> None:
    around = np.ones((3, 3))
    for index in range(60):
        lesions = phantom.draw(3, index, size).lesions
        assert [ndimage.label(m)[1] for m in lesions] == [1, 1, 1, 1]
        assert ndimage.label(lesions.any(axis=0), around)[1] == 4
        areas = lesions.sum(axis=(1, 2)) / size**2
        assert areas.min() > 0.5 * np.pi * 0.06**2
        assert areas.max() < 1.6 * np.pi * 0.11**2
        for (side, height), mask in zip(ZONES, lesions, strict=True):
            y, x = (axis.mean() / size for axis in np.nonzero(mask))
            assert (x < 0.5) == (side == "left")
            other = lesions[ZONES.index((side, OTHER[height]))]
            assert (y < np.nonzero(other)[0].mean() / size) == (height == "upper")


def test_lesions_can_be_seen() -> None:
    """A lesion is brighter than what surrounds it, but brightness alone does not find it."""
    contrasts, ranks = [], []
    for index in range(40):
        film = phantom.draw(4, index, 64)
        free = ~ndimage.binary_dilation(film.lesions.any(axis=0), iterations=2)
        for mask in film.lesions:
            ring = ndimage.binary_dilation(mask, iterations=5) & free
            # the darker half of the ring is lung rather than heart or wall
            around = film.pixels[ring]
            contrasts.append(film.pixels[mask].mean() - around[around <= np.median(around)].mean())
        ranks.append((film.pixels[free] > film.pixels[film.lesions.any(axis=0)].mean()).mean())
    assert np.mean(np.array(contrasts) > 15) > 0.97
    assert np.mean(ranks) > 0.2


def test_target_is_uniform_and_not_in_the_picture() -> None:
    films = [phantom.draw(5, index, 32) for index in range(300)]
    counts = np.bincount([f.target for f in films], minlength=4)
    assert ((counts - 75) ** 2 / 75).sum() < 16.3  # chi squared, p = 0.001
    areas = np.array([f.lesions.sum(axis=(1, 2)) for f in films])
    light = np.array([[f.pixels[m].mean() for m in f.lesions] for f in films])
    for value in (areas, light):  # the target is neither the largest nor the brightest more often than chance
        hits = np.mean(value.argmax(axis=1) == [f.target for f in films])
        assert abs(hits - 0.25) < 0.085


# Sentences


def all_sentences(zone: tuple[str, str]) -> list[str]:
    return [
        phantom_sentences.sentence(t, zone, f)
        for t, f in itertools.product(phantom_sentences.TEMPLATES, phantom_sentences.FINDINGS)
    ]


def test_every_template_turns_with_the_picture() -> None:
    assert len(phantom_sentences.TEMPLATES) >= 12
    said = {zone: all_sentences(zone) for zone in ZONES}
    for side, height in ZONES:
        for k, text in enumerate(said[side, height]):
            assert swap_sides(text) == said[OTHER[side], height][k] != text
            assert swap_places(text) == said[side, OTHER[height]][k] != text
            assert swap_places(swap_sides(text)) == said[OTHER[side], OTHER[height]][k]


def test_sentences_are_well_written() -> None:
    for zone in ZONES:
        for text in all_sentences(zone):
            assert text[0].isupper()
            assert text.endswith(".")
            assert "{" not in text
            assert "  " not in text
            assert " a a" not in text
            assert not any(w[0].isupper() for w in text.replace(". ", ": ").split()[1:] if w != "Location:" and
                           w not in ("We", "Left", "Right"))  # fmt: skip
    for aside in (*phantom_sentences.PREFIXES, *phantom_sentences.SUFFIXES):  # asides name no place
        assert swap_sides(aside) == aside == swap_places(aside)
        assert not any(word in aside.lower() for word in ("left", "right", "upper", "lower", "apex", "base"))


def test_mirrored_sentence_names_the_other_side(rows: list[manifest.Case]) -> None:
    for row in rows:
        if not row.texts:
            continue
        side, height = meaning(row).split()
        text = row.texts[""].lower()
        assert side in text
        assert OTHER[side] not in text
        mirrored = swap_sides(text)
        assert OTHER[side] in mirrored
        assert side not in mirrored
        heights = {"upper": ("upper", "apex", "top", "superior"), "lower": ("lower", "base", "bottom", "inferior")}
        assert any(word in text for word in heights[height])
        assert not any(word in text for word in heights[OTHER[height]])


def test_wordings_vary_within_a_meaning(rows: list[manifest.Case]) -> None:
    said = defaultdict(set)
    for row in rows:
        if row.texts:
            said[meaning(row)].add(row.texts[""])
    assert set(said) == MEANINGS
    assert all(len(texts) > 5 for texts in said.values())
    for one in said:  # another meaning's sentence is at hand, and no sentence has two meanings
        others = set.union(*(said[m] for m in said if m != one))
        assert others
        assert not others & said[one]


# Shares and groups


@pytest.mark.parametrize(("without_text", "without_mask"), [(0.1, 0.1), (0.0, 0.0), (0.5, 0.3), (0.9, 0.9)])
@pytest.mark.parametrize("seed", [0, 1])
def test_shares_are_as_asked(seed: int, without_text: float, without_mask: float) -> None:
    total = 600
    places = list(itertools.islice(phantom.deal(seed, without_text, without_mask), total))
    for part, share in phantom.PARTS.items():
        here = [p for p in places if p.part == part]
        assert abs(len(here) - share * total) <= 6
        assert abs(sum(not p.has_text for p in here) - without_text * len(here)) <= 1
        told = [p for p in here if p.has_text]
        assert abs(sum(not p.has_mask for p in told) - (without_mask if part == "train" else 0) * len(told)) <= 1
        assert all(p.has_mask for p in here if not p.has_text)
    sizes = Counter(p.group for p in places)
    assert abs(sizes.pop(None) - 0.1 * total) <= 6
    assert {1, 2, 3} == set(sizes.values())


def test_groups_never_straddle_parts(rows: list[manifest.Case]) -> None:
    parts = defaultdict(set)
    for row in rows:
        if row.group:
            parts[row.group].add(row.splits[""])
    assert parts
    assert all(len(p) == 1 for p in parts.values())
    assert any(row.group is None for row in rows)
    for seed in range(5):
        parts.clear()
        for place in itertools.islice(phantom.deal(seed, 0.1, 0.1), 500):
            if place.group:
                parts[place.group].add(place.part)
        assert all(len(p) == 1 for p in parts.values())
