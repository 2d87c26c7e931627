"""DICOM series in: a folder that holds one stack of slices. DICOM SEG stands in ``seg.py``.

World coordinates are RAS+ millimetres, as nibabel has them (DICOM's own are LPS+). Slices lie where their positions
say. Reading raises nothing but ``DataError``; no message quotes more of a header than its geometry and kind, since all
else may tell who the patient is.
"""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from crossmask.data.dicom import check_pixels, check_values, is_dicom
from crossmask.errors import CallError, CrossmaskError, DataError, name_list

# All that is read of a slice's header: quick for long series, and nothing about the patient.
TAGS = (
    "SOPClassUID SeriesInstanceUID SeriesNumber Modality Rows Columns SamplesPerPixel PhotometricInterpretation "
    "ImagePositionPatient ImageOrientationPatient PixelSpacing SliceThickness RescaleSlope RescaleIntercept "
    "ModalityLUTSequence NumberOfFrames SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence"
)
NO_SLICES = ("SEG", "RTDOSE", "RTSTRUCT", "RTPLAN", "PR", "SR", "KO", "REG", "RWV")  # some of them have Rows
RAS = np.array([-1.0, -1.0, 1.0])  # what DICOM's axes are multiplied by
SAME_PLACE = 0.01  # mm: slices nearer than this lie at one place
SAME_DIRECTION = 1e-3  # of a direction of length one


@dataclass(frozen=True)
class Series:
    """One stack of slices as stored: real value = array * slope + intercept."""

    array: np.ndarray  # (D, rows, columns) stored values; float32 real ones where the slices' slopes differ
    slope: float
    intercept: float
    affine: np.ndarray  # (4, 4): (slice, row, column, 1) -> RAS+ mm
    files: tuple[str, ...]  # in slice order; one only for a multi-frame file
    notes: tuple[str, ...]  # constant phrases, one for each thing left out or taken for granted


@dataclass(frozen=True)
class Plane:
    """Where one slice lies, and what its values mean."""

    file: Path
    frame: int
    origin: np.ndarray  # (3,) RAS mm of the centre of pixel (0, 0)
    down: np.ndarray  # (3,) mm from one row to the next
    across: np.ndarray  # (3,) mm from one column to the next
    scale: tuple[float, float]  # slope, intercept
    thickness: float  # mm; 0: not said

    @property
    def normal(self) -> np.ndarray:
        normal = np.cross(self.across, self.down)
        return normal / np.linalg.norm(normal)

    @property
    def pixel(self) -> float:
        """The shorter side in mm."""
        return float(min(np.linalg.norm(self.down), np.linalg.norm(self.across)))

    def __str__(self) -> str:
        return f"{self.file.name} (frame {self.frame + 1})" if self.frame else self.file.name


def is_series(folder: str | Path) -> bool:
    """Whether a folder itself (not those in it) holds a DICOM slice; never raises."""
    with contextlib.suppress(CrossmaskError):
        for path in _files_in(Path(folder)):
            with contextlib.suppress(CrossmaskError), reading(path):
                if is_dicom(path) and _is_slice(path, _header(path)):
                    return True
    return False


def read_series(folder: str | Path) -> Series:
    """Read the one series that a folder holds, sorted by position along the slices' normal.

    Raises DataError for a folder of no or several series, and for slices that are damaged, differ in size or direction,
    lie twice at one place, or are unevenly spaced (one is missing).
    """
    from pydicom.pixels import pixel_array

    planes, shape, affine, notes = stack(Path(folder))
    files = tuple(dict.fromkeys(str(p.file) for p in planes))
    scales = {p.scale for p in planes}
    if len(scales) > 1:
        notes.append("slices differ in rescale slope or intercept: real values instead of stored ones")
    array, frames = None, None
    for place, plane in enumerate(planes):
        with reading(plane.file):
            if frames is None or len(files) > 1:
                frames = pixel_array(plane.file).reshape(-1, *shape[1:])
            values = frames[plane.frame]
            check_values(plane.file, values)
        if len(scales) > 1:
            values = (values.astype(np.float64) * plane.scale[0] + plane.scale[1]).astype(np.float32)
        if array is None:
            array = np.empty(shape, values.dtype.newbyteorder("="))
        array = array.astype(np.result_type(array, values), copy=False)  # signed slices among unsigned ones: wider
        array[place] = values
    assert array is not None  # a stack has slices
    slope, intercept = scales.pop() if len(scales) == 1 else (1.0, 0.0)
    return Series(array, slope, intercept, affine, files, tuple(dict.fromkeys(notes)))


def read_series_header(folder: str | Path) -> tuple[tuple[int, int, int], np.ndarray]:
    """(D, rows, columns) and the affine as ``read_series`` would give them, without the pixels; errors as there."""
    return stack(Path(folder))[1:3]


def _files_in(folder: Path) -> list[Path]:
    """The files of a folder by name. Hidden ones ('._1.dcm' of a Mac, half-written ones) are nobody's data."""
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder; name the folder that holds one series' files.")
    with reading(folder):
        return sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))


def _header(path: Path) -> Any:
    import pydicom

    return pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(TAGS.split()))


def _is_slice(path: Path, header: Any) -> bool:
    kind = header.file_meta.get("MediaStorageSOPClassUID")
    if "Rows" not in header and kind and "Image Storage" in kind.name:  # pydicom reads what is left of a cut file
        raise DataError(f"{path}: is cut short; copy it again from its source.")
    return "Rows" in header and header.get("Modality") not in NO_SLICES


def stack(folder: Path) -> tuple[list[Plane], tuple[int, int, int], np.ndarray, list[str]]:
    """The slices of a folder in order and checked, the shape and affine of their stack, and notes; no pixels yet."""
    notes: list[str] = []
    found = []
    for path in _files_in(folder):
        with reading(path):
            if not is_dicom(path):
                notes.append("files that are no DICOM left out")
            elif _is_slice(path, header := _header(path)):
                found.append((path, header))
            else:
                notes.append("DICOM files that are no slices (SEG, RTSTRUCT, ...) left out")
    if not found:
        raise DataError(f"{folder}: holds no DICOM slices; name the folder that holds one series' files.")
    _check_one_series(folder, found)
    planes = []
    for path, header in found:
        with reading(path):
            _check_kind(path, header, len(found) - 1)
            planes += planes_of(path, header)
    sizes = {(int(h.Rows), int(h.Columns)): path.name for path, h in found}
    if len(sizes) > 1:
        told = name_list(f"{name} {size[0]} x {size[1]}" for size, name in sizes.items())
        raise DataError(f"{folder}: its slices differ in size ({told}); give a folder that holds one stack of slices.")
    if any(h.get("PhotometricInterpretation") == "MONOCHROME1" for _, h in found):
        notes.append("MONOCHROME1 kept as stored")
    planes, step = _ordered(folder, planes, notes)
    return planes, (len(planes), *next(iter(sizes))), affine_of(step, planes[0]), notes


def _check_one_series(folder: Path, found: list[tuple[Path, Any]]) -> None:
    series: dict[str, list[str]] = {}
    for path, header in found:
        with reading(path):
            # Told by number, kind and file: a UID may hold the date of the examination.
            told = f"{header.get('Modality') or 'unknown kind'} number {header.get('SeriesNumber')}, {path.name}"
            series.setdefault(str(header.get("SeriesInstanceUID") or ""), []).append(told)
    if len(series) > 1:
        told = name_list((f"[{names[0]} and {len(names) - 1} more files]" for names in series.values()), shown=4)
        raise DataError(f"{folder}: holds {len(series)} series ({told}); give a folder that holds the files of one.")


def _check_kind(path: Path, header: Any, others: int) -> None:
    kind = header.get("PhotometricInterpretation") or "MONOCHROME2"
    if int(header.get("SamplesPerPixel") or 1) != 1 or kind not in ("MONOCHROME1", "MONOCHROME2"):
        raise DataError(f"{path}: is a colour picture, no slice of grey values; take it out of the folder.")
    if int(header.get("NumberOfFrames") or 1) > 1 and others:
        raise DataError(f"{path}: has several frames and other images beside it; give it a folder of its own.")
    if header.get("ModalityLUTSequence"):
        raise DataError(f"{path}: its values need a lookup table, not a slope; convert the series to NIfTI.")


def planes_of(path: Path, header: Any) -> list[Plane]:
    """The slices in one file: one, or as many as a multi-frame object has frames."""
    count = int(header.get("NumberOfFrames") or 1)
    check_pixels(path, int(header.Rows), int(header.get("Columns") or 0))
    if count > 1 and len(header.get("PerFrameFunctionalGroupsSequence") or ()) != count:
        raise DataError(f"{path}: does not say where each of its {count} frames lies; export it anew.")
    return [_plane(path, header, frame) for frame in range(count)]


def tag(header: Any, frame: int, group: str, keyword: str) -> Any:
    """A value of one frame: from its own functional groups, the shared ones, or the header; None if empty."""
    own = (header.get("PerFrameFunctionalGroupsSequence") or ())[frame : frame + 1]
    shared = (header.get("SharedFunctionalGroupsSequence") or ())[:1]
    items = [item for groups in (*own, *shared) for item in groups.get(group) or ()]
    return next((item.get(keyword) for item in (*items, header) if item.get(keyword) not in (None, "")), None)


def _plane(path: Path, header: Any, frame: int) -> Plane:
    """Where a frame lies; a sentence where its header does not say."""

    def numbers(group: str, keyword: str, count: int, default: float | None = None) -> np.ndarray:
        value = None
        with contextlib.suppress(TypeError, ValueError):
            value = tag(header, frame, group, keyword)
            values = np.array(default if value is None else value, np.float64).reshape(-1)
            if values.shape == (count,) and np.isfinite(values).all():
                return values
        what = "no" if value is None else "an unusable"
        raise DataError(f"{path}: has {what} {keyword}; fetch it again from its source.")

    origin = numbers("PlanePositionSequence", "ImagePositionPatient", 3) * RAS
    turns = numbers("PlaneOrientationSequence", "ImageOrientationPatient", 6).reshape(2, 3)
    spacing = numbers("PixelMeasuresSequence", "PixelSpacing", 2)  # between rows, between columns
    slope = float(numbers("PixelValueTransformationSequence", "RescaleSlope", 1, 1.0)[0])
    intercept = float(numbers("PixelValueTransformationSequence", "RescaleIntercept", 1, 0.0)[0])
    thickness = float(numbers("PixelMeasuresSequence", "SliceThickness", 1, 0.0)[0])
    if np.abs(turns @ turns.T - np.eye(2)).max() > 5 * SAME_DIRECTION or spacing.min() <= 0 or slope == 0:
        wrong = "RescaleSlope" if slope == 0 else "PixelSpacing" if spacing.min() <= 0 else "ImageOrientationPatient"
        raise DataError(f"{path}: has an unusable {wrong}; fetch it again from its source.")
    across, down = turns[0] * RAS * spacing[1], turns[1] * RAS * spacing[0]
    return Plane(path, frame, origin, down, across, (slope, intercept), thickness)


def _ordered(folder: Path, planes: list[Plane], notes: list[str]) -> tuple[list[Plane], np.ndarray]:
    """The slices along their normal, and the mm from one to the next; refuses what is no even stack."""
    first, normal = planes[0], planes[0].normal
    for p in planes:
        if np.abs([p.down - first.down, p.across - first.across]).max() > SAME_DIRECTION * first.pixel:
            which = f"{first} and {p} differ in direction or pixel spacing (is one a localizer?)"
            raise DataError(f"{folder}: {which}; give a folder that holds one stack of parallel slices.")
    planes = sorted(planes, key=lambda plane: float(normal @ plane.origin))
    if len(planes) == 1:
        notes.append("a single slice: its step is " + ("SliceThickness" if first.thickness > 0 else "taken as 1 mm"))
        return planes, normal * (first.thickness if first.thickness > 0 else 1.0)
    origins = np.array([plane.origin for plane in planes])
    gaps = np.diff(origins @ normal)
    usual = float(np.sort(gaps)[(len(gaps) - 1) // 2])
    allowed = min(max(usual / 10, 0.1), usual / 4)  # a tenth, but no less than positions are rounded by
    for gap, one, two in zip(gaps, planes, planes[1:], strict=False):
        if gap < SAME_PLACE:
            what = f"{one} and {two} lie at the same place (a copy, or another time or echo)"
            raise DataError(f"{folder}: {what}; give a folder that holds each slice once.")
        if abs(gap - usual) > allowed:
            missing = gap > 1.5 * usual and abs(gap / usual - round(gap / usual)) < 0.1
            what = "slices are missing between" if missing else "slices are unevenly spaced at"
            what += f" {one} and {two} ({gap:.2f} mm apart, others {usual:.2f} mm)"
            raise DataError(f"{folder}: {what}; fetch the series again, or resample it evenly as NIfTI.")
    step = (origins[-1] - origins[0]) / len(gaps)
    off = origins - origins[0] - np.arange(len(planes))[:, None] * step
    along = off @ normal
    aside = np.linalg.norm(off - along[:, None] * normal, axis=1)
    worst = int(np.argmax(np.maximum(np.abs(along) / allowed, aside / first.pixel * 4)))
    if abs(along[worst]) > allowed or aside[worst] > first.pixel / 4:
        what = f"{planes[worst]} lies {np.linalg.norm(off[worst]):.2f} mm off the even, straight line of the others"
        raise DataError(f"{folder}: {what}; fetch the series again, or resample it as NIfTI.")
    apart = float(normal @ step)
    if np.abs(off).max() > SAME_PLACE:
        notes.append("slices a little unevenly spaced: their mean step taken")
    if apart < np.linalg.norm(step) * 0.9999:
        notes.append("slices sheared against their normal (gantry tilt)")
    if any(p.thickness and abs(p.thickness - apart) > 0.01 * apart for p in planes):
        notes.append("slice step from positions, SliceThickness says otherwise")
    return planes, step


def affine_of(step: np.ndarray, first: Plane) -> np.ndarray:
    return np.vstack([np.stack([step, first.down, first.across, first.origin], axis=1), [0.0, 0.0, 0.0, 1.0]])


@contextlib.contextmanager
def reading(path: Path, bad: str = "is damaged or cut short; copy it again from its source") -> Iterator[None]:
    """What DICOM libraries raise becomes one sentence without their words, and their warnings and log lines are held
    back: all these may quote names, dates and numbers of patients."""
    from pydicom.errors import InvalidDicomError

    levels = {logger: logger.level for logger in map(logging.getLogger, ("pydicom", "highdicom"))}
    try:
        for logger in levels:
            logger.setLevel(logging.CRITICAL + 1)
        with warnings.catch_warnings(action="ignore"):
            yield
    except (CrossmaskError, MemoryError):
        raise
    except ImportError as error:
        raise CallError(f"{path}: DICOM needs {error.name}: pip install 'crossmask[volumes]'.") from error
    except Exception as error:  # decoders raise anything
        bad += f" ({type(error).__name__})"
        if isinstance(error, InvalidDicomError):
            bad = "is not a DICOM file, whatever its name; take it out of the folder"
        elif isinstance(error, OSError) and error.errno:
            bad = f"cannot be read ({os.strerror(error.errno).lower()}); check its name and rights"
        elif "missing dependencies" in str(error):
            bad = (
                "is compressed in a way no decoder here reads; pip install 'crossmask[volumes]', or 'gdcmconv --raw' it"
            )
        raise DataError(f"{path}: {bad}.") from error
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)
