"""BUSI, Kvasir-SEG and RefSegRS: several masks a picture, smeared masks, several phrases a picture."""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crossmask.data import manifest
from crossmask.data.adapters import busi, kvasir, refsegrs
from crossmask.data.check import check
from crossmask.data.masks import read_mask
from crossmask.errors import DataError
from real_data import real


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], str]:
    caplog.set_level(logging.WARNING, logger="crossmask")
    return lambda: "\n".join(record.getMessage() for record in caplog.records)


# --- BUSI


def test_the_union_of_all_lesions_is_the_target(tmp_path, said):
    cases = {case.id: case for case in busi.scan(busi.fake(tmp_path))}
    both = cases["benign (4)"]
    files = manifest.mask_files(both.mask)
    assert [Path(f).name for f in files] == ["benign (4)_mask.png", "benign (4)_mask_1.png"]
    union, notes = read_mask(both.mask)
    assert (union == read_mask(files[0])[0] + read_mask(files[1])[0]).all()
    assert "several masks united" in notes
    assert not read_mask(cases["normal (1)"].mask)[0].any()
    assert [c.free["diagnosis"] for c in cases.values()] == ["benign", "benign", "malignant", "normal"]
    assert "1 cases of several masks" in said()


def test_several_masks_through_manifest_and_check(tmp_path):
    cases = busi.scan(busi.fake(tmp_path / "set"))
    written = manifest.write(tmp_path / "busi.csv", cases)
    assert "benign (4)_mask.png|" in written.read_text()
    assert manifest.read(written) == cases
    assert not check(written).faults
    Path(manifest.mask_files(cases[1].mask)[1]).unlink()
    with pytest.raises(DataError, match=r"row 3: the mask '.*_mask_1.png' does not exist"):
        manifest.read(written)


def test_masks_of_two_sizes_are_not_united(tmp_path):
    cases = busi.scan(busi.fake(tmp_path))
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(manifest.mask_files(cases[1].mask)[1])
    with pytest.raises(DataError, match=r"_mask_1.png: is 9x9 pixels, the mask it is united with 40x48"):
        read_mask(cases[1].mask)


def test_classes_that_disagree_are_not_united(tmp_path):
    for name, value in (("a", 1), ("b", 2)):
        Image.fromarray(np.full((3, 3), value, np.uint8)).save(tmp_path / f"{name}.png")
    several = f"{tmp_path / 'a.png'}|{tmp_path / 'b.png'}"
    labels = {"background": 0, "cyst": 1, "tumour": 2}
    with pytest.raises(DataError, match=r"b.png: gives pixels another class than .*a.png does"):
        read_mask(several, labels=labels)
    assert (read_mask(f"{tmp_path / 'a.png'}|{tmp_path / 'a.png'}", labels=labels)[0] == 1).all()


def test_a_file_whose_name_holds_the_sign_is_one(tmp_path):
    path = tmp_path / "a|b.png"
    Image.fromarray(np.full((3, 3), 255, np.uint8)).save(path)
    assert manifest.mask_files(str(path)) == [str(path)]
    assert read_mask(path)[0].all()


def test_what_is_missing_of_busi_is_named(tmp_path, said):
    root = busi.fake(tmp_path)
    tree = root / "Dataset_BUSI_with_GT"
    (tree / "benign" / "benign (1)_mask.png").unlink()
    (tree / "benign" / "benign (4).png").unlink()
    shutil.rmtree(tree / "normal")
    cases = busi.scan(root)
    assert [(c.id, c.mask is None) for c in cases] == [("benign (1)", True), ("malignant (1)", False)]
    for words in (
        "1 folders missing: normal",
        "1 images without a mask (kept as unlabelled): benign (1)",
        "2 masks without an image: benign (4)_mask.png, benign (4)_mask_1.png",
    ):
        assert words in said(), words
    for file in tree.rglob("*.png"):
        file.unlink()
    with pytest.raises(DataError, match="no image is there"):
        busi.scan(root)


def test_real_busi(said):
    cases = busi.scan(real("busi-sample"))
    assert Counter(c.free["diagnosis"] for c in cases) == {"benign": 24, "malignant": 22, "normal": 8}
    assert [c.id for c in cases if "|" in c.mask] == ["benign (4)", "benign (25)"]
    empty = [c.free["diagnosis"] for c in cases if not read_mask(c.mask)[0].any()]
    assert empty == ["normal"] * 8
    assert "2 cases of several masks" in said()


# --- Kvasir-SEG


def test_smeared_masks_and_the_published_lists(tmp_path, said):
    cases = kvasir.scan(kvasir.fake(tmp_path))
    assert [c.splits[""] for c in sorted(cases, key=lambda c: c.splits[""])] == ["train"] * 3 + ["valid"]
    assert {len(np.unique(read_mask(c.mask)[0])) for c in cases} == {2}
    assert all(set(c.texts) == {"medclipseg"} for c in cases)
    tree = tmp_path / "Kvasir-SEG"
    (tree / "val.txt").write_text("cju0qkwl35piu0993l0dewei2\nnobody\n")
    cases = kvasir.scan(tmp_path)
    assert Counter(c.splits.get("") for c in cases) == {"train": 3, None: 1}
    assert "images in both lists (train is kept): cju0qkwl35piu0993l0dewei2" in said()
    assert "names in val.txt without an image: nobody" in said()
    (tree / "val.txt").unlink()
    assert Counter(str(c.splits) for c in kvasir.scan(tmp_path)) == {
        "{'medclipseg': 'train'}": 3,
        "{'medclipseg': 'test'}": 1,
    }


def test_real_kvasir(said):
    cases = kvasir.scan(real("kvasir-sample"))
    assert len(cases) == 120
    assert all(c.mask and not c.splits and not c.texts for c in cases)
    shares = [read_mask(c.mask)[0].mean() for c in cases]
    assert 0.05 < np.median(shares) < 0.3
    assert "120 cases without a patient number" in said()


# --- RefSegRS


def test_a_case_a_phrase_and_a_group_a_picture(tmp_path):
    cases = {case.id: case for case in refsegrs.scan(refsegrs.fake(tmp_path))}
    assert {i: c.texts[""] for i, c in cases.items()} == {
        "945": "impervious surface",
        "2339": "building along the road",
        "3080": "vehicle",
        "3080-2": "van driving on the road",
    }
    assert cases["945"].group == cases["2339"].group != cases["3080"].group == cases["3080-2"].group
    assert [c.splits[""] for c in cases.values()] == ["train", "train", "valid", "valid"]


def test_what_is_missing_of_refsegrs_is_named(tmp_path, said):
    root = refsegrs.fake(tmp_path)
    tree = root / "RefSegRS"
    (tree / "masks" / "945.tif").unlink()
    shutil.copy(tree / "images" / "3080.tif", tree / "images" / "77.tif")
    with open(tree / "output_phrase_train.txt", "a") as stream:
        stream.write("999 car\n945\n")
    assert len(refsegrs.scan(root)) == 4
    for words in (
        "1 phrases without an image: 999",
        "1 lines of output_phrase_train.txt without a phrase (left out): line 4",
        "1 lists of phrases missing: output_phrase_test.txt",
        "1 images without a phrase (left out): 77.tif",
        "1 images without a mask (kept as unlabelled): 945",
    ):
        assert words in said(), words
    for file in tree.glob("*.txt"):
        file.write_text("1 a\n")
    with pytest.raises(DataError, match="no phrase names a picture that is there"):
        refsegrs.scan(root)
    shutil.rmtree(tree / "images")
    with pytest.raises(DataError, match=r"'images', 'masks' and 'output_phrase_train\.txt'"):
        refsegrs.scan(root)


def test_real_refsegrs():
    cases = refsegrs.scan(real("refsegrs-figure"))
    assert Counter(c.splits[""] for c in cases) == {"train": 8, "valid": 2, "test": 2}
    assert all(c.mask and c.texts[""] for c in cases)
