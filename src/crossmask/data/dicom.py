"""What every format is checked for and scaled by (size, values, range), and the reading of DICOM files.

``images.py`` and ``masks.py`` build on it; the decoders' own errors are turned into sentences in ``images.sentences``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from crossmask.errors import DataError

MAX_PIXELS = 178_956_970  # above it a file is taken for a decompression bomb (Pillow's own limit)


def check_pixels(path: Path, height: int, width: int) -> None:
    if height < 1 or width < 1:
        raise DataError(f"{path}: has no pixels ({height} x {width}); copy it again from its source.")
    if height * width > MAX_PIXELS:
        raise DataError(f"{path}: {height} x {width} pixels are too many to read safely; shrink it.")


def is_dicom(path: Path) -> bool:
    if path.suffix.lower() in (".dcm", ".dicom"):
        return True
    with open(path, "rb") as stream:
        return stream.read(132)[128:] == b"DICM"


def dicom_header(path: Path, *, pixels: bool) -> Any:
    import pydicom

    try:
        header = pydicom.dcmread(path, stop_before_pixels=not pixels)
    except pydicom.errors.InvalidDicomError as error:
        raise DataError(f"{path}: is not a DICOM file, whatever its name; give its true ending.") from error
    if "Rows" not in header or "Columns" not in header:
        raise DataError(f"{path}: this DICOM file holds no picture; leave it out.")
    if int(header.get("NumberOfFrames") or 1) > 1:
        raise DataError(f"{path}: this DICOM file has {header.NumberOfFrames} frames; split it into singles.")
    check_pixels(path, header.Rows, header.Columns)
    return header


def dicom_pixels(path: Path, notes: list[str]) -> tuple[Any, np.ndarray]:
    """The header and the stored values, (H, W) or (H, W, 3), colour as RGB."""
    from pydicom.pixels import apply_color_lut, pixel_array

    header = dicom_header(path, pixels=True)
    array = pixel_array(header)
    if header.PhotometricInterpretation == "PALETTE COLOR":
        notes.append("palette expanded")
        array = apply_color_lut(array, header)[..., :3]
        array = (array >> 8).astype(np.uint8) if array.dtype == np.uint16 else array
    return header, array


def dicom_picture(path: Path, notes: list[str]) -> tuple[np.ndarray, int, tuple[float, float] | None]:
    """Values for display, uint8 or float32 in [0, 1], the bits of one stored value and the spacing."""
    from pydicom.pixels import apply_modality_lut, apply_voi_lut

    header, array = dicom_pixels(path, notes)
    spacing = header.get("PixelSpacing") or header.get("ImagerPixelSpacing") or ()
    sizes = tuple(float(s) for s in spacing)
    mm = (sizes[0], sizes[1]) if len(sizes) == 2 and min(sizes) > 0 else None
    bits = int(header.BitsAllocated)
    if array.ndim == 2:
        stored, array = array, apply_modality_lut(array, header)
        if header.get("VOILUTSequence"):
            top = 2 ** int(header.VOILUTSequence[0].LUTDescriptor[2]) - 1
            array = apply_voi_lut(np.rint(array).astype(np.int64), header) / top
            notes.append("window of the DICOM header applied")
        elif header.get("WindowCenter") is not None and header.get("WindowWidth") is not None:
            with np.errstate(over="ignore"):
                # The window's own ends, not the picture's: a dim picture in a wide window stays dim.
                low, high = apply_voi_lut(np.array([-1e9, 1e9]), header)
                array = (apply_voi_lut(array, header) - low) / (high - low)
            notes.append("window of the DICOM header applied")
        elif stored.dtype == np.uint8 and np.array_equal(stored, array):
            array = stored
        else:
            array = own_range(path, array, notes, bits)
        if header.PhotometricInterpretation == "MONOCHROME1":
            array = 255 - array if array.dtype == np.uint8 else 1 - array
            notes.append("MONOCHROME1 inverted")
    elif array.dtype != np.uint8:
        array = own_range(path, array, notes, bits)
    return array if array.dtype == np.uint8 else array.astype(np.float32).clip(0, 1), bits, mm


def bits_of(array: np.ndarray) -> int:
    return 1 if array.dtype == bool else 8 * array.dtype.itemsize


def own_range(path: Path, array: np.ndarray, notes: list[str], bits: int | None = None) -> np.ndarray:
    """Values scaled to float32 in [0, 1] by their own least and greatest; constant ones become zeros."""
    check_values(path, array)
    kind = "float values" if array.dtype.kind == "f" and bits is None else f"{bits or bits_of(array)} bits"
    notes.append(f"{kind} scaled by the picture's own range")
    values = array.astype(np.float64)
    low, high = values.min(), values.max()
    if low == high:
        return np.zeros(array.shape, dtype=np.float32)
    return ((values / 2 - low / 2) / (high / 2 - low / 2)).astype(np.float32)  # halves cannot overflow


def check_values(path: Path, array: np.ndarray) -> None:
    if array.dtype.kind not in "buif":
        raise DataError(f"{path}: holds {array.dtype} values, not real numbers; convert it to PNG.")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DataError(f"{path}: holds values that are not finite (NaN or infinity); replace them.")
