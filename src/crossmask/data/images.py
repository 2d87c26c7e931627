"""Pictures between files and arrays: every format read one way, every conversion noted by name.

Reading never raises anything but ``DataError`` for a bad file and ``CallError`` for a bad argument. Masks are read and
written in ``masks.py``, which builds on ``sentences``, ``raw`` and ``write_png``; DICOM in ``dicom.py``.
"""

from __future__ import annotations

import contextlib
import math
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

from crossmask.data.dicom import bits_of, check_pixels, dicom_header, dicom_picture, dicom_pixels, is_dicom, own_range
from crossmask.errors import CallError, CrossmaskError, DataError
from crossmask.files import atomic

IMAGE_SUFFIXES: tuple[str, ...] = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".dcm", ".dicom")
LUMA = (0.299, 0.587, 0.114)  # ITU-R 601
# Okabe-Ito colours, told apart by colour-blind eyes; sky blue is kept for the truth.
CLASS_COLOURS = ((230, 159, 0), (0, 158, 115), (204, 121, 167), (240, 228, 66), (213, 94, 0), (0, 114, 178))
TRUTH_COLOUR = (86, 180, 233)
_TIFF_MARKS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_ORIENTATION = 274


@dataclass(frozen=True)
class Picture:
    """A picture as read: its pixels and what was done to get them."""

    pixels: np.ndarray  # (C, H, W), C 1 or 3; uint8 in 0..255 or float32 already in [0, 1]
    bits: int  # of one value in the file: 1, 8, 16, 32, 64
    spacing_mm: tuple[float, float] | None  # between rows, between columns; None: the file does not say
    notes: tuple[str, ...]  # constant phrases, one for each conversion that happened

    def unit(self) -> np.ndarray:
        """The pixels as (C, H, W) float32 in [0, 1]."""
        if self.pixels.dtype == np.uint8:
            return self.pixels.astype(np.float32) / np.float32(255)
        return self.pixels


def read_image(path: str | Path, *, channels: int | None = None) -> Picture:
    """Read a PNG, JPEG, TIFF, BMP or single-frame DICOM file.

    ``channels``: 1 turns colour to grey, 3 repeats grey three times, None keeps what the file has (1 or 3).
    Values of 8 bits stay uint8; wider and float values are scaled by the picture's own least and greatest.
    Raises DataError for any file that is missing, damaged, too large or not such an image.
    """
    if channels not in (None, 1, 3):
        raise CallError(f"channels={channels!r} is not possible; give 1, 3 or None.")
    path = Path(path)
    notes: list[str] = []
    spacing: tuple[float, float] | None = None
    with sentences(path):
        if is_dicom(path):
            array, bits, spacing = dicom_picture(path, notes)
        else:
            array, palette = raw(path, notes)
            if palette is not None:
                array = palette[array]
                notes.append("palette expanded")
            bits = bits_of(array)
            array = array.astype(np.uint8) * np.uint8(255) if array.dtype == bool else array
            if array.dtype != np.uint8:
                array = own_range(path, array, notes)
    pixels = array[None] if array.ndim == 2 else np.moveaxis(array, 2, 0)
    if channels == 1 and len(pixels) == 3:
        pixels = _grey(pixels, notes)
    elif channels == 3 and len(pixels) == 1:
        pixels = np.repeat(pixels, 3, axis=0)
        notes.append("grey repeated to three channels")
    return Picture(np.ascontiguousarray(pixels), bits, spacing, tuple(notes))


def image_size(path: str | Path) -> tuple[int, int]:
    """(H, W) as ``read_image`` would return it, from the header alone; errors as there.

    A file whose header is sound but whose pixels are cut short passes here and fails in ``read_image``.
    """
    path = Path(path)
    with sentences(path):
        if is_dicom(path):
            header = dicom_header(path, pixels=False)
            return int(header.Rows), int(header.Columns)
        if _wants_tifffile(path):
            import tifffile

            with tifffile.TiffFile(path) as file:
                page: Any = file.pages.first
                size = (int(page.imagelength), int(page.imagewidth))
                check_pixels(path, *size)
                return size[::-1] if _tiff_orientation(page) >= 5 else size
        with _opened(path) as image:
            turned = image.format != "TIFF" and _orientation(image) >= 5  # Pillow turned a TIFF's
            return image.size if turned else image.size[::-1]


def write_probability(path: str | Path, probability: np.ndarray) -> Path:
    """Write an (H, W) float map in [0, 1] as a 16-bit PNG (0 -> 0, 1 -> 65535), complete or not at all."""
    values = np.asarray(probability, dtype=np.float64)
    # A hair beyond the ends is float rounding; NaN fails the comparison.
    if values.ndim != 2 or not values.size or not ((values > -1e-4) & (values < 1 + 1e-4)).all():
        raise CallError(f"{path}: a probability map is (H, W) finite numbers in 0..1; check what made it.")
    return write_png(path, np.rint(values.clip(0, 1) * 65535).astype(np.uint16))


def write_picture(path: str | Path, rgb: np.ndarray) -> Path:
    """Write (H, W, 3) or (H, W) uint8 as a PNG, complete or not at all."""
    rgb = np.asarray(rgb)
    if rgb.dtype != np.uint8 or not rgb.size or not (rgb.ndim == 2 or (rgb.ndim == 3 and rgb.shape[2] == 3)):
        raise CallError(f"{path}: a picture is (H, W, 3) or (H, W) uint8, not {rgb.dtype} {rgb.shape}.")
    return write_png(path, rgb)


def overlay(image: np.ndarray, mask: np.ndarray, truth: np.ndarray | None = None) -> np.ndarray:
    """The picture with the prediction filled and outlined, and the truth outlined in sky blue.

    ``image``: (H, W) or (C, H, W) float in [0, 1]; with C other than 3 the first channel is shown as grey.
    ``mask``, ``truth``: (H, W) labels, 0 = background; each predicted class has its colour, orange first.
    Returns (H, W, 3) uint8. Raises CallError if the shapes do not fit.
    """
    image = np.nan_to_num(np.asarray(image, dtype=np.float32)).clip(0, 1)
    image = image[None] if image.ndim == 2 else image
    for name, labels in (("mask", mask), ("truth", truth)):
        if labels is not None and (image.ndim != 3 or np.shape(labels) != image.shape[1:]):
            raise CallError(f"The {name} of shape {np.shape(labels)} does not fit the image {image.shape}.")
    canvas = np.moveaxis(image if len(image) == 3 else np.repeat(image[:1], 3, axis=0), 0, 2) * 255
    width = max(1, round(min(canvas.shape[:2]) / 256))
    mask = np.asarray(mask).astype(np.int64)
    for label in np.unique(mask[mask > 0]):
        colour = np.array(CLASS_COLOURS[(label - 1) % len(CLASS_COLOURS)], dtype=np.float32)
        region = mask == label
        canvas[region] = (canvas[region] + colour) / 2
        canvas[_edge(region, width)] = colour
    truth = np.zeros_like(mask) if truth is None else np.asarray(truth).astype(np.int64)
    for label in np.unique(truth[truth > 0]):
        canvas[_edge(truth == label, width)] = TRUTH_COLOUR
    return np.rint(canvas).astype(np.uint8)


def _edge(region: np.ndarray, width: int) -> np.ndarray:
    return region & ~ndimage.binary_erosion(region, iterations=width)


def write_png(path: str | Path, array: np.ndarray) -> Path:
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise CallError(f"{path}: only PNG is written, since it loses nothing; let the name end in .png.")
    with atomic(path, "wb") as stream:
        Image.fromarray(array).save(stream, format="PNG")
    return path


@contextlib.contextmanager
def sentences(path: Path) -> Iterator[None]:
    """Turn whatever a decoder may raise on a bad file into one DataError sentence."""
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise DataError(f"{path}: is a folder; name a file in it.")
        if not stat.S_ISREG(status.st_mode):
            raise DataError(f"{path}: is not an ordinary file; name an image file.")
        if status.st_size == 0:
            raise DataError(f"{path}: is empty (0 bytes); copy it again from its source.")
        yield
    except CrossmaskError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such file; check the name and the folder.") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"{path}: has more pixels than are safe to read; cut or shrink it.") from error
    except Image.UnidentifiedImageError as error:
        raise DataError(
            f"{path}: is no PNG, JPEG, TIFF, BMP or DICOM image, or its header is damaged; "
            "convert it to PNG or copy it again."
        ) from error
    except Exception as error:  # decoders raise anything from struct.error to SyntaxError
        if isinstance(error, OSError) and error.errno:
            raise DataError(
                f"{path}: cannot be read ({os.strerror(error.errno).lower()}); check its name and rights."
            ) from error
        reason = str(error).strip().split("\n")[0].split(". ")[0].rstrip(".: ") or type(error).__name__
        raise DataError(
            f"{path}: cannot be decoded ({reason}); copy it again if it is damaged, else convert it to PNG."
        ) from error


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    # A stream, not a name: Pillow 12 maps named TIFFs into memory and scrambles those lying on their side.
    with open(path, "rb") as stream, Image.open(stream, formats=("PNG", "JPEG", "TIFF", "BMP")) as image:
        check_pixels(path, image.height, image.width)
        yield image


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1..8; an unreadable EXIF block turns nothing."""
    with contextlib.suppress(Exception):
        # PNG's own getexif decodes the whole picture; the base one reads what stands before the pixels.
        value = Image.Image.getexif(image).get(_ORIENTATION, 1)
        return value if value in range(1, 9) else 1
    return 1


def _tiff_orientation(page: Any) -> int:
    value = page.tags.valueof(_ORIENTATION, default=1)
    return int(value) if value in range(1, 9) else 1


def _turned(array: np.ndarray, orientation: int, notes: list[str]) -> np.ndarray:
    if orientation == 1:
        return array
    notes.append("turned as EXIF says")
    array = array.swapaxes(0, 1) if orientation >= 5 else array
    array = array[::-1] if orientation in (3, 4, 7, 8) else array
    return array[:, ::-1] if orientation in (2, 3, 6, 7) else array


def raw(path: Path, notes: list[str]) -> tuple[np.ndarray, np.ndarray | None]:
    """The stored values, (H, W) or (H, W, 3), without alpha; with a palette: indices, (256, 3) colours."""
    if is_dicom(path):
        return dicom_pixels(path, notes)[1], None
    if _wants_tifffile(path):
        return _tiff_values(path, notes), None
    with _opened(path) as image:
        orientation = _orientation(image)
        if getattr(image, "n_frames", 1) > 1:
            notes.append("first of several frames")
        if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
            notes.append("alpha channel dropped")
        palette = None
        if image.mode in ("P", "PA"):
            colours = np.zeros((256, 3), dtype=np.uint8)
            used = np.array(image.getpalette("RGB"), dtype=np.uint8).reshape(-1, 3)
            colours[: len(used)] = used
            palette = colours
        elif image.mode in ("CMYK", "YCbCr", "LAB"):
            notes.append(f"{image.mode} turned into RGB")
        white_is_zero = image.format == "TIFF" and image.tag_v2.get(262) == 0
        if white_is_zero:
            notes.append("white-is-zero TIFF inverted")
        with open(path, "rb") as stream:
            head = stream.read(26)
        if image.format == "PNG" and head[24] == 16 and head[25] in (2, 4, 6):
            array = _deep_png(path, image.mode, head[25])
        elif image.mode in ("1", "L", "P", "RGB", "I;16", "I;16B", "F"):
            array = np.asarray(image)
        elif image.mode in ("LA", "PA", "La"):
            array = np.asarray(image.convert("LA") if image.mode == "La" else image)[..., 0]
        else:
            array = np.asarray(image.convert("RGBA" if image.mode == "RGBa" else "RGB"))[..., :3]
        if image.mode.startswith("I;16"):
            array = array.astype(np.uint16)
            array = 65535 - array if white_is_zero else array  # of 8 bits and less Pillow turns it itself
        if image.format == "TIFF":  # Pillow has turned it while loading
            notes.extend(["turned as EXIF says"] if orientation != 1 else [])
            return array, palette
        return _turned(array, orientation, notes), palette


def _deep_png(path: Path, mode: str, colour_type: int) -> np.ndarray:
    """16-bit colour or grey with alpha, of which Pillow keeps the high bytes only."""
    halves = []
    for order in ("B", "L"):
        with Image.open(path, formats=("PNG",)) as image:
            rawmode = "RGBA" if colour_type == 4 else f"{mode};16{order}"
            image.tile = [image.tile[0]._replace(args=rawmode)]
            halves.append(np.asarray(image).astype(np.uint16))
    high, low = halves
    if colour_type == 4:  # the four bytes of grey and alpha, read as if they were RGBA
        return high[..., 0] << 8 | low[..., 1]
    return (high << 8 | low)[..., :3]


def _wants_tifffile(path: Path) -> bool:
    """Whether this is a TIFF that Pillow cannot open or would cut down to fewer bits."""
    with open(path, "rb") as stream:
        if stream.read(4) not in _TIFF_MARKS:
            return False
    try:
        with Image.open(path, formats=("TIFF",)) as image:
            tags: Any = image.tag_v2  # type: ignore[attr-defined]
            signed = 2 in tags.get(339, ())  # Pillow would take signed bytes for unsigned ones
            return signed or (max(tags.get(258, (1,))) > 8 and image.mode not in ("I;16", "I;16B", "F"))
    except (OSError, SyntaxError, ValueError, KeyError, TypeError):
        return True


def _tiff_values(path: Path, notes: list[str]) -> np.ndarray:
    import tifffile

    with tifffile.TiffFile(path) as file:
        page: Any = file.pages.first
        check_pixels(path, page.imagelength, page.imagewidth)
        ends = [o + n for o, n in zip(page.dataoffsets, page.databytecounts, strict=False)]
        # tifffile would fill what is missing with zeros.
        if len(ends) < max(1, math.prod(page.chunked)) or max(ends) > path.stat().st_size:
            raise DataError(f"{path}: is cut short; copy it again from its source.")
        if len(file.pages) > 1:
            notes.append("first of several frames")
        array = page.asarray()
        array = np.moveaxis(array, 0, 2) if page.axes == "SYX" else array
        samples = array.shape[2] if array.ndim == 3 else 1
        if page.axes not in ("YX", "YXS", "SYX") or samples > 4 or int(page.photometric) not in (0, 1, 2):
            raise DataError(
                f"{path}: is a {page.photometric.name} TIFF of shape {page.shape}, not grey or RGB; convert it to PNG."
            )
        if samples in (2, 4):
            notes.append("alpha channel dropped")
        if array.ndim == 3:
            array = array[..., 0] if samples <= 2 else array[..., :3]
        if int(page.photometric) == 0 and array.dtype.kind == "u":
            notes.append("white-is-zero TIFF inverted")
            array = np.iinfo(array.dtype).max - array
        return _turned(array, _tiff_orientation(page), notes)


def _grey(pixels: np.ndarray, notes: list[str]) -> np.ndarray:
    """(3, H, W) -> (1, H, W)."""
    if (pixels[0] == pixels[1]).all() and (pixels[0] == pixels[2]).all():
        return pixels[:1]
    notes.append("colour averaged to grey")
    if pixels.dtype == np.uint8:
        return np.asarray(Image.fromarray(np.ascontiguousarray(np.moveaxis(pixels, 0, 2))).convert("L"))[None]
    return np.tensordot(np.array(LUMA, dtype=np.float32), pixels, axes=1)[None]
