"""The data adapters: every layout they know, made here; counts on real trees where CROSSMASK_DATA names them."""

from __future__ import annotations

import csv
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import openpyxl
import pytest
from PIL import Image

from crossmask.data import manifest
from crossmask.data.adapters import folder, monuseg, mosmed, qata
from crossmask.data.manifest import Case
from crossmask.data.tables import part_in, part_of, read_table
from crossmask.errors import DataError
from real_data import real

SCAN = "sub-S09340_ses-E17539_run-1_bp-chest_vp-ap_dx"


def picture(path: Path, value: int = 7) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((6, 5), value, np.uint8)).save(path)
    return path


def pairs(images: Path, masks: Path, names: Iterable[str], mask: str = "{}.png", image: str = "{}.png") -> None:
    for n, name in enumerate(names):
        picture(images / image.format(name), 3 + n)
        picture(masks / mask.format(name), 255)


def sheet(path: Path, rows: Sequence[Sequence[object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".xlsx":
        book = openpyxl.Workbook()
        for row in rows:
            book.active.append(list(row))
        book.save(path)
    else:
        with open(path, "w", newline="", encoding="utf-8") as stream:
            csv.writer(stream, delimiter="\t" if path.suffix == ".tsv" else ",").writerows(rows)
    return path


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], str]:
    caplog.set_level(logging.WARNING, logger="crossmask")
    return lambda: "\n".join(record.getMessage() for record in caplog.records)


def by_id(cases: Iterable[Case]) -> dict[str, Case]:
    return {case.id: case for case in cases}


def kaggle(root: Path, train: Sequence[str], test: Sequence[str] = ()) -> Path:
    pairs(root / "Train Set/Images", root / "Train Set/Ground-truths", train, "mask_{}.png")
    if test:
        pairs(root / "Test Set/Images", root / "Test Set/Ground-truths", test, "mask_{}.png")
    return root


# -- QaTa ------------------------------------------------------------------------------------------------


def test_qata_fake_has_three_wordings_and_two_splits(tmp_path):
    cases = qata.scan(qata.fake(tmp_path))
    assert {tuple(c.texts) for c in cases} == {("lvit", "medclipseg", "sgseg")}
    assert [c.splits["lvit"] for c in cases] == ["train", "train", "train", "valid"]
    assert [c.group for c in cases] == [None, None, "S09340", "S10064"]
    assert [c.free["view"] for c in cases] == ["", "", "ap", ""]
    assert {(c.text_origin, c.side_convention, c.source) for c in cases} == {("annotation", "image", "QaTa-COV19-v2")}


@pytest.mark.parametrize("written", ["mask_{}.png", "{}.png", "mask_{}", "{}"])
@pytest.mark.parametrize("header", [("Image", "Description"), ("Filename", "text")])
def test_qata_names_in_tables_are_normalised(tmp_path, said, written, header):
    root = kaggle(tmp_path, ["covid_1", SCAN])
    sheet(root / "Train_text.xlsx", [header, *([written.format(n), f"about {n}"] for n in ("covid_1", SCAN))])
    cases = by_id(qata.scan(root))
    assert cases["covid_1"].texts == {"lvit": "about covid_1"}
    assert cases[SCAN].texts == {"lvit": f"about {SCAN}"}
    assert "without a" in said()
    assert "table rows" not in said()


def test_qata_kaggle_with_the_official_test_part(tmp_path, said):
    root = kaggle(tmp_path / "QaTa-COV19" / "QaTa-COV19-v2", ["covid_1", "covid_2"], ["covid_9"])
    sheet(root / "Train_text.xlsx", [("Image", "Description"), ("mask_covid_1.png", "a")])
    sheet(root / "Val_text.xlsx", [("Image", "Description"), ("mask_covid_2.png", "b")])
    sheet(root / "Test_text_original.xlsx", [("Image", "Description"), ("mask_covid_9.png", "c")])
    sheet(root / "Test_text_contradictory.xlsx", [("Image", "Description"), ("mask_covid_9.png", "not c")])
    cases = by_id(qata.scan(tmp_path))
    assert {n: (c.splits["lvit"], c.texts["lvit"]) for n, c in cases.items()} == {
        "covid_1": ("train", "a"),
        "covid_2": ("valid", "b"),
        "covid_9": ("test", "c"),
    }
    assert "1 tables left aside: Test_text_contradictory.xlsx" in said()


def test_qata_without_tables_the_folders_are_the_split(tmp_path, said):
    cases = qata.scan(kaggle(tmp_path, ["covid_1"], ["covid_9"]))
    assert [c.splits for c in cases] == [{"lvit": "train"}, {"lvit": "test"}]
    assert "without a sentence table" in said()


def test_qata_lvit_originals_with_id_sheets(tmp_path):
    root = kaggle(tmp_path, ["covid_1", "covid_2"])
    rows = [("mask_covid_1.png", "a"), ("mask_covid_2.png", "b")]
    sheet(root / "Train_text_for_Covid19.xlsx", [("Image", "Description"), *rows])
    sheet(root / "Train_ID.xlsx", [("Image",), ("mask_covid_2.png",)])
    sheet(root / "Val_ID.xlsx", [("mask_covid_1.png",)])  # no header
    cases = by_id(qata.scan(root))
    assert cases["covid_1"].splits == {"lvit": "valid"}
    assert cases["covid_2"].splits == {"lvit": "train"}
    assert cases["covid_1"].texts == {"lvit": "a"}


def test_qata_two_wordings_keep_their_names(tmp_path):
    root = kaggle(tmp_path, ["covid_1"])
    sheet(root / "Train_text.xlsx", [("Image", "Description", "Ground Truth"), ("mask_covid_1.png", "a", "x")])
    sheet(root / "Train_text_lvit_form.csv", [("Image", "Description"), ("mask_covid_1.png", "b")])
    (case,) = qata.scan(root)
    assert case.texts == {"lvit": "b", "medclipseg": "a"}
    assert case.splits == {"lvit": "train"}


def test_qata_lvit_folders(tmp_path, said):
    for part, names in (("Train", ["covid_1", SCAN]), ("Val", ["covid_2"]), ("Test", ["covid_9"])):
        base = tmp_path / "qata" / f"{part}_Folder"
        pairs(base / "img", base / "labelcol", names, "mask_{}.png")
        rows = [(f"mask_{n}.png", n.upper()) for n in names]
        sheet(base / f"{part}_text.xlsx", [("Image", "Description"), *rows])
    cases = by_id(qata.scan(tmp_path))
    assert {n: c.splits for n, c in cases.items()} == {
        "covid_1": {"lvit": "train"},
        SCAN: {"lvit": "train"},
        "covid_2": {"lvit": "valid"},
        "covid_9": {"lvit": "test"},
    }
    assert cases[SCAN].texts == {"lvit": SCAN.upper()}
    assert "otherwise" not in said()


def test_qata_languide_cuts_train_at_four_fifths_in_order(tmp_path):
    names = [f"covid_{n}" for n in range(10)]
    pairs(tmp_path / "Train/Images", tmp_path / "Train/GTs", names, "mask_{}.png")
    pairs(tmp_path / "Test/Images", tmp_path / "Test/GTs", ["covid_99"], "mask_{}.png")
    rows = [(f"mask_{n}.png", "infected") for n in reversed(names)]
    sheet(tmp_path / "prompt/train.csv", [("Image", "Description"), *rows])
    sheet(tmp_path / "prompt/test.csv", [("Image", "Description"), ("mask_covid_99.png", "infected")])
    cases = by_id(qata.scan(tmp_path))
    assert Counter(c.splits["languide"] for c in cases.values()) == {"train": 8, "valid": 2, "test": 1}
    assert cases["covid_0"].splits == {"languide": "valid"}
    assert cases["covid_2"].splits == {"languide": "train"}
    assert all(c.texts == {"languide": "infected"} for c in cases.values())


ENTRIES = [("train", "mask_covid_1.png", "one"), ("valid", f"mask_{SCAN.lower()}.png", "two")]


@pytest.mark.parametrize(
    "annotation",
    [
        {p: [{"image_path": i, "caption": t, "pseudo_label": [1]}] for p, i, t in ENTRIES},
        [{"image": i, "report": t, "split": p} for p, i, t in ENTRIES],
        {"annotations": [{"filename": i, "text": t} for _, i, t in ENTRIES]},
        {i: t for _, i, t in ENTRIES},
        {i: {"caption": t, "split": p} for p, i, t in ENTRIES},
    ],
)
def test_qata_sgseg_tree_with_lower_case_names_and_second_copies(tmp_path, said, annotation):
    base = tmp_path / "data/QaTa"
    pairs(base / "images/train/images", base / "images/train/masks", ["covid_1"], "mask_{}.png")
    for name in (SCAN, SCAN.lower()):
        picture(base / f"images/valid/images/{name}.png", 9)
        picture(base / f"images/valid/masks/mask_{name}.png", 255)
    (base / "prompts").mkdir()
    (base / "prompts/annotation.json").write_text(json.dumps(annotation))
    cases = by_id(qata.scan(base))
    assert set(cases) == {"covid_1", SCAN}
    assert cases[SCAN].texts == {"sgseg": "two"}
    assert cases[SCAN].splits == {"sgseg": "valid"}
    assert cases[SCAN].group == "S09340"
    assert "2 files dropped as second copies" in said()


def test_qata_same_name_with_other_content_is_counted_not_guessed(tmp_path, said):
    root = kaggle(tmp_path, ["covid_1"], ["covid_2"])
    picture(root / "Train Set/Images/COVID_1.png", 200)
    picture(root / "Test Set/Images/covid_1.png", 201)
    cases = qata.scan(root)
    assert [c.id for c in cases] == ["COVID_1", "covid_2"]
    assert "1 files left out (one of that name, with other content, is there already): covid_1.png" in said()
    assert "1 images of test left out (that name is in train): covid_1.png" in said()


def test_qata_a_row_in_both_parts_and_two_sentences_are_counted(tmp_path, said):
    root = kaggle(tmp_path, ["covid_1"])
    sheet(root / "Train_text.xlsx", [("Image", "Description"), ("covid_1", "a")])
    sheet(root / "Val_text.xlsx", [("Image", "Description"), ("covid_1", "b")])
    (case,) = qata.scan(root)
    assert (case.texts, case.splits) == ({"lvit": "a"}, {"lvit": "train"})
    assert "second part of split lvit" in said()
    assert "further sentences left out" in said()


def test_qata_a_table_against_the_test_folder(tmp_path, said):
    root = kaggle(tmp_path, ["covid_1"], ["covid_2"])
    sheet(root / "Train_text.xlsx", [("Image", "Description"), ("covid_1", "a"), ("covid_2", "b")])
    assert [c.splits["lvit"] for c in qata.scan(root)] == ["train", "test"]
    assert "in the test folder though" in said()


def test_qata_columns_that_are_missing_are_named(tmp_path):
    root = kaggle(tmp_path, ["covid_1"])
    sheet(root / "Train_text.xlsx", [("Bild", "Satz"), ("covid_1", "a")])
    with pytest.raises(DataError, match=r"Train_text\.xlsx: has no column for the image .*there are: Bild, Satz"):
        qata.scan(root)


def test_qata_an_empty_workbook_is_counted(tmp_path, said):
    root = kaggle(tmp_path, ["covid_1"])
    sheet(root / "Val_text.xlsx", [])
    assert len(qata.scan(root)) == 1
    assert "1 tables that are empty: Val_text.xlsx" in said()


def test_qata_two_trees_are_not_chosen_between(tmp_path):
    kaggle(tmp_path / "a", ["covid_1"])
    kaggle(tmp_path / "b", ["covid_1"])
    with pytest.raises(DataError, match="several such data sets"):
        qata.scan(tmp_path)


def test_layouts_with_doubled_folders_and_other_spelling(tmp_path):
    base = tmp_path / "train_set" / "train_set"
    pairs(base / "images", base / "ground truths", ["covid_1"], "mask_{}.png")
    assert [c.id for c in qata.scan(tmp_path)] == ["covid_1"]


# -- MosMedData+ and MoNuSeg -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "scan"),
    [
        ("Morozov_study_0003_24", "Morozov_study_0003"),
        ("16_Morozov_study_0003_24", "Morozov_study_0003"),
        ("Jun_coronacases_case7_75", "Jun_coronacases_case7"),
        (
            "Jun_radiopaedia_org_covid-19-pneumonia-4_85506_1_case13_3",
            "Jun_radiopaedia_org_covid-19-pneumonia-4_85506_1_case13",
        ),
        ("bjorke_8", None),
        ("other", None),
    ],
)
def test_mosmed_scan_of(name, scan):
    assert mosmed.scan_of(name) == scan


def mosmed_tree(root: Path) -> list[str]:
    names = [f"Morozov_study_{s:04d}_{k}" for s in range(20) for k in range(5)] + [f"bjorke_{n}" for n in range(10)]
    pairs(root / "frames", root / "masks", names)
    head = ("Image", "Description")
    sheet(root / "Train_text_MosMedData+ 1.xlsx", [head, *((f"{n}.png", "a") for n in names if not n.endswith("_4"))])
    sheet(root / "Val_text_MosMedData+ 1.xlsx", [head])
    sheet(root / "test_TEXT_mosmeddata+.xlsx", [head, *((f"{n}.png", "a") for n in names if n.endswith("_4"))])
    return names


def test_mosmed_grouped_split_keeps_scans_together_and_overlap_is_said(tmp_path, said):
    names = mosmed_tree(tmp_path / "archive")
    cases = mosmed.scan(tmp_path)
    assert len(cases) == len(names)
    parts: dict[str, set[str]] = {}
    for case in cases:
        if case.group:
            parts.setdefault(case.group, set()).add(case.splits["grouped"])
    assert len(parts) == 20
    assert all(len(p) == 1 for p in parts.values())
    shares = Counter(c.splits["grouped"] for c in cases)
    assert shares["train"] == pytest.approx(88, abs=5)
    assert set(shares) == {"train", "valid", "test"}
    assert "20 of 21 official test images come from a scan that is also in train" in said()
    assert "10 cases without a scan in their name" in said()
    assert mosmed.scan(tmp_path) == cases
    assert {c.id: c.splits["grouped"] for c in mosmed.scan(tmp_path, seed=1)} != {
        c.id: c.splits["grouped"] for c in cases
    }


def test_mosmed_a_missing_sheet_is_named(tmp_path, said):
    mosmed_tree(tmp_path)
    (tmp_path / "Train_text_MosMedData+ 1.xlsx").unlink()
    assert Counter(c.splits.get("official") for c in mosmed.scan(tmp_path)) == {None: 89, "test": 21}
    assert "Train_text_MosMedData+ 1.xlsx" in said()


def test_mosmed_lvit_folders_and_the_text_header(tmp_path):
    for part, name in (("Train", "Morozov_study_0255_18"), ("Val", "bjorke_1"), ("Test", "MOROZOV_study_0255_20")):
        pairs(tmp_path / f"{part}_Folder/img", tmp_path / f"{part}_Folder/labelcol", [name])
        sheet(tmp_path / f"{part}_text_MosMedData+.csv", [("image", "text"), (name, "words, with a comma")])
    cases = mosmed.scan(tmp_path)
    assert [c.splits["official"] for c in cases] == ["train", "valid", "test"]
    assert [c.group for c in cases] == ["Morozov_study_0255", None, "Morozov_study_0255"]
    assert all(c.texts == {"": "words, with a comma"} for c in cases)


def test_monuseg_joins_tif_pictures_with_png_rows(tmp_path, said):
    cases = monuseg.scan(monuseg.fake(tmp_path))
    assert [c.splits[""] for c in cases] == ["train", "train", "valid", "test"]
    assert cases[3].images[""].endswith(".tif")
    assert cases[3].mask.endswith(".png")
    assert cases[3].texts == {"": "The nuclei are evenly distributed."}
    assert cases[3].group == "TCGA-2Z-A9J9"
    assert said() == ""


def test_monuseg_one_missing_sheet_is_named(tmp_path, said):
    root = monuseg.fake(tmp_path)
    (root / "MoNuSeg/Val_Folder/Val_text.xlsx").unlink()
    assert len(monuseg.scan(root)) == 4
    assert "Val_text.xlsx" in said()


# -- one's own folder ------------------------------------------------------------------------------------


def test_folder_auto_columns_and_free_metadata(tmp_path):
    pairs(tmp_path / "images", tmp_path / "masks", ["a", "b"])
    rows = [("File Name", "Report", "Patient ID", "Set", "age", "mask"), ("a.png", "one", "P1", "val", 7, "x")]
    sheet(tmp_path / "t.xlsx", rows)
    cases = by_id(folder.scan(tmp_path, side_convention="patient", text_origin="report"))
    assert cases["a"].texts == {"": "one"}
    assert cases["a"].group == "P1"
    assert cases["a"].splits == {"": "valid"}
    assert cases["a"].free == {"age": "7", "table_mask": "x"}
    assert cases["b"].free == {"age": "", "table_mask": ""}
    assert (cases["a"].side_convention, cases["a"].text_origin) == ("patient", "report")
    written = manifest.write(tmp_path / "out" / "cases.csv", cases.values())
    assert manifest.read(written) == list(cases.values())


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".xlsx", ".jsonl"])
def test_folder_tables_of_every_kind(tmp_path, ending):
    pairs(tmp_path / "images", tmp_path / "masks", ["a"])
    if ending == ".jsonl":
        (tmp_path / "t.jsonl").write_text('{"image": "a.png", "text": "größer, 3 cm"}\n\n', encoding="utf-8")
    else:
        sheet(tmp_path / f"t{ending}", [("image", "text"), ("a.png", "größer, 3 cm")])
    assert folder.scan(tmp_path)[0].texts == {"": "größer, 3 cm"}


@pytest.mark.parametrize("mask", ["{}.png", "mask_{}.png", "{}_mask.bmp", "{}_Segmentation.png", "{}_seg.tif",
                                  "{}_label.png", "{}_gt.png"])  # fmt: skip
def test_folder_usual_mask_names(tmp_path, mask):
    pairs(tmp_path / "images", tmp_path / "masks", ["a", "ab"], mask)
    cases = by_id(folder.scan(tmp_path))
    assert Path(cases["a"].mask).name == mask.format("a")
    assert Path(cases["ab"].mask).name == mask.format("ab")


def test_folder_mask_suffix_comes_first(tmp_path, said):
    pairs(tmp_path / "images", tmp_path / "masks", ["a", "b"], "{}_rater2.png")
    picture(tmp_path / "masks" / "a.png", 255)
    cases = by_id(folder.scan(tmp_path, mask_suffix="_rater2"))
    assert [Path(c.mask).name for c in cases.values()] == ["a_rater2.png", "b_rater2.png"]
    assert "1 masks without an image: a.png" in said()
    assert "several" not in said()


def test_folder_several_masks_are_counted(tmp_path, said):
    pairs(tmp_path / "images", tmp_path / "masks", ["a"])
    picture(tmp_path / "masks" / "a_mask.png", 255)
    assert Path(folder.scan(tmp_path)[0].mask).name == "a.png"
    assert "1 images with several possible masks (the first is taken): a.png" in said()


def test_folder_masks_beside_the_images(tmp_path, said):
    pairs(tmp_path / "images", tmp_path / "images", ["a", "B"], "{}_mask.png", "{}.jpg")
    picture(tmp_path / "images/a_mask_1.png", 255)
    cases = by_id(folder.scan(tmp_path, masks="images"))
    assert set(cases) == {"a", "B"}
    assert "1 masks without an image: a_mask_1.png" in said()
    assert Path(cases["B"].mask).name == "B_mask.png"


def test_folder_root_is_the_image_folder(tmp_path):
    pairs(tmp_path, tmp_path / "masks", ["a"])
    (case,) = folder.scan(tmp_path, images=".")
    assert case.mask == str(tmp_path / "masks" / "a.png")


@pytest.mark.parametrize("layout", ["images/{}", "{}/images"])
def test_folder_parts_become_the_split(tmp_path, layout):
    for part in ("Train", "validation", "test"):
        images = tmp_path / layout.format(part)
        pairs(images, Path(str(images).replace("images", "masks")), ["1"])
    cases = folder.scan(tmp_path)
    assert len({c.id for c in cases}) == 3
    assert sorted(c.splits[""] for c in cases) == ["test", "train", "valid"]
    for case in cases:
        assert Path(case.mask) == Path(case.images[""].replace("images", "masks"))


def test_folder_below_folders_ids_and_flat_masks(tmp_path, said):
    pairs(tmp_path / "images/p1", tmp_path / "masks", ["a", "b"])
    picture(tmp_path / "images/p2/b.png", 99)
    cases = by_id(folder.scan(tmp_path))
    assert set(cases) == {"p1_a", "p1_b", "p2_b"}
    assert Path(cases["p1_a"].mask).name == "a.png"


def test_folder_masks_of_one_name_in_other_folders_are_not_guessed(tmp_path, said):
    picture(tmp_path / "images/1.png")
    picture(tmp_path / "masks/x/1.png", 255)
    picture(tmp_path / "masks/y/1.png", 254)
    assert folder.scan(tmp_path)[0].mask is None
    assert "none is taken" in said()


def test_folder_a_mask_goes_to_the_picture_beside_it_alone(tmp_path, said):
    for part in ("train", "test"):
        picture(tmp_path / "images" / part / "001.png")
    mask = picture(tmp_path / "masks" / "train" / "001.png", 255)
    found = by_id(folder.scan(tmp_path))
    assert (found["train_001"].mask, found["test_001"].mask) == (str(mask), None)
    mask.rename(tmp_path / "masks" / "001.png")
    found = by_id(folder.scan(tmp_path))
    assert [case.mask for case in found.values()] == [None, None]
    assert "2 images of one name in several folders, with one mask between them (none takes it)" in said()


@pytest.mark.parametrize("order", [1, -1])
def test_folder_a_row_of_the_pictures_own_folder_wins(tmp_path, said, order):
    picture(tmp_path / "images" / "p2" / "img.png")
    rows = [["p1/img.png", "Text of p1", "P1"], ["p2/img.png", "Text of p2", "P2"], ["p3/img.png", "Text of p3", "P3"]]
    sheet(tmp_path / "table.csv", [["image", "text", "patient"], *rows[::order]])
    (case,) = folder.scan(tmp_path)
    assert (case.group, case.texts) == ("P2", {"": "Text of p2"})
    assert "2 table rows without an image" in said()
    sheet(tmp_path / "table.csv", [["image", "text", "patient"], rows[0], rows[2]])
    (case,) = folder.scan(tmp_path)
    assert (case.group, case.texts) == (None, {})
    assert "2 table rows of several folders that fit one image (left out)" in said()


def test_folder_linked_folders_are_read(tmp_path):
    elsewhere = tmp_path / "disk"
    picture(elsewhere / "1.png")
    (elsewhere / "again").symlink_to(elsewhere)  # a circle ends
    picture(tmp_path / "set" / "images" / "test" / "2.png")
    (tmp_path / "set" / "images" / "train").symlink_to(elsewhere)
    assert {c.id: c.splits[""] for c in folder.scan(tmp_path / "set")} == {"1": "train", "2": "test"}


def test_folder_a_mask_suffix_in_capitals_beside_the_images(tmp_path):
    picture(tmp_path / "data" / "a.png")
    mask = picture(tmp_path / "data" / "a_L.png", 255)
    (case,) = folder.scan(tmp_path, images="data", masks="data", mask_suffix="_L")
    assert (case.id, case.mask) == ("a", str(mask))


def test_folder_images_of_one_stem_get_ids_of_their_own(tmp_path):
    picture(tmp_path / "images/a.png", 1)
    picture(tmp_path / "images/a.bmp", 2)
    picture(tmp_path / "images/A.png", 3)
    ids = [c.id for c in folder.scan(tmp_path)]
    assert len({i.casefold() for i in ids}) == 3


def test_folder_second_copies_are_dropped_and_counted(tmp_path, said):
    for name in ("Case_1", "case_1"):
        pairs(tmp_path / "images", tmp_path / "masks", [name])
    cases = folder.scan(tmp_path)
    assert [c.id for c in cases] == ["Case_1"]
    assert "2 files dropped as second copies: case_1.png" in said()


def test_folder_unlabelled_set_is_kept_and_said(tmp_path, said):
    picture(tmp_path / "images/a.png")
    (case,) = folder.scan(tmp_path)
    assert (case.mask, case.texts, case.splits, case.group) == (None, {}, {}, None)
    assert "'masks'" in said()
    assert "kept as unlabelled" in said()


def test_folder_chosen_columns(tmp_path):
    pairs(tmp_path / "images", tmp_path / "masks", ["a"])
    sheet(tmp_path / "t.csv", [("slide", "image", "words", "who", "cv"), ("a", "zzz", "one", "P1", "3")])
    (case,) = folder.scan(
        tmp_path, image_column="slide", text_column="words", group_column="who", split_column="cv", table="t.csv"
    )
    assert (case.texts, case.group, case.splits) == ({"": "one"}, "P1", {"": "3"})
    assert case.free == {"table_image": "zzz"}
    with pytest.raises(DataError, match=r"t\.csv: has no column for the group .*wer.*there are: slide, image, words"):
        folder.scan(tmp_path, image_column="slide", group_column="wer")


def test_folder_a_table_without_an_image_column_names_its_columns(tmp_path):
    pairs(tmp_path / "images", tmp_path / "masks", ["a"])
    sheet(tmp_path / "t.csv", [("slide", "words"), ("a", "one")])
    with pytest.raises(DataError, match=r"t\.csv: has no column for the image .*there are: slide, words"):
        folder.scan(tmp_path)


def test_folder_several_tables_are_named(tmp_path):
    pairs(tmp_path / "images", tmp_path / "masks", ["a"])
    sheet(tmp_path / "t.csv", [("image", "text"), ("a", "one")])
    sheet(tmp_path / "u.csv", [("image", "text"), ("a", "two")])
    with pytest.raises(DataError, match=r"several tables \(t\.csv, u\.csv\)"):
        folder.scan(tmp_path)
    assert folder.scan(tmp_path, table="u.csv")[0].texts == {"": "two"}
    with pytest.raises(DataError, match=r"v\.csv: there is no such table"):
        folder.scan(tmp_path, table="v.csv")


def test_folder_rows_that_do_not_fit_are_counted(tmp_path, said):
    pairs(tmp_path / "images/x", tmp_path / "masks/x", ["a", "b"])
    pairs(tmp_path / "images/y", tmp_path / "masks/y", ["a"])
    rows = [("x/a.png", "1"), ("a.png", "2"), ("images/y/a", "3"), ("b", "4"), ("b", "4"), ("B.PNG", "5"), ("c", "6")]
    sheet(tmp_path / "t.csv", [("image", "text"), *rows])
    cases = by_id(folder.scan(tmp_path))
    assert {n: c.texts[""] for n, c in cases.items()} == {"x_a": "1", "y_a": "3", "x_b": "4"}
    assert "1 table rows that fit several images (left out): a.png" in said()
    assert "1 table rows dropped as second copies: b" in said()
    assert "1 table rows left out (the image has one already): B.PNG" in said()
    assert "1 table rows without an image: c" in said()


def test_folder_a_table_against_the_folders(tmp_path, said):
    pairs(tmp_path / "images/train", tmp_path / "masks/train", ["a"])
    sheet(tmp_path / "t.csv", [("image", "split"), ("a", "test")])
    (case,) = folder.scan(tmp_path)
    assert case.splits == {"": "test"}
    assert "1 images in a train folder though the table says test" in said()
    assert "without a text column" in said()


# -- tables ----------------------------------------------------------------------------------------------


def test_table_faults_name_file_and_row(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(b"image,text\na,fine\nb,caf\xe9\n")
    with pytest.raises(DataError, match=r"t\.csv, line 3: byte 0xe9 is not UTF-8"):
        read_table(path)
    path.write_text("image,text\na,left, and right\n")
    with pytest.raises(DataError, match=r"t\.csv, row 2: has 3 fields where the header has 2"):
        read_table(path)
    path.write_text('image,text\na,fine\nb,"never closed\nc,x\n')
    with pytest.raises(DataError, match=r"t\.csv, row 3: .*double quote"):
        read_table(path)
    path.write_text("image,text,text\na,b,c\n")
    with pytest.raises(DataError, match=r"column text stands twice"):
        read_table(path)
    lines = tmp_path / "t.jsonl"
    lines.write_text('{"image": "a"}\n[1]\n')
    with pytest.raises(DataError, match=r"t\.jsonl, row 2: is no JSON object"):
        read_table(lines)
    book = tmp_path / "t.xlsx"
    book.write_bytes(b"PK no zip")
    with pytest.raises(DataError, match=r"t\.xlsx: is not a readable"):
        read_table(book)
    with pytest.raises(DataError, match=r"t\.xls: is not a table"):
        read_table(book.rename(tmp_path / "t.xls"))


def test_table_values_are_text_without_line_ends(tmp_path):
    path = sheet(tmp_path / "t.xlsx", [("image", "text", "n"), ("a", " two\r\nlines \n", 3.0), ("b", None, 0.5)])
    assert [row for _, row in read_table(path).rows] == [
        {"image": "a", "text": "two lines", "n": "3"},
        {"image": "b", "text": "", "n": "0.5"},
    ]


@pytest.mark.parametrize("head", ["image;text", "image\ttext", "\ufeffimage,text"])
def test_table_separators_and_byte_order_mark(tmp_path, head):
    path = tmp_path / "t.csv"
    path.write_text(head + "\na" + (head.strip("\ufeff")[5]) + "b\n", encoding="utf-8")
    assert read_table(path).rows == ((2, {"image": "a", "text": "b"}),)


@pytest.mark.parametrize(
    ("name", "part"),
    [("Train Set", "train"), ("Val_Folder", "valid"), ("validation", "valid"), ("TEST", "test"), ("trained", None)],
)
def test_part_of(name, part):
    assert part_of(name) == part


@pytest.mark.parametrize(
    ("name", "part"),
    [("Train_text_MosMedData+ 1", "train"), ("my val text", "valid"), ("TestText", "test"), ("latest", None)],
)
def test_part_in(name, part):
    assert part_in(name) == part


# -- real trees ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inside", [(), ("QaTa-COV19-v2",)])
def test_real_qata(inside, said):
    cases = qata.scan(real("QaTa", *inside))
    assert len(cases) == len({c.id for c in cases}) == 7145
    assert Counter(c.splits["lvit"] for c in cases) == {"train": 5716, "valid": 1429}
    assert Counter(c.splits["sgseg"] for c in cases) == {"train": 5716, "valid": 1429}
    assert sum(c.group is None for c in cases) == 2951
    assert all(c.mask for c in cases)
    assert {tuple(c.texts) for c in cases} == {("lvit", "medclipseg", "sgseg")}
    assert [len({c.texts[w] for c in cases}) for w in ("lvit", "medclipseg", "sgseg")] == [295, 295, 62]
    assert sum(c.free["view"] == "ll" for c in cases) == 116
    assert len(said().splitlines()) == 1  # nothing but the cases without a patient
    train = {c.group for c in cases if c.splits["lvit"] == "train" and c.group}
    valid = {c.group for c in cases if c.splits["lvit"] == "valid" and c.group}
    assert len(train & valid) == 434


def test_real_monuseg(said):
    cases = monuseg.scan(real("monuseg-sample"))
    assert Counter(c.splits[""] for c in cases) == {"train": 8, "valid": 3, "test": 4}
    assert all(c.mask and c.texts and c.group for c in cases)
    assert said() == ""
