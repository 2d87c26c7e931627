"""The brain phantom: aligned, the same every time, and no target that one contrast alone would show whole."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from crossmask.data import manifest, phantom_brain
from crossmask.data.phantom_brain import CONTRASTS, LABELS, TISSUES, draw, fingerprint, make, parts, scan, target
from crossmask.errors import CallError, DataError
from real_data import real

nib = pytest.importorskip("nibabel", reason="nibabel is not installed: the brain phantom is not drawn")
AFFINE = np.array([[-2.0, 0, 0, 40], [0, 0, 2, -30], [0, 2, 0, -20], [0, 0, 0, 1]])
# Every target's borders that are faint in the one contrast and clear in the other, as the module's docstring says.
BORDERS = [
    ("white matter", "cortex", "t1"),
    ("white matter", "hippocampus", "flair"),
    ("cortex", "outer CSF", "flair"),
    ("ventricle", "thalamus", "flair"),
    ("plexus", "white matter", "t1"),
    ("thalamus", "white matter", "t1"),
    ("hippocampus", "white matter", "flair"),
]


def head(shift: float = 0.0) -> np.ndarray:
    """A made-up head: shells of skin, bone, CSF, cortex and white matter with the deep targets inside."""
    x, y, z = np.indices((44, 48, 36)) - np.array([22, 24, 18]).reshape(3, 1, 1, 1) + shift
    ids = np.zeros(x.shape, np.uint16)
    radius = np.sqrt((x / 20) ** 2 + (y / 22) ** 2 + (z / 17) ** 2)
    for edge, label in ((1.0, 511), (0.92, 515), (0.86, 24), (0.74, 3), (0.6, 2)):
        ids[radius < edge] = label
    for side, labels in ((-1, (4, 163, 10, 17)), (1, (43, 136, 49, 53))):
        u = x * side
        ids[(abs(u - 3) < 3) & (abs(y) < 8) & (abs(z - 3) < 3)] = labels[0]
        ids[(abs(u - 3) < 3) & (abs(y - 5) < 3) & (abs(z - 6) < 2)] = labels[1]
        ids[(abs(u - 4) < 4) & (abs(y) < 6) & (abs(z + 3) < 3)] = labels[2]
        ids[(abs(u - 8) < 2) & (abs(y + 2) < 6) & (abs(z + 5) < 2)] = labels[3]
    return ids


def save(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


def everything(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def voxels(path: str | Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


def contrast_to_noise(drawn: dict[str, np.ndarray], ids: np.ndarray, one: str, other: str, brain: str) -> dict:
    """|difference of the means| / noise, of the two tissues' voxels within two voxels of each other."""
    here, there = (np.isin(ids, TISSUES[name].ids) for name in (one, other))
    near, far = here & ndimage.binary_dilation(there, iterations=2), there & ndimage.binary_dilation(here, iterations=2)
    assert min(near.sum(), far.sum()) >= 20, (one, other)
    found = {}
    for c, picture in drawn.items():
        how = scan(0, brain, c)
        found[c] = abs(float(picture[near].mean() - picture[far].mean())) / (how.noise * how.gain)
    return found


@pytest.fixture(scope="module")
def maps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("maps")
    for number in range(5):
        save(folder / f"head{number}_labels.nii.gz", head(number / 4))
    return folder


@pytest.fixture(scope="module")
def folder(maps: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(maps, tmp_path_factory.mktemp("phantom") / "set").parent


# The folder


def test_same_seed_same_bytes(maps: Path, folder: Path, tmp_path: Path) -> None:
    again = make(maps, tmp_path / "again").parent
    assert everything(again) == everything(folder)
    other = make(maps, tmp_path / "other", seed=1).parent
    assert (
        json.loads((other / "phantom.json").read_text())["hash"]
        != json.loads((folder / "phantom.json").read_text())["hash"]
    )
    for name in ("images/head0_t1.nii.gz", "images/head0_flair.nii.gz"):
        assert (voxels(other / name) != voxels(folder / name)).mean() > 0.5
    assert (voxels(other / "masks/head0.nii.gz") == voxels(folder / "masks/head0.nii.gz")).all()


def test_a_brain_is_the_same_whatever_stands_beside_it(maps: Path, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "maps").mkdir()
    (tmp_path / "maps" / "head3_labels.nii.gz").write_bytes((maps / "head3_labels.nii.gz").read_bytes())
    alone = make(tmp_path / "maps", tmp_path / "alone").parent
    name = "images/head3_flair.nii.gz"
    assert (alone / name).read_bytes() == (folder / name).read_bytes()
    assert [case.splits[""] for case in manifest.read(alone / "cases.csv")] == ["train"]


def test_made_before_is_returned_and_anything_else_refused(maps: Path, folder: Path, tmp_path: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    assert make(maps, folder) == folder / "cases.csv"
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before
    with pytest.raises(DataError, match="other label maps, seed or version"):
        make(maps, folder, seed=1)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="holds something else"):
        make(maps, tmp_path)


def test_the_manifest(folder: Path, maps: Path) -> None:
    rows = manifest.read(folder / "cases.csv")
    assert [row.id for row in rows] == [row.group for row in rows] == [f"head{n}" for n in range(5)]
    assert sorted(row.splits[""] for row in rows) == ["test", *["train"] * 4]
    for row in rows:
        assert tuple(row.images) == CONTRASTS
        source = nib.load(maps / f"{row.id}_labels.nii.gz")
        for file, kind in [(row.images["t1"], np.int16), (row.images["flair"], np.int16), (row.mask, np.uint8)]:
            image = nib.load(str(file))
            assert (image.affine == source.affine).all()
            assert image.shape == source.shape
            assert image.get_data_dtype() == kind
        assert (voxels(str(row.mask)) == target(voxels(maps / f"{row.id}_labels.nii.gz"))).all()
    assert (folder / "cases.csv").read_text().count(str(folder)) == 0


def test_phantom_json_says_how_each_brain_was_drawn(folder: Path) -> None:
    facts = json.loads((folder / "phantom.json").read_text())
    assert facts["settings"] == {"version": phantom_brain.VERSION, "seed": 0}
    assert facts["labels"] == list(LABELS)
    seals = {brain["id"]: brain["labelmap_hash"] for brain in facts["brains"]}
    assert facts["hash"] == fingerprint(seals)
    assert len({fingerprint(seals), fingerprint(seals, seed=1), fingerprint(seals | {"head0": "other"})}) == 3
    for brain in facts["brains"]:
        assert brain["unnamed_ids"] == []
        for c in CONTRASTS:
            assert brain[c]["means"] == scan(0, brain["id"], c).means


def test_progress_counts_the_brains(maps: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    make(maps, tmp_path / "set", progress=lambda done, total: seen.append((done, total)))
    assert seen == [(n, 5) for n in range(1, 6)]


def test_three_of_fifteen_are_for_the_test() -> None:
    names = [f"brain{n:02d}" for n in range(1, 16)]
    split = parts(names, 0)
    assert sorted(split.values()) == ["test"] * 3 + ["train"] * 12
    assert parts(names[::-1], 0) == split
    assert any(parts(names, seed) != split for seed in range(1, 4))


# The pictures


def test_targets_are_those_of_the_table() -> None:
    ids = np.array([0, 2, 25, 42, 5, 72, 163, 137, 10, 53, 24, 7, 8, 16, 18, 28, 507, 999]).reshape(1, 1, -1)
    assert target(ids).ravel().tolist() == [0, 1, 1, 2, 3, 3, 3, 3, 4, 5, 0, 0, 0, 0, 0, 0, 0, 0]
    known = [label for tissue in TISSUES.values() for label in tissue.ids]
    assert len(known) == len(set(known))


@pytest.mark.parametrize("contrast", CONTRASTS)
def test_pictures_lie_on_their_label_map(contrast: str) -> None:
    """Edges of the head stand where the map has them: shifting the map by a voxel fits the picture worse."""
    ids = head()
    picture = draw(ids, 0, "x", contrast).astype(float)

    def spread(labels: np.ndarray) -> float:
        return sum(float(picture[labels == label].var() * (labels == label).sum()) for label in np.unique(labels))

    at_home = spread(ids)
    for axis in range(3):
        for step in (-1, 1):
            assert spread(np.roll(ids, step, axis)) > 1.3 * at_home


def test_each_target_needs_both_contrasts() -> None:
    ids = head()
    found: dict[tuple[str, str, str], list[dict]] = {}
    for brain in ("a", "b", "c", "d", "e", "f"):
        drawn = {c: draw(ids, 0, brain, c).astype(float) for c in CONTRASTS}
        for one, other, clear in BORDERS:
            values = contrast_to_noise(drawn, ids, one, other, brain)
            found.setdefault((one, other, clear), []).append(values)
    for (one, other, clear), values in found.items():
        faint = next(c for c in CONTRASTS if c != clear)
        assert np.mean([v[clear] for v in values]) > 2.5, (one, other)
        assert np.mean([v[faint] for v in values]) < 1.5, (one, other)
    assert {TISSUES[name].target for border in BORDERS for name in border[:2]} >= set(range(1, len(LABELS)))


def test_scanners_differ_yet_a_clear_border_stays_clear() -> None:
    for which, c in enumerate(CONTRASTS):
        scans = [scan(0, f"brain{n}", c) for n in range(150)]
        for name, tissue in TISSUES.items():
            if name != "air":
                assert 0.05 < np.std([s.means[name] for s in scans]) < 0.13, (name, c)
            for other, second in TISSUES.items():
                designed = second.means[which] - tissue.means[which]
                brain = {tissue.groups[which], second.groups[which]} <= set(phantom_brain.GROUPS)
                if brain and tissue.groups[which] != second.groups[which] and designed > 0:
                    least = min(s.means[other] - s.means[name] for s in scans)
                    assert least >= phantom_brain.LEAST_GAP - 1e-9
        assert all(0.04 <= s.noise <= 0.06 and s.bias <= 0.25 and s.blur < 1 for s in scans)


def test_the_bias_field_is_smooth_and_bounded() -> None:
    field = phantom_brain._field(np.random.default_rng(0), (30, 40, 20), 0.25)
    assert field.shape == (30, 40, 20)
    assert np.abs(field - 1).max() == pytest.approx(0.25, abs=1e-3)
    assert max(np.abs(np.diff(field, axis=axis)).max() for axis in range(3)) < 0.06


def test_labels_without_a_name_are_drawn_and_listed(tmp_path: Path) -> None:
    ids = head()
    ids[:3, :3, :3] = 9000
    save(tmp_path / "maps" / "odd.nii.gz", ids.astype(np.float32))
    folder = make(tmp_path / "maps", tmp_path / "set").parent
    brain = json.loads((folder / "phantom.json").read_text())["brains"][0]
    assert (brain["id"], brain["unnamed_ids"]) == ("odd", [9000])
    assert (voxels(folder / "masks" / "odd.nii.gz")[:3, :3, :3] == 0).all()


# What is refused


def test_folders_that_hold_no_maps(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: is no folder"):
        make(tmp_path / "nowhere", tmp_path / "set")
    with pytest.raises(DataError, match=r"holds no label map"):
        make(tmp_path, tmp_path / "set")
    for name in ("a.nii.gz", "a_labels.nii.gz"):
        save(tmp_path / "twice" / name, head())
    with pytest.raises(DataError, match="the same brain 'a'"):
        make(tmp_path / "twice", tmp_path / "set")
    assert not (tmp_path / "set").exists()


def test_every_bad_map_is_named_at_once(tmp_path: Path) -> None:
    maps = tmp_path / "maps"
    whole = save(maps / "a_good.nii.gz", head()).read_bytes()
    save(maps / "b_four.nii.gz", np.stack([head(), head()], axis=-1))
    save(maps / "c_unknown.nii.gz", np.full((4, 4, 4), 700, np.uint16))
    save(maps / "d_picture.nii.gz", np.random.default_rng(0).random((4, 4, 4), np.float32))
    save(maps / "e_negative.nii.gz", np.full((4, 4, 4), -2, np.int16))
    (maps / "f_short.nii.gz").write_bytes(whole[: len(whole) // 2])
    (maps / "g_text.nii.gz").write_text("no picture")
    (maps / "h_packed_text.nii.gz").write_bytes(gzip.compress(b"no picture"))
    (maps / "i_empty.nii.gz").write_bytes(b"")
    save(maps / "j_outside.nii.gz", np.full((4, 4, 4), 507, np.uint16))
    with pytest.raises(DataError) as error:
        make(maps, tmp_path / "set")
    lines = str(error.value).splitlines()
    ways = ["has 4 axes", "none of its labels", "no whole numbers", "outside 0 to 65535", *["cannot be read"] * 4]
    for line, way in zip(lines, [*ways, "none of its labels"], strict=True):
        assert way in line
        assert line.endswith((".", "it."))
    assert not (tmp_path / "set").exists()


def test_what_cannot_be_called(maps: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in (0.5, "0", True, None):
        with pytest.raises(CallError, match="whole number"):
            make(maps, tmp_path / "set", seed=seed)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "nibabel", None)
    with pytest.raises(CallError, match=r"pip install 'crossmask\[volumes\]'"):
        make(maps, tmp_path / "set")


# Real label maps


def test_real_label_maps(tmp_path: Path) -> None:
    source = real("brain-labels")
    (tmp_path / "maps").mkdir()
    names = ("brain03", "brain09")
    for name in names:
        (tmp_path / "maps" / f"{name}_labels.nii.gz").symlink_to(source / f"{name}_labels.nii.gz")
    folder = make(tmp_path / "maps", tmp_path / "set").parent
    rows = manifest.read(folder / "cases.csv")
    assert [row.id for row in rows] == list(names)
    assert sorted(row.splits[""] for row in rows) == ["test", "train"]
    found: dict[tuple[str, str, str], list[dict]] = {}
    for row in rows:
        ids, mask = voxels(source / f"{row.id}_labels.nii.gz"), voxels(str(row.mask))
        counts = np.bincount(mask.ravel(), minlength=len(LABELS))
        assert (counts > 500).all()
        assert counts[2] > counts[1] > counts[3] > counts[5]
        drawn = {c: voxels(row.images[c]).astype(float) for c in CONTRASTS}
        assert all(picture.shape == ids.shape and 300 < picture[mask > 0].mean() < 1000 for picture in drawn.values())
        for border in BORDERS:
            found.setdefault(border, []).append(contrast_to_noise(drawn, ids, border[0], border[1], row.id))
    for (one, other, clear), values in found.items():
        faint = next(c for c in CONTRASTS if c != clear)
        assert np.mean([v[clear] for v in values]) > 2.5, (one, other)
        assert np.mean([v[faint] for v in values]) < 1.5, (one, other)
    facts = json.loads((folder / "phantom.json").read_text())
    assert all(brain["unnamed_ids"] == [] for brain in facts["brains"])
