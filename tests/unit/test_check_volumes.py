"""``data check`` of volumes: clean ones have no fault, each planted fault is found by name while the rest goes on."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from crossmask.data import manifest
from crossmask.data.adapters import brats, chaos
from crossmask.data.check import check
from crossmask.data.found import Found
from crossmask.data.volumes import read_volume
from crossmask.errors import CallError

SHAPE = (10, 12, 20)  # x, y, z of the files: more slices than a slab holds
AFFINE = np.diag([-0.5, -1.0, 2.0, 1.0])  # L-P-S
TABLE = {"background": 0, "core": [1, 4], "oedema": 2}


def save(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> str:
    nib.save(nib.Nifti1Image(array, affine), path)
    return path.name


def scan(path: Path, seed: int, kind: type = np.int16, affine: np.ndarray = AFFINE) -> str:
    return save(path, np.random.default_rng(seed).integers(0, 999, SHAPE).astype(kind), affine)


def labelled(*values: int, kind: type = np.uint8) -> np.ndarray:
    """A block of 2 x 3 x 4 voxels of each value, all on the left half as seen."""
    array = np.zeros(SHAPE, kind)
    for place, value in enumerate(values):
        array[2:4, 3 * place : 3 * place + 3, 14:18] = value
    return array


class Set:
    """Rows to plant faults into; four clean cases of four patients, two contrasts each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: list[dict[str, str]] = [
            {
                "id": f"c{n}",
                "group": f"p{n}",
                "split": "train" if n < 3 else "test",
                "image:t1": scan(folder / f"a{n}.nii.gz", n),
                "image:t2": scan(folder / f"b{n}.nii.gz", n + 10, np.float32),
                "mask": save(folder / f"m{n}.nii.gz", labelled(1, 2)),
            }
            for n in range(4)
        ]

    @property
    def path(self) -> Path:
        path = self.folder / "cases.csv"
        with open(path, "w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, list(dict.fromkeys(k for r in self.rows for k in r)), restval="")
            writer.writeheader()
            writer.writerows(self.rows)
        return path

    def check(self, **options: Any) -> Found:
        return check(self.path, **options)


@pytest.fixture
def data(tmp_path: Path) -> Set:
    return Set(tmp_path)


def only(entries: list[str], *said: str) -> str:
    """The one entry that says all this."""
    hits = [e for e in entries if all(s in e for s in said)]
    assert len(hits) == 1, entries
    assert "\n" not in hits[0]
    return hits[0]


def test_clean_volumes_have_no_fault_and_no_warning(data: Set) -> None:
    ticks = []
    found = data.check(tick=lambda done, total: ticks.append((done, total)))
    assert (found.faults, found.warnings) == ([], [])
    assert ticks == [(n, 4) for n in range(1, 5)]
    facts = found.facts
    assert facts["volumes read"] == {"image:t1": 4, "image:t2": 4}
    for side, count, mm in (("slices", "20", "2"), ("rows", "12", "1"), ("columns", "10", "0.5")):
        assert facts[f"{side} (min median max)"] == " ".join([count] * 3)
        assert facts[f"mm between {side} (min median max)"] == " ".join([mm] * 3)
    assert facts["orientations"] == {"LPS": 8}
    assert facts["3-D masks read"] == 4
    assert facts["3-D mask, ml (min median max)"] == "0.05 0.05 0.05"  # 48 voxels of 1 mm3
    assert facts["3-D masks with label"] == {"0": 4, "1": 4, "2": 4}
    assert facts["notes on 3-D masks"] == {"labels above 0 taken together": 4}
    assert facts["cases without a mask"] == facts["volumes without geometry"] == facts["empty 3-D masks"] == 0
    assert not any("picture" in label for label in facts)
    assert json.loads(json.dumps(found.to_dict()))["facts"] == facts


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def not_finite(path: Path) -> None:
    array = np.ones(SHAPE, np.float32)
    array[1, 2, 17] = np.nan
    save(path, array)


def four(path: Path) -> None:
    save(path, np.ones((*SHAPE, 2), np.int16))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (cut, "is cut short"),
        (not_finite, "1 voxels in slices 16 to 19 are NaN or infinite"),
        (four, "write 'a1.nii.gz#0' for the first of its 2 volumes"),
        (lambda path: save(path, np.ones(SHAPE[:2], np.int16)), "a volume has three sides"),
        (lambda path: path.write_text("no volume"), "is no readable volume"),
    ],
)
def test_bad_volumes_are_named_and_the_others_read(data: Set, spoil: Callable[[Path], Any], said: str) -> None:
    spoil(data.folder / "a1.nii.gz")
    scan(data.folder / "m2.nii.gz", 5)  # what shrinks too well leaves nothing to read when cut
    cut(data.folder / "m2.nii.gz")
    found = data.check()
    only(found.faults, "case 'c1'", "a1.nii.gz", said)
    only(found.faults, "case 'c2'", "m2.nii.gz", "is cut short")
    assert len(found.faults) == 2
    assert found.facts["volumes read"]["image:t2"] == 4
    assert found.facts["3-D masks read"] == 3
    assert found.facts["files not readable"] == (1 if spoil is not_finite else 2)


def test_volumes_that_are_not_there(data: Set) -> None:
    data.rows[0] |= {"image:t1": "gone.nii.gz#1", "image:t2": "", "text": "Left lesion."}
    found = data.check()
    only(found.faults, "row 2: the image", "gone.nii.gz#1' does not exist")
    only(found.warnings, "rows with a text whose picture is missing: 1 (c0)")
    assert len(found.faults) == 1
    assert found.facts["volumes read"] == {"image:t1": 3, "image:t2": 3}


def test_all_of_a_case_lie_on_one_grid(data: Set) -> None:
    moved = AFFINE.copy()
    moved[0, 3] = 1.5
    scan(data.folder / "b0.nii.gz", 7, affine=moved)
    save(data.folder / "m1.nii.gz", np.zeros((10, 12, 9), np.uint8))
    save(data.folder / "m2.nii.gz", labelled(1)[::-1, :, ::-1], AFFINE @ np.diag([-1.0, 1, -1, 1]))
    found = data.check()
    only(found.faults, "case 'c0'", "b0.nii.gz: modality 't2' lies up to 3.0 voxels away from", "data register")
    only(found.faults, "case 'c1'", "m1.nii.gz: the mask has 9x12x10 voxels (slices, rows, columns)")
    only(found.faults, "case 'c2'", "m2.nii.gz: the mask lies up to")  # the same axes, but turned about the corner
    assert len(found.faults) == 3
    turned = nib.load(data.folder / "m3.nii.gz").as_reoriented(np.array([[2, -1], [0, 1], [1, -1]]))
    nib.save(turned, data.folder / "m2.nii.gz")
    assert not any("c2" in fault for fault in data.check().faults)


def test_labels_that_are_no_labels(data: Set) -> None:
    save(data.folder / "m0.nii.gz", np.linspace(0, 1, 2400, dtype=np.float32).reshape(SHAPE))
    save(data.folder / "m1.nii.gz", labelled(-1, kind=np.int16))
    save(data.folder / "m2.nii.gz", labelled(1, kind=np.float32))
    data.rows[3]["mask"] = data.rows[3]["image:t2"]
    found = data.check()
    only(found.faults, "case 'c0'", "m0.nii.gz", "no whole numbers")
    only(found.faults, "case 'c1'", "m1.nii.gz", "holds negative values")
    only(found.faults, "case 'c3'", "b3.nii.gz: is both image and mask")
    assert len(found.faults) == 3
    assert found.facts["3-D masks with label"] == {"-1": 1, "0": 2, "1": 1}


def test_labels_against_a_scheme(data: Set) -> None:
    save(data.folder / "m1.nii.gz", labelled(4, 3, 9))
    found = data.check(labels=TABLE)
    fault = only(found.faults, "case 'c1'", "m1.nii.gz: holds the labels 3, 9, which the scheme", "lacks")
    assert "(background 0, core [1, 4], oedema 2)" in fault
    assert len(found.faults) == 1
    assert found.facts["3-D masks with class"] == {"core": 4, "oedema": 3}
    assert found.facts["3-D masks with label"] == {"0": 4, "1": 3, "2": 3, "3": 1, "4": 1, "9": 1}
    assert found.facts["notes on 3-D masks"] == {}
    for wrong in ({"a": 1, "b": 1}, {"a": [0, 1], "b": 1}, {"a": "0"}, {"a": 0.5}, {}):
        with pytest.raises(CallError):
            data.check(labels=wrong)


def test_a_label_that_few_masks_hold_is_told(data: Set) -> None:
    data.rows = [data.rows[n % 4] | {"id": f"c{n}", "text": ""} for n in range(12)]
    assert not any("few of the" in warning for warning in data.check().warnings)
    stray = labelled(1, 2)
    stray[0, 0, 0] = 7
    data.rows[11] |= {"mask": save(data.folder / "stray.nii.gz", stray)}
    only(data.check().warnings, "labels that few of the 12 3-D masks hold: 7 in 1;", "strays")
    found = data.check(labels={"background": 0, "a": 1, "b": 2})
    only(found.faults, "holds the labels 7, which the scheme")
    assert not any("few of the" in warning for warning in found.warnings)


def test_masks_that_are_odd(data: Set) -> None:
    save(data.folder / "m0.nii.gz", labelled())
    save(data.folder / "m1.nii.gz", np.full(SHAPE, 3, np.uint8))
    save(data.folder / "m2.nii.gz", np.arange(2400, dtype=np.int32).reshape(SHAPE))
    found = data.check()
    assert found.faults == []
    only(found.warnings, "empty 3-D masks: 1 (c0)")
    only(found.warnings, "cover the whole volume: 1 (c1)")
    only(found.warnings, "more than 255 labels: 1 (c2)")
    assert len(found.warnings) == 3
    assert len(found.facts["3-D masks with label"]) == 20
    assert found.facts["further label values"] == 2380
    assert (found.facts["empty 3-D masks"], found.facts["full 3-D masks"]) == (1, 1)


def test_headers_that_are_odd(data: Set) -> None:
    for name in ("a0", "b0"):
        scan(data.folder / f"{name}.nii.gz", ord(name[0]), affine=np.eye(4))
    save(data.folder / "m0.nii.gz", labelled(1), np.eye(4))
    metres = np.diag([-5e-4, -1e-3, 2e-3, 1])
    save(data.folder / "m1.nii.gz", labelled(1), metres)
    for place, name in enumerate(("a1", "b1")):
        scan(data.folder / f"{name}.nii.gz", 50 + place, affine=metres)
    save(data.folder / "a2.nii.gz", np.full(SHAPE, 5, np.int16))
    save(data.folder / "a3.nii.gz", np.full(SHAPE, 5, np.int16))
    found = data.check()
    assert found.faults == []
    only(found.warnings, "gives no geometry (identity): 1 (c0)", "no scores in millimetres")
    only(found.warnings, "a side under 0.01 or over 50 mm: 1 (c1)")
    only(found.warnings, "one value throughout: 2 (c2, c3)")
    assert not any("LEAK" in warning for warning in found.warnings)  # blank ones are alike
    assert found.facts["volumes without geometry"] == 2
    assert found.facts["mm between slices (min median max)"] == "0.002 2 2"


def test_cases_without_a_modality_are_counted(data: Set) -> None:
    data.rows[1]["image:t2"] = data.rows[2]["mask"] = ""
    data.rows[0] |= {"image:t2": data.rows[3]["image:t2"]}
    data.rows[3]["image:t2"] = ""
    found = data.check()
    assert found.faults == []
    assert found.facts["cases without image:t2"] == "2 (c1, c3)"
    assert "cases without image:t1" not in found.facts
    assert found.facts["cases without a mask"] == 1


def test_one_volume_as_two_modalities(data: Set) -> None:
    for row in data.rows[:2]:
        row["image:t2"] = row["image:t1"]
    data.rows[0]["modality_note"] = "t2 is a second window of one CT"
    found = data.check()
    assert found.faults == []
    only(found.warnings, "two modalities of which are one volume: 1 (c1)", "modality_note")
    assert len(found.warnings) == 1
    key = "one volume as two modalities, by modality_note"
    assert found.facts[key] == {"t2 is a second window of one CT": 1}
    assert found.facts["volume files that occur again"] == 0


def test_equal_volumes_and_leaks(data: Set) -> None:
    first = nib.load(data.folder / "a0.nii.gz")
    nib.save(first.as_reoriented(np.array([[1, -1], [2, 1], [0, 1]])), data.folder / "other.nii")  # not byte for byte
    data.rows[3]["image:t1"] = "other.nii"
    (data.folder / "b1.nii.gz").write_bytes((data.folder / "b2.nii.gz").read_bytes())
    found = data.check()
    assert found.faults == []
    assert "split: LEAK: the same volume stands in several parts: 1 (c0 = c3)" in found.warnings[0]
    only(found.warnings, "volumes of equal values under several ids: 2 (c0 = c3, c1 = c2)")
    assert found.facts["volume files that occur again"] == 2
    data.rows[3]["split"] = "selection"
    assert not any("LEAK" in warning for warning in data.check().warnings)


def test_one_volume_of_four_dimensions(data: Set) -> None:
    array = np.random.default_rng(5).integers(0, 99, (*SHAPE, 2)).astype(np.int16)
    save(data.folder / "four.nii.gz", array)
    data.rows[0] |= {"image:t1": "four.nii.gz#0", "image:t2": "four.nii.gz#1"}
    found = data.check()
    assert (found.faults, found.warnings) == ([], [])
    data.rows[0]["image:t2"] = "four.nii.gz#2"
    only(data.check().faults, "case 'c0'", "holds 2 volumes (#0 to #1)")


def test_sides_of_volumes(data: Set) -> None:
    """The mask lies on the left as seen, which is the patient's right."""
    array = np.zeros(SHAPE, np.uint8)
    array[1:4] = 1
    assert read_volume(data.folder / save(data.folder / "left.nii.gz", array)).stored[0, 0, 1] == 1
    for row in data.rows:
        row |= {"mask": "left.nii.gz", "text": f"Lesion of the right lung, {row['id']}.", "text_origin": "report"}
        row["side_convention"] = "patient"
    found = data.check()
    assert found.facts["text, one side named"] == {"cases": 4, "mask mostly on the other": 0}
    for row in data.rows:
        row["side_convention"] = "image"
    only(data.check().warnings, "on the side the sentence does not name in 4 (c0, c1, c2, c3) of 4")


def test_pictures_and_volumes_in_one_manifest(data: Set) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 99, (9, 8), np.uint8)).save(data.folder / "p.png")
    Image.fromarray(np.zeros((9, 8), np.uint8)).save(data.folder / "pm.png")
    data.rows.append({"id": "flat", "group": "f", "split": "train", "image:t1": "p.png", "mask": "pm.png"})
    found = data.check()
    assert found.faults == []
    only(found.warnings, "pictures (1 cases) and volumes (4) stand in one manifest")
    only(found.warnings, "empty masks: 1 (flat)")
    assert (found.facts["masks read"], found.facts["3-D masks read"]) == (1, 4)
    assert found.facts["pictures read"] == {"image:t1": 1}
    assert "cases without image:t2" not in found.facts
    data.rows[0]["image:t2"] = "p.png"
    found = data.check()
    only(found.faults, "case 'c0': has images of two kinds", "a0.nii.gz (a volume) and", "p.png (a picture)")
    assert found.facts["volumes read"] == {"image:t1": 3, "image:t2": 3}


def test_memory_is_bounded_by_a_slab(tmp_path: Path) -> None:
    shape = (96, 96, 320)
    values = np.random.default_rng(0).integers(0, 999, shape).astype(np.int16)
    save(tmp_path / "v.nii", values)
    save(tmp_path / "m.nii", (values > 900).astype(np.float32))
    path = manifest.write(
        tmp_path / "cases.csv",
        [manifest.Case(id="1", images={"": str(tmp_path / "v.nii")}, mask=str(tmp_path / "m.nii"), group="1")],
    )
    check(path)  # what is imported on the way
    tracemalloc.start()
    found = check(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (found.faults, found.warnings) == ([], [])
    assert peak < 4 * np.prod(shape) / 2  # half of the volume as float32


def test_series_with_masks_of_png(tmp_path: Path) -> None:
    cases = chaos.scan(chaos.fake(tmp_path))
    path = manifest.write(tmp_path / "cases.csv", cases)
    found = check(path)
    assert (found.faults, found.warnings) == ([], [])
    assert found.facts["3-D masks read"] == len(cases)
    assert found.facts["3-D masks with label"]["63"] == len(cases)
    first = cases[0]
    sorted(Path(str(first.mask)).iterdir())[0].write_bytes(b"no picture")
    only(check(path).faults, f"case '{first.id}'", str(first.mask), "no readable volume")
    for folder in first.images.values():
        for file in list(Path(folder).iterdir())[2:4]:
            file.unlink()
    found = check(path)
    assert len(found.faults) == 2
    assert all("slices" in fault and f"case '{first.id}'" in fault for fault in found.faults)
    assert found.facts["3-D masks not checked, their image not being readable"] == 1


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-c", "from crossmask.cli import main; main()", "data", "check", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, check=False)


def test_the_command_takes_labels(data: Set) -> None:
    plain = command(data.path)
    assert plain.returncode == 0, plain.stderr
    assert "3-D masks read" in plain.stdout
    scheme = ["--label", "background=0", "--label", "core=[1, 4]"]
    short = command(data.path, *scheme, "--json")
    assert short.returncode == 1
    assert len(json.loads(short.stdout)["faults"]) == 4
    assert command(data.path, *scheme, "--label", "oedema=2").returncode == 0
    wrong = command(data.path, "--label", "core")
    assert wrong.returncode == 2
    assert "write key=value" in wrong.stderr


REAL = os.environ.get("CROSSMASK_DATA")
real = pytest.mark.skipif(REAL is None, reason="CROSSMASK_DATA names no folder of real data")


@real
def test_brats_has_no_faults(tmp_path: Path) -> None:
    cases = brats.scan(Path(str(REAL)) / "brats-sample")
    found = check(manifest.write(tmp_path / "cases.csv", cases))
    assert (found.faults, found.warnings) == ([], [])
    assert found.facts["volumes read"]["image:flair"] == found.facts["3-D masks read"] == 11
    assert found.facts["orientations"] == {"LPS": 24}
    assert found.facts["cases without image:t2"].startswith("10 (")


@real
def test_dicom_series_and_seg(tmp_path: Path) -> None:
    top = Path(str(REAL)) / "dicom-sample"
    series, prostate = top / "ct_with_seg", top / "prostate_mr_t2_adc"
    images = {"t2": str(prostate / "T2_tse_tra"), "adc": str(prostate / "ADC")}
    cases = [
        manifest.Case(id="liver", images={"": str(series / "CT")}, mask=str(series / "SEG" / "liver_seg.dcm")),
        manifest.Case(id="prostate", images=images),
    ]
    found = check(manifest.write(tmp_path / "cases.csv", cases))
    only(found.faults, "case 'prostate'", "modality 'adc' has 19x128x84 voxels", "data register")
    assert len(found.faults) == 1
    assert found.facts["3-D masks with label"] == {"0": 1, "1": 1}
    assert found.facts["notes on volumes"] == {"slice step from positions, SliceThickness says otherwise": 1}
