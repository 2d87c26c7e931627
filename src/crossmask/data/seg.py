"""DICOM SEG in and out: segments as frames that lie where their series lies (``series.py``).

World coordinates are RAS+ millimetres. Reading raises nothing but ``DataError``; no message tells who the patient is.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from crossmask.data.series import SAME_PLACE, Plane, affine_of, planes_of, reading, stack, tag
from crossmask.errors import CallError, DataError, name_list
from crossmask.files import atomic

NEEDED_UIDS = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID")
MAY_BE_EMPTY = "PatientID PatientName PatientBirthDate PatientSex AccessionNumber StudyID StudyDate StudyTime"
OFF_GRID = 0.26  # of a voxel: what is nearer than this to a voxel's centre is meant to be there
MOST_SLICES = 10_000


def read_seg(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """A SEG's segment numbers on the grid of its own frames: (D, rows, columns) uint8, affine as in ``Series``.

    The grid begins and ends with the frames there are; places between them that have none are empty slices.
    Raises DataError for a file that is no SEG or is damaged, and for segments that overlap or are shares.
    """
    path = Path(path)
    header, planes = _seg(path)
    places = np.array([planes[0].normal @ p.origin for p in planes])
    first, last = planes[int(places.argmin())], planes[int(places.argmax())]
    gaps = np.diff(np.sort(places))
    gaps = gaps[gaps > SAME_PLACE]
    with reading(path):
        said = abs(float(tag(header, 0, "PixelMeasuresSequence", "SpacingBetweenSlices") or 0))
    count, step = 1, planes[0].normal * (said or planes[0].thickness or 1.0)
    if len(gaps):
        # The step that was said, else the greatest that all gaps are whole multiples of.
        lengths = [n for n in (said, *(gaps.min() / k for k in range(1, 11))) if n > SAME_PLACE]
        fits = [n for n in lengths if np.abs(gaps / n - np.rint(gaps / n)).max() < 0.1]
        count = round(float(np.ptp(places)) / fits[0]) + 1 if fits else MOST_SLICES + 1
        if count > MOST_SLICES:
            raise DataError(f"{path}: its frames are no even stack; read it on the grid of the series it was drawn on.")
        step = (last.origin - first.origin) / (count - 1)
    affine = affine_of(step, first)
    return _placed(path, header, planes, (count, int(header.Rows), int(header.Columns)), affine), affine


def read_seg_on(path: str | Path, shape: Sequence[int], affine: np.ndarray) -> np.ndarray:
    """A SEG's segment numbers as uint8 of that shape: each frame where it lies, places without one are 0.

    ``shape``, ``affine``: of the series it was drawn on, or of the same voxels with axes turned or in another order.
    Raises DataError as ``read_seg``, and if its pixels lie outside that grid or between its voxels.
    """
    header, planes = _seg(Path(path))
    return _placed(Path(path), header, planes, (int(shape[0]), int(shape[1]), int(shape[2])), np.asarray(affine, float))


def _seg(path: Path) -> tuple[Any, list[Plane]]:
    """The whole data set and the place of each frame."""
    import pydicom

    with reading(path):
        header = pydicom.dcmread(path)
        if header.get("Modality") != "SEG" or not header.get("Rows"):
            raise DataError(f"{path}: is no DICOM SEG, or cut short; name the segmentation's file or copy it again.")
        return header, planes_of(path, header)


def _numbered(path: Path, header: Any, frame: int, values: np.ndarray) -> np.ndarray:
    """A SEG's frame as stored -> (rows, columns) uint8 segment numbers."""
    number = 1
    if header.get("SegmentationType") != "LABELMAP":
        whole = int(header.get("MaximumFractionalValue") or 1)
        number = int(tag(header, frame, "SegmentIdentificationSequence", "ReferencedSegmentNumber"))
        if not np.isin(values, (0, whole)).all():
            raise DataError(f"{path}: holds shares, not yes or no; threshold it and save it as a BINARY SEG.")
        values = values != 0
    if number * int(values.max()) > 255:
        raise DataError(f"{path}: has segment numbers above 255; split it into several SEG files.")
    return values.astype(np.uint8) * np.uint8(number)


def _placed(path: Path, header: Any, planes: list[Plane], shape: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
    """The frames put on a grid, voxel by voxel; axes may be turned, pixel sizes may not differ."""
    from pydicom.pixels import iter_pixels, pixel_array

    out = np.zeros(shape, np.uint8)
    inverse = np.linalg.inv(affine)
    with reading(path):
        size = (int(header.Rows), int(header.Columns))
        # Frame by frame, to spare memory; pydicom fails at that where packed frames do not end with a byte.
        odd = size[0] * size[1] % 8
        frames = iter(pixel_array(header).reshape(-1, *size)) if odd else iter_pixels(header)
    for plane in planes:
        with reading(path):
            values = _numbered(path, header, plane.frame, next(frames))
        pixels = np.stack(np.nonzero(values))
        if not pixels.size:
            continue
        start = inverse[:3, :3] @ plane.origin + inverse[:3, 3]
        turn = inverse[:3, :3] @ np.stack([plane.down, plane.across], axis=1)
        whole = np.rint(turn)
        off = np.abs(start - np.rint(start)) + np.abs(turn - whole) @ pixels.max(axis=1)
        if (np.abs(whole).sum(axis=0) != 1).any() or off.max() > OFF_GRID:
            what = f"frame {plane.frame + 1} lies between the voxels of the image"
            raise DataError(f"{path}: {what}; give the series it was drawn on, or resample it onto the image.")
        index = np.rint(start)[:, None].astype(int) + whole.astype(int) @ pixels
        if (index < 0).any() or (index >= np.array(shape)[:, None]).any():
            what = f"frame {plane.frame + 1} marks pixels outside the image"
            raise DataError(f"{path}: {what}; give the whole series it was drawn on.")
        place, new = tuple(index), values[tuple(pixels)]
        if ((out[place] != 0) & (out[place] != new)).any():
            raise DataError(f"{path}: its segments overlap; save each of them in a SEG file of its own.")
        out[place] = new
    return out


def write_seg(path: str | Path, mask: np.ndarray, folder: str | Path, labels: Sequence[str]) -> Path:
    """Write a mask as a BINARY DICOM SEG that refers to the slices it was made on, complete or not at all.

    ``mask``: (D, rows, columns) label numbers in the order of ``read_series``; ``labels``: a name for each number, the
    first is the background's. Slices without a label are left out (unless all are).
    Raises CallError if these do not fit each other, DataError if the series cannot carry a SEG.
    """
    path, folder, mask = Path(path), Path(folder), np.asarray(mask)
    planes, shape, affine, _ = stack(folder)
    if mask.dtype.kind not in "bui" or mask.shape != shape:
        raise CallError(f"{path}: a mask of {folder} is {shape} whole numbers, not {mask.dtype} {mask.shape}.")
    if not 2 <= len(labels) <= 256 or int(mask.min()) < 0 or int(mask.max()) >= len(labels):
        raise CallError(f"{path}: the mask holds {mask.min()} to {mask.max()}, the labels are {name_list(labels)}.")
    for label in labels[1:]:
        if not 0 < len(label.strip()) <= 64 or "\\" in label or not label.isprintable():
            raise CallError(f"{path}: a SEG cannot hold the label {label!r}; give 1 to 64 letters, no backslash.")
    sources = _sources(planes, float(planes[0].normal @ affine[:3, 0]))
    frames = np.empty(shape, np.uint8)
    frames[[p.frame for p in planes] if len(sources) < len(frames) else slice(None)] = mask
    buffer = io.BytesIO()
    with reading(folder, "its headers cannot carry a SEG; write the mask as NIfTI instead"):
        import pydicom

        pydicom.dcmwrite(buffer, _segmentation(sources, frames, labels), enforce_file_format=True)
    with atomic(path, "wb") as stream:
        stream.write(buffer.getbuffer())
    return path


def _sources(planes: list[Plane], apart: float) -> list[Any]:
    """The whole headers of the slices, in slice order, mended where highdicom is stricter than need be."""
    import pydicom

    sources: list[Any] = []
    for file in dict.fromkeys(p.file for p in planes):
        with reading(file):
            source = pydicom.dcmread(file, stop_before_pixels=True)
            for keyword in NEEDED_UIDS:
                if not source.get(keyword):
                    raise DataError(f"{file}: has no {keyword}, which a DICOM SEG needs; write the mask as NIfTI.")
            for keyword in MAY_BE_EMPTY.split():
                setattr(source, keyword, source.get(keyword) or "")
            if "PerFrameFunctionalGroupsSequence" not in source:
                source.SpacingBetweenSlices = apart  # by positions; some scanners write the gap, or nothing
                source.SliceThickness = planes[0].thickness or apart
                source.ImageOrientationPatient = (*sources, source)[0].ImageOrientationPatient
            sources.append(source)
    return sources


def _segmentation(sources: list[Any], frames: np.ndarray, labels: Sequence[str]) -> Any:
    from highdicom import AlgorithmIdentificationSequence, seg
    from pydicom.sr.codedict import codes
    from pydicom.uid import generate_uid

    from crossmask import __version__

    made_by = AlgorithmIdentificationSequence("crossmask", codes.DCM.ArtificialIntelligence, __version__)
    # 'Tissue' twice is what other tools write where a label's meaning is not coded.
    tissue = codes.SCT.Tissue
    described = [
        seg.SegmentDescription(n, labels[n], tissue, tissue, "AUTOMATIC", made_by) for n in range(1, len(labels))
    ]
    maker = {"manufacturer": "crossmask", "manufacturer_model_name": "crossmask", "device_serial_number": "0"}
    numbers = {"series_instance_uid": generate_uid(), "series_number": 300, "sop_instance_uid": generate_uid()}
    # UTF-8, whatever the slices have: labels may be in any script.
    words = {"series_description": "crossmask segmentation", "specific_character_set": "ISO_IR 192"}
    more: dict[str, Any] = {"instance_number": 1, "software_versions": __version__, **maker, **numbers, **words}
    return seg.Segmentation(sources, frames, "BINARY", described, content_label="SEGMENTATION", **more)
