"""``data check``: clean data has no fault, and each planted fault is found by name while the rest is still checked."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crossmask.data import manifest
from crossmask.data.check import check, one_side
from crossmask.data.found import Found
from crossmask.errors import CallError

SIZE = (24, 32)  # rows, columns


def picture(path: Path, seed: int, size: tuple[int, int] = SIZE, kind: type = np.uint8) -> str:
    values = np.random.default_rng(seed).integers(0, np.iinfo(kind).max, size, dtype=kind)
    Image.fromarray(values).save(path)
    return path.name


def mask(path: Path, where: str = "left", size: tuple[int, int] = SIZE) -> str:
    values = np.zeros(size, np.uint8)
    middle = size[1] // 2
    columns = {"left": slice(2, middle), "right": slice(middle, -2), "none": slice(0), "all": slice(None)}[where]
    values[4:-4, columns] = 255
    if where == "all":
        values[:] = 255
    Image.fromarray(values).save(path)
    return path.name


class Set:
    """Rows to plant faults into; six clean cases of six patients."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows = [
            {
                "id": f"c{n}",
                "group": f"p{n}",
                "split": "train" if n < 4 else "test",
                "image": picture(folder / f"i{n}.png", n),
                "mask": mask(folder / f"m{n}.png"),
                "text": f"Opacity number {n} of the left lung.",
                "text_origin": "report",
                "side_convention": "image",
            }
            for n in range(6)
        ]

    def check(self, **options) -> Found:
        path = self.folder / "cases.csv"
        with open(path, "w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, list(dict.fromkeys(k for r in self.rows for k in r)), restval="")
            writer.writeheader()
            writer.writerows(self.rows)
        return check(path, **options)


@pytest.fixture
def data(tmp_path) -> Set:
    return Set(tmp_path)


def only(entries: list[str], *said: str) -> str:
    """The one entry that says all this."""
    hits = [e for e in entries if all(s in e for s in said)]
    assert len(hits) == 1, entries
    return hits[0]


def test_clean_data_has_no_fault_and_no_warning(data):
    ticks = []
    found = data.check(tick=lambda done, total: ticks.append((done, total)))
    assert (found.faults, found.warnings) == ([], [])
    assert ticks == [(n, 6) for n in range(1, 7)]
    facts = found.facts
    assert facts["cases"] == facts["groups"] == facts["masks read"] == 6
    assert facts["pictures read"] == {"image": 6}
    assert facts["width (min median max)"] == "32 32 32"
    assert facts["height (min median max)"] == "24 24 24"
    assert facts["bits"] == {"8": 6}
    assert facts["split"] == {"test": 2, "train": 4}
    assert facts["text"]["distinct"] == 6
    assert facts["text, one side named"] == {"cases": 6, "mask mostly on the other": 0}
    assert facts["empty masks"] == facts["picture files that occur again"] == facts["cases without a mask"] == 0


def test_it_prints_and_serialises(data):
    data.rows[0]["mask"] = "gone.png"
    data.rows[1]["group"] = ""
    found = data.check()
    assert json.loads(json.dumps(found.to_dict())) == {
        "faults": found.faults,
        "warnings": found.warnings,
        "facts": found.facts,
    }
    lines = str(found).split("\n")
    assert any(line.split() == ["cases", "6"] for line in lines)
    assert len({line.index(v) for line, v in ((lines[0], "6"), (lines[1], "5"))}) == 1
    assert "warnings: 1" in lines
    assert "faults: 1" in lines
    many = str(Found(faults=[f"f{n}" for n in range(30)]))
    assert "f19" in many
    assert "f20" not in many
    assert "... and 10 more" in many
    assert str(Found()) == "warnings: none\n\nfaults: none"


def test_faults_of_the_manifest_do_not_hide_those_of_the_files(data):
    data.rows[0]["image"] = "gone.png"
    data.rows[1]["text_origin"] = "dream"
    data.rows[2]["id"] = "c3"
    (data.folder / "i4.png").write_bytes(b"no picture")
    (data.folder / "m5.png").write_bytes((data.folder / "m5.png").read_bytes()[:60])
    found = data.check()
    only(found.faults, "row 2: the image", "gone.png' does not exist")
    only(found.faults, "row 3: text_origin is 'dream'")
    only(found.faults, "row 5: id 'c3' already stands in row 4")
    only(found.faults, "case 'c4'", "i4.png")
    only(found.faults, "case 'c5'", "m5.png")
    assert len(found.faults) == 5
    assert found.facts["files not readable"] == 2
    only(found.warnings, "rows with a text whose picture is missing: 1 (c0)")


def test_every_fault_is_kept_not_the_first_twenty(data):
    data.rows += [{"id": f"x{n}", "image": "gone.png"} for n in range(30)]
    assert len(data.check().faults) == 30


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "there is no such manifest"),
        (b"", "holds no case"),
        (b"id,image\n", "holds no case"),
        (b"id,imag\n1,a.png\n", "did you mean 'imag'"),
        (b"id,image\n\xe9,a.png\n", "line 2: byte 0xe9 is not UTF-8"),
        (b"id,image\n1,a.png,3\n", "has 3 fields where the header has 2"),
    ],
)
def test_manifests_that_cannot_be_used(tmp_path, content, said):
    if content is not None:
        (tmp_path / "cases.csv").write_bytes(content)
    found = check(str(tmp_path / "cases.csv"))
    only(found.faults, said)
    assert len(found.faults) == 1
    assert str(found)


def test_jsonl_and_unlabelled_cases(tmp_path):
    image = tmp_path / picture(tmp_path / "a.png", 0, kind=np.uint16)
    cases = [manifest.Case(id="1", images={"": str(image)}, group="g", spacing=(1.0, 1.0))]
    found = check(manifest.write(tmp_path / "cases.jsonl", cases))
    assert (found.faults, found.warnings) == ([], [])
    assert found.facts["cases without a mask"] == 1
    assert found.facts["bits"] == {"16": 1}
    assert found.facts["conversions"] == {"16 bits scaled by the picture's own range": 1}
    assert found.facts["spacing known"] == {"manifest": 1, "headers": 0}
    assert "empty masks" not in found.facts


def test_sizes_must_agree(data):
    mask(data.folder / "m0.png", size=(12, 16))
    for row in data.rows:
        row["image:t2"] = picture(data.folder / f"t{row['id']}.png", int(row["id"][1:]) + 50)
    picture(data.folder / "tc1.png", 99, (24, 30))
    found = data.check()
    only(found.faults, "case 'c0'", "m0.png: the mask is 16x12 pixels, its image 32x24")
    only(found.faults, "case 'c1'", "tc1.png: image:t2 is 30x24 pixels, image is 32x24")
    assert len(found.faults) == 2
    assert found.facts["distinct sizes"] == 2
    assert found.facts["pictures read"] == {"image": 6, "image:t2": 6}


def test_masks_that_are_odd(data):
    mask(data.folder / "m0.png", "none")
    mask(data.folder / "m1.png", "none")
    mask(data.folder / "m2.png", "all")
    data.rows[3]["mask"] = data.rows[3]["image"]
    Image.fromarray(np.full(SIZE, 7, np.uint8)).save(data.folder / "m4.png")
    found = data.check()
    only(found.faults, "case 'c3'", "is both image and mask")
    only(found.warnings, "empty masks: 2 (c0, c1)")
    only(found.warnings, "cover the whole picture: 2 (c2, c4)")
    assert found.facts["empty masks"] == 2
    assert found.facts["mask conversions"] == {"mask value 7 taken as foreground": 1}
    assert found.facts["mask share (min median max)"].startswith("0.00% ")


def test_masks_with_a_table_of_labels(data):
    for n in range(6):
        values = np.zeros(SIZE, np.uint8)
        values[2:9, 3:9], values[12:15, 3:9] = 1, 2 * (n < 2)
        Image.fromarray(values).save(data.folder / f"m{n}.png")
    table = {"background": 0, "lung": 1, "lesion": 2}
    found = data.check(labels=table)
    assert found.faults == []
    assert found.facts["masks with class"] == {"lung": 6, "lesion": 2}
    assert "text, one side named" not in found.facts
    Image.fromarray(np.full(SIZE, 9, np.uint8)).save(data.folder / "m0.png")
    only(data.check(labels=table).faults, "case 'c0'", "holds 9, which the label table")
    with pytest.raises(CallError):
        data.check(labels={"a": 1, "b": 1})


def test_equal_pictures_and_leaks(data):
    for copy, first in (("i1", "i0"), ("i5", "i0")):
        (data.folder / f"{copy}.png").write_bytes((data.folder / f"{first}.png").read_bytes())
    found = data.check()
    assert found.faults == []
    only(found.warnings, "equal byte for byte under several ids: 1 (c0 = c1 = c5)")
    assert "split: LEAK: the same picture stands in several parts: 1 (c0 = c1 = c5)" in found.warnings[0]
    assert found.facts["picture files that occur again"] == 2
    data.rows[5]["split"] = "train"
    assert not any("LEAK" in w for w in data.check().warnings)


def test_two_modalities_that_are_one_picture(data):
    data.rows[2]["image:t2"] = data.rows[2]["image"]
    found = data.check()
    only(found.warnings, "cases two modalities of which are one picture: 1 (c2)")
    assert len(found.warnings) == 1


def test_groups_and_splits(data):
    data.rows[0]["group"] = ""
    data.rows[1]["group"] = data.rows[5]["group"]
    data.rows[2]["split"] = "trian"
    data.rows[3]["split"] = ""
    for row in data.rows:
        row["split:b"] = "test"
    found = data.check()
    only(found.warnings, "cases without a group: 1 (c0)")
    only(found.warnings, "split: groups in several parts: 1 (p5)")
    only(found.warnings, "split: 'trian' (1 cases) is no usual part, did you mean 'train'?")
    only(found.warnings, "split:b: no case is in train")
    assert found.facts["split"] == {"none": 1, "test": 2, "train": 2, "trian": 1}
    assert (found.facts["groups"], found.facts["largest group"]) == (4, 2)


def test_selection_belongs_to_train(data):
    data.rows[0]["split"], data.rows[0]["group"] = "selection", data.rows[1]["group"]
    assert data.check().warnings == []


def test_ids_that_look_alike(data):
    data.rows[0]["id"], data.rows[1]["id"] = "Case", "case"
    only(data.check().warnings, "differ in case or spelling alone: 1 (Case / case)")


def test_texts(data):
    texts = ["was \ufffd there", "bell \x07", "x" * 2001, "same", "same", "same"]
    for row, text in zip(data.rows, texts, strict=True):
        row["text"], row["text:short"] = text, "short" if row["id"] == "c0" else ""
    found = data.check()
    only(found.warnings, "text: sentences with the replacement character U+FFFD", "1 (c0)")
    only(found.warnings, "text: sentences with control characters: 1 (c1)")
    only(found.warnings, "text: sentences longer than 2,000 characters: 1 (c2)")
    only(found.warnings, "text: 3 of 6 sentences are the same ('same')")
    assert len(found.warnings) == 4
    assert found.facts["text"] == {
        "cases with": 6,
        "without": 0,
        "distinct": 4,
        "longest (characters)": 2001,
        "share of the commonest": "50.0%",
    }
    assert (found.facts["text:short"]["cases with"], found.facts["text:short"]["without"]) == (1, 5)


def test_sentences_made_from_masks(data):
    for row in data.rows[:2]:
        row["text_origin"] = "from-mask"
    only(data.check().warnings, "in 2 cases", "made from masks: their scores are no test of reading")


def test_sides_without_a_convention(data):
    data.rows[0]["side_convention"] = ""
    data.rows[1] |= {"side_convention": "unknown", "text": "Nothing of note."}
    found = data.check()
    only(found.warnings, "side_convention is unknown: 1 (c0)")
    assert found.facts["text, one side named"]["cases"] == 4


@pytest.mark.parametrize(("convention", "wrong"), [("image", "right"), ("patient", "left")])
def test_masks_on_the_other_side(data, convention, wrong):
    right = {"right": "left", "left": "right"}[wrong]
    for n, row in enumerate(data.rows):
        row["side_convention"] = convention
        mask(data.folder / f"m{n}.png", wrong if n == 3 else right)
    data.rows[4]["text"] = "Bilateral, worse in the right lung."
    data.rows[5]["text"] = "Left and right lung."
    found = data.check()
    warning = only(found.warnings, "the side the sentence does not name in 1 (c3) of 4")
    assert warning.endswith("look at them.")
    for n in range(6):
        mask(data.folder / f"m{n}.png", wrong)
    assert data.check().warnings[0].endswith("most likely side_convention is the wrong one.")


def test_a_mask_across_the_middle_is_on_no_side(data):
    for n in range(6):
        values = np.zeros((9, 9), np.uint8)
        values[2:4, 3 + n % 3 : 6] = 255  # of nine columns the fifth is on neither side
        Image.fromarray(values).save(data.folder / f"m{n}.png")
        picture(data.folder / f"i{n}.png", n, (9, 9))
    values[:, :] = 0
    values[2, 4] = 255
    Image.fromarray(values).save(data.folder / "m5.png")
    found = data.check()
    assert found.faults == []
    assert found.facts["text, one side named"] == {"cases": 5, "mask mostly on the other": 3}


def test_which_sentences_name_one_side():
    assert one_side("RIGHT lower lobe") == "right"
    assert one_side("Left lung, left base") == "left"
    for text in (
        "left and right",
        "both lungs, left more",
        "Bilateral, upper left",
        "left untreated",
        "none",
        "leftover",
    ):
        assert one_side(text) is None


def test_it_needs_no_torch(data):
    data.check()
    code = f"import sys; from crossmask.data.check import check; check({str(data.folder / 'cases.csv')!r}); " + (
        "print([m for m in ('torch', 'pandas', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


REAL = os.environ.get("CROSSMASK_DATA")


@pytest.mark.skipif(REAL is None, reason="CROSSMASK_DATA names no folder of real data")
def test_qata_has_no_faults(tmp_path):
    from crossmask.data.adapters.qata import scan

    cases = scan(Path(str(REAL)) / "QaTa")
    cases = [*cases[:100], *cases[-300:]]  # without and with patient numbers
    found = check(manifest.write(tmp_path / "cases.csv", cases))
    assert found.faults == []
    assert found.facts["masks read"] == len(cases)
    only(found.warnings, "split:lvit: groups in several parts")
    assert found.facts["text:lvit, one side named"]["mask mostly on the other"] < 10
