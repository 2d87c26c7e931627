"""Volumes between files and arrays: NIfTI, MetaImage, NRRD, DICOM series; read as stored, seen in canonical axes.

Inside, a volume is (D, H, W) in L-P-S order: slices foot to head, rows front to back, columns from the patient's right
to the left, as radiologists see it. Its values stay as the file stores them until a slab of slices is asked for, so a
volume costs its stored size. A path may end in ``#k``: the k-th volume of a 4-D file.
"""

from __future__ import annotations

import contextlib
import os
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from crossmask.core import Geometry
from crossmask.data.manifest import mask_files
from crossmask.errors import CallError, CrossmaskError, DataError, name_list
from crossmask.files import sentence_for_write_errors

NIFTI = (".nii", ".nii.gz")
ITK = (".mha", ".mhd", ".nrrd", ".nhdr")
SUFFIXES = NIFTI + ITK
INSIDE = ("L", "P", "S")  # canonical axes, fastest first
SAME_GRID = 0.1  # of a voxel: corners nearer than this are one grid
SAMPLED = 2_000_000  # voxels looked at for a volume's intensity range
_PART = re.compile(r"^(?P<file>.+)#(?P<number>\d+)$")

Window = tuple[float, float] | None


@dataclass(frozen=True)
class Grid3D:
    """Where voxels lie: shape and affine of the array as the file has it (index -> RAS mm)."""

    shape: tuple[int, int, int]
    affine: np.ndarray  # (4, 4)
    file: str

    @property
    def turn(self) -> np.ndarray:
        """nibabel's orientation transform from the file's axes to L-P-S."""
        import nibabel as nib

        have = nib.orientations.io_orientation(self.affine)
        return nib.orientations.ornt_transform(have, nib.orientations.axcodes2ornt(INSIDE))

    @property
    def back(self) -> np.ndarray:
        import nibabel as nib

        have = nib.orientations.io_orientation(self.affine)
        return nib.orientations.ornt_transform(nib.orientations.axcodes2ornt(INSIDE), have)

    def canonical(self, array: np.ndarray) -> np.ndarray:
        """The file's array -> (D, H, W), a view."""
        import nibabel as nib

        return nib.orientations.apply_orientation(array, self.turn).transpose(2, 1, 0)

    def as_in_file(self, array: np.ndarray) -> np.ndarray:
        """(D, H, W) -> the file's own axes, a view."""
        import nibabel as nib

        return nib.orientations.apply_orientation(array.transpose(2, 1, 0), self.back)

    @property
    def inner_shape(self) -> tuple[int, int, int]:
        shape = self.canonical(np.empty(self.shape, np.bool_)).shape if min(self.shape) else self.shape
        return int(shape[0]), int(shape[1]), int(shape[2])

    @property
    def spacing(self) -> tuple[float, float, float]:
        """mm along D, H, W of the canonical axes."""
        lengths = np.linalg.norm(self.affine[:3, :3], axis=0)
        order = np.argsort(self.turn[:, 0])  # file axis of each canonical axis (L, P, S)
        across, down, through = (float(lengths[i]) for i in order)
        return through, down, across

    @property
    def orientation(self) -> str:
        import nibabel as nib

        return "".join(nib.aff2axcodes(self.affine))

    @property
    def is_identity(self) -> bool:
        """No geometry was written (LiTS 28-47; as ITK spells it too): millimetres mean nothing."""
        return any(np.allclose(self.affine, np.diag(sides)) for sides in ([1.0, 1, 1, 1], [-1.0, -1, 1, 1]))

    def geometry(self) -> Geometry:
        affine = tuple(tuple(float(v) for v in row) for row in self.affine)
        lengths = tuple(float(v) for v in np.linalg.norm(self.affine[:3, :3], axis=0))
        return Geometry(self.file, self.shape, lengths, affine, self.orientation)


@dataclass(frozen=True)
class Volume:
    """Stored values in canonical axes; ``slab`` gives real ones."""

    stored: np.ndarray  # (D, H, W), a view of what the file holds
    slope: float
    intercept: float
    grid: Grid3D
    notes: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.stored.shape

    def slab(self, start: int, stop: int) -> np.ndarray:
        """Slices start..stop-1 as (n, H, W) float32 in the file's real units. Raises DataError for NaN or infinite."""
        values = np.asarray(self.stored[start:stop]).astype(np.float32)
        if self.stored.dtype.kind == "f" and not np.isfinite(values).all():
            count = int((~np.isfinite(values)).sum())
            raise DataError(
                f"{self.grid.file}: {count} voxels in slices {start} to {min(stop, self.shape[0]) - 1} are NaN or "
                "infinite; replace them (by the background's value) and save the volume anew."
            )
        if (self.slope, self.intercept) != (1.0, 0.0):
            values = values * np.float32(self.slope) + np.float32(self.intercept)
        return values

    def range(self, window: Window = None) -> tuple[float, float]:
        """(low, high) that become 0 and 1: the window in real units, or the 0.5th and 99.5th percentile of what is
        not background (voxels above the least value), from at most ``SAMPLED`` voxels."""
        if window is not None:
            return float(window[0]), float(window[1])
        step = max(1, round((self.stored.size / SAMPLED) ** (1 / 3)))
        some = np.asarray(self.stored[::step, ::step, ::step]).astype(np.float64).ravel()
        some = some[np.isfinite(some)]
        above = some[some > some.min()] if some.size else some
        low, high = np.percentile(above, [0.5, 99.5]) if above.size else (0.0, 1.0)
        low, high = (low * self.slope + self.intercept, high * self.slope + self.intercept)
        return (float(low), float(high)) if high > low else (float(low), float(low) + 1)

    def unit(self, start: int, stop: int, span: tuple[float, float]) -> np.ndarray:
        """Slices in [0, 1]: (n, H, W) float32."""
        return ((self.slab(start, stop) - np.float32(span[0])) / np.float32(span[1] - span[0])).clip(0, 1)


def part_of(path: str | Path) -> tuple[str, int | None]:
    """'x.nii.gz#2' -> ('x.nii.gz', 2); a plain path -> (path, None)."""
    match = _PART.match(str(path))
    if match and match["file"].lower().endswith(SUFFIXES):
        return match["file"], int(match["number"])
    return str(path), None


def is_volume(path: str | Path) -> bool:
    """Whether a path is read here (by its ending, or because it is a folder) rather than as a picture."""
    file, _ = part_of(path)
    return file.lower().endswith(SUFFIXES) or os.path.isdir(file)


def read_grid(path: str | Path) -> Grid3D:
    """Shape and affine without the voxels. Raises DataError as :func:`read_volume` does."""
    file, number = part_of(path)
    with sentences(file):
        if os.path.isdir(file):
            from crossmask.data.series import read_series_header

            shape, affine = read_series_header(file)
            return checked_grid(Grid3D(shape, affine, file))
        if file.lower().endswith(ITK):
            return read_volume(path).grid
        image = nifti(file)
        return checked_grid(Grid3D(shape_of(file, image.shape, number)[0], np.asarray(image.affine, float), str(path)))


def read_volume(path: str | Path) -> Volume:
    """A NIfTI, MetaImage or NRRD file, or a folder of one DICOM series.

    Raises DataError in one sentence for a file that is missing, cut short, damaged, not 3-D (without ``#k``), of zero
    spacing or a geometry that cannot be.
    """
    file, number = part_of(path)
    with sentences(file):
        if os.path.isdir(file):
            from crossmask.data.series import read_series

            series = read_series(file)
            grid = checked_grid(Grid3D(series.array.shape, series.affine, file))
            return Volume(grid.canonical(series.array), series.slope, series.intercept, grid, series.notes)
        if file.lower().endswith(ITK):
            array, affine = read_itk(file)
            slope, intercept = 1.0, 0.0
        else:
            image = nifti(file)
            array, affine = np.asanyarray(image.dataobj.get_unscaled()), np.asarray(image.affine, float)
            slope, intercept = (float(v) for v in (image.dataobj.slope, image.dataobj.inter))
        shape, notes = shape_of(file, array.shape, number)
        if array.dtype.fields or array.dtype.kind == "c":
            raise DataError(f"{file}: holds colours or complex numbers; give a volume of one value a voxel.")
        array = (array[..., number] if number is not None else array).reshape(shape)
        grid = checked_grid(Grid3D(shape, affine, str(path)))
        return Volume(grid.canonical(array), slope, intercept, grid, notes)


def nifti(file: str) -> Any:
    try:
        import nibabel as nib
    except ImportError as error:
        raise CallError(f"{file}: reading volumes needs nibabel: pip install 'crossmask[volumes]'.") from error
    image: Any = nib.load(file)
    with nib.openers.ImageOpener(file) as stream:  # nibabel mends a zero on loading, and says so in a log only
        sides = np.abs(type(image.header).from_fileobj(stream, check=False)["pixdim"][1:4])
    if not np.isfinite(sides).all() or (sides <= 0).any():
        told = " x ".join(f"{v:g}" for v in sides)
        raise DataError(f"{file}: a voxel measures {told} mm; mend the header's spacing (no side may be zero).")
    return image


def read_itk(file: str) -> tuple[np.ndarray, np.ndarray]:
    """(array in x, y, z order, affine to RAS mm)."""
    try:
        import SimpleITK as sitk
    except ImportError as error:
        raise CallError(f"{file}: reading it needs SimpleITK: pip install 'crossmask[volumes]'.") from error
    image = sitk.ReadImage(file)
    if image.GetDimension() != 3:
        raise DataError(f"{file}: has {image.GetDimension()} dimensions; give a volume of three.")
    direction = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = direction, image.GetOrigin()
    return sitk.GetArrayFromImage(image).transpose(2, 1, 0), np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def shape_of(file: str, shape: Sequence[int], number: int | None) -> tuple[tuple[int, int, int], tuple[str, ...]]:
    """The three sides of the volume that is meant."""
    if len(shape) == 4 and number is not None:
        if number >= shape[3]:
            raise DataError(f"{file}: holds {shape[3]} volumes (#0 to #{shape[3] - 1}); '#{number}' is not among them.")
        return (int(shape[0]), int(shape[1]), int(shape[2])), ()
    more = [n for n in shape[3:] if n != 1]
    if len(shape) < 3 or more:
        raise DataError(
            f"{file}: has the shape {'x'.join(map(str, shape))}, a volume has three sides"
            + (f"; write '{Path(file).name}#0' for the first of its {shape[3]} volumes." if len(shape) == 4 else ".")
        )
    if min(shape) < 1:
        raise DataError(f"{file}: has the shape {'x'.join(map(str, shape))}, so it holds no voxel.")
    notes = ("a side of one voxel dropped",) if len(shape) > 3 else ()
    return (int(shape[0]), int(shape[1]), int(shape[2])), notes


def checked_grid(grid: Grid3D) -> Grid3D:
    lengths = np.linalg.norm(grid.affine[:3, :3], axis=0)
    if not np.isfinite(grid.affine).all() or (lengths <= 0).any():
        told = " x ".join(f"{v:g}" for v in lengths)
        raise DataError(f"{grid.file}: a voxel measures {told} mm; mend the header's spacing (no side may be zero).")
    if abs(np.linalg.det(grid.affine[:3, :3] / lengths)) < 1e-3:
        raise DataError(f"{grid.file}: its header's axes lie in one plane; mend its orientation (sform or qform).")
    return grid


@contextlib.contextmanager
def sentences(file: str) -> Iterator[None]:
    """Whatever a library raises about a bad file, as one sentence."""
    try:
        yield
    except CrossmaskError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{file}: there is no such file; correct the path.") from error
    except MemoryError:
        raise
    except (EOFError, zlib.error) as error:
        raise DataError(f"{file}: is cut short or damaged; copy it again from its source.") from error
    except Exception as error:
        if isinstance(error, OSError) and "not enough bytes" in str(error).lower():
            raise DataError(f"{file}: is cut short; copy it again from its source.") from error
        what = " ".join(str(error).split())[:120]
        raise DataError(f"{file}: is no readable volume ({type(error).__name__}: {what}); check the file.") from error


def offset_voxels(one: Grid3D, other: Grid3D) -> float:
    """How far the corners of two grids of one shape (in canonical axes) lie apart, at most, in voxels."""

    def corners(grid: Grid3D) -> np.ndarray:
        import nibabel as nib

        inner = grid.affine @ nib.orientations.inv_ornt_aff(grid.turn, grid.shape)
        d, h, w = grid.inner_shape
        points = np.array([[x, y, z, 1] for x in (0, w - 1) for y in (0, h - 1) for z in (0, d - 1)], float)
        return (points @ inner.T)[:, :3]

    return float(np.linalg.norm(corners(one) - corners(other), axis=1).max() / min(one.spacing))


def check_same_grid(one: Grid3D, other: Grid3D, what: str) -> None:
    """Raises DataError unless both grids have the same voxels. what: 'modality t1' or 'the mask'."""
    if one.inner_shape != other.inner_shape:
        a, b = ("x".join(map(str, g.inner_shape)) for g in (other, one))
        apart = f"has {a} voxels (slices, rows, columns), {one.file} has {b}"
    else:
        off = offset_voxels(one, other)
        if off <= SAME_GRID:
            return
        apart = f"lies up to {off:.1f} voxels away from {one.file}"
    raise DataError(
        f"{other.file}: {what} {apart}; bring both onto one grid with 'crossmask data register FIXED MOVING -o OUT'."
    )


# --- masks -----------------------------------------------------------------------------------------------------------


def read_labels(
    path: str | Path, like: Grid3D, labels: Mapping[str, Any] | None = None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """A mask as (D, H, W) uint8 labels on the grid of its image, and notes.

    path: as :func:`read_volume`, a DICOM SEG (.dcm), or a folder of PNG slices (in the order of the series' files).
    labels: name -> the value, or list of values, that mean it, background first; None: all above 0 is foreground.
    """
    stored, notes = label_values(str(path), like)
    if labels is None:
        levels = np.unique(stored)
        if levels[0] < 0:
            raise DataError(f"{path}: this mask holds negative values; write the background as 0.")
        if len(levels) > 2:
            notes += ("labels above 0 taken together (data.labels keeps them apart)",)
        return (stored > 0).astype(np.uint8), notes
    found = np.full(stored.shape, 255, np.uint8)
    for number, values in enumerate(labels.values()):
        wanted = values if isinstance(values, list | tuple) else [values]
        found[np.isin(stored, wanted)] = number
    if (found == 255).any():
        beyond = [f"{v:g}" for v in np.unique(stored[found == 255])]
        table = ", ".join(f"{name} {value}" for name, value in labels.items())
        raise DataError(
            f"{path}: holds the labels {name_list(beyond)}, which the scheme ({table}) lacks; add them to data.labels."
        )
    return found, notes


def label_values(path: str, like: Grid3D) -> tuple[np.ndarray, tuple[str, ...]]:
    """Whole numbers (D, H, W) in canonical axes."""
    if len(mask_files(path)) > 1:
        raise DataError(f"{path}: several masks are united for pictures alone; write one volume of labels.")
    if path.lower().endswith((".dcm", ".dicom")):
        from crossmask.data.seg import read_seg_on

        with sentences(path):
            return like.canonical(read_seg_on(path, like.shape, like.affine)), ()
    if os.path.isdir(path) and any(name.lower().endswith(".png") for name in os.listdir(path)):
        return like.canonical(png_slices(path, like)), ()
    volume = read_volume(path)
    check_same_grid(like, volume.grid, "the mask")
    values = np.asarray(volume.stored)
    if values.dtype.kind == "f" or (volume.slope, volume.intercept) != (1.0, 0.0):
        real = values * volume.slope + volume.intercept
        values = np.rint(real)
        if not np.isfinite(real).all() or np.abs(real - values).max(initial=0) > 1e-3:
            raise DataError(f"{path}: this mask holds values that are no whole numbers; give labels, not shares.")
        values = values.astype(np.int32)
    return values, volume.notes


def png_slices(folder: str, like: Grid3D) -> np.ndarray:
    """PNG masks of a series, one a slice, paired by sorted file name (CHAOS): the series' axes, (D, rows, columns)."""
    from PIL import Image

    from crossmask.data.series import read_series

    names = sorted(n for n in os.listdir(folder) if n.lower().endswith(".png"))
    files = read_series(like.file).files if os.path.isdir(like.file) else ()
    if len(names) != like.shape[0] or len(files) != len(names):
        raise DataError(f"{folder}: holds {len(names)} PNG slices, its image {like.file} {like.shape[0]}; one a slice.")
    by_name = {name: place for place, name in enumerate(sorted(Path(f).name for f in files))}
    planes = []
    for file in files:
        place = Path(folder) / names[by_name[Path(file).name]]
        with sentences(str(place)):
            planes.append(np.asarray(Image.open(place).convert("L")))
    if {p.shape for p in planes} != {tuple(like.shape[1:])}:
        raise DataError(f"{folder}: its PNG slices are not as large as the slices of {like.file}.")
    return np.stack(planes)


def write_labels(path: str | Path, mask: np.ndarray, grid: Geometry, labels: Sequence[str] = ()) -> Path:
    """Write a mask in its source's own axes: NIfTI (affine and header of a NIfTI source unchanged) or, for a path that
    ends in .dcm and a DICOM series as source, a DICOM SEG. Complete or absent."""
    path = Path(path)
    source, _ = part_of(grid.source)
    if path.suffix.lower() == ".dcm":
        if not os.path.isdir(source):
            raise CallError(f"{path}: a DICOM SEG needs a DICOM series as source, not {source}; write .nii.gz.")
        from crossmask.data.seg import write_seg

        return write_seg(path, mask, source, labels or ("background", "foreground"))
    return write_nifti(path, mask.astype(np.uint8, copy=False), grid)


def write_nifti(path: str | Path, values: np.ndarray, grid: Geometry) -> Path:
    """Write values in their source's own axes, with the affine and header of a NIfTI source. Complete or absent."""
    import nibabel as nib

    path, (source, _) = Path(path), part_of(grid.source)
    header = None
    if source.lower().endswith(NIFTI) and os.path.isfile(source):
        header = nifti(source).header.copy()
        header.set_data_dtype(values.dtype)
        header.set_slope_inter(1, 0)
    image = nib.Nifti1Image(np.ascontiguousarray(values), np.array(grid.affine), header)
    with sentence_for_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{os.getpid()}.{path.name}")
        try:
            nib.save(image, part)
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
    return path
