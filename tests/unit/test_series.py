"""DICOM series and SEG: where voxels lie in the world, every way a folder can be bad, masks out and in again."""

from __future__ import annotations

import logging
import os
import random
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    RTStructureSetStorage,
    SegmentationStorage,
    generate_uid,
)

from crossmask.data.seg import read_seg, read_seg_on, write_seg
from crossmask.data.series import is_series, read_series, read_series_header
from crossmask.errors import CallError, DataError
from real_data import real

RAS = np.diag([-1.0, -1.0, 1.0])
AXIAL = ([1.0, 0.0, 0.0], [0.0, 1.0, 0.0])  # along a row, down a column, in DICOM's L-P-S
SAGITTAL = ([0.0, 1.0, 0.0], [0.0, 0.0, -1.0])
CORONAL = ([1.0, 0.0, 0.0], [0.0, 0.0, -1.0])
_TILT, _SPIN = np.radians(18.5), np.radians(-33)
_TURN = np.array([[1, 0, 0], [0, np.cos(_TILT), -np.sin(_TILT)], [0, np.sin(_TILT), np.cos(_TILT)]]) @ np.array(
    [[np.cos(_SPIN), -np.sin(_SPIN), 0], [np.sin(_SPIN), np.cos(_SPIN), 0], [0, 0, 1]]
)
OBLIQUE = (_TURN[:, 0].tolist(), _TURN[:, 1].tolist())
ORIENTATIONS = {"axial": AXIAL, "sagittal": SAGITTAL, "coronal": CORONAL, "oblique": OBLIQUE}
ORIGIN = np.array([-31.5, 12.25, 407.0])
SPACING = (0.75, 1.25)  # between rows, between columns: told apart
STEP = 2.5
MARK = (1, 2, 5)  # slice, row, column


def phantom(shape=(5, 7, 9)) -> np.ndarray:
    """No two voxels alike, and one that stands out."""
    array = np.arange(np.prod(shape), dtype=np.int16).reshape(shape)
    array[MARK] = 3000
    return array


def place(turns, k: float) -> np.ndarray:
    """ImagePositionPatient of slice k."""
    return ORIGIN + k * STEP * np.cross(*turns)


def save(path: Path, pixels: np.ndarray | None, turns=AXIAL, at: float = 0, **tags) -> Path:
    """One CT slice as a file; a tag of None is left away."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    values = {
        "SOPClassUID": CTImageStorage,
        "SOPInstanceUID": generate_uid(),
        "SeriesInstanceUID": "1.2.826.0.1.3680043.8.498.1",
        "StudyInstanceUID": "1.2.826.0.1.3680043.8.498.2",
        "FrameOfReferenceUID": "1.2.826.0.1.3680043.8.498.3",
        "Modality": "CT",
        "SeriesNumber": 4,
        "PatientID": "SECRET7",
        "PatientName": "Secret^Name",
        "PatientBirthDate": "19310207",
        "ImagePositionPatient": [float(f"{v:.6f}") for v in place(turns, at)],
        "ImageOrientationPatient": [float(f"{v:.6f}") for v in (*turns[0], *turns[1])],
        "PixelSpacing": list(SPACING),
        "SliceThickness": STEP,
        "RescaleSlope": 1,
        "RescaleIntercept": -1024,
        "PhotometricInterpretation": "MONOCHROME2",
        "SamplesPerPixel": 1,
    }
    if pixels is not None:
        bits = 8 * pixels.dtype.itemsize
        values |= {"Rows": pixels.shape[0], "Columns": pixels.shape[1], "BitsAllocated": bits, "BitsStored": bits}
        values |= {"HighBit": bits - 1, "PixelRepresentation": int(pixels.dtype.kind == "i")}
        data.add_new("PixelData", "OW", pixels.tobytes())
    for keyword, value in (values | tags).items():
        if value is not None:
            setattr(data, keyword, value)
    data.file_meta.MediaStorageSOPClassUID = data.get("SOPClassUID") or CTImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = data.get("SOPInstanceUID") or generate_uid()
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)
    return path


def series(folder: Path, array: np.ndarray | None = None, turns=AXIAL, **tags) -> Path:
    """A folder of slices whose names are in no order."""
    array = phantom() if array is None else array
    names = random.Random(3).sample(range(100), len(array))
    for k, pixels in enumerate(array):
        save(folder / f"{names[k]:03}.dcm", pixels, turns, k, **tags)
    return folder


def file_at(folder: Path, k: int) -> Path:
    """The file of slice k of a series of five."""
    return folder / f"{random.Random(3).sample(range(100), 5)[k]:03}.dcm"


def change(path: Path, **tags) -> Path:
    data = pydicom.dcmread(path)
    for keyword, value in tags.items():
        if value is None:
            delattr(data, keyword)
        else:
            setattr(data, keyword, value)
    data.save_as(path)
    return path


def fault(folder: Path, *words: str) -> str:
    """The one sentence that reading the folder fails with; it says all the words and nothing about the patient."""
    with pytest.raises(DataError) as raised:
        read_series(folder)
    said = str(raised.value)
    assert all(word in said for word in words), said
    assert said.endswith(".")
    assert "\n" not in said
    assert not any(secret in said for secret in ("SECRET", "Secret", "1931"))
    return said


# -- where voxels lie ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("turns", ORIENTATIONS.values(), ids=ORIENTATIONS)
@pytest.mark.parametrize("reverse", [False, True], ids=["in order", "reversed"])
def test_marked_voxel_is_where_it_was_put(tmp_path, turns, reverse):
    array = phantom()
    for k, pixels in enumerate(array):
        save(tmp_path / f"{9 - k if reverse else k}.dcm", pixels, turns, k)
    read = read_series(tmp_path)
    assert read.array.dtype == np.int16
    assert (read.array == array).all()
    assert (read.slope, read.intercept, read.notes) == (1.0, -1024.0, ())
    assert [Path(f).name for f in read.files] == [f"{9 - k if reverse else k}.dcm" for k in range(5)]
    k, row, column = MARK
    lps = place(turns, k) + column * SPACING[1] * np.array(turns[0]) + row * SPACING[0] * np.array(turns[1])
    found = np.argwhere(read.array == 3000)[0]
    assert np.allclose(read.affine @ [*found, 1], [*(RAS @ lps), 1], atol=1e-4)
    shape, affine = read_series_header(tmp_path)
    assert shape == read.array.shape
    assert (affine == read.affine).all()


@pytest.mark.parametrize(
    ("turns", "codes"), [(AXIAL, "SPL"), (SAGITTAL, "RIP"), (CORONAL, "PIL"), (OBLIQUE, "SPL")], ids=ORIENTATIONS
)
def test_axes_are_named_as_nibabel_names_them(tmp_path, turns, codes):
    nib = pytest.importorskip("nibabel")
    _, affine = read_series_header(series(tmp_path, turns=turns))
    # The first letter is the normal's, row x column: here SAGITTAL runs to the right, CORONAL to the back.
    assert "".join(nib.aff2axcodes(affine)) == codes


def test_simpleitk_agrees(tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    read = read_series(series(tmp_path, turns=OBLIQUE))
    image = sitk.ReadImage(list(read.files))
    for index in [(0, 0, 0), MARK, (4, 6, 8)]:
        point = image.TransformIndexToPhysicalPoint([int(i) for i in reversed(index)])
        assert np.allclose((read.affine @ [*index, 1])[:3], RAS @ point, atol=1e-3)
    assert (sitk.GetArrayFromImage(image) == read.array + read.intercept).all()


def test_positions_win_over_thickness(tmp_path):
    read = read_series(series(tmp_path, SliceThickness=5))
    assert np.isclose(np.linalg.norm(read.affine[:3, 0]), STEP)
    assert read.notes == ("slice step from positions, SliceThickness says otherwise",)


@pytest.mark.parametrize(
    ("thickness", "step", "note"),
    [(5, 5.0, "SliceThickness"), (None, 1.0, "taken as 1 mm"), (0, 1.0, "taken as 1 mm"), ("", 1.0, "taken as 1 mm")],
)
def test_single_slice(tmp_path, thickness, step, note):
    read = read_series(series(tmp_path, phantom()[:3][1:2], SliceThickness=thickness))
    assert read.array.shape == (1, 7, 9)
    assert np.isclose(read.affine[2, 0], step)
    assert read.notes == (f"a single slice: its step is {note}",)


def test_gantry_tilt_is_in_the_affine(tmp_path):
    for k, pixels in enumerate(phantom()):
        save(tmp_path / f"{k}", pixels, ImagePositionPatient=[0, 0.5 * k, 2 * k])
    read = read_series(tmp_path)
    assert np.allclose(read.affine[:3, 0], [0, -0.5, 2])
    assert read.notes == (
        "slices sheared against their normal (gantry tilt)",
        "slice step from positions, SliceThickness says otherwise",
    )


def test_rounded_positions_are_no_fault(tmp_path):
    for k, pixels in enumerate(phantom()):
        save(tmp_path / f"{k}", pixels, ImagePositionPatient=[0, 0, round(0.625 * k, 1)], SliceThickness=None)
    read = read_series(tmp_path)
    assert abs(read.affine[2, 0] - 0.625) < 0.01
    assert read.notes == ("slices a little unevenly spaced: their mean step taken",)


# -- what values mean ------------------------------------------------------------------------------------------------


def test_differing_slopes_become_real_values(tmp_path):
    array = phantom()
    for k, pixels in enumerate(array):
        save(tmp_path / f"{k}", pixels, at=k, RescaleSlope=k + 1, RescaleIntercept=-k)
    read = read_series(tmp_path)
    assert (read.array.dtype, read.slope, read.intercept) == (np.float32, 1.0, 0.0)
    assert (read.array == array * np.arange(1, 6)[:, None, None] - np.arange(5)[:, None, None]).all()
    assert "real values" in read.notes[0]


def test_no_slope_is_none(tmp_path):
    read = read_series(series(tmp_path, RescaleSlope=None, RescaleIntercept=""))
    assert (read.slope, read.intercept) == (1.0, 0.0)


def test_signed_among_unsigned(tmp_path):
    array = phantom()
    for k, pixels in enumerate(array):
        save(tmp_path / f"{k}", (pixels - 50) if k == 2 else pixels.astype(np.uint16) + np.uint16(60_000), at=k)
    read = read_series(tmp_path)
    assert read.array.dtype == np.int32
    assert (read.array[2] == array[2] - 50).all()
    assert (read.array[1] == array[1].astype(int) + 60_000).all()


def test_monochrome1_is_kept_as_stored(tmp_path):
    read = read_series(series(tmp_path, PhotometricInterpretation="MONOCHROME1"))
    assert (read.array == phantom()).all()
    assert read.notes == ("MONOCHROME1 kept as stored",)


def test_missing_identifiers_and_endings_are_no_fault(tmp_path):
    for k, pixels in enumerate(phantom()):
        blank = dict.fromkeys(["SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"])
        save(tmp_path / f"CT.{k}.16573", pixels, at=k, **blank, PatientID="", PatientName=None)
    assert is_series(tmp_path)
    assert (read_series(tmp_path).array == phantom()).all()


def jpeg2000(path: Path) -> Path:
    data = pydicom.dcmread(path)
    data.compress(JPEG2000Lossless, encoding_plugin="pylibjpeg")
    data.save_as(path)
    return path


def test_jpeg2000(tmp_path):
    pytest.importorskip("openjpeg")
    array = np.stack([np.pad(p, ((0, 57), (0, 55))) for p in phantom()])
    for path in series(tmp_path, array).iterdir():
        jpeg2000(path)
    assert (read_series(tmp_path).array == array).all()


# -- what else lies in a folder --------------------------------------------------------------------------------------


def test_other_files_are_left_out_with_a_note(tmp_path):
    folder = series(tmp_path)
    (folder / "README.md").write_text("Slices of a phantom")
    (folder / "empty").touch()
    (folder / "._001.dcm").write_bytes(b"\0\5\x16\7")  # a Mac's
    save(folder / "rt.dcm", None, SOPClassUID=RTStructureSetStorage, Modality="RTSTRUCT", SeriesInstanceUID="1.2.3")
    pixels = phantom()[0].astype(np.uint8)
    save(folder / "seg.dcm", pixels, SOPClassUID=SegmentationStorage, Modality="SEG", SeriesInstanceUID="1.2.4")
    (folder / "inner").mkdir()
    read = read_series(folder)
    assert (read.array == phantom()).all()
    assert read.notes == (
        "files that are no DICOM left out",
        "DICOM files that are no slices (SEG, RTSTRUCT, ...) left out",
    )


def test_is_series(tmp_path):
    assert is_series(series(tmp_path / "a"))
    assert not is_series(tmp_path)
    assert not is_series(tmp_path / "none")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x.dcm").write_text("no DICOM")
    (tmp_path / "b" / "empty.dcm").touch()
    save(tmp_path / "b" / "rt.dcm", None, Modality="RTSTRUCT")
    assert not is_series(tmp_path / "b")
    assert not is_series(file_at(tmp_path / "a", 0))


# -- bad folders -----------------------------------------------------------------------------------------------------


def test_no_folder_and_no_slices(tmp_path):
    fault(tmp_path / "none", "there is no such folder")
    fault(tmp_path, "holds no DICOM slices")


def test_several_series(tmp_path):
    folder = series(tmp_path)
    save(folder / "scout.dcm", phantom()[0], SAGITTAL, SeriesInstanceUID="1.2.19310207.9", SeriesNumber=1)
    said = fault(folder, "2 series", "scout.dcm", "CT number 4", "4 more files", "give a folder")
    assert "1.2.826" not in said  # an identifier; may hold a date


def test_some_without_a_series_uid(tmp_path):
    folder = series(tmp_path)
    change(file_at(folder, 2), SeriesInstanceUID="")
    fault(folder, "2 series", file_at(folder, 2).name)


def test_localizer_of_the_same_series(tmp_path):
    folder = series(tmp_path)
    save(folder / "zzz.dcm", phantom()[0], SAGITTAL)
    fault(folder, "zzz.dcm", "differ in direction", "localizer")


def test_missing_slice(tmp_path):
    folder = series(tmp_path)
    file_at(folder, 2).unlink()
    fault(folder, "missing between", file_at(folder, 1).name, file_at(folder, 3).name, "5.00 mm", "2.50 mm")


def test_two_gaps_and_no_majority(tmp_path):
    for k, z in enumerate([0, 2, 6]):
        save(tmp_path / f"{k}.dcm", phantom()[k], ImagePositionPatient=[0, 0, z])
    fault(tmp_path, "missing between 1.dcm and 2.dcm")


def test_uneven_gap(tmp_path):
    folder = series(tmp_path)
    change(file_at(folder, 4), ImagePositionPatient=place(AXIAL, 4.6).tolist())
    fault(folder, "unevenly spaced", file_at(folder, 4).name, "4.00 mm")


def test_gaps_that_drift(tmp_path):
    z = 0.0
    for k in range(30):
        save(tmp_path / f"{k:02}.dcm", phantom()[0], ImagePositionPatient=[0, 0, z])
        z += 2.0 if k < 15 else 2.18
    fault(tmp_path, "off the even, straight line")


def test_slice_shifted_sideways(tmp_path):
    folder = series(tmp_path)
    change(file_at(folder, 2), ImagePositionPatient=(place(AXIAL, 2) + np.eye(3)[0] * 3).tolist())
    fault(folder, file_at(folder, 2).name, "3.00 mm off")


def test_duplicate_position(tmp_path):
    folder = series(tmp_path)
    save(folder / "again.dcm", phantom()[0], at=3)
    fault(folder, "again.dcm", file_at(folder, 3).name, "same place")


def test_differing_sizes(tmp_path):
    folder = series(tmp_path)
    save(folder / "small.dcm", phantom()[0, :4], at=5)
    fault(folder, "differ in size", "small.dcm 4 x 9", "7 x 9")


def test_differing_pixel_spacing(tmp_path):
    folder = series(tmp_path)
    change(file_at(folder, 3), PixelSpacing=[0.75, 1.2])
    fault(folder, file_at(folder, 3).name, "pixel spacing")


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ({"ImagePositionPatient": None}, ["no ImagePositionPatient"]),
        ({"ImageOrientationPatient": None}, ["no ImageOrientationPatient"]),
        ({"PixelSpacing": None}, ["no PixelSpacing"]),
        ({"PixelSpacing": [0.0, 1.0]}, ["unusable PixelSpacing"]),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, ["unusable ImageOrientationPatient"]),
        ({"ImageOrientationPatient": [0, 0, 0, 0, 0, 0]}, ["unusable ImageOrientationPatient"]),
        ({"ImagePositionPatient": [1, 2]}, ["unusable ImagePositionPatient"]),
        ({"RescaleSlope": 0}, ["unusable RescaleSlope"]),
        ({"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3}, ["colour"]),
        ({"NumberOfFrames": 3}, ["several frames", "folder of its own"]),
        ({"Columns": 0}, ["has no pixels"]),
        ({"Rows": 60000, "Columns": 60000}, ["too many"]),
        ({"PixelData": None}, ["damaged or cut short"]),
        ({"PixelData": b"\0" * 20}, ["damaged or cut short"]),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_one_bad_slice(tmp_path, tags, words):
    folder = series(tmp_path)
    fault(folder, change(file_at(folder, 2), **tags).name, *words)


def test_unreadable_number(tmp_path):
    folder = series(tmp_path)
    path = file_at(folder, 1)
    path.write_bytes(path.read_bytes().replace(b"0.75\\1.25", b"0.75\\mist"))
    fault(folder, path.name, "unusable PixelSpacing")


@pytest.mark.parametrize("share", [0.2, 0.3, 0.6, 0.9, 0.99])
@pytest.mark.parametrize("compressed", [False, True], ids=["native", "JPEG 2000"])
def test_file_cut_short(tmp_path, share, compressed):
    if compressed:
        pytest.importorskip("openjpeg")
    rng = np.random.default_rng(0)
    folder = series(tmp_path, rng.integers(0, 4000, (5, 64, 64), dtype=np.int16))
    path = jpeg2000(file_at(folder, 2)) if compressed else file_at(folder, 2)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    fault(folder, path.name, "copy it again")


@pytest.mark.parametrize("length", range(250, 900, 50))
def test_header_cut_short_is_no_file_left_out(tmp_path, length):
    """The last slice: no gap would tell."""
    folder = series(tmp_path)
    path = file_at(folder, 4)
    path.write_bytes(path.read_bytes()[:length])
    fault(folder, path.name)


def test_no_decoder(tmp_path):
    if pydicom.pixels.get_decoder(JPEGLosslessSV1).is_available:
        pytest.skip("a decoder for lossless JPEG is installed")
    folder = series(tmp_path)
    data = pydicom.dcmread(file_at(folder, 2))
    data.file_meta.TransferSyntaxUID = JPEGLosslessSV1
    data.PixelData = pydicom.encaps.encapsulate([b"\xff\xd8\xff\xd9"])
    data.save_as(file_at(folder, 2))
    fault(folder, file_at(folder, 2).name, "no decoder", "pip install 'crossmask[volumes]'")


def test_a_text_named_dcm_is_no_slice(tmp_path):
    folder = series(tmp_path)
    (folder / "notes.dcm").write_text("remember the milk")
    fault(folder, "notes.dcm", "is not a DICOM file", "take it out")


def test_unreadable_file(tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    folder = series(tmp_path)
    file_at(folder, 0).chmod(0)
    fault(folder, file_at(folder, 0).name, "permission denied")


# -- multi-frame objects ---------------------------------------------------------------------------------------------


def groups(**tags) -> Dataset:
    """Functional groups: name of the group -> the one item's tags."""
    out = Dataset()
    for group, values in tags.items():
        item = Dataset()
        for keyword, value in values.items():
            setattr(item, keyword, value)
        setattr(out, group, [item])
    return out


def enhanced(path: Path, places=(3, 0, 4, 1, 2), slopes=(1, 1, 1, 1, 1), **tags) -> Path:
    """An enhanced MR: frame i is the phantom's slice places[i]."""
    shared = groups(
        PlaneOrientationSequence={"ImageOrientationPatient": [*OBLIQUE[0], *OBLIQUE[1]]},
        PixelMeasuresSequence={"PixelSpacing": list(SPACING), "SliceThickness": STEP},
    )
    own = [
        groups(
            PlanePositionSequence={"ImagePositionPatient": place(OBLIQUE, k).tolist()},
            PixelValueTransformationSequence={"RescaleSlope": slope, "RescaleIntercept": 0},
            FrameContentSequence={"DimensionIndexValues": [k + 1]},
        )
        for k, slope in zip(places, slopes, strict=True)
    ]
    path = save(
        path,
        phantom()[list(places)].reshape(-1, 9),
        **{"Rows": 7, "NumberOfFrames": len(places), "SOPClassUID": EnhancedMRImageStorage, "Modality": "MR"},
        SharedFunctionalGroupsSequence=[shared],
        PerFrameFunctionalGroupsSequence=own,
        **dict.fromkeys(["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleIntercept"]),
        **dict.fromkeys(["RescaleSlope", "SliceThickness"]),
    )
    return change(path, **tags)


def test_enhanced_object_is_sorted_by_position(tmp_path):
    enhanced(tmp_path / "mr.dcm")
    plain = series(tmp_path / "plain", turns=OBLIQUE)
    read = read_series(tmp_path)
    assert (read.array == phantom()).all()
    assert (read.slope, read.intercept) == (1.0, 0.0)
    assert [Path(f).name for f in read.files] == ["mr.dcm"]
    assert np.allclose(read.affine, read_series(plain).affine, atol=1e-4)


def test_enhanced_object_with_slopes(tmp_path):
    enhanced(tmp_path / "mr.dcm", slopes=(1, 2, 1, 1, 1))  # the second frame is slice 0
    read = read_series(tmp_path)
    assert (read.array[0] == 2.0 * phantom()[0]).all()
    assert (read.array[1:] == phantom()[1:]).all()


def test_enhanced_object_of_several_times(tmp_path):
    enhanced(tmp_path / "mr.dcm", places=(0, 1, 2, 1, 0))
    fault(tmp_path, "mr.dcm (frame", "same place")


def test_frames_without_places(tmp_path):
    enhanced(tmp_path / "mr.dcm", NumberOfFrames=4)
    fault(tmp_path, "mr.dcm", "does not say where each of its 4 frames lies")


def test_enhanced_object_and_seg(tmp_path):
    pytest.importorskip("highdicom")
    enhanced(tmp_path / "in" / "mr.dcm", Manufacturer="x")
    mask = three_labels()
    read = read_series(tmp_path / "in")
    path = write_seg(tmp_path / "seg.dcm", mask, tmp_path / "in", NAMES)
    assert (read_seg_on(path, read.array.shape, read.affine) == mask).all()


# -- SEG -------------------------------------------------------------------------------------------------------------

NAMES = ("background", "Leber", "Лёгкое", "third")


def three_labels() -> np.ndarray:
    """An asymmetric mask; the first and last slice are empty, the middle one too."""
    mask = np.zeros((5, 7, 9), np.uint8)
    mask[1, 1:3, 2:8] = 1
    mask[1, 5, :3] = 2
    mask[3, 0, 8] = 3
    mask[3, 2:, 1] = 2
    return mask


@pytest.fixture
def highdicom():
    return pytest.importorskip("highdicom")


@pytest.mark.parametrize("turns", ORIENTATIONS.values(), ids=ORIENTATIONS)
@pytest.mark.parametrize("labels", [2, 4])
def test_seg_round_trip(tmp_path, highdicom, turns, labels):
    folder = series(tmp_path / "in", turns=turns)
    mask = three_labels() if labels == 4 else (three_labels() > 1).astype(np.uint8)
    path = write_seg(tmp_path / "out" / "seg.dcm", mask, folder, NAMES[:labels])
    shape, affine = read_series_header(folder)
    back = read_seg_on(path, shape, affine)
    assert back.dtype == np.uint8
    assert (back == mask).all()
    own, own_affine = read_seg(path)  # from the first to the last slice that has a label
    assert (own == mask[1:4]).all()
    assert np.allclose(own_affine @ [0, 0, 0, 1], affine @ [1, 0, 0, 1], atol=1e-4)
    assert np.allclose(own_affine[:3, :3], affine[:3, :3], atol=1e-4)
    assert list((tmp_path / "out").iterdir()) == [path]
    data = pydicom.dcmread(path)
    assert data.SegmentationType == "BINARY"
    assert [s.SegmentLabel for s in data.SegmentSequence] == list(NAMES[1:labels])
    assert data.PatientID == "SECRET7"  # the SEG itself belongs to the patient
    referenced = {i.ReferencedSOPInstanceUID for i in data.ReferencedSeriesSequence[0].ReferencedInstanceSequence}
    assert referenced == {pydicom.dcmread(p).SOPInstanceUID for p in folder.iterdir()}


def test_seg_on_a_nifti_grid(tmp_path, highdicom):
    """The same voxels, axes in another order and turned."""
    folder = series(tmp_path / "in", turns=OBLIQUE)
    mask = three_labels()
    path = write_seg(tmp_path / "seg.dcm", mask, folder, NAMES)
    _, affine = read_series_header(folder)
    # column, row backwards, slice
    turn = np.array([[0, 0, 1, 0], [0, -1, 0, 6], [1, 0, 0, 0], [0, 0, 0, 1]], float)
    assert (read_seg_on(path, (9, 7, 5), affine @ turn) == mask.transpose(2, 1, 0)[:, ::-1]).all()


def test_seg_on_a_larger_grid(tmp_path, highdicom):
    folder = series(tmp_path / "in")
    path = write_seg(tmp_path / "seg.dcm", three_labels(), folder, NAMES)
    _, affine = read_series_header(folder)
    moved = affine @ np.array([[1, 0, 0, -1], [0, 1, 0, -2], [0, 0, 1, -3], [0, 0, 0, 1]], float)
    assert (read_seg_on(path, (9, 12, 14), moved) == np.pad(three_labels(), ((1, 3), (2, 3), (3, 2)))).all()


@pytest.mark.parametrize(
    ("turn", "words"),
    [
        (np.diag([1, 2, 2, 1]), "between the voxels"),
        (np.diag([1, 0.5, 0.5, 1]), "between the voxels"),
        (np.array([[1, 0, 0, 0.5], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), "between the voxels"),
        (np.array([[1, 0, 0, 2], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), "outside the image"),
        (np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, -4], [0, 0, 0, 1]]), "outside the image"),
    ],
)
def test_seg_on_a_grid_it_was_not_drawn_on(tmp_path, highdicom, turn, words):
    folder = series(tmp_path / "in")
    path = write_seg(tmp_path / "seg.dcm", three_labels(), folder, NAMES)
    shape, affine = read_series_header(folder)
    with pytest.raises(DataError, match=words):
        read_seg_on(path, shape, affine @ turn)


def test_seg_of_a_sheared_stack(tmp_path, highdicom):
    for k, pixels in enumerate(phantom()):
        save(tmp_path / "in" / f"{k}", pixels, ImagePositionPatient=[0, 0.5 * k, 2 * k])
    path = write_seg(tmp_path / "seg.dcm", three_labels(), tmp_path / "in", NAMES)
    shape, affine = read_series_header(tmp_path / "in")
    assert (read_seg_on(path, shape, affine) == three_labels()).all()
    own, own_affine = read_seg(path)
    assert (own == three_labels()[1:4]).all()
    assert np.allclose(own_affine[:3, :3], affine[:3, :3])


def test_seg_of_nothing(tmp_path, highdicom):
    folder = series(tmp_path / "in")
    path = write_seg(tmp_path / "seg.dcm", np.zeros((5, 7, 9), np.uint8), folder, NAMES)
    shape, affine = read_series_header(folder)
    assert not read_seg_on(path, shape, affine).any()
    assert read_seg(path)[0].shape == shape


def test_seg_of_one_slice(tmp_path, highdicom):
    folder = series(tmp_path / "in", phantom()[1:2])
    mask = three_labels()[1:2]
    path = write_seg(tmp_path / "seg.dcm", mask, folder, NAMES)
    own, affine = read_seg(path)
    assert (own == mask).all()
    assert np.allclose(affine, read_series_header(folder)[1])


@pytest.mark.parametrize("said", [STEP, None, 1.1])
def test_seg_whose_gaps_are_no_step(tmp_path, highdicom, said):
    """Frames on slices 0, 2 and 5: the step is neither gap."""
    folder = series(tmp_path / "in", np.zeros((6, 7, 9), np.int16))
    mask = np.zeros((6, 7, 9), np.uint8)
    mask[[0, 2, 5], 1, 2:4] = 1
    path = write_seg(tmp_path / "seg.dcm", mask, folder, NAMES[:2])
    data = pydicom.dcmread(path)
    data.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SpacingBetweenSlices = said
    data.save_as(path)
    own, affine = read_seg(path)
    assert (own == mask).all()
    assert np.isclose(np.linalg.norm(affine[:3, 0]), STEP)


def test_step_of_seg_comes_from_positions(tmp_path, highdicom):
    folder = series(tmp_path / "in", SliceThickness=None, SpacingBetweenSlices=9)
    path = write_seg(tmp_path / "seg.dcm", three_labels(), folder, NAMES)
    measures = pydicom.dcmread(path).SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert np.isclose(measures.SpacingBetweenSlices, STEP)


def test_fractional_and_labelmap_segs(tmp_path, highdicom):
    folder = series(tmp_path / "in")
    shape, affine = read_series_header(folder)
    sources = [pydicom.dcmread(f) for f in read_series(folder).files]
    for source in sources:
        for keyword in ("PatientSex", "AccessionNumber", "StudyID", "StudyDate", "StudyTime"):
            setattr(source, keyword, "")

    def made(name: str, array: np.ndarray, kind: str) -> Path:
        code = pydicom.sr.codedict.codes.SCT.Tissue
        described = [
            highdicom.seg.SegmentDescription(n, str(n), code, code, "MANUAL") for n in range(1, int(array.max()) + 1)
        ]
        equipment = dict.fromkeys(["manufacturer", "manufacturer_model_name", "software_versions"], "x")
        uids = {"series_instance_uid": generate_uid(), "sop_instance_uid": generate_uid()}
        numbers = {"series_number": 1, "instance_number": 1, "device_serial_number": "1"}
        seg = highdicom.seg.Segmentation(sources, array, kind, described, **equipment, **uids, **numbers)
        seg.save_as(tmp_path / name)
        return tmp_path / name

    whole = (three_labels() > 0).astype(float)
    assert (read_seg_on(made("a.dcm", whole, "FRACTIONAL"), shape, affine) == whole).all()
    labelmap = made("b.dcm", three_labels(), "LABELMAP")
    assert (read_seg_on(labelmap, shape, affine) == three_labels()).all()
    shares = whole.copy()
    shares[1, 1, 2] = 0.4
    with pytest.raises(DataError, match="shares"):
        read_seg_on(made("c.dcm", shares, "FRACTIONAL"), shape, affine)
    twice = np.zeros((5, 7, 9), np.uint8)
    twice[1, 2:4, 5], twice[3, 3:6, 5] = 1, 2
    data = pydicom.dcmread(made("d.dcm", twice, "BINARY"))
    for group in data.PerFrameFunctionalGroupsSequence:
        group.PlanePositionSequence[0].ImagePositionPatient = ORIGIN.tolist()
    data.save_as(tmp_path / "d.dcm")
    with pytest.raises(DataError, match="overlap"):
        read_seg_on(tmp_path / "d.dcm", shape, affine)


def test_bad_segs(tmp_path, highdicom):
    folder = series(tmp_path / "in")
    path = write_seg(tmp_path / "seg.dcm", three_labels(), folder, NAMES)
    whole = path.read_bytes()
    for share in (0.3, 0.7, 0.999):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(DataError, match=r"seg\.dcm"):
            read_seg(path)
    path.write_bytes(whole)
    data = pydicom.dcmread(path)
    del data.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence
    data.save_as(path)
    with pytest.raises(DataError, match="no ImagePositionPatient"):
        read_seg(path)
    with pytest.raises(DataError, match="is no DICOM SEG"):
        read_seg(file_at(folder, 0))
    with pytest.raises(DataError, match="no such file"):
        read_seg(tmp_path / "none.dcm")
    with pytest.raises(DataError, match="directory"):
        read_seg(folder)
    (tmp_path / "text.dcm").write_text("no")
    with pytest.raises(DataError, match="not a DICOM file"):
        read_seg(tmp_path / "text.dcm")


def test_write_seg_refuses_what_does_not_fit(tmp_path, highdicom):
    folder = series(tmp_path / "in")
    path, mask = tmp_path / "seg.dcm", three_labels()
    for bad in (mask[:4], mask[0], mask.astype(float), mask.transpose(0, 2, 1)):
        with pytest.raises(CallError, match="a mask of"):
            write_seg(path, bad, folder, NAMES)
    for labels in (NAMES[:3], NAMES[:1]):
        with pytest.raises(CallError, match="the labels are"):
            write_seg(path, mask, folder, labels)
    for label in ("", " ", "a\\b", "x" * 65, "a\nb"):
        with pytest.raises(CallError, match="cannot hold the label"):
            write_seg(path, mask, folder, ("background", label, "b", "c"))
    assert not path.exists()


@pytest.mark.parametrize("keyword", ["SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID"])
def test_series_without_identifiers_cannot_carry_a_seg(tmp_path, highdicom, keyword):
    folder = series(tmp_path / "in", **{keyword: ""})
    with pytest.raises(DataError, match=f"no {keyword}, .* NIfTI"):
        write_seg(tmp_path / "seg.dcm", three_labels(), folder, NAMES)
    assert not (tmp_path / "seg.dcm").exists()


@pytest.mark.filterwarnings("ignore:The number of PN components")
def test_nothing_about_the_patient_is_said(tmp_path, highdicom, caplog):
    """highdicom would log this name, pydicom would warn of this date."""
    folder, dated = tmp_path / "in", tmp_path / "dated"
    tags = {"PatientName": "SECRETÜ=a=b=c=d", "SpecificCharacterSet": "ISO_IR 100"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        series(folder, **tags)
        series(dated, StudyDate="19.31.SECRET", **tags)
    level = logging.getLogger("pydicom").level
    caplog.clear()
    caplog.set_level(logging.DEBUG)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        read_series(dated)
        with pytest.raises(DataError, match="cannot carry a SEG") as raised:
            write_seg(tmp_path / "seg.dcm", three_labels(), dated, NAMES)
        path = write_seg(tmp_path / "seg.dcm", three_labels(), folder, NAMES)
    assert "SECRET" not in caplog.text + str(raised.value) + "".join(str(w.message) for w in said)
    assert pydicom.dcmread(path).PatientName == tags["PatientName"]  # in UTF-8
    assert logging.getLogger("pydicom").level == level


# -- real data -------------------------------------------------------------------------------------------------------


def test_real_seg_lies_on_its_slices():
    ct = real("dicom-sample", "ct_with_seg", "CT")
    path = real("dicom-sample", "ct_with_seg", "SEG", "liver_seg.dcm")
    read = read_series(ct)
    assert (read.array.shape, read.slope, read.intercept) == ((3, 512, 512), 1.0, -1024.0)
    assert np.allclose(np.linalg.norm(read.affine[:3, :3], axis=0), [1, 0.810547, 0.810547])
    liver = read_seg_on(path, read.array.shape, read.affine)
    assert liver.sum(axis=(1, 2)).tolist() == [36233, 35645, 35220]
    # Slice by slice, through the instance that each frame says it was drawn on.
    slices = {str(pydicom.dcmread(f).SOPInstanceUID): k for k, f in enumerate(read.files)}
    seg = pydicom.dcmread(path)
    for frame, group in zip(seg.pixel_array, seg.PerFrameFunctionalGroupsSequence, strict=True):
        source = group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        assert (liver[slices[source]] == frame).all()
    hounsfield = (read.array * read.slope + read.intercept)[liver > 0]
    assert 20 < hounsfield.mean() < 60  # liver without contrast agent


def test_real_seg_as_highdicom_reads_it(highdicom):
    path = real("dicom-sample", "ct_with_seg", "SEG", "liver_seg.dcm")
    own, affine = read_seg(path)
    volume = highdicom.seg.segread(path).get_volume(combine_segments=True)
    theirs = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.affine
    voxels = np.argwhere(own)[::997]
    where = np.linalg.inv(theirs) @ affine @ np.c_[voxels, np.ones(len(voxels))].T
    assert (volume.array[tuple(np.rint(where[:3]).astype(int))] == 1).all()
    assert volume.array.sum() == own.sum()


def test_real_jpeg2000_series_lies_on_its_nifti(tmp_path):
    nib = pytest.importorskip("nibabel")
    folder = real("dicom-sample", "ct_series_jpeg2000", "CT")
    read = read_series(folder)
    assert (read.array.shape, read.intercept) == ((20, 512, 512), -1024.0)
    assert np.isclose(read.affine[2, 0], 2)
    assert read.notes == ("slice step from positions, SliceThickness says otherwise",)
    image = nib.load(real("dicom-sample", "ct_series_jpeg2000", "organs_auto.nii.gz"))
    # (slice, row, column) -> the NIfTI's (i, j, k): the same voxels, rows the other way round
    turn = np.linalg.inv(image.affine) @ read.affine
    assert np.allclose(turn, [[0, 0, 1, 0], [0, -1, 0, 511], [1, 0, 0, 0], [0, 0, 0, 1]], atol=1e-4)
    organs = np.asarray(image.dataobj).transpose(2, 1, 0)[:, ::-1]
    hounsfield = read.array * read.slope + read.intercept
    spine = organs == 32
    assert hounsfield[spine].mean() > 100 > hounsfield[spine[:, ::-1]].mean()
    with pytest.raises(DataError, match=r"no SOPClassUID, .* NIfTI"):
        write_seg(tmp_path / "seg.dcm", (organs == 5).astype(np.uint8), folder, ("background", "liver"))


def test_real_prostate_scans_are_tilted():
    found = {name: read_series(real("dicom-sample", "prostate_mr_t2_adc", name)) for name in ("T2_tse_tra", "ADC")}
    for read, shape, pixel in zip(found.values(), [(19, 384, 384), (19, 128, 84)], [0.5, 2.0], strict=True):
        assert read.array.shape == shape
        assert np.allclose(np.linalg.norm(read.affine[:3, :3], axis=0), [3, pixel, pixel], atol=1e-3)
        tilt = np.degrees(np.arccos(read.affine[2, 0] / 3))
        assert abs(tilt - 18.5) < 0.05
        assert read.notes == ()
    # One patient, one frame of reference: the middles of both lie within millimetres along the slices' normal.
    middles = [r.affine @ [*(np.array(r.array.shape) - 1) / 2, 1] for r in found.values()]
    normal = found["ADC"].affine[:3, 0] / 3
    assert abs(normal @ (middles[0] - middles[1])[:3]) < 15


def test_real_prostate_as_simpleitk_reads_it():
    sitk = pytest.importorskip("SimpleITK")
    read = read_series(real("dicom-sample", "prostate_mr_t2_adc", "ADC"))
    image = sitk.ReadImage(list(read.files))
    for index in [(0, 0, 0), (18, 0, 0), (7, 120, 3), (18, 127, 83)]:
        point = image.TransformIndexToPhysicalPoint([int(i) for i in reversed(index)])
        assert np.allclose((read.affine @ [*index, 1])[:3], RAS @ point, atol=1e-2)
    assert (sitk.GetArrayFromImage(image) == read.array).all()


@pytest.mark.parametrize("name", ["ct_with_seg/CT", "prostate_mr_t2_adc/ADC", "ct_with_rtstruct"])
def test_real_series_carry_a_seg(tmp_path, highdicom, name):
    folder = real("dicom-sample", *name.split("/"))
    shape, affine = read_series_header(folder)
    mask = np.zeros(shape, np.uint8)
    mask[0, 3:9, 4:20] = 1
    mask[-1, 30:40, 50:53] = 2
    path = write_seg(tmp_path / "seg.dcm", mask, folder, NAMES)
    assert (read_seg_on(path, shape, affine) == mask).all()


def test_real_rtstruct_beside_a_slice():
    read = read_series(real("dicom-sample", "ct_with_rtstruct"))
    assert [Path(f).name for f in read.files] == ["ct.0.dcm"]
    assert read.notes == (
        "DICOM files that are no slices (SEG, RTSTRUCT, ...) left out",
        "a single slice: its step is SliceThickness",
    )


@pytest.mark.parametrize("turns", ORIENTATIONS.values(), ids=ORIENTATIONS)
def test_one_phantom_through_every_reader_and_writer(tmp_path, turns):
    """A series, the same as NIfTI, a mask of either, written as SEG and as NIfTI: all lie at one place."""
    import nibabel as nib

    from crossmask.data.volumes import check_same_grid, read_labels, read_volume, write_labels

    folder = series(tmp_path / "ct", turns=turns)
    of_series = read_volume(folder)
    as_in_file = of_series.grid.as_in_file(of_series.stored) * of_series.slope + of_series.intercept
    nib.save(nib.Nifti1Image(as_in_file.astype(np.float32), of_series.grid.affine), tmp_path / "ct.nii.gz")
    of_nifti = read_volume(tmp_path / "ct.nii.gz")
    check_same_grid(of_series.grid, of_nifti.grid, "the copy")
    assert np.array_equal(of_series.slab(0, 99), of_nifti.slab(0, 99))
    values = of_series.slab(0, 99)
    mask = (values > np.median(values)).astype(np.uint8)
    mask[0] = 0  # a slice without a frame
    geometry = of_series.grid.geometry()
    in_file = of_series.grid.as_in_file(mask)
    seg = write_labels(tmp_path / "mask.dcm", in_file, geometry, ("background", "bright"))
    nifti = write_labels(tmp_path / "mask.nii.gz", in_file, geometry)
    for path in (seg, nifti):
        for grid in (of_series.grid, of_nifti.grid):
            assert np.array_equal(read_labels(path, grid)[0], mask), path
