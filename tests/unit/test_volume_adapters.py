"""The adapters of volumes: every layout they know, made here; counts on real trees where CROSSMASK_DATA names them."""

from __future__ import annotations

import json
import logging
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
from PIL import Image

from crossmask import rooms
from crossmask.data import manifest, volume_layouts, volumes
from crossmask.data.adapters import brats, chaos, decathlon, lits, nnunet
from crossmask.data.manifest import Case
from crossmask.errors import DataError
from real_data import real

CONTRASTS = ("flair", "t1", "t1ce", "t2")
NEW = ("t2f", "t1n", "t1c", "t2w")
OLD_MASK = "background 0, oedema 1, core 2"


def touch(*files: Path) -> None:
    """Files that no adapter opens, each with its own content."""
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(str(file).encode())


def volume(path: Path, affine: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([-0.7, -0.7, 2.0, 1.0]) if affine is None else affine
    nib.save(nib.Nifti1Image(np.zeros((4, 3, 2), np.int16), affine), path)
    return path


def by_id(cases: Iterable[Case]) -> dict[str, Case]:
    return {case.id: case for case in cases}


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], str]:
    caplog.set_level(logging.WARNING, logger="crossmask")
    return lambda: "\n".join(record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("adapter", [brats, lits, chaos, nnunet, decathlon])
def test_fake_is_read_as_volumes_and_goes_through_a_manifest(adapter, tmp_path):
    cases = adapter.scan(adapter.fake(tmp_path / "set"))
    assert len(cases) == 4
    assert manifest.read(manifest.write(tmp_path / "cases.csv", cases)) == cases
    for case in cases:
        grids = [volumes.read_grid(path) for path in case.images.values()]
        assert {sorted(grid.shape) == [8, 10, 12] for grid in grids} == {True}
        found, _ = volumes.label_values(str(case.mask), grids[0])
        assert found.shape == grids[0].inner_shape
        assert found.any()


@pytest.mark.parametrize("adapter", [brats, lits, chaos, nnunet, decathlon])
def test_nothing_there(adapter, tmp_path):
    with pytest.raises(DataError, match=r"looked for .*there is: nothing"):
        adapter.scan(tmp_path)
    touch(tmp_path / "holiday.txt")
    with pytest.raises(DataError, match=r"looked for .*holiday\.txt"):
        adapter.scan(tmp_path)


# -- BraTS -----------------------------------------------------------------------------------------------


def year(root: Path, name: str, whats: Iterable[str], ending: str = ".nii.gz", sign: str = "_") -> Path:
    touch(*(root / name / f"{name}{sign}{what}{ending}" for what in whats))
    return root / name


def vsd(case: Path, number: int | None = None) -> Path:
    """A case of 2013 (no number in folders) or of 2015."""
    for n, what in enumerate(("XX.O.MR_Flair", "XX.O.MR_T1", "XX.O.MR_T1c", "XX.O.MR_T2", "_3more.XX.O.OT")):
        name = f"VSD.Brain{what}" if what.startswith("_") else f"VSD.Brain.{what}"
        touch(case / (name if number is None else f"{name}.{number + n}") / f"{name}.{(number or 680) + n}.mha")
    return case


@pytest.mark.parametrize(
    ("above", "name", "whats", "ending", "scheme"),
    [
        ("Images", "BRATS_HG0015", ("FLAIR", "T1", "T1C", "T2", "truth"), ".mha", "brats2012"),
        ("Images", "SimBRATS_LG0002", ("FLAIR", "T1", "T1C", "T2", "truth"), ".mha", "brats2012"),
        ("HGG", "Brats17_2013_2_1", (*CONTRASTS, "seg"), ".nii.gz", "brats2017-2021"),
        ("BraTS_2018_Data_Training/LGG", "Brats18_TCIA09_141_1", (*CONTRASTS, "seg"), ".nii.gz", "brats2017-2021"),
        ("HGG", "BraTS19_CBICA_AAB_1", (*CONTRASTS, "seg"), ".nii", "brats2017-2021"),
        ("BraTS2020_TrainingData/MICCAI_BraTS2020_TrainingData", "BraTS20_Training_001", (*CONTRASTS, "seg"), ".nii",
         "brats2017-2021"),
        ("", "BraTS2021_00000", (*CONTRASTS, "seg"), ".nii.gz", "brats2017-2021"),
        ("ASNR-MICCAI-BraTS2023-GLI-Challenge-TrainingData", "BraTS-GLI-00000-000", (*NEW, "seg"), ".nii.gz",
         "brats2023"),
        ("", "BraTS-MEN-00004-000", (*NEW, "seg"), ".nii.gz", "brats2023"),
        ("training_data1_v2", "BraTS-GLI-00005-101", (*NEW, "seg"), ".nii.gz", "brats2024"),
        ("", "BraTS-PED-00001-000", (*NEW, "seg"), ".nii.gz", ""),
        ("", "BraTS18_case_0", (*CONTRASTS, "seg"), ".nii.gz", ""),
        ("", "patient7", (*CONTRASTS, "seg"), ".nii.gz", ""),
    ],
)  # fmt: skip
def test_brats_names_of_every_year(tmp_path, said, above, name, whats, ending, scheme):
    home = year(tmp_path / above, name, whats, ending, "-" if whats[0] == "t2f" else "_")
    (case,) = brats.scan(tmp_path)
    assert case.id == name
    assert set(case.images) == set(CONTRASTS)
    assert [Path(case.images[c]).parent for c in CONTRASTS] == [home] * 4
    assert Path(case.mask).name.lower().rpartition(ending)[0].endswith(whats[-1])
    assert case.free == {"label_scheme": scheme, "labels": brats.LABELS.get(scheme, "")}
    assert (case.source, case.splits, case.texts) == ("BraTS", {}, {})
    assert ("do not say what their integers mean" in said()) is not bool(scheme)


def test_brats_columns_are_not_confused(tmp_path):
    year(tmp_path, "BraTS-GLI-00000-000", (*NEW, "seg"), sign="-")
    (case,) = brats.scan(tmp_path)
    assert {c: Path(f).name[20:-7] for c, f in case.images.items()} == dict(zip(CONTRASTS, NEW, strict=True))


def test_brats_2013_numbers_get_their_grade(tmp_path):
    vsd(tmp_path / "Image_Data/HG/0001")
    vsd(tmp_path / "Image_Data/LG/0001")
    cases = by_id(brats.scan(tmp_path))
    assert {n: c.group for n, c in cases.items()} == {"HG_0001": "HG_0001", "LG_0001": "LG_0001"}
    case = cases["HG_0001"]
    assert {c: Path(f).name for c, f in case.images.items()} == {
        "flair": "VSD.Brain.XX.O.MR_Flair.680.mha",
        "t1": "VSD.Brain.XX.O.MR_T1.681.mha",
        "t1ce": "VSD.Brain.XX.O.MR_T1c.682.mha",
        "t2": "VSD.Brain.XX.O.MR_T2.683.mha",
    }
    assert Path(case.mask).name == "VSD.Brain_3more.XX.O.OT.684.mha"
    assert case.free["label_scheme"] == "brats2013-2015"


def test_brats_2013_real_and_synthetic_of_one_number(tmp_path):
    for kind in ("Image_Data", "Synthetic_Data"):
        vsd(tmp_path / kind / "HG/0001")
    assert {c.id for c in brats.scan(tmp_path)} == {"Image_Data_HG_0001", "Synthetic_Data_HG_0001"}


def test_brats_2015_grades_share_numbers_and_patients_have_visits(tmp_path):
    top = tmp_path / "BRATS2015_Training"
    vsd(top / "HGG/brats_2013_pat0001_1", 54512)
    vsd(top / "LGG/brats_2013_pat0001_1", 54632)
    vsd(top / "HGG/brats_2013_pat0002_1", 54518)
    vsd(top / "HGG/brats_tcia_pat153_0002", 40797)
    vsd(top / "HGG/brats_tcia_pat153_0109", 40807)
    cases = brats.scan(tmp_path)
    assert {c.id: c.group for c in cases} == {
        "HGG_brats_2013_pat0001_1": "HGG_brats_2013_pat0001_1",
        "LGG_brats_2013_pat0001_1": "LGG_brats_2013_pat0001_1",
        "brats_2013_pat0002_1": "brats_2013_pat0002_1",
        "brats_tcia_pat153_0002": "brats_tcia_pat153",
        "brats_tcia_pat153_0109": "brats_tcia_pat153",
    }
    assert {c.free["label_scheme"] for c in cases} == {"brats2013-2015"}


def test_brats_2023_visits_are_one_patient_also_across_folders(tmp_path):
    for folder, name in (("Train", "GLI-00000-000"), ("Validation", "GLI-00000-001"), ("Train", "MEN-00000-000")):
        year(tmp_path / folder, f"BraTS-{name}", NEW, sign="-")
    assert {c.id: c.group for c in brats.scan(tmp_path)} == {
        "BraTS-GLI-00000-000": "BraTS-GLI-00000",
        "BraTS-GLI-00000-001": "BraTS-GLI-00000",
        "BraTS-MEN-00000-000": "BraTS-MEN-00000",
    }


def test_brats_355_and_its_mask(tmp_path, said):
    for name in ("BraTS20_Training_354", "BraTS20_Training_355"):
        year(tmp_path, name, CONTRASTS, ".nii")
    touch(tmp_path / "BraTS20_Training_355/W39_1998.09.19_Segm.nii")
    cases = by_id(brats.scan(tmp_path))
    assert cases["BraTS20_Training_354"].mask is None
    assert Path(cases["BraTS20_Training_355"].mask).name == "W39_1998.09.19_Segm.nii"
    assert "1 images without a mask (kept as unlabelled): BraTS20_Training_354" in said()


def test_brats_files_that_became_folders(tmp_path):
    home = tmp_path / "BraTS2021_00714"
    for what in CONTRASTS:
        touch(home / f"BraTS2021_00714_{what}.nii" / f"00000377_brain_{what}.nii")
    touch(home / "BraTS2021_00714_seg.nii" / "00000377_final_seg.nii")
    (case,) = brats.scan(tmp_path)
    assert case.id == case.group == "BraTS2021_00714"
    assert set(case.images) == set(CONTRASTS)
    assert Path(case.mask).name == "00000377_final_seg.nii"


def test_brats_all_in_one_folder_or_a_folder_a_contrast(tmp_path):
    for name in ("BraTS2021_00000", "BraTS2021_00002"):
        touch(*(tmp_path / "flat" / f"{name}_{what}.nii.gz" for what in (*CONTRASTS, "seg")))
        touch(*(tmp_path / "apart" / what / f"{name}_{what}.nii.gz" for what in (*CONTRASTS, "seg")))
    for layout in ("flat", "apart"):
        cases = brats.scan(tmp_path / layout)
        assert [c.id for c in cases] == ["BraTS2021_00000", "BraTS2021_00002"]
        assert all(c.mask and set(c.images) == set(CONTRASTS) for c in cases)


def test_brats_missing_and_doubtful_files_are_named(tmp_path, said):
    for name in ("BraTS2021_00000", "BraTS2021_00002"):
        year(tmp_path, name, (*CONTRASTS, "seg"))
    (tmp_path / "BraTS2021_00002/BraTS2021_00002_t1ce.nii.gz").unlink()
    year(tmp_path, "BraTS2021_00003", ["seg"])
    touch(tmp_path / "BraTS2021_00000/BraTS2021_00000_t1.nii")
    touch(tmp_path / "BraTS2021_00000/BraTS2021_00000_pred.nii.gz", tmp_path / "BraTS2021_00000/._x_t1.nii.gz")
    cases = by_id(brats.scan(tmp_path))
    assert set(cases) == {"BraTS2021_00000", "BraTS2021_00002"}
    assert set(cases["BraTS2021_00002"].images) == {"flair", "t1", "t2"}
    assert cases["BraTS2021_00000"].images["t1"].endswith(".nii")
    assert said().splitlines() == [
        "BraTS: 1 volumes whose names say no contrast (left out): BraTS2021_00000_pred.nii.gz",
        "BraTS: 1 further files of a contrast (the first is kept): BraTS2021_00000_t1.nii.gz",
        "BraTS: 1 masks without an image: BraTS2021_00003_seg.nii.gz",
        "BraTS: 1 cases without t1ce: BraTS2021_00002",
    ]


def test_brats_corrected_copies_beside_the_originals(tmp_path, said):
    home = vsd(tmp_path / "HGG/brats_2013_pat0001_1", 54512)
    touch(home / "VSD.Brain.XX.O.MR_T1c.54514/VSD.Brain.XX.O.MR_T1c.54514_N.mha")
    (case,) = brats.scan(tmp_path)
    assert case.images["t1ce"].endswith("VSD.Brain.XX.O.MR_T1c.54514.mha")
    assert "further files of a contrast" in said()


def test_brats_second_copies_are_dropped_and_others_kept_apart(tmp_path, said):
    year(tmp_path / "a", "BraTS2021_00000", ("flair", "t1"))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    touch(tmp_path / "b/BraTS2021_00000/BraTS2021_00000_seg.nii.gz")
    (case,) = brats.scan(tmp_path)
    assert case.mask is not None
    assert "2 files dropped as second copies" in said()
    year(tmp_path / "b", "BraTS2021_00000", ["flair"])
    assert {c.id for c in brats.scan(tmp_path)} == {"a_BraTS2021_00000", "b_BraTS2021_00000"}


def test_brats_scheme_is_said_or_refused(tmp_path):
    year(tmp_path, "BraTS18_case_0", ("flair", "seg"))
    (case,) = brats.scan(tmp_path, scheme="whole")
    assert case.free == {"label_scheme": "whole", "labels": "background 0, tumour 1"}
    assert brats.scan(tmp_path, scheme="brats2012")[0].free["labels"] == OLD_MASK
    assert rooms.option_faults(brats.scan, {"scheme": "brats1999"}, where="brats")
    assert not rooms.option_faults(brats.scan, {"scheme": "brats2023"}, where="brats")


def test_brats_masks_alone_are_no_data_set(tmp_path):
    year(tmp_path, "BraTS2021_00000", ["seg"])
    with pytest.raises(DataError, match=r"no image is there; looked for .*there is: BraTS2021_00000/"):
        brats.scan(tmp_path)


def test_volumes_are_found_through_links(tmp_path):
    home = year(tmp_path / "disk", "BraTS2021_00000", ("flair",))
    (tmp_path / "set").mkdir()
    (tmp_path / "set/linked").symlink_to(home.parent, target_is_directory=True)
    (tmp_path / "set/loop").symlink_to(tmp_path / "set", target_is_directory=True)
    assert tmp_path / "set/linked/BraTS2021_00000/BraTS2021_00000_flair.nii.gz" in volume_layouts.volumes_below(
        tmp_path / "set"
    )


# -- LiTS ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scan", "mask"),
    [
        ("volume-{}.nii", "segmentation-{}.nii"),
        ("Training Batch 1/volume-{}.nii", "Training Batch 1/segmentation-{}.nii"),
        ("ct/volume-{}.nii.gz", "seg/segmentation-{}.nii.gz"),
        ("ct/volume-{}.nii", "seg/volume-{}.nii"),
        ("volume_pt1/volume_pt1/volume-{}.nii", "segmentations/segmentation-{}.nii"),
    ],
)
def test_lits_layouts(tmp_path, scan, mask):
    for n in (10, 2):
        volume(tmp_path / scan.format(n))
        touch(tmp_path / mask.format(n))
    cases = lits.scan(tmp_path)
    assert [c.id for c in cases] == ["volume-2", "volume-10"]
    for case, n in zip(cases, (2, 10), strict=True):
        path = str(tmp_path / scan.format(n))
        assert case.images == {"ct": path, "ct_narrow": path}
        assert case.mask == str(tmp_path / mask.format(n))
        assert case.group is None
        assert case.free == {"geometry": "header", "labels": lits.LABELS, "modality_note": lits.NOTE}
    assert "substitute" in lits.NOTE


def test_lits_two_batches_and_test_volumes(tmp_path, said):
    volume(tmp_path / "Training Batch 1/volume-0.nii")
    volume(tmp_path / "Training_Batch2/volume-130.nii")
    volume(tmp_path / "LITS-Challenge-Test-Data/test-volume-0.nii")
    touch(tmp_path / "Training Batch 1/segmentation-0.nii", tmp_path / "Training_Batch2/segmentation-130.nii")
    cases = by_id(lits.scan(tmp_path))
    assert list(cases) == ["volume-0", "volume-130", "test-volume-0"]
    assert cases["test-volume-0"].mask is None
    assert "1 images without a mask (kept as unlabelled): test-volume-0" in said()


def test_lits_geometry_is_what_the_header_says(tmp_path, said):
    volume(tmp_path / "volume-28.nii", np.eye(4))
    volume(tmp_path / "volume-29.nii", np.diag([-1.0, -1.0, 1.0, 1.0]))
    volume(tmp_path / "volume-30.nii")  # a mended copy
    moved = np.eye(4)
    moved[:3, 3] = -100, -80, 20
    volume(tmp_path / "volume-31.nii", moved)
    volume(tmp_path / "volume-3.nii.gz", np.eye(4))
    touch(tmp_path / "volume-4.nii")
    touch(*(tmp_path / f"segmentation-{n}.nii" for n in (28, 29, 30, 31, 3, 4)))
    cases = by_id(lits.scan(tmp_path))
    assert {n: c.free["geometry"] for n, c in cases.items()} == {
        "volume-3": lits.NO_GEOMETRY,
        "volume-4": "",
        "volume-28": lits.NO_GEOMETRY,
        "volume-29": lits.NO_GEOMETRY,
        "volume-30": "header",
        "volume-31": "header",
    }
    assert lits.NO_GEOMETRY == "identity (no millimetre scores)"
    assert "3 volumes with the identity as geometry" in said()
    assert "1 volumes whose header cannot be read: volume-4.nii" in said()


def test_lits_one_window(tmp_path):
    volume(tmp_path / "volume-0.nii")
    (case,) = lits.scan(tmp_path, windows=False)
    assert set(case.images) == {"ct"}
    assert set(case.free) == {"geometry", "labels"}


def test_lits_missing_and_doubtful_files_are_named(tmp_path, said):
    volume(tmp_path / "volume_pt1/volume-0.nii")
    volume(tmp_path / "volume_pt2/volume-0.nii")
    volume(tmp_path / "liver_1.nii")
    touch(tmp_path / "segmentations/segmentation-5.nii", tmp_path / "segmentations/._segmentation-0.nii")
    (case,) = lits.scan(tmp_path)
    assert case.mask is None
    assert "volume_pt1" in case.images["ct"]
    assert "1 masks without an image: segmentation-5.nii" in said()
    assert "1 volumes of another name (left out): liver_1.nii" in said()
    assert "1 further files of one number (the first is kept): volume_pt2" in said()
    shutil.rmtree(tmp_path / "segmentations")
    lits.scan(tmp_path)
    assert "1 folders of masks missing (looked for segmentation-N" in said()
    shutil.rmtree(tmp_path / "volume_pt1")
    shutil.rmtree(tmp_path / "volume_pt2")
    with pytest.raises(DataError, match=r"no image is there; looked for volume-N\.nii.*liver_1"):
        lits.scan(tmp_path)


# -- CHAOS -----------------------------------------------------------------------------------------------


def test_chaos_parts(tmp_path, said):
    root = chaos.fake(tmp_path / "CHAOS_Train_Sets")
    pairs = chaos.scan(tmp_path)
    assert [(c.id, c.group) for c in pairs] == [(f"MR-{n}-t1dual", f"MR-{n}") for n in (1, 2, 5, 10)]
    first = root / "Train_Sets/MR/1/T1DUAL"
    phases = {"in_phase": str(first / "DICOM_anon/InPhase"), "out_phase": str(first / "DICOM_anon/OutPhase")}
    assert pairs[0].images == phases
    assert pairs[0].mask == str(first / "Ground")
    assert "liver 55-70 (63), right kidney 110-135 (126), left kidney" in pairs[0].free["labels"]
    spir = chaos.scan(tmp_path, part="t2spir")
    assert (spir[0].id, spir[0].group, set(spir[0].images)) == ("MR-1-t2spir", "MR-1", {"t2spir"})
    ct = chaos.scan(tmp_path, part="ct")
    assert (ct[3].id, ct[3].group, set(ct[3].images)) == ("CT-10", "CT-10", {"ct"})
    assert ct[3].free == {"labels": "liver above 0"}
    assert not {c.group for c in ct} & {c.group for c in spir}
    assert said() == ""


def test_chaos_masks_fit_the_files_by_sorted_names(tmp_path):
    case = chaos.scan(chaos.fake(tmp_path))[0]
    names = sorted(p.name for p in Path(case.images["in_phase"]).iterdir())
    masks = sorted(p.name for p in Path(case.mask).iterdir())
    assert [n.replace(".dcm", ".png") for n in names] == masks
    slices = [pydicom.dcmread(Path(case.images["in_phase"]) / n) for n in names]
    heights = [float(s.ImagePositionPatient[2]) for s in slices]
    assert heights == sorted(heights, reverse=True)
    where = np.array(Image.open(Path(case.mask) / masks[2])) == 252
    pixels = slices[2].pixel_array
    assert pixels[where].min() > pixels[~where].max()


def test_chaos_a_damaged_slice_of_a_mask_is_named(tmp_path):
    case = chaos.scan(chaos.fake(tmp_path))[0]
    damaged = sorted(Path(case.mask).iterdir())[1]
    damaged.write_bytes(b"no picture")
    image = next(iter(case.images.values()))
    with pytest.raises(DataError, match=f"{damaged.name}: is no readable volume"):
        volumes.read_labels(case.mask, volumes.read_grid(image))


def test_chaos_missing_parts_name_themselves(tmp_path, said):
    tree = chaos.fake(tmp_path) / "Train_Sets"
    shutil.rmtree(tree / "MR/1/T1DUAL/DICOM_anon/OutPhase")
    shutil.rmtree(tree / "MR/2/T1DUAL/Ground")
    shutil.rmtree(tree / "MR/5/T1DUAL")
    next((tree / "MR/10/T1DUAL/Ground").iterdir()).unlink()
    (tree / "MR/10/T1DUAL/Ground/Thumbs.db").touch()
    cases = by_id(chaos.scan(tmp_path))
    assert set(cases) == {"MR-1-t1dual", "MR-2-t1dual", "MR-10-t1dual"}
    assert set(cases["MR-1-t1dual"].images) == {"in_phase"}
    assert cases["MR-2-t1dual"].mask is None
    assert "image folders missing or empty: MR/1/T1DUAL/DICOM_anon/OutPhase, MR/5/T1DUAL/DICOM_anon/InPhase" in said()
    assert "mask folders missing or empty: MR/2/T1DUAL/Ground, MR/5/T1DUAL/Ground" in said()
    assert "1 people without an image (left out): MR-5" in said()
    assert "1 images without a mask (kept as unlabelled): MR-2-t1dual" in said()
    assert "they cannot be paired): MR-10-t1dual (in_phase 8, out_phase 8, mask 7)" in said()


def test_chaos_a_part_that_is_not_there(tmp_path):
    tree = chaos.fake(tmp_path) / "Train_Sets"
    shutil.rmtree(tree / "MR")
    with pytest.raises(DataError, match=r"the folder 'MR' is missing, which part 't1dual' .*there is: CT/"):
        chaos.scan(tmp_path)
    assert len(chaos.scan(tmp_path, part="ct")) == 4
    for folder in (tree / "CT").glob("*/DICOM_anon"):
        shutil.rmtree(folder)
        folder.mkdir()
    with pytest.raises(DataError, match=r"no image is there \(looked for DICOM files in <id>/DICOM_anon\)"):
        chaos.scan(tmp_path, part="ct")
    assert rooms.option_faults(chaos.scan, {"part": "pet"}, where="chaos")


def test_chaos_test_sets_are_unlabelled(tmp_path):
    tree = chaos.fake(tmp_path) / "Train_Sets"
    for ground in tree.rglob("Ground"):
        shutil.rmtree(ground)
    tree.rename(tmp_path / "Test_Sets")
    assert [c.mask for c in chaos.scan(tmp_path)] == [None] * 4


# -- nnU-Net ---------------------------------------------------------------------------------------------

INFO: dict[str, Any] = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1}, "file_ending": ".nii.gz"}


def raw(root: Path, info: Mapping[str, Any], images: Iterable[str], labels: Iterable[str]) -> Path:
    touch(*(root / name for name in images), *(root / name for name in labels))
    (root / "dataset.json").write_text(json.dumps(info), encoding="utf-8")
    return root


def test_nnunet_channels_parts_and_masks(tmp_path, said):
    info = INFO | {"channel_names": {"0": "T1 post-contrast", "1": "FLAIR"}, "numTraining": 2}
    images = [f"imagesTr/{c}_{k:04}.nii.gz" for c in ("b_7", "a") for k in (0, 1)]
    images += [f"imagesTs/{c}_{k:04}.nii.gz" for c in ("a", "z") for k in (0, 1)]
    labels = ["labelsTr/a.nii.gz", "labelsTr/b_7.nii.gz", "labelsTs/a.nii.gz"]
    tree = raw(tmp_path / "nnUNet_raw/Dataset012_Head", info, images, labels)
    touch(tree / "imagesTr/._a_0000.nii.gz", tree / "labelsTr/._a.nii.gz")
    cases = by_id(nnunet.scan(tmp_path))
    assert {n: c.splits for n, c in cases.items()} == {
        "a": {"": "train"},
        "b_7": {"": "train"},
        "a_test": {"": "test"},
        "z": {"": "test"},
    }
    assert cases["a"].images == {
        "t1_post_contrast": str(tree / "imagesTr/a_0000.nii.gz"),
        "flair": str(tree / "imagesTr/a_0001.nii.gz"),
    }
    assert cases["a_test"].mask == str(tree / "labelsTs/a.nii.gz")
    assert cases["z"].mask is None
    assert {(c.group, c.source, c.free["labels"]) for c in cases.values()} == {
        (None, "Dataset012_Head", "background 0, liver 1")
    }
    assert said().splitlines() == [
        "Dataset012_Head: 1 images without a mask (kept as unlabelled): z",
        "Dataset012_Head: 4 cases without a patient number (no group): a, b_7, a_test and 1 more",
    ]


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".mha", ".nrrd", ".png", ".NII.GZ"])
def test_nnunet_file_endings(tmp_path, said, ending):
    info = INFO | {"file_ending": ending}
    other = ".nii" if ending != ".nii" else ".nii.gz"
    tree = raw(tmp_path, info, [f"imagesTr/a_0000{ending}", f"imagesTr/b_0000{other}"], [f"labelsTr/a{ending}"])
    (case,) = nnunet.scan(tmp_path)
    assert case.images == {"ct": str(tree / f"imagesTr/a_0000{ending}")}
    assert case.mask == str(tree / f"labelsTr/a{ending}")
    assert f"1 files not called <case>_0000{ending.lower()} (left out): imagesTr/b_0000{other}" in said()


def test_nnunet_an_unknown_ending(tmp_path):
    raw(tmp_path, INFO | {"file_ending": ".npy"}, ["imagesTr/a_0000.npy"], [])
    with pytest.raises(DataError, match=r"dataset\.json: file_ending is '\.npy'.*\.nii\.gz"):
        nnunet.scan(tmp_path)


def test_nnunet_colour_png_is_one_picture_and_channels_of_png_are_not(tmp_path):
    info = INFO | {"channel_names": {"0": "R", "1": "G", "2": "B"}, "file_ending": ".png"}
    tree = raw(tmp_path / "rgb", info, ["imagesTr/a_0000.png", "imagesTr/b_0000.png"], ["labelsTr/a.png"])
    assert [c.images for c in nnunet.scan(tree)] == [{"": str(tree / f"imagesTr/{n}_0000.png")} for n in "ab"]
    touch(*(tree / f"imagesTr/{n}_{k:04}.png" for n in "ab" for k in (1, 2)))
    assert [tuple(c.images) for c in nnunet.scan(tree)] == [("r", "g", "b")] * 2


def test_nnunet_a_missing_channel_names_itself(tmp_path, said):
    info = INFO | {"channel_names": {"0": "T2", "1": "ADC"}}
    names = ["a_0000", "a_0001", "b_0000", "c_0001", "c_0002", "d_0005"]
    raw(tmp_path, info, [f"imagesTr/{n}.nii.gz" for n in names], ["labelsTr/a.nii.gz", "labelsTr/e.nii.gz"])
    cases = by_id(nnunet.scan(tmp_path))
    assert {n: tuple(c.images) for n, c in cases.items()} == {"a": ("t2", "adc"), "b": ("t2",), "c": ("adc",)}
    missing = "4 channel files missing (the case is kept without): b_0001.nii.gz, c_0000.nii.gz, d_0000.nii.gz and 1"
    assert missing in said()
    assert "2 channels that dataset.json does not name (left out): c_0002.nii.gz, d_0005.nii.gz" in said()
    assert "1 masks without an image: e.nii.gz" in said()


def test_nnunet_numtraining_is_compared(tmp_path, said):
    raw(tmp_path, INFO | {"numTraining": 3}, ["imagesTr/a_0000.nii.gz"], ["labelsTr/a.nii.gz"])
    nnunet.scan(tmp_path)
    assert "1 wrong numTraining in dataset.json: it says 3, imagesTr holds 1 cases" in said()


def test_nnunet_labels_and_regions(tmp_path):
    images, labels = ["imagesTr/a_0000.nii.gz"], ["labelsTr/a.nii.gz"]
    tree = raw(tmp_path, INFO | {"labels": {"background": 0, "core": [2], "edge": 1, "ignore": 3}}, images, labels)
    assert nnunet.scan(tree)[0].free == {"labels": "background 0, edge 1, core 2, ignore 3"}
    raw(tmp_path, INFO | {"labels": {"background": 0, "whole": [1, 2, 3], "core": [2, 3]}}, images, labels)
    with pytest.raises(DataError, match=r"dataset\.json: the label 'whole' is a region of several values \(1, 2, 3\)"):
        nnunet.scan(tree)
    raw(tmp_path, INFO | {"labels": {"background": 0, "liver": "one"}}, images, labels)
    with pytest.raises(DataError, match=r"the label 'liver' is 'one'; write a whole number"):
        nnunet.scan(tree)
    raw(tmp_path, {"channel_names": {"0": "CT"}}, images, labels)
    with pytest.raises(DataError, match=r'dataset\.json: needs "labels"'):
        nnunet.scan(tree)


def test_nnunet_version_1(tmp_path):
    info = {"modality": {"0": "CT"}, "labels": {"0": "background", "1": "liver", "10": "tumour", "2": "vessel"}}
    raw(tmp_path / "nnUNet_raw_data/Task003_Liver", info, ["imagesTr/liver_0_0000.nii.gz"], ["labelsTr/liver_0.nii.gz"])
    (case,) = nnunet.scan(tmp_path)
    assert (case.id, tuple(case.images)) == ("liver_0", ("ct",))
    assert case.free == {"labels": "background 0, liver 1, vessel 2, tumour 10"}


@pytest.mark.parametrize(
    ("names", "columns"),
    [
        ({"0": "T1", "1": "t1 "}, ("t1", "t1_1")),
        ({"1": "ADC", "0": "T2"}, ("t2", "adc")),
        ({"0": "???", "1": "Größe:x"}, ("channel_0", "gr_sse_x")),
    ],
)
def test_nnunet_channel_names_become_columns(tmp_path, names, columns):
    raw(tmp_path, INFO | {"channel_names": names}, [f"imagesTr/a_{k:04}.nii.gz" for k in (0, 1)], ["labelsTr/a.nii.gz"])
    (case,) = nnunet.scan(tmp_path)
    assert tuple(case.images) == columns
    assert [Path(p).name for p in case.images.values()] == ["a_0000.nii.gz", "a_0001.nii.gz"]


@pytest.mark.parametrize("names", [None, {}, ["CT"], {"1": "CT"}, {"0": "CT", "2": "PET"}])
def test_nnunet_channel_names_that_are_no_numbers_in_order(tmp_path, names):
    raw(tmp_path, INFO | {"channel_names": names}, ["imagesTr/a_0000.nii.gz"], [])
    with pytest.raises(DataError, match=r'dataset\.json: needs "channel_names", numbered from 0'):
        nnunet.scan(tmp_path)


def test_nnunet_missing_parts_name_themselves(tmp_path, said):
    tree = raw(tmp_path / "Dataset001_A", INFO, ["imagesTr/a_0000.nii.gz"], ["labelsTr/a.nii.gz"])
    shutil.rmtree(tree / "labelsTr")
    assert nnunet.scan(tmp_path)[0].mask is None
    assert "1 mask folders missing (there is: dataset.json, imagesTr/)" in said()
    (tree / "dataset.json").unlink()
    with pytest.raises(DataError, match=r"the table 'dataset\.json' is missing .*there is: imagesTr/"):
        nnunet.scan(tmp_path)
    (tree / "dataset.json").write_text("[]")
    with pytest.raises(DataError, match=r"dataset\.json: is no JSON object"):
        nnunet.scan(tmp_path)
    raw(tree, INFO, [], ["labelsTr/a.nii.gz"])
    shutil.rmtree(tree / "imagesTr")
    with pytest.raises(DataError, match=r"the image folder is missing \(looked for: imagesTr\)"):
        nnunet.scan(tmp_path)


def test_nnunet_one_data_set_at_a_time_without_its_prepared_copy(tmp_path):
    raw(tmp_path / "nnUNet_raw/Dataset001_A", INFO, ["imagesTr/a_0000.nii.gz"], ["labelsTr/a.nii.gz"])
    raw(tmp_path / "nnUNet_preprocessed/Dataset001_A", INFO, [], ["gt_segmentations/a.nii.gz"])
    assert len(nnunet.scan(tmp_path)) == 1
    raw(tmp_path / "nnUNet_raw/Dataset002_B", INFO, ["imagesTr/a_0000.nii.gz"], ["labelsTr/a.nii.gz"])
    with pytest.raises(DataError, match=r"several such data sets .*Dataset001_A.*Dataset002_B"):
        nnunet.scan(tmp_path)


def test_nnunet_points_to_the_decathlon_adapter(tmp_path):
    raw(tmp_path, INFO, ["imagesTr/a.nii.gz"], ["labelsTr/a.nii.gz"])
    with pytest.raises(DataError, match=r"no image is there \(looked for: <case>_0000\.nii\.gz.*'decathlon'"):
        nnunet.scan(tmp_path)


# -- Decathlon -------------------------------------------------------------------------------------------

TASK: dict[str, Any] = {
    "modality": {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"},
    "labels": {"0": "background", "1": "edema", "2": "non-enhancing tumor"},
    "numTraining": 2,
    "training": [{"image": f"./imagesTr/BRATS_{n}.nii.gz", "label": f"./labelsTr/BRATS_{n}.nii.gz"} for n in (1, 2)],
    "test": ["./imagesTs/BRATS_9.nii.gz"],
}
VOLUMES = [f"imagesTr/BRATS_{n}.nii.gz" for n in (1, 2)] + ["imagesTs/BRATS_9.nii.gz"]
MASKS = [f"labelsTr/BRATS_{n}.nii.gz" for n in (1, 2)]


def test_decathlon_sequences_of_one_file(tmp_path, said):
    tree = raw(tmp_path / "Task01_BrainTumour", TASK, VOLUMES, MASKS)
    touch(tree / "imagesTr/._BRATS_1.nii.gz", tree / "labelsTr/._BRATS_1.nii.gz")
    cases = by_id(decathlon.scan(tmp_path))
    assert {n: c.splits[""] for n, c in cases.items()} == {"BRATS_1": "train", "BRATS_2": "train", "BRATS_9": "test"}
    file = tree / "imagesTr/BRATS_1.nii.gz"
    assert cases["BRATS_1"].images == {n: f"{file}#{k}" for k, n in enumerate(("flair", "t1w", "t1gd", "t2w"))}
    assert cases["BRATS_1"].mask == str(tree / "labelsTr/BRATS_1.nii.gz")
    assert cases["BRATS_9"].mask is None
    assert cases["BRATS_1"].free == {"labels": "background 0, edema 1, non-enhancing tumor 2"}
    assert cases["BRATS_1"].source == "Task01_BrainTumour"
    assert said().splitlines() == [
        "Task01_BrainTumour: 1 images without a mask (kept as unlabelled): BRATS_9",
        "Task01_BrainTumour: 3 cases without a patient number (no group): BRATS_1, BRATS_2, BRATS_9",
    ]


def test_decathlon_a_single_sequence_is_a_plain_path(tmp_path):
    tree = raw(tmp_path, TASK | {"modality": {"0": "CT"}}, VOLUMES, MASKS)
    assert decathlon.scan(tmp_path)[0].images == {"ct": str(tree / "imagesTr/BRATS_1.nii.gz")}


def test_decathlon_missing_and_doubtful_files_are_named(tmp_path, said):
    tree = raw(tmp_path / "Task01", TASK, VOLUMES, [*MASKS, "labelsTr/BRATS_5.nii.gz"])
    (tree / "imagesTr/BRATS_2.nii.gz").unlink()
    (tree / "imagesTs/BRATS_9.nii.gz").unlink()
    touch(tree / "imagesTr/notes.txt", tree / "imagesTr/BRATS_1.nii")
    assert [c.id for c in decathlon.scan(tmp_path)] == ["BRATS_1"]
    assert "1 wrong numTraining in dataset.json: it says 2, imagesTr holds 1 cases" in said()
    assert "2 masks without an image: BRATS_2.nii.gz, BRATS_5.nii.gz" in said()
    assert "1 images that dataset.json names but imagesTr lacks: BRATS_2.nii.gz" in said()
    assert "1 images that dataset.json names but imagesTs lacks: BRATS_9.nii.gz" in said()
    assert "1 files that are no volumes (left out): imagesTr/notes.txt" in said()
    assert "with another ending, is there already): BRATS_1.nii.gz" in said()


def test_decathlon_missing_parts_name_themselves(tmp_path, said):
    tree = raw(tmp_path / "Task01", TASK, VOLUMES, MASKS)
    shutil.rmtree(tree / "labelsTr")
    assert {c.mask for c in decathlon.scan(tmp_path)} == {None}
    assert "mask folders missing (there is: dataset.json, imagesTr/, imagesTs/)" in said()
    for file in (tree / "imagesTr").iterdir():
        file.unlink()
    with pytest.raises(DataError, match=r"imagesTr: no image is there"):
        decathlon.scan(tmp_path)
    (tree / "dataset.json").unlink()
    with pytest.raises(DataError, match=r"the table 'dataset\.json' is missing"):
        decathlon.scan(tmp_path)


# -- real trees ------------------------------------------------------------------------------------------


def on_one_grid(cases: Iterable[Case]) -> bool:
    for case in cases:
        mask = volumes.read_grid(str(case.mask))
        for path in case.images.values():
            volumes.check_same_grid(mask, volumes.read_grid(path), "the image")
    return True


def test_real_brats_sample(said):
    cases = brats.scan(real("brats-sample"))
    assert len(cases) == len({c.group for c in cases}) == 11
    assert all(c.mask and "flair" in c.images for c in cases)
    assert Counter(tuple(c.images) for c in cases) == {("flair", "t1"): 6, ("flair", "t1ce"): 4, CONTRASTS: 1}
    assert Counter(c.free["label_scheme"] for c in cases) == {"": 6, "brats2013-2015": 4, "brats2012": 1}
    assert "6 masks whose names do not say what their integers mean" in said()
    assert on_one_grid(cases)


def test_real_brats_native_sample():
    (case,) = brats.scan(real("brats-native-sample"), scheme="whole")
    assert (case.id, tuple(case.images)) == ("BraTS18_case_8", ("flair", "t1"))
    assert volumes.read_grid(str(case.mask)).shape == (240, 240, 155)
    assert on_one_grid([case])
