"""Adapters of dermoscopy and text prompts: their layouts, made here; real trees where CROSSMASK_DATA names them."""

from __future__ import annotations

import csv
import logging
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import openpyxl
import pytest
from PIL import Image

from crossmask.data import manifest
from crossmask.data.adapters import isic2017, isic2018, ph2, prompts
from crossmask.data.manifest import Case
from crossmask.errors import DataError
from real_data import real

VARIANTS = ("contradictory", "missing_location", "overdescriptive", "underdescriptive")
HEAD = ("Image", "Description", "Ground Truth")
ARCHIVE = ("isic_id", "age_approx", "sex", "anatom_site_general", "diagnosis_1", "diagnosis_3")


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], str]:
    caplog.set_level(logging.WARNING, logger="crossmask")
    return lambda: "\n".join(record.getMessage() for record in caplog.records)


def by_id(cases: Iterable[Case]) -> dict[str, Case]:
    return {case.id: case for case in cases}


def picture(path: Path, value: int = 7) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((6, 5), value, np.uint8)).save(path)
    return path


def table(path: Path, rows: Sequence[Sequence[object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".xlsx":
        book = openpyxl.Workbook()
        for row in rows:
            book.active.append(list(row))
        book.save(path)
    else:
        with open(path, "w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows(rows)
    return path


def names(first: int, count: int) -> list[str]:
    return [f"ISIC_{n:07d}" for n in range(first, first + count)]


# -- ISIC 2017 -------------------------------------------------------------------------------------------


def part2017(root: Path, part: str, ids: Sequence[str], *, doubled: bool = False, ending: str = ".jpg") -> None:
    """A part as its zips unpack: superpixels beside the pictures, licence files, tables inside and beside."""
    inside = f"ISIC-2017_{part}_Data/" * (1 + doubled)
    for n, name in enumerate(ids):
        picture(root / inside / f"{name}{ending}", n)
        picture(root / inside / f"{name}_superpixels.png", n)
        picture(root / f"ISIC-2017_{part}_Part1_GroundTruth/{name}_segmentation.png", 255)
    for file in ("LICENSE.txt", "ATTRIBUTION.txt", "README.md"):
        (root / inside / file).write_text("terms")
    aged = [(name, 5 * n or "unknown", "unknown" if n == 1 else "female") for n, name in enumerate(ids)]
    table(root / inside / f"ISIC-2017_{part}_Data_metadata.csv", [("image_id", "age_approximate", "sex"), *aged])
    flags = [(name, float(n == 0), float(n == 1)) for n, name in enumerate(ids)]
    head = ("image_id", "melanoma", "seborrheic_keratosis")
    table(root / f"ISIC-2017_{part}_Part3_GroundTruth.csv", [head, *flags])


def test_isic2017_all_parts(tmp_path, said):
    root = tmp_path / "isic"
    part2017(root, "Training", names(0, 5), doubled=True)
    part2017(root, "Validation", names(10, 2), ending=".png")
    part2017(root, "Test_v2", names(20, 3))
    cases = isic2017.scan(tmp_path)
    assert Counter(c.splits[""] for c in cases) == {"train": 5, "valid": 2, "test": 3}
    assert Counter(c.free["diagnosis"] for c in cases) == {"melanoma": 3, "seborrheic keratosis": 3, "nevus": 4}
    assert by_id(cases)["ISIC_0000002"].free == {"age": "10", "sex": "female", "site": "", "diagnosis": "nevus"}
    assert by_id(cases)["ISIC_0000001"].free["sex"] == ""
    assert all(c.mask and c.group is None and not c.texts and c.side_convention == "image" for c in cases)
    assert "3 images of unknown age (left empty): ISIC_0000000" in said()
    assert "3 images of unknown sex (left empty)" in said()
    assert "1 columns left empty (no table here fills them; metadata= takes one of ISIC's archive): site" in said()
    assert "10 cases without a patient number (no group)" in said()
    assert len(said().splitlines()) == 4
    assert manifest.read(manifest.write(tmp_path / "cases.csv", cases)) == cases


def test_isic2017_training_alone_has_no_split(tmp_path):
    part2017(tmp_path, "Training", names(0, 2))
    assert [c.splits for c in isic2017.scan(tmp_path)] == [{}, {}]


def test_isic2017_test_alone_is_test(tmp_path):
    part2017(tmp_path, "Test_v2", names(0, 2))
    assert [c.splits for c in isic2017.scan(tmp_path)] == [{"": "test"}] * 2


def test_isic2017_small_letters_and_folders_of_their_own(tmp_path):
    for part, first in (("training", 0), ("test", 5)):
        inside = tmp_path / part / f"isic-2017_{part}_data"
        picture(inside / f"isic_000000{first}.JPG", first)
        picture(tmp_path / part / f"isic-2017_{part}_part1_groundtruth/ISIC_000000{first}_Segmentation.png", 255)
        head = ("image_id", "melanoma", "seborrheic_keratosis")
        table(tmp_path / part / f"isic-2017_{part}_part3_groundtruth (1).csv", [head, (f"ISIC_000000{first}", 1, 0)])
    cases = isic2017.scan(tmp_path)
    assert [(c.splits[""], c.free["diagnosis"], bool(c.mask)) for c in cases] == [
        ("train", "melanoma", True),
        ("test", "melanoma", True),
    ]


def test_isic2017_a_missing_part_3_names_itself(tmp_path, said):
    part2017(tmp_path, "Training", names(0, 3))
    (tmp_path / "ISIC-2017_Training_Part3_GroundTruth.csv").unlink()
    cases = isic2017.scan(tmp_path)
    assert [c.free["diagnosis"] for c in cases] == ["", "", ""]
    assert "1 tables missing (what they say is left empty): ISIC-2017_Training_Part3_GroundTruth.csv" in said()


def test_isic2017_rows_without_an_image_and_odd_values(tmp_path, said):
    part2017(tmp_path, "Training", names(0, 3))
    data = tmp_path / "ISIC-2017_Training_Data"
    rows = [("ISIC_0000000", "45.0", "male"), ("ISIC_0000001", "old", "nan"), ("ISIC_0009999", 5, "male")]
    table(data / "ISIC-2017_Training_Data_metadata.csv", [("image_id", "age_approximate", "sex"), *rows])
    flags = [("ISIC_0000000", "1.0", "1.0"), ("ISIC_0000001", "0.0", "0.0")]
    head = ("image_id", "melanoma", "seborrheic_keratosis")
    table(tmp_path / "ISIC-2017_Training_Part3_GroundTruth.csv", [head, *flags])
    table(tmp_path / "mine.csv", [("a",), (1,)])
    cases = by_id(isic2017.scan(tmp_path))
    assert [cases[n].free["age"] for n in names(0, 3)] == ["45", "", ""]
    assert [cases[n].free["diagnosis"] for n in names(0, 3)] == ["", "nevus", ""]
    assert "1 table rows without an image (ISIC-2017_Training_Data_metadata.csv): ISIC_0009999" in said()
    assert "1 ages that are no number (left empty): ISIC_0000001 'old'" in said()
    assert "are not 0 and 0, 1 and 0 or 0 and 1 (diagnosis left empty): ISIC_0000000" in said()
    assert "1 tables left aside: mine.csv" in said()


def test_isic2017_images_without_masks_and_masks_without_images(tmp_path, said):
    part2017(tmp_path, "Training", names(0, 3))
    masks = tmp_path / "ISIC-2017_Training_Part1_GroundTruth"
    (masks / "ISIC_0000001_segmentation.png").rename(masks / "ISIC_0000009_segmentation.png")
    picture(tmp_path / "ISIC-2017_Validation_Part1_GroundTruth/ISIC_0000050_segmentation.png", 255)
    part2017(tmp_path, "Test_v2", names(20, 1))
    shutil.rmtree(tmp_path / "ISIC-2017_Test_v2_Part1_GroundTruth")
    cases = by_id(isic2017.scan(tmp_path))
    assert [n for n, c in cases.items() if c.mask is None] == ["ISIC_0000001", "ISIC_0000020"]
    assert "2 images without a mask (kept as unlabelled): ISIC_0000001, ISIC_0000020" in said()
    assert "1 masks without an image: ISIC_0000009_segmentation.png" in said()
    assert "mask folders missing (their images are kept as unlabelled): ISIC-2017_Test_v2_Part1_GroundTruth" in said()
    assert "left aside, whose image folders are missing: ISIC-2017_Validation_Part1_GroundTruth" in said()


def test_isic2017_sentences_and_their_variants(tmp_path, said):
    part2017(tmp_path, "Training", names(0, 4))
    sheets = tmp_path / "Prompts_Folder"

    def rows(ids: Sequence[str], text: str) -> list[tuple[str, str, str]]:
        return [HEAD, *((f"{n}.png", f"{text} {n[-1]}\n", f"{n}_Segmentation.png") for n in ids)]

    table(sheets / "Train_text.xlsx", rows(names(0, 1), "train"))
    table(sheets / "Train_text_10.xlsx", rows(names(0, 1), "train"))
    table(sheets / "Val_text.xlsx", rows(names(1, 1), "val"))
    table(sheets / "Test_text_original.xlsx", rows([*names(2, 1), *names(77, 1)], "test"))
    for variant in VARIANTS[:3]:
        table(sheets / f"Test_text_{variant}.xlsx", rows(names(2, 1), variant))
    table(sheets / "Test_text_underdescriptive.xlsx", rows(names(88, 1), "x"))
    cases = by_id(isic2017.scan(tmp_path))
    assert cases["ISIC_0000000"].texts == {"medclipseg": "train 0"}
    assert cases["ISIC_0000001"].texts == {"medclipseg": "val 1"}
    assert cases["ISIC_0000002"].texts == {
        "medclipseg": "test 2",
        "medclipseg_contradictory": "contradictory 2",
        "medclipseg_missing_location": "missing_location 2",
        "medclipseg_overdescriptive": "overdescriptive 2",
    }
    assert cases["ISIC_0000003"].texts == {}
    assert [c.text_origin for c in cases.values()] == ["annotation"] * 3 + ["unknown"]
    parts = [c.splits for c in cases.values()]  # of their benchmark, not of the challenge
    assert parts == [{"medclipseg": part} for part in ("train", "valid", "test")] + [{}]
    assert "1 images without a sentence (medclipseg): ISIC_0000003" in said()
    assert "2 table rows without an image: ISIC_0000077.png, ISIC_0000088.png" in said()
    assert "1 tables left aside: Train_text_10.xlsx" in said()


def test_isic_archive_fills_what_the_tables_leave_open(tmp_path, said):
    part2017(tmp_path, "Training", names(0, 3))
    rows = [
        ("ISIC_0000000", "70", "male", "Anterior torso", "Malignant", "Melanoma, NOS"),
        ("ISIC_0000001", "", "male", "", "Benign", ""),
        ("ISIC_0500000", "5", "male", "", "Benign", "Nevus"),
    ]
    table(tmp_path / "archive.csv", [ARCHIVE, *rows])
    cases = by_id(isic2017.scan(tmp_path, metadata="archive.csv"))
    assert cases["ISIC_0000000"].free == {
        "age": "70",
        "sex": "female",
        "site": "anterior torso",
        "diagnosis": "melanoma",
    }
    assert cases["ISIC_0000001"].free == {
        "age": "5",
        "sex": "male",
        "site": "",
        "diagnosis": "seborrheic keratosis",
    }
    assert "1 table rows without an image (archive.csv): ISIC_0500000" in said()
    assert "1 rows of archive.csv with another sex than a former row (that is kept): ISIC_0000000" in said()
    assert "with another diagnosis than a former row (that is kept): ISIC_0000001" in said()
    assert "left aside" not in said()
    with pytest.raises(DataError, match=r"nowhere\.csv: there is no such table"):
        isic2017.scan(tmp_path, metadata="nowhere.csv")
    table(tmp_path / "odd.csv", [("who", "age"), ("ISIC_0000000", 5)])
    with pytest.raises(DataError, match=r"odd\.csv: has no column for the image's id"):
        isic2017.scan(tmp_path, metadata=str(tmp_path / "odd.csv"))


def test_isic2017_two_folders_of_one_part_are_refused(tmp_path):
    part2017(tmp_path, "Test", names(0, 1))
    part2017(tmp_path, "Test_v2", names(0, 1))
    with pytest.raises(DataError, match="mean the same and hold pictures each; keep one"):
        isic2017.scan(tmp_path)


def test_isic2017_one_id_in_two_parts_is_kept_once(tmp_path, said):
    part2017(tmp_path, "Training", names(0, 2))
    part2017(tmp_path, "Test_v2", names(1, 2))
    assert [(c.id, c.splits[""]) for c in isic2017.scan(tmp_path)] == [
        ("ISIC_0000000", "train"),
        ("ISIC_0000001", "train"),
        ("ISIC_0000002", "test"),
    ]
    assert "1 images of test left out (that name is in train): ISIC_0000001.jpg" in said()


# -- ISIC 2018 -------------------------------------------------------------------------------------------


def test_isic2018_parts_without_masks_and_without_tables(tmp_path, said):
    for part, ids in (("Training", names(0, 3)), ("Validation", names(10, 2)), ("Test", names(20, 1))):
        for n, name in enumerate(ids):
            picture(tmp_path / f"ISIC2018_Task1-2_{part}_Input/{name}.jpg", n)
            if part != "Test":
                picture(tmp_path / f"ISIC2018_Task1_{part}_GroundTruth/{name}_segmentation.png", 255)
        for file in ("ATTRIBUTION.txt", "LICENSE.txt"):
            (tmp_path / f"ISIC2018_Task1-2_{part}_Input" / file).write_text("CC BY-NC")
    picture(tmp_path / "ISIC2018_Task3_Training_Input/ISIC_0024306.jpg")  # another task
    cases = isic2018.scan(tmp_path)
    assert Counter(c.splits[""] for c in cases) == {"train": 3, "valid": 2, "test": 1}
    assert [c.id for c in cases if c.mask is None] == ["ISIC_0000020"]
    assert "their images are kept as unlabelled): ISIC2018_Task1_Test_GroundTruth" in said()
    assert "4 columns left empty" in said()
    table(tmp_path / "archive.csv", [ARCHIVE, ("ISIC_0000000", 50, "male", "head/neck", "Benign", "Nevus")])
    case = isic2018.scan(tmp_path, metadata=str(tmp_path / "archive.csv"))[0]
    assert case.free == {"age": "50", "sex": "male", "site": "head/neck", "diagnosis": "nevus"}
    assert "5 images of unknown age (left empty)" in said()


# -- PH2 -------------------------------------------------------------------------------------------------

LINES = [
    "|| Name   || Histological Diagnosis || Clinical Diagnosis || Asymmetry || Pigment Network || Dots/Globules || "
    "Streaks || Regression Areas || Blue-Whitish Veil || Colors   ||",
    "||--------",
    "|| IMD002 ||                        ||  1 || 1 || AT || T || A || A || A || 3  4     ||",
    "|| IMD003 ||                        ||  0 || 0 || T  || A || A || A || A || 4        ||",
    "|| IMD058 || Melanoma               ||  2 || 2 || AT || AT || P || P || P || 1 2 4 5 6 ||",
    "|| IMD424 ||                        ||  2 || 2 || AT || AT || A || A || P || 4 5      ||",
    "Legends: Asymmetry 0 Fully Symmetric; Colors 1 White ... 6 Black",
]


def test_ph2_workbook_and_text_agree(tmp_path, said):
    root = ph2.fake(tmp_path / "set")
    cases = ph2.scan(root)
    assert any(c.texts for c in cases)
    assert not any(c.splits for c in cases), "a sheet of one's own is no split"
    assert cases[2].free == {
        "diagnosis": "melanoma",
        "histology": "melanoma",
        "asymmetry": "2",
        "pigment_network": "atypical",
        "dots_globules": "atypical",
        "streaks": "present",
        "regression_areas": "present",
        "blue_whitish_veil": "present",
        "colours": "white, red, dark brown, blue gray, black",
    }
    book = next(root.rglob("PH2_dataset.xlsx"))
    text = book.with_suffix(".txt")
    text.write_text("\n".join(LINES) + "\n")
    assert ph2.scan(root) == cases
    assert "1 tables left aside: PH2_dataset.txt (PH2_dataset.xlsx is read)" in said()
    book.unlink()
    assert ph2.scan(root) == cases
    text.write_text("\n".join(re.sub(r"\s*\|\|\s*", "||", line).strip("|") for line in LINES))
    assert ph2.scan(root) == cases
    assert "table rows" not in said()


def test_ph2_odd_rows_are_counted(tmp_path, said):
    root = ph2.fake(tmp_path)
    book = next(root.rglob("PH2_dataset.xlsx"))
    book.unlink()
    odd = [
        "|| IMD002 || || 7 || 1 || Q || T || A || A || A || 3 9 ||",
        "|| IMD002 || || 1 || 1 || T || T || A || A || A || 3 ||",
        "|| IMD999 || || 1 || 1 || T || T || A || A || A || 3 ||",
        "|| IMD003 || || 0 ||",
    ]
    book.with_suffix(".txt").write_text("\n".join([LINES[0], *odd]))
    cases = by_id(ph2.scan(root))
    assert cases["IMD002"].free["diagnosis"] == ""
    assert cases["IMD002"].free["colours"] == "light brown"
    assert cases["IMD003"].free["diagnosis"] == "common nevus"
    assert cases["IMD003"].free["streaks"] == ""
    assert "(left empty): IMD002 Clinical Diagnosis '7', IMD002 Colors '9', IMD002 Pigment Network 'Q'" in said()
    assert "1 further table rows of an image (the first is kept): IMD002" in said()
    assert "1 table rows without an image: IMD999" in said()
    assert "1 rows of PH2_dataset.txt with fewer fields than the header (the last are left empty): IMD003" in said()
    assert "2 images without a table row (all columns are left empty): IMD058, IMD424" in said()
    assert "1 images of unknown diagnosis (left empty): IMD002" in said()
    book.with_suffix(".txt").write_text("nothing of use\n")
    with pytest.raises(DataError, match=r"PH2_dataset\.txt: no row has a column 'Image Name' or 'Name'"):
        ph2.scan(root)


def test_ph2_without_a_table_and_two_trees(tmp_path, said):
    root = ph2.fake(tmp_path)
    next(root.rglob("PH2_dataset.xlsx")).unlink()
    small = root / "sample" / "PH2_Dataset_images"
    shutil.copytree(root / "PH2Dataset/PH2 Dataset images/IMD002", small / "IMD002")
    cases = ph2.scan(root)
    assert len(cases) == 4
    assert all(set(c.free.values()) == {""} for c in cases)
    assert "1 tables missing (all columns are left empty): PH2_dataset.xlsx or PH2_dataset.txt" in said()
    assert f"left aside (the fullest is read: {Path('PH2Dataset/PH2 Dataset images')})" in said()
    assert f"{Path('sample/PH2_Dataset_images')} (1 cases)" in said()
    (case,) = ph2.scan(root / "sample")
    assert Path(case.mask).name == "IMD002_lesion.bmp"


# -- prompts ---------------------------------------------------------------------------------------------


def benchmark(root: Path, parts: dict[str, Sequence[str]], mask: str = "{}.png") -> Path:
    for part, ids in parts.items():
        for n, name in enumerate(ids):
            picture(root / f"{part}_Folder/img/{name}.png", n + len(part))
            picture(root / f"{part}_Folder/label" / mask.format(name), 255)
    return root


def sentences(root: Path, sheet: str, ids: Sequence[str], text: str = "t", mask: str = "{}.png") -> None:
    table(root / f"Prompts_Folder/{sheet}.xlsx", [HEAD, *((f"{n}.png", f"{text} {n}\n", mask.format(n)) for n in ids)])


def test_prompts_variants_and_subsets(tmp_path, said):
    root = benchmark(tmp_path / "Kvasir", {"Train": "abcd", "Val": "e", "Test": "fg"})
    sentences(root, "Train_text", "dcba")
    sentences(root, "Train_text_25", "c")
    sentences(root, "Train_text_50", "bc")
    sentences(root, "Val_text", "e")
    sentences(root, "Val_text_50", "e")
    sentences(root, "Test_text_original", "fg")
    sentences(root, "Test_text_contradictory", "gf", "not")  # in another order
    sentences(root, "Test_text_missing_location", "g", "in  of")
    cases = by_id(prompts.scan(tmp_path))
    assert {n: c.texts[""] for n, c in cases.items()} == {n: f"t {n}" for n in "abcdefg"}
    assert cases["f"].texts == {"": "t f", "contradictory": "not f"}
    assert cases["g"].texts == {"": "t g", "contradictory": "not g", "missing_location": "in  of g"}
    assert {n: c.splits[""] for n, c in cases.items()} == {
        **dict.fromkeys("abcd", "train"),
        **dict.fromkeys("e", "valid"),
        **dict.fromkeys("fg", "test"),
    }
    assert "".join(n for n, c in cases.items() if c.splits["25"] == "train") == "c"
    assert "".join(n for n, c in cases.items() if c.splits["50"] == "train") == "bc"
    assert "".join(n for n, c in cases.items() if c.splits["50"] == "unused") == "ad"
    assert [cases[n].splits["25"] for n in "efg"] == ["valid", "test", "test"]
    assert {(c.source, c.text_origin, c.side_convention) for c in cases.values()} == {("Kvasir", "annotation", "image")}
    assert "1 images without a sentence (missing_location): f" in said()
    assert "1 tables left aside: Val_text_50.xlsx" in said()
    assert "without a sentence:" not in said()


def test_prompts_masks_by_the_column(tmp_path, said):
    root = benchmark(tmp_path, {"Train": ["a", "b"]}, "{}_segmentation.png")
    for name in ("c", "d", "e"):
        picture(root / f"Train_Folder/img/{name}.png", ord(name))
    picture(root / "Train_Folder/label/c.jpeg", 255)
    picture(root / "Train_Folder/label/e.png", 255)
    rows = [
        ("a.png", "of a", "A_Segmentation.PNG"),
        ("c.png", "of c", "c.png"),
        ("d.png", "of d", "e.png"),
        ("e.png", "of e", "gone.png"),
    ]
    table(root / "Prompts_Folder/Train_text.xlsx", [("Image", "Description", "Mask"), *rows])
    cases = by_id(prompts.scan(root))
    masks = {n: c.mask and Path(c.mask).name for n, c in cases.items()}
    wanted = {"a": "a_segmentation.png", "b": "b_segmentation.png", "c": "c.jpeg", "d": "e.png", "e": None}
    assert masks == wanted
    assert "1 masks named in a table that are not there: gone.png" in said()
    assert "1 images without a mask (kept as unlabelled): e" in said()
    assert "1 images without a sentence: b" in said()
    assert "masks without an image" not in said()


def test_prompts_empty_sheets_and_ids_in_several_parts(tmp_path, said):
    root = benchmark(tmp_path, {"Train": "ab", "Val": "c", "Test": "bd"})
    sentences(root, "Train_text", "abc")
    table(root / "Prompts_Folder/Val_text.xlsx", [])
    table(root / "Prompts_Folder/Test_text_original.xlsx", [("Image", "Description", "Mask")])
    table(root / "Prompts_Folder/Test_text_other.xlsx", [HEAD])
    sentences(root, "Test_text_contradictory", "bd", "not")
    cases = by_id(prompts.scan(root))
    assert {n: c.splits[""] for n, c in cases.items()} == {"a": "train", "b": "train", "c": "valid", "d": "test"}
    assert cases["d"].texts == {"contradictory": "not d"}
    assert "1 tables that are empty: Val_text.xlsx" in said()
    assert "1 tables that hold a header only: Test_text_original.xlsx" in said()
    assert "1 tables left aside: Test_text_other.xlsx" in said()
    assert "1 images of test left out (that name is in train): b.png" in said()
    assert "1 images in the valid folder though a table says otherwise: c" in said()
    sentences(root, "Test_text_original", "ad")
    prompts.scan(root)
    assert "1 rows in a second part of the split (the first is kept): a.png" in said()


def test_prompts_without_pictures_or_with_several_sets(tmp_path):
    sentences(tmp_path / "CVC300", "Train_text", "a")
    with pytest.raises(DataError, match=r"looked for 'Train_Folder'.*there is: Prompts_Folder/"):
        prompts.scan(tmp_path / "CVC300")
    for name in ("BUSI", "ISIC"):
        benchmark(tmp_path / name, {"Test": "a"})
    with pytest.raises(DataError, match=r"several such data sets \(BUSI, ISIC\)"):
        prompts.scan(tmp_path)
    assert [c.splits for c in prompts.scan(tmp_path / "BUSI")] == [{"": "test"}]


# -- real trees ------------------------------------------------------------------------------------------


def test_real_isic2017(said):
    cases = isic2017.scan(real("isic2017"))
    assert len(cases) == len({c.id for c in cases}) == 1400
    assert Counter(c.free["diagnosis"] for c in cases) == {"melanoma": 261, "seborrheic keratosis": 161, "nevus": 978}
    assert Counter(c.free["sex"] for c in cases) == {"female": 617, "male": 608, "": 175}
    assert sum(not c.free["age"] for c in cases) == 197
    assert all(c.mask and c.group is None for c in cases)
    parts = Counter(c.splits.get("medclipseg") for c in cases)
    assert parts == {"train": 669, "valid": 74, "test": 45, None: 612}
    assert Counter(len(c.texts) for c in cases) == {0: 612, 1: 743, 5: 45}
    assert "197 images of unknown age" in said()
    assert "175 images of unknown sex" in said()
    assert len(said().splitlines()) == 6  # those two, no site, no sentence, no part, no group


@pytest.mark.parametrize("inside", [(), ("PH2Dataset",)])
def test_real_ph2(inside, said):
    cases = ph2.scan(real("ph2", *inside))
    assert len(cases) == 200
    assert all(c.mask for c in cases)
    counts = {name: Counter(c.free[name] for c in cases) for name in ph2.COLUMNS}
    assert counts["diagnosis"] == {"common nevus": 80, "atypical nevus": 80, "melanoma": 40}
    assert counts["histology"][""] == 159
    assert counts["asymmetry"] == {"0": 117, "1": 31, "2": 52}
    assert counts["pigment_network"] == {"atypical": 116, "typical": 84}
    assert counts["dots_globules"] == {"absent": 87, "atypical": 59, "typical": 54}
    present = [counts[name]["present"] for name in ("streaks", "regression_areas", "blue_whitish_veil")]
    assert present == [30, 25, 36]
    colours = Counter(colour for c in cases for colour in c.free["colours"].split(", "))
    assert [colours[c] for c in ("white", "red", "light brown", "dark brown", "blue gray", "black")] == [
        19,
        10,
        139,
        156,
        38,
        42,
    ]
    assert ("left aside" in said()) == (not inside)


def test_real_ph2_original_format():
    cases = ph2.scan(real("ph2", "original-format-sample"))
    assert [(c.id, Path(c.mask).name) for c in cases] == [
        (n, f"{n}_lesion.bmp") for n in ("IMD002", "IMD003", "IMD058", "IMD424")
    ]


@pytest.mark.parametrize(("name", "sizes"), [("ISIC", (16, 4, 8)), ("Kvasir", (28, 6, 12)), ("BUSI", (10, 4, 8))])
def test_real_prompts(name, sizes, said):
    cases = prompts.scan(real("prompts-sample", name))
    assert Counter(c.splits[""] for c in cases) == dict(zip(("train", "valid", "test"), sizes, strict=True))
    assert all(c.mask and c.texts[""] for c in cases)
    assert {tuple(c.texts) for c in cases if c.splits[""] == "test"} == {("", *VARIANTS)}
    assert {tuple(c.splits) for c in cases} == {("", "10", "25", "50")}
    assert len(said().splitlines()) == 2  # no group; sheets of fewer valid rows
