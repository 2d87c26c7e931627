"""Rigid registration: a known motion is found again, what cannot be aligned is said in one sentence."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest

from crossmask.data import register as module
from crossmask.data.register import Report, register
from crossmask.errors import CallError, DataError
from real_data import real

sitk = pytest.importorskip("SimpleITK", reason="SimpleITK is not installed: nothing is registered")
pytest.importorskip("nibabel", reason="nibabel is not installed: nothing is registered")
SPACING, ORIGIN = (5.0, 4.5, 5.0), (-90.0, -94.0, -70.0)
MOTION = ((0.12, -0.09, 0.15), (7.0, -5.0, 9.0))  # radians about x, y, z; mm


def rigid(angles: tuple[float, float, float], shift: tuple[float, float, float]) -> object:
    """Fixed point -> moving point, turned about the world's origin."""
    return sitk.Euler3DTransform((0.0, 0.0, 0.0), *angles, shift)


def head(contrast: int, motion: object | None = None, kind: type = np.int16) -> object:
    """A made-up head of ellipsoids in one of two contrasts, moved by ``motion``, drawn and not resampled."""
    shape = (29, 42, 37)  # z, y, x
    places = np.indices(shape)[::-1].reshape(3, -1).T * SPACING + np.array(ORIGIN)
    if motion is not None:
        back = motion.GetInverse()  # type: ignore[attr-defined]
        matrix = np.reshape(back.GetMatrix(), (3, 3))
        places = places @ matrix.T + np.array(back.TransformPoint((0.0, 0.0, 0.0)))
    picture = np.full(len(places), 5.0)
    for middle, size, values in (
        ((0, -5, 0), (62, 78, 55), (300, 500)),
        ((0, -5, 2), (54, 69, 48), (900, 700)),
        ((18, 5, 8), (12, 26, 14), (150, 1000)),
        ((-20, 0, 4), (10, 22, 12), (200, 950)),
        ((10, -45, -12), (16, 12, 18), (600, 300)),
        ((-24, 38, 15), (14, 9, 11), (1100, 450)),
        ((30, -20, -25), (9, 13, 8), (450, 850)),
    ):
        distance = np.linalg.norm((places - middle) / np.array(size), axis=1)
        inside = 1 / (1 + np.exp((distance - 1) * min(size) / 1.2))  # an edge a few mm wide
        picture += inside * (values[contrast] - picture)
    picture += np.random.default_rng(contrast).normal(0, 15, len(places))
    image = sitk.GetImageFromArray(picture.clip(0).reshape(shape).astype(kind))
    image.SetSpacing(SPACING)
    image.SetOrigin(ORIGIN)
    return image


def save(folder: Path, name: str, image: object) -> Path:
    sitk.WriteImage(image, str(folder / name))
    return folder / name


def angle(motion: object) -> float:
    """Degrees of the whole turn."""
    trace = np.trace(np.reshape(motion.GetMatrix(), (3, 3)))  # type: ignore[attr-defined]
    return math.degrees(math.acos(min(1.0, max(-1.0, (trace - 1) / 2))))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pair")
    save(folder, "fixed.nii.gz", head(0))
    save(folder, "moving.nii.gz", head(1, rigid(*MOTION)))
    sitk.WriteTransform(rigid(*MOTION), str(folder / "truth.tfm"))
    return folder


@pytest.fixture(scope="module")
def found(pair: Path) -> Report:
    return register(
        pair / "fixed.nii.gz", pair / "moving.nii.gz", pair / "out.nii.gz", truth=pair / "truth.tfm", seed=3
    )


# What is found


def test_a_known_motion_is_found_again(pair: Path, found: Report) -> None:
    assert found.tre_mm is not None
    assert found.tre_mm < 0.5
    assert found.residual_mm < 0.5
    motion = sitk.Euler3DTransform(sitk.ReadTransform(found.transform))
    left = sitk.CompositeTransform([rigid(*MOTION).GetInverse(), motion])  # type: ignore[attr-defined]
    columns = [np.subtract(left.TransformPoint(p), left.TransformPoint((0.0,) * 3)) for p in np.eye(3).tolist()]
    whole = sitk.Euler3DTransform()
    whole.SetMatrix(np.stack(columns, 1).ravel().tolist(), 1e-5)
    assert angle(whole) < 0.5
    centre = np.array(found.centre_mm)
    assert np.linalg.norm(np.subtract(left.TransformPoint(centre.tolist()), centre)) < 0.5
    assert found.moved_mm == pytest.approx(12.7, abs=6)
    assert found.information_before is not None
    assert found.information_after > 1.5 * found.information_before
    assert found.overlap > 0.9
    assert (found.same_grid, found.aligned_before) == (True, False)
    assert found.note.startswith("Moved by ")


def test_the_report_says_what_the_transform_file_says(found: Report) -> None:
    motion = sitk.Euler3DTransform(sitk.ReadTransform(found.transform))
    angles = (motion.GetAngleX(), motion.GetAngleY(), motion.GetAngleZ())
    assert found.rotation_deg == pytest.approx(np.degrees(angles), abs=1e-6)
    assert found.translation_mm == pytest.approx(motion.GetTranslation(), abs=1e-6)
    assert found.centre_mm == pytest.approx(motion.GetCenter(), abs=1e-6)


def test_the_picture_written_lies_on_the_fixed_one(pair: Path, found: Report) -> None:
    out, fixed = sitk.ReadImage(found.out), sitk.ReadImage(found.fixed)
    assert module._same_grid(out, fixed)
    assert out.GetPixelID() == sitk.ReadImage(found.moving).GetPixelID() == sitk.sitkInt16
    inner = (slice(6, -6),) * 3
    drawn, straight = (sitk.GetArrayFromImage(i)[inner].astype(float) for i in (out, head(1)))
    before = sitk.GetArrayFromImage(sitk.ReadImage(found.moving))[inner].astype(float)
    assert np.abs(drawn - straight).mean() < 0.35 * np.abs(before - straight).mean()


def test_the_same_call_writes_the_same_bytes(pair: Path, found: Report, tmp_path: Path) -> None:
    again = register(
        pair / "fixed.nii.gz",
        pair / "moving.nii.gz",
        tmp_path / "again.nii",
        transform=tmp_path / "again.txt",
        truth=pair / "truth.tfm",
        seed=3,
    )
    places = ("out", "transform")
    assert dataclasses.replace(again, **{name: getattr(found, name) for name in places}) == found
    assert Path(again.transform).read_bytes() == Path(found.transform).read_bytes()
    one, other = (sitk.GetArrayFromImage(sitk.ReadImage(r.out)) for r in (again, found))
    assert (one == other).all()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again.nii", "again.txt"]


def test_a_pair_on_one_grid_is_said_to_be_aligned_and_still_written(pair: Path, tmp_path: Path) -> None:
    other = save(tmp_path, "other.nii.gz", head(1, kind=np.float32))
    report = register(pair / "fixed.nii.gz", other, tmp_path / "out.nii.gz")
    assert report.aligned_before
    assert report.moved_mm < module.ALIGNED_MM
    assert report.note.startswith("Already aligned on one grid")
    assert Path(report.transform) == tmp_path / "out.tfm"
    assert sitk.ReadImage(report.out).GetPixelID() == sitk.sitkFloat32
    assert report.tre_mm is None
    told = json.loads(json.dumps(report.to_dict()))
    assert told["aligned_before"] is True
    assert told["rotation_deg"] == list(report.rotation_deg)


def test_headers_far_apart_are_no_hindrance_but_said(
    pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LEVELS_MM", (8.0, 5.0))
    image = head(1)
    image.SetOrigin([o + 1000 for o in ORIGIN])  # type: ignore[attr-defined]
    report = register(pair / "fixed.nii.gz", save(tmp_path, "far.nii.gz", image), tmp_path / "out.nii.gz")
    assert report.translation_mm == pytest.approx((1000,) * 3, abs=0.5)
    assert report.information_before is None
    assert "by their headers the pictures did not overlap" in report.note


def dicom(folder: Path, image: object, skip: tuple[int, ...] = ()) -> Path:
    """The picture as a series of one file a slice, named out of order."""
    import pydicom
    from pydicom.dataset import FileDataset, FileMetaDataset

    folder.mkdir()
    study, series = (pydicom.uid.generate_uid() for _ in range(2))
    for number, rows in enumerate(sitk.GetArrayFromImage(image).astype(np.int16)):
        if number in skip:
            continue
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = pydicom.uid.MRImageStorage
        meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
        meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        data = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
        data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
        data.StudyInstanceUID, data.SeriesInstanceUID, data.Modality = study, series, "MR"
        data.Rows, data.Columns = rows.shape
        data.PixelSpacing = [SPACING[1], SPACING[0]]
        data.SliceThickness = SPACING[2]
        data.ImagePositionPatient = [ORIGIN[0], ORIGIN[1], ORIGIN[2] + number * SPACING[2]]
        data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        data.InstanceNumber = number + 1
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 1
        data.PixelData = rows.tobytes()
        data.save_as(folder / f"{number * 7 % 29:03d}.dcm", enforce_file_format=True)
    return folder


def test_a_dicom_series_reads_as_its_volume(tmp_path: Path) -> None:
    image = head(0)
    read = module._read(dicom(tmp_path / "series", image))
    assert module._same_grid(read, image)
    assert (sitk.GetArrayFromImage(read) == sitk.GetArrayFromImage(image)).all()


# What is refused


def test_series_that_are_no_even_stack(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not evenly spaced"):
        module._read(dicom(tmp_path / "gap", head(0), skip=(17,)))
    with pytest.raises(DataError, match="37 x 42 x 3 voxels are too few"):
        module._read(dicom(tmp_path / "thin", head(0), skip=tuple(range(3, 29))))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no DICOM series"):
        module._read(tmp_path / "empty")
    both = dicom(tmp_path / "both", head(0))
    for path in dicom(tmp_path / "more", head(1)).iterdir():
        path.rename(both / f"more_{path.name}")
    with pytest.raises(DataError, match="holds 2 DICOM series"):
        module._read(both)


def test_volumes_that_cannot_be_used(pair: Path, tmp_path: Path) -> None:
    plain = np.zeros((12, 12, 12), np.float32)
    holed = plain.copy()
    holed[3, 3, 3] = np.nan
    (tmp_path / "text.nii.gz").write_text("no picture")
    whole = (pair / "fixed.nii.gz").read_bytes()
    (tmp_path / "short.nii.gz").write_bytes(whole[: len(whole) // 2])
    cases = {
        tmp_path / "nowhere.nii.gz": "there is no such file",
        tmp_path / "text.nii.gz": "cannot be read as a volume",
        save(tmp_path, "flat.nii.gz", sitk.GetImageFromArray(plain)): "every voxel is 0",
        save(tmp_path, "holed.nii", sitk.GetImageFromArray(holed)): "not finite",
        tmp_path / "short.nii.gz": "breaks off or is damaged",
        save(tmp_path, "thin.nii.gz", head(0)[:, :, :5]): "37 x 42 x 5 voxels are too few",  # type: ignore[index]
        save(tmp_path, "four.nii.gz", sitk.JoinSeries([head(0), head(1)])): "has 4 axes",
        save(tmp_path, "two.nii.gz", head(0)[:, :, 5]): "has 2 axes",  # type: ignore[index]
        save(tmp_path, "vector.nii.gz", sitk.Compose(head(0), head(1))): "several numbers a voxel",
    }
    for path, why in cases.items():
        for one, other in ((path, pair / "moving.nii.gz"), (pair / "fixed.nii.gz", path)):
            with pytest.raises(DataError) as error:
                register(one, other, tmp_path / "out.nii.gz")
            assert why in str(error.value)
            assert str(error.value).startswith(str(path))
            assert "\n" not in str(error.value)
    assert not (tmp_path / "out.nii.gz").exists()


def test_a_pair_without_anything_in_common(pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STEPS", 20)
    noise = sitk.GetImageFromArray(np.random.default_rng(0).normal(size=(24, 24, 24)).astype(np.float32))
    noise.SetSpacing((8.0, 8.0, 8.0))
    noise.SetOrigin(ORIGIN)
    path = save(tmp_path, "noise.nii.gz", noise)
    with pytest.raises(DataError, match=r"could not be aligned .* see whether both show"):
        register(pair / "fixed.nii.gz", path, tmp_path / "out.nii.gz")
    assert not (tmp_path / "out.nii.gz").exists()
    assert not (tmp_path / "out.tfm").exists()


def test_a_pair_that_stays_apart_and_a_search_that_does_not_settle(
    pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = (pair / "fixed.nii.gz", pair / "moving.nii.gz", tmp_path / "out.nii.gz")
    with monkeypatch.context() as patch:
        patch.setattr(module, "LEAST_OVERLAP", 1.1)
        with pytest.raises(DataError, match="found no overlap"):
            register(*call)
    monkeypatch.setattr(module, "LEVELS_MM", (8.0, 8.0))
    monkeypatch.setattr(module, "WORST_MM", 0.0)
    with pytest.raises(DataError, match="did not converge: forward and backward disagree by"):
        register(*call)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_called(pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fixed, moving, out = pair / "fixed.nii.gz", pair / "moving.nii.gz", tmp_path / "out.nii.gz"
    with pytest.raises(CallError, match="ends with neither"):
        register(fixed, moving, tmp_path / "out.png")
    with pytest.raises(CallError, match="ends with neither"):
        register(fixed, moving, out, transform=tmp_path / "motion.json")
    with pytest.raises(CallError, match="one of the files to read"):
        register(fixed, moving, pair / "." / "moving.nii.gz")
    with pytest.raises(CallError, match="one of the files to read"):
        register(fixed, moving, out, transform=pair / "truth.tfm", truth=pair / "truth.tfm")
    with pytest.raises(CallError, match="whole number"):
        register(fixed, moving, out, seed=0.5)  # type: ignore[arg-type]
    (tmp_path / "bad.tfm").write_text("turn left")
    sitk.WriteTransform(sitk.Euler2DTransform(), str(tmp_path / "flat.tfm"))
    for name in ("nowhere.tfm", "bad.tfm", "flat.tfm"):
        with pytest.raises(DataError, match="is no ITK transform file"):
            register(fixed, moving, out, truth=tmp_path / name)
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    with pytest.raises(CallError, match=r"pip install 'crossmask\[volumes\]'"):
        register(fixed, moving, out)


# A real pair


def test_a_real_pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = real("register-sample", "ms_patient20")
    monkeypatch.setattr(module, "SAMPLES", 20_000)  # a fifth, to be quick
    report = register(
        folder / "study2_FLAIR.nii.gz",
        folder / "study2_T1W.nii.gz",
        tmp_path / "out.nii.gz",
        truth=folder / "study2_T1W_intrastudy_to_FLAIR.txt",
    )
    assert report.tre_mm is not None
    assert report.tre_mm < 1.0
    assert report.residual_mm < 1.0
    assert np.abs(report.rotation_deg).max() < 1.5
    assert report.information_before is not None
    assert report.information_after > report.information_before
