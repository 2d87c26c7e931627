"""Volumes: axes, units and grids through every reader and writer; bad files in one sentence."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossmask.data import volumes
from crossmask.data.volumes import Grid3D, check_same_grid, is_volume, read_grid, read_labels, read_volume
from crossmask.errors import CallError, DataError


def save(path: Path, array: np.ndarray, affine: Any = None, **header: Any) -> Path:
    image = nib.Nifti1Image(array, np.diag([1.0, 1, 1, 1]) if affine is None else affine)
    for name, value in header.items():
        image.header[name] = value
    nib.save(image, path)
    return path


def oriented(codes: str, spacing: tuple[float, float, float] = (1.0, 2.0, 3.0)) -> tuple[np.ndarray, np.ndarray]:
    """One asymmetric head in the axes that are asked for: its values say where they lie (100 x + 10 y + z, RAS)."""
    x, y, z = np.meshgrid(np.arange(4), np.arange(5), np.arange(6), indexing="ij")
    image = nib.Nifti1Image((100 * x + 10 * y + z).astype(np.int16), np.diag([*spacing, 1.0]))
    turn = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(image.affine), nib.orientations.axcodes2ornt(codes)
    )
    turned = image.as_reoriented(turn)
    return np.asarray(turned.dataobj), turned.affine


ALL_CODES = [a + b + c for a in "LR" for b in "AP" for c in "IS"]
ALL_CODES += [c[1] + c[2] + c[0] for c in ALL_CODES] + [c[2] + c[0] + c[1] for c in ALL_CODES]


@pytest.mark.parametrize("codes", ALL_CODES)
def test_every_orientation_is_seen_alike(codes: str, tmp_path: Path) -> None:
    """Slices foot to head, rows front to back, columns from the patient's right to the left."""
    array, affine = oriented(codes)
    volume = read_volume(save(tmp_path / "v.nii.gz", array, affine))
    assert volume.shape == (6, 5, 4)
    assert volume.grid.spacing == pytest.approx((3.0, 2.0, 1.0))
    assert volume.grid.orientation == codes
    z, y, x = np.meshgrid(np.arange(6), np.arange(5)[::-1], np.arange(4)[::-1], indexing="ij")
    assert np.array_equal(volume.slab(0, 6), 100 * x + 10 * y + z)
    assert np.array_equal(volume.grid.as_in_file(volume.stored), array)


@pytest.mark.parametrize("codes", ["LPS", "RAS", "ASL", "IPR"])
def test_written_masks_lie_where_their_source_lies(codes: str, tmp_path: Path) -> None:
    array, affine = oriented(codes)
    source = save(tmp_path / "v.nii.gz", array, affine, qform_code=0)
    volume = read_volume(source)
    mask = (volume.slab(0, 6) > 255).astype(np.uint8)
    path = volumes.write_labels(tmp_path / "m.nii.gz", volume.grid.as_in_file(mask), volume.grid.geometry())
    written, before = nib.load(path), nib.load(source)
    assert np.array_equal(written.affine, before.affine)
    assert int(written.header["qform_code"]) == int(before.header["qform_code"])
    assert written.get_data_dtype() == np.uint8
    assert np.array_equal(np.asarray(written.dataobj), array > 255)
    assert np.array_equal(read_labels(path, volume.grid)[0], mask)


def test_metaimage_and_nrrd_agree_with_nifti(tmp_path: Path) -> None:
    sitk = pytest.importorskip("SimpleITK")
    array, affine = oriented("LAI")
    source = save(tmp_path / "v.nii.gz", array, affine)
    first = read_volume(source)
    for ending in (".mha", ".nrrd"):
        sitk.WriteImage(sitk.ReadImage(str(source)), str(tmp_path / f"v{ending}"))
        other = read_volume(tmp_path / f"v{ending}")
        check_same_grid(first.grid, other.grid, "the copy")
        assert np.array_equal(other.slab(0, 6), first.slab(0, 6))


def test_the_slope_is_kept(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.arange(60, dtype=np.int16).reshape(3, 4, 5), np.eye(4) * 2)
    image.header.set_slope_inter(0.5, -3)
    image.affine[3, 3] = 1
    nib.save(image, tmp_path / "v.nii")
    volume = read_volume(tmp_path / "v.nii")
    assert volume.stored.dtype == np.int16
    assert volume.slab(0, 5).min() == nib.load(tmp_path / "v.nii").get_fdata().min()
    assert volume.slab(0, 5).max() == nib.load(tmp_path / "v.nii").get_fdata().max()


def test_one_volume_of_a_series_of_them(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 99, (3, 4, 5, 2)).astype(np.int16)
    path = save(tmp_path / "four.nii.gz", array, np.diag([2.0, 2, 2, 1]))
    assert is_volume(f"{path}#1")
    volume = read_volume(f"{path}#1")
    assert np.array_equal(volume.grid.as_in_file(volume.stored), array[..., 1])
    with pytest.raises(DataError, match=r"holds 2 volumes \(#0 to #1\)"):
        read_volume(f"{path}#2")
    with pytest.raises(DataError, match=r"four\.nii\.gz#0"):
        read_volume(path)


def test_windows_and_percentiles(tmp_path: Path) -> None:
    array = np.zeros((10, 10, 10), np.float32)
    array[2:8, 2:8, 2:8] = np.random.default_rng(0).normal(100, 10, (6, 6, 6))
    volume = read_volume(save(tmp_path / "v.nii.gz", array))
    assert volume.range((-100, 100)) == (-100, 100)
    low, high = volume.range()
    inside = array[array > 0]
    assert (low, high) == pytest.approx(tuple(np.percentile(inside, [0.5, 99.5])))
    unit = volume.unit(0, 10, (low, high))
    assert unit.min() == 0
    assert unit.max() == 1


def bad_nan(path: Path) -> Path:
    array = np.ones((4, 4, 4), np.float32)
    array[1, 2, 3] = np.nan
    return save(path, array)


def bad_spacing(path: Path) -> Path:
    save(path, np.ones((4, 4, 4), np.int16), qform_code=0, sform_code=0)
    raw = bytearray(gzip.decompress(path.read_bytes()))
    raw[80:84] = np.float32(0).tobytes()  # pixdim[1]
    path.write_bytes(gzip.compress(bytes(raw)))
    return path


def bad_cut(path: Path) -> Path:
    save(path, np.random.default_rng(0).integers(0, 999, (20, 20, 20)).astype(np.int16))
    path.write_bytes(path.read_bytes()[:4000])
    return path


def bad_flat(path: Path) -> Path:
    return save(path, np.ones((4, 4), np.int16))


def bad_text(path: Path) -> Path:
    path.write_text("no volume")
    return path


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (bad_nan, "1 voxels in slices .* are NaN"),
        (bad_spacing, "measures 0 x 1 x 1 mm; mend the header's spacing"),
        (bad_cut, "cut short"),
        (bad_flat, "a volume has three sides"),
        (bad_text, "no readable volume"),
        (lambda path: path, "no such file"),
    ],
)
def test_bad_files_are_one_sentence(make: Any, says: str, tmp_path: Path) -> None:
    path = make(tmp_path / "v.nii.gz")
    with pytest.raises(DataError, match=says) as caught:
        read_volume(path).slab(0, 4)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_grids_that_differ_name_the_remedy(tmp_path: Path) -> None:
    one = read_grid(save(tmp_path / "a.nii.gz", np.ones((4, 5, 6), np.int16)))
    moved = np.eye(4)
    moved[0, 3] = 2.0
    other = read_grid(save(tmp_path / "b.nii.gz", np.ones((4, 5, 6), np.int16), moved))
    with pytest.raises(DataError, match=r"modality 't1' lies up to 2\.0 voxels away .* data register"):
        check_same_grid(one, other, "modality 't1'")
    small = read_grid(save(tmp_path / "c.nii.gz", np.ones((4, 5, 5), np.int16)))
    with pytest.raises(DataError, match=r"has 5x5x4 voxels .* data register"):
        check_same_grid(one, small, "modality 't1'")
    turned = Grid3D((4, 5, 6), np.array([[-1.0, 0, 0, 3], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), "turned")
    check_same_grid(one, turned, "the same voxels in other axes")


def test_labels_by_scheme(tmp_path: Path) -> None:
    array = np.array([0, 1, 2, 4] * 6, np.uint8).reshape(2, 3, 4)
    path = save(tmp_path / "seg.nii.gz", array)
    grid = read_grid(path)
    whole, notes = read_labels(path, grid)
    assert set(np.unique(whole)) == {0, 1}
    assert whole.sum() == (array > 0).sum()
    assert any("taken together" in note for note in notes)
    scheme = {"background": 0, "core": [1, 4], "oedema": 2}
    assert np.array_equal(
        grid.as_in_file(read_labels(path, grid, scheme)[0]), np.array([0, 1, 2, 1])[array % 4 + (array == 4) * 3]
    )
    with pytest.raises(DataError, match=r"holds the labels 4, which the scheme .* lacks"):
        read_labels(path, grid, {"background": 0, "core": 1, "oedema": 2})
    share = save(tmp_path / "share.nii.gz", np.linspace(0, 1, 24, dtype=np.float32).reshape(2, 3, 4))
    with pytest.raises(DataError, match="no whole numbers"):
        read_labels(share, grid)


def test_a_seg_needs_a_series(tmp_path: Path) -> None:
    grid = read_grid(save(tmp_path / "v.nii.gz", np.ones((4, 4, 4), np.int16)))
    with pytest.raises(CallError, match="needs a DICOM series"):
        volumes.write_labels(tmp_path / "m.dcm", np.zeros((4, 4, 4), np.uint8), grid.geometry())


@settings(max_examples=40, deadline=None)
@given(
    codes=st.sampled_from(ALL_CODES),
    shape=st.tuples(*[st.integers(2, 6)] * 3),
    spacing=st.tuples(*[st.floats(0.2, 5)] * 3),
    tilt=st.floats(-0.3, 0.3),
)
def test_axes_go_there_and_back(codes: str, shape: Any, spacing: Any, tilt: float) -> None:
    turn = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(codes))
    affine = np.diag([*spacing, 1.0]) @ nib.orientations.inv_ornt_aff(turn, shape)
    cos, sin = np.cos(tilt), np.sin(tilt)
    affine = np.array([[cos, -sin, 0, 3], [sin, cos, 0, -2], [0, 0, 1, 7], [0, 0, 0, 1]]) @ affine
    grid = Grid3D(shape, affine, "made up")
    array = np.arange(np.prod(shape)).reshape(shape)
    inner = grid.canonical(array)
    assert inner.shape == grid.inner_shape
    assert np.array_equal(grid.as_in_file(inner), array)
    assert sorted(grid.spacing) == pytest.approx(sorted(np.linalg.norm(affine[:3, :3], axis=0)))
