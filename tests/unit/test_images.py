"""Reading and writing pictures: every format, every conversion, every way a file can be bad."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageOps
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

from crossmask.data import images
from crossmask.data.images import (
    TRUTH_COLOUR,
    image_size,
    overlay,
    read_image,
    write_picture,
    write_probability,
)
from crossmask.data.masks import read_mask, write_mask
from crossmask.errors import CallError, DataError

RAMP = np.arange(6 * 5, dtype=np.uint8).reshape(6, 5) * 8
COLOUR = np.stack([RAMP, RAMP[::-1], 255 - RAMP], axis=2)
SOME = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def saved(path: Path, array: np.ndarray, **options) -> Path:
    Image.fromarray(array).save(path, **options)
    return path


def deep_png(path: Path, array: np.ndarray) -> Path:
    """A 16-bit PNG of any number of channels, by hand: Pillow writes only grey ones."""
    samples = 1 if array.ndim == 2 else array.shape[2]

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    kind = {1: 0, 2: 4, 3: 2, 4: 6}[samples]
    header = struct.pack(">IIBBBBB", array.shape[1], array.shape[0], 16, kind, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )
    return path


def dicom(path: Path, array: np.ndarray, interpretation: str = "MONOCHROME2", **tags) -> Path:
    data = pydicom.Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = SecondaryCaptureImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = generate_uid()
    data.Rows, data.Columns = array.shape[:2]
    data.SamplesPerPixel = 1 if array.ndim == 2 else 3
    if array.ndim == 3:
        data.PlanarConfiguration = 0
    data.PhotometricInterpretation = interpretation
    data.BitsAllocated = data.BitsStored = array.dtype.itemsize * 8
    data.HighBit = data.BitsStored - 1
    data.PixelRepresentation = int(array.dtype.kind == "i")
    data.PixelData = array.tobytes()
    for name, value in tags.items():
        setattr(data, name, value)
    data.save_as(path, enforce_file_format=True)
    return path


def own_range(array: np.ndarray) -> np.ndarray:
    values = array.astype(np.float64)
    return ((values - values.min()) / (values.max() - values.min())).astype(np.float32)


def refused(path: Path, *words: str) -> None:
    """Each reader refuses the file in one sentence that starts with its path."""
    for reader in (read_image, read_mask):
        with pytest.raises(DataError) as caught:
            reader(path)
        text = str(caught.value)
        assert text.startswith(f"{path}: ")
        assert text.endswith(".")
        assert "\n" not in text
        assert ". " not in text[len(str(path)) :]
        for word in words:
            assert word in text


# --- pictures: formats


@pytest.mark.parametrize("ending", [".png", ".tif", ".TIFF", ".bmp", ".PNG"])
def test_eight_bits_stay_as_they_are(tmp_path, ending):
    for array in (RAMP, COLOUR):
        path = saved(tmp_path / f"a{ending}", array)
        picture = read_image(path)
        expected = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
        assert picture.pixels.dtype == np.uint8
        np.testing.assert_array_equal(picture.pixels, expected)
        assert (picture.bits, picture.notes, picture.spacing_mm) == (8, (), None)
        np.testing.assert_allclose(picture.unit(), expected / 255, rtol=1e-6)
        assert picture.unit().dtype == np.float32
        assert image_size(path) == (6, 5)


def test_jpeg(tmp_path):
    path = saved(tmp_path / "a.JPG", np.full((9, 7, 3), 120, np.uint8), quality=95)
    picture = read_image(path)
    assert picture.pixels.shape == (3, 9, 7)
    assert np.abs(picture.pixels.astype(int) - 120).max() <= 2


@pytest.mark.parametrize("samples", [1, 2, 3, 4])
def test_sixteen_bit_png_keeps_its_low_bytes(tmp_path, samples):
    array = np.random.default_rng(0).integers(20_000, 20_300, (6, 5, samples)).astype(np.uint16)
    array = array[..., 0] if samples == 1 else array
    path = deep_png(tmp_path / "a.png", array)
    picture = read_image(path)
    shown = {1: array, 2: array[..., 0], 3: array, 4: array[..., :3]}[samples]
    expected = own_range(shown)
    expected = expected[None] if expected.ndim == 2 else expected.transpose(2, 0, 1)
    np.testing.assert_allclose(picture.pixels, expected, atol=1e-6)
    assert picture.bits == 16
    assert "16 bits scaled by the picture's own range" in picture.notes
    assert ("alpha channel dropped" in picture.notes) == (samples in (2, 4))
    assert image_size(path) == (6, 5)


@pytest.mark.parametrize("kind", ["int8", "uint16", "int16", "uint32", "int32", "float32", "float64", "float16"])
@pytest.mark.parametrize("colour", [False, True])
def test_wide_tiff(tmp_path, kind, colour):
    array = np.random.default_rng(1).integers(-100, 100, (6, 5, 3) if colour else (6, 5))
    array = (array if kind == "int8" else array * 300 + 30_000).clip(-(2**15), 2**15 - 1).astype(kind)
    if kind == "uint32":
        array += np.uint32(2**31)  # beyond a signed 32-bit number
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, array, photometric="rgb" if colour else "minisblack")
    picture = read_image(path)
    expected = own_range(array)
    np.testing.assert_allclose(picture.pixels, expected.transpose(2, 0, 1) if colour else expected[None], atol=1e-6)
    assert picture.pixels.dtype == np.float32
    assert picture.bits == array.dtype.itemsize * 8
    assert len(picture.notes) == 1
    assert "own range" in picture.notes[0]
    assert image_size(path) == (6, 5)


def test_tiff_planar_alpha_big_endian_lzw_and_white_is_zero(tmp_path):
    array = np.random.default_rng(2).integers(0, 60_000, (6, 5, 3)).astype(np.uint16)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, array.transpose(2, 0, 1), photometric="rgb", planarconfig="separate")
    np.testing.assert_allclose(read_image(path).pixels, own_range(array).transpose(2, 0, 1), atol=1e-6)
    alpha = np.dstack([array, np.full((6, 5), 65535, np.uint16)])
    tifffile.imwrite(path, alpha, photometric="rgb", extrasamples=["unassalpha"])
    picture = read_image(path)
    np.testing.assert_allclose(picture.pixels, own_range(array).transpose(2, 0, 1), atol=1e-6)
    assert "alpha channel dropped" in picture.notes
    tifffile.imwrite(path, array[..., 0], byteorder=">")
    np.testing.assert_allclose(read_image(path).pixels[0], own_range(array[..., 0]), atol=1e-6)
    Image.fromarray(array[..., 0]).save(path, compression="tiff_lzw")
    np.testing.assert_allclose(read_image(path).pixels[0], own_range(array[..., 0]), atol=1e-6)
    for dtype in (np.uint16, np.uint32):
        tifffile.imwrite(path, array[..., 0].astype(dtype), photometric="miniswhite")
        picture = read_image(path)
        np.testing.assert_allclose(picture.pixels[0], 1 - own_range(array[..., 0]), atol=1e-6)
        assert "white-is-zero TIFF inverted" in picture.notes


def test_several_frames(tmp_path):
    path = tmp_path / "a.tif"
    Image.fromarray(RAMP).save(path, save_all=True, append_images=[Image.fromarray(255 - RAMP)])
    picture = read_image(path)
    np.testing.assert_array_equal(picture.pixels[0], RAMP)
    assert picture.notes == ("first of several frames",)
    tifffile.imwrite(path, np.stack([RAMP, RAMP[::-1]]).astype(np.uint32), photometric="minisblack")
    picture = read_image(path)
    np.testing.assert_allclose(picture.pixels[0], own_range(RAMP), atol=1e-6)
    assert "first of several frames" in picture.notes


def test_one_bit(tmp_path):
    bits = RAMP > 100
    for name in ("a.png", "a.tif", "a.bmp"):
        picture = read_image(saved(tmp_path / name, bits))
        np.testing.assert_array_equal(picture.pixels[0], bits * 255)
        assert picture.pixels.dtype == np.uint8
        assert picture.bits == 1


def test_white_is_zero_as_the_file_says(tmp_path):
    bits = RAMP > 100
    tifffile.imwrite(tmp_path / "a.tif", bits)  # tifffile marks bool arrays as white-is-zero
    mask, notes = read_mask(tmp_path / "a.tif")
    np.testing.assert_array_equal(mask, ~bits)
    assert notes == ("white-is-zero TIFF inverted",)


def test_alpha_palette_and_cmyk(tmp_path):
    alpha = np.full((6, 5, 1), 7, np.uint8)
    picture = read_image(saved(tmp_path / "la.png", np.dstack([RAMP[..., None], alpha])))
    np.testing.assert_array_equal(picture.pixels, RAMP[None])
    assert picture.notes == ("alpha channel dropped",)
    picture = read_image(saved(tmp_path / "rgba.png", np.dstack([COLOUR, alpha])))
    np.testing.assert_array_equal(picture.pixels, COLOUR.transpose(2, 0, 1))
    assert picture.notes == ("alpha channel dropped",)

    indexed = Image.fromarray((RAMP > 100).astype(np.uint8), mode="P")
    indexed.putpalette([10, 20, 30, 200, 150, 100])
    indexed.save(tmp_path / "p.png")
    picture = read_image(tmp_path / "p.png")
    expected = np.where((RAMP > 100)[None], np.reshape([200, 150, 100], (3, 1, 1)), np.reshape([10, 20, 30], (3, 1, 1)))
    np.testing.assert_array_equal(picture.pixels, expected)
    assert picture.notes == ("palette expanded",)
    indexed.save(tmp_path / "pt.png", transparency=0)
    picture = read_image(tmp_path / "pt.png")
    np.testing.assert_array_equal(picture.pixels, expected)
    assert set(picture.notes) == {"palette expanded", "alpha channel dropped"}

    cmyk = Image.fromarray(COLOUR).convert("CMYK")
    cmyk.save(tmp_path / "c.tif")
    picture = read_image(tmp_path / "c.tif")
    np.testing.assert_array_equal(picture.pixels, COLOUR.transpose(2, 0, 1))
    assert picture.notes == ("CMYK turned into RGB",)
    cmyk.save(tmp_path / "c.jpg")
    assert read_image(tmp_path / "c.jpg").pixels.shape == (3, 6, 5)


# --- pictures: orientation, channels, values


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "lzw.tif", "wide.tif"])
def test_exif_orientation(tmp_path, orientation, name):
    array = np.kron(np.array([[10, 90, 200], [60, 140, 250]], np.uint8), np.ones((16, 16), np.uint8))
    path = tmp_path / name
    if name == "wide.tif":
        tifffile.imwrite(path, array.astype(np.uint32), extratags=[(274, 3, 1, orientation, True)])
    else:
        exif = Image.Exif()
        exif[274] = orientation
        options = {"compression": "tiff_lzw"} if name == "lzw.tif" else {}
        Image.fromarray(array).save(path, exif=exif, **options)
    image = Image.fromarray(array)
    image.getexif()[274] = orientation
    expected = np.asarray(ImageOps.exif_transpose(image))
    picture = read_image(path)
    values = own_range(expected) if name == "wide.tif" else expected / 255
    np.testing.assert_allclose(picture.unit()[0], values, atol=0.02)
    assert ("turned as EXIF says" in picture.notes) == (orientation != 1)
    assert image_size(path) == expected.shape == ((48, 32) if orientation >= 5 else (32, 48))


def test_channels(tmp_path):
    path = saved(tmp_path / "a.png", COLOUR)
    grey = read_image(path, channels=1)
    np.testing.assert_array_equal(grey.pixels[0], np.asarray(Image.fromarray(COLOUR).convert("L")))
    assert grey.notes == ("colour averaged to grey",)
    assert read_image(path, channels=3).notes == ()
    equal = read_image(saved(tmp_path / "b.png", np.stack([RAMP] * 3, axis=2)), channels=1)
    np.testing.assert_array_equal(equal.pixels[0], RAMP)
    assert equal.notes == ()
    repeated = read_image(saved(tmp_path / "c.png", RAMP), channels=3)
    np.testing.assert_array_equal(repeated.pixels, np.stack([RAMP] * 3))
    assert repeated.notes == ("grey repeated to three channels",)
    deep = np.zeros((1, 4, 3), np.uint16)
    deep[0, 1:] = np.eye(3) * 1000
    pixels = read_image(deep_png(tmp_path / "d.png", deep), channels=1).pixels
    np.testing.assert_allclose(pixels[0, 0], [0, 0.299, 0.587, 0.114], atol=1e-6)
    with pytest.raises(CallError, match="channels=2"):
        read_image(path, channels=2)


def test_constant_and_not_finite(tmp_path):
    picture = read_image(saved(tmp_path / "a.png", np.full((3, 4), 777, np.uint16)))
    assert picture.pixels.dtype == np.float32
    assert not picture.pixels.any()
    for bad in (np.nan, np.inf):
        array = np.ones((3, 4), np.float32)
        array[1, 2] = bad
        tifffile.imwrite(tmp_path / "b.tif", array)
        refused(tmp_path / "b.tif", "not finite")
    tifffile.imwrite(tmp_path / "huge.tif", np.array([[-1.7e308, 0, 1.7e308]]))
    np.testing.assert_allclose(read_image(tmp_path / "huge.tif").pixels[0], [[0, 0.5, 1]])


# --- DICOM

DEEP = np.arange(30, dtype=np.uint16).reshape(6, 5) * 100


def test_dicom_own_range_and_spacing(tmp_path):
    path = dicom(tmp_path / "a.DCM", DEEP, PixelSpacing=[0.5, 0.25], ImagerPixelSpacing=[9, 9])
    picture = read_image(path)
    np.testing.assert_allclose(picture.pixels[0], own_range(DEEP), atol=1e-6)
    assert picture.spacing_mm == (0.5, 0.25)
    assert picture.bits == 16
    assert picture.notes == ("16 bits scaled by the picture's own range",)
    assert image_size(path) == (6, 5)
    nameless = dicom(tmp_path / "IM0001", DEEP, ImagerPixelSpacing=[0.1, 0.2])
    assert read_image(nameless).spacing_mm == (0.1, 0.2)
    assert image_size(nameless) == (6, 5)
    assert read_image(dicom(tmp_path / "c.dcm", DEEP, PixelSpacing=[0, 0])).spacing_mm is None
    # Another machine's ending on the same content is no hindrance.
    assert read_image(dicom(tmp_path / "d.png", DEEP)).pixels.shape == (1, 6, 5)


def test_dicom_monochrome1(tmp_path):
    picture = read_image(dicom(tmp_path / "a.dcm", DEEP, "MONOCHROME1"))
    np.testing.assert_allclose(picture.pixels[0], 1 - own_range(DEEP), atol=1e-6)
    assert "MONOCHROME1 inverted" in picture.notes
    picture = read_image(dicom(tmp_path / "b.dcm", RAMP, "MONOCHROME1"))
    np.testing.assert_array_equal(picture.pixels[0], 255 - RAMP)
    assert picture.notes == ("MONOCHROME1 inverted",)


def test_dicom_window(tmp_path):
    window = {"WindowCenter": 1000, "WindowWidth": 1001, "VOILUTFunction": "LINEAR_EXACT"}
    picture = read_image(dicom(tmp_path / "a.dcm", DEEP, **window))
    np.testing.assert_allclose(picture.pixels[0], ((DEEP - 499.5) / 1001).clip(0, 1), atol=1e-5)
    assert picture.notes == ("window of the DICOM header applied",)
    # Rescale comes before the window; the window's ends, not the picture's, are black and white.
    dim = np.full((4, 4), 1024 + 100, np.uint16)
    dim[0, 0] += 100
    window = {"WindowCenter": 0, "WindowWidth": 1000, "VOILUTFunction": "LINEAR_EXACT"}
    picture = read_image(dicom(tmp_path / "b.dcm", dim, RescaleSlope=1, RescaleIntercept=-1024, **window))
    np.testing.assert_allclose(picture.pixels[0, 0, :2], [0.7, 0.6], atol=1e-4)
    signed = np.array([[-1000, 0, 1000]], np.int16)
    picture = read_image(dicom(tmp_path / "c.dcm", signed, WindowCenter=[0, 40], WindowWidth=[2001, 400]))
    np.testing.assert_allclose(picture.pixels[0], [[0, 0.5, 1]], atol=2e-3)


def test_dicom_lookup_table(tmp_path):
    item = pydicom.Dataset()
    item.LUTDescriptor = [4, 0, 8]
    item.LUTData = [0, 51, 102, 255]
    item["LUTData"].VR = "US"
    array = np.array([[0, 1, 2, 3, 9, 9]], np.uint8)
    picture = read_image(dicom(tmp_path / "a.dcm", array, VOILUTSequence=[item]))
    np.testing.assert_allclose(picture.pixels[0], [[0, 0.2, 0.4, 1, 1, 1]], atol=1e-6)


def test_dicom_colour_and_mask(tmp_path):
    picture = read_image(dicom(tmp_path / "a.dcm", COLOUR, "RGB"))
    np.testing.assert_array_equal(picture.pixels, COLOUR.transpose(2, 0, 1))
    mask, _ = read_mask(dicom(tmp_path / "b.dcm", (RAMP > 99).astype(np.uint8)))
    np.testing.assert_array_equal(mask, RAMP > 99)


def test_dicom_refusals(tmp_path):
    many = dicom(tmp_path / "a.dcm", np.concatenate([DEEP, DEEP]), NumberOfFrames=2, Rows=6)
    refused(many, "2 frames")
    with pytest.raises(DataError, match="2 frames"):
        image_size(many)
    (tmp_path / "b.dcm").write_bytes(b"not a scan" * 40)
    refused(tmp_path / "b.dcm", "not a DICOM file")
    whole = dicom(tmp_path / "c.dcm", DEEP).read_bytes()
    for length in (130, 140, 300, len(whole) - 20):
        (tmp_path / "d.dcm").write_bytes(whole[:length])
        refused(tmp_path / "d.dcm")


# --- bad files


def test_places_that_hold_no_file(tmp_path):
    refused(tmp_path, "folder")
    refused(tmp_path / "none.png", "no such file")
    refused(tmp_path / ("x" * 300 + ".png"), "cannot be read")
    for name in ("a.png", "a.dcm", "a.tif", "a"):
        (tmp_path / name).write_bytes(b"")
        refused(tmp_path / name, "0 bytes")
        with pytest.raises(DataError, match="0 bytes"):
            image_size(tmp_path / name)
    (tmp_path / "text.png").write_text("hello")
    refused(tmp_path / "text.png", "no PNG")
    with pytest.raises(DataError, match="no PNG"):
        image_size(tmp_path / "text.png")
    with pytest.raises(DataError):
        read_image("a\0b.png")


@pytest.mark.parametrize("kind", ["png", "jpg", "tif", "bmp", "uint32.tif", "lzw.tif", "deep.png"])
def test_truncated(tmp_path, kind):
    noise = np.random.default_rng(3).integers(0, 255, (40, 40, 3)).astype(np.uint8)
    path = tmp_path / f"a.{kind}"
    if kind == "uint32.tif":
        tifffile.imwrite(path, noise.astype(np.uint32), photometric="rgb")
    elif kind == "deep.png":
        deep_png(path, noise.astype(np.uint16) * 257)
    else:
        saved(path, noise, **({"compression": "tiff_lzw"} if kind == "lzw.tif" else {}))
    whole = path.read_bytes()
    read_image(path)
    for length in (1, 9, 30, len(whole) // 2, len(whole) * 3 // 4):
        path.write_bytes(whole[:length])
        refused(path)


def test_tiff_that_declares_more_rows_than_it_holds(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, RAMP.astype(np.uint32), compression="zlib")
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages.first.tags["ImageLength"].overwrite(6000)
    refused(path, "cut short")
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages.first.tags["ImageLength"].overwrite(0)
    refused(path, "no pixels")
    tifffile.imwrite(path, RAMP.astype(np.uint32), compression="zlib", rowsperstrip=2)
    with tifffile.TiffFile(path) as file:
        last = file.pages.first.dataoffsets[-1]
    path.write_bytes(path.read_bytes()[:last])
    refused(path, "cut short")


@SOME
@given(st.data())
def test_no_other_error_escapes(tmp_path, data):
    """Bytes changed at random give a picture or a DataError."""
    wide, small = io.BytesIO(), io.BytesIO()
    tifffile.imwrite(wide, RAMP.astype(np.uint32))
    Image.fromarray(COLOUR).save(small, format=data.draw(st.sampled_from(["PNG", "JPEG", "TIFF", "BMP"])))
    deep = tmp_path / "x.dcm"  # written once: its random UIDs differ in length, and what is drawn must not hang on them
    if not deep.is_file():
        dicom(deep, DEEP)
    content = bytearray(data.draw(st.sampled_from([wide.getvalue(), small.getvalue(), deep.read_bytes()])))
    path = tmp_path / "a.bin"
    for _ in range(data.draw(st.integers(1, 5))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content))
    for reader in (read_image, image_size, read_mask):
        with contextlib.suppress(DataError):
            reader(path)


def test_bombs(tmp_path, monkeypatch):
    path = deep_png(tmp_path / "a.png", np.zeros((2, 2), np.uint16))
    raw = bytearray(path.read_bytes())
    raw[16:24] = struct.pack(">II", 60_000, 60_000)
    raw[29:33] = struct.pack(">I", zlib.crc32(raw[12:29]))
    path.write_bytes(bytes(raw))
    refused(path, "pixels", "shrink")
    monkeypatch.setattr("crossmask.data.dicom.MAX_PIXELS", 29)
    tifffile.imwrite(tmp_path / "b.tif", RAMP.astype(np.uint32))
    for small in (saved(tmp_path / "b.png", RAMP), tmp_path / "b.tif", dicom(tmp_path / "b.dcm", DEEP)):
        refused(small, "6 x 5 pixels")
        with pytest.raises(DataError, match="6 x 5 pixels"):
            image_size(small)


# --- writing

SHAPES = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9)


@SOME
@given(hnp.arrays(np.float32, SHAPES, elements=st.floats(0, 1, width=32)))
def test_probability_round_trip(tmp_path, probability):
    path = write_probability(tmp_path / "a.png", probability)
    stored = np.asarray(Image.open(path))
    assert stored.dtype == np.uint16
    assert np.abs(stored / 65535 - probability).max() <= 0.5 / 65535 + 1e-9


def test_refusals_to_write(tmp_path):
    good = np.zeros((2, 2), np.uint8)
    for write in (write_mask, write_probability, write_picture):
        for name in ("a.jpg", "a.JPEG", "a.tif", "a"):
            with pytest.raises(CallError, match="only PNG"):
                write(tmp_path / name, good)
    for bad in (
        np.zeros((2, 2, 2), int),
        np.array([[256]]),
        np.array([[-1]]),
        np.array([[0.5]]),
        np.zeros((0, 2), int),
    ):
        with pytest.raises(CallError):
            write_mask(tmp_path / "a.png", bad)
    for bad in (np.array([[1.1]]), np.array([[-0.1]]), np.array([[np.nan]]), np.zeros(3), np.zeros((0, 1))):
        with pytest.raises(CallError):
            write_probability(tmp_path / "a.png", bad)
    for bad in (np.zeros((2, 2)), np.zeros((2, 2, 4), np.uint8), np.zeros((0, 2), np.uint8)):
        with pytest.raises(CallError):
            write_picture(tmp_path / "a.png", bad)
    assert not list(tmp_path.iterdir())


def test_write_picture(tmp_path):
    for array in (COLOUR, RAMP):
        np.testing.assert_array_equal(np.asarray(Image.open(write_picture(tmp_path / "a.png", array))), array)


# --- overlay


def test_overlay():
    image = np.full((20, 20), 0.5, np.float32)
    mask, truth = np.zeros((20, 20), int), np.zeros((20, 20), bool)
    mask[2:9, 2:9] = 1
    mask[2:9, 12:18] = 2
    truth[12:18, 2:9] = True
    before = image.copy()
    shown = overlay(image, mask, truth)
    assert shown.shape == (20, 20, 3)
    assert shown.dtype == np.uint8
    np.testing.assert_array_equal(image, before)
    assert tuple(shown[2, 5]) == images.CLASS_COLOURS[0]
    assert tuple(shown[2, 15]) == images.CLASS_COLOURS[1]
    expected = np.rint((np.array(images.CLASS_COLOURS[0]) + 127.5) / 2)
    assert np.abs(shown[5, 5] - expected).max() <= 1
    assert tuple(shown[12, 5]) == TRUTH_COLOUR
    assert set(map(int, shown[15, 5])) <= {127, 128}  # the truth is not filled
    assert set(map(int, shown[0, 0])) <= {127, 128}
    np.testing.assert_array_equal(overlay(np.stack([image] * 3), mask, truth), shown)
    np.testing.assert_array_equal(overlay(image[None], mask, truth), shown)
    assert (overlay(image, np.zeros((20, 20), int)) == shown[0, 0]).all()


def test_overlay_line_width_and_shapes():
    mask = np.zeros((1024, 1024), np.uint8)
    mask[100:900, 100:900] = 1
    shown = overlay(np.zeros((1024, 1024)), mask)
    outline = (shown[500] == images.CLASS_COLOURS[0]).all(axis=1)
    assert outline[100:104].all()
    assert not outline[104]
    assert overlay(np.zeros((3, 1, 1)), np.ones((1, 1), int)).shape == (1, 1, 3)
    with pytest.raises(CallError, match="mask"):
        overlay(np.zeros((4, 4)), np.zeros((4, 5)))
    with pytest.raises(CallError, match="truth"):
        overlay(np.zeros((4, 4)), np.zeros((4, 4)), np.zeros((5, 4)))
