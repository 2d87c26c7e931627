"""Two volumes of one patient, laid over each other by a rigid motion.

The motion is searched by mutual information (Mattes), from coarse to fine, from three starts (as the headers say,
centre on centre, head on head), on one thread and with seeded samples, so that a pair gives the same motion each
time. Turns up to about 20 degrees are found. Nothing bends: two patients, or a jaw now open, now shut, do not fit.

"Head" stands for what Otsu's threshold tells from the background, coarsely sampled. Positions are in mm along DICOM's
axes (x to the left, y to the back, z up); a motion takes a point of the fixed picture to its place in the moving one.
"""

from __future__ import annotations

import contextlib
import math
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from numbers import Integral
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from crossmask.core import number
from crossmask.errors import CallError, DataError, ResourceError
from crossmask.files import atomic

LEVELS_MM = (8.0, 4.0, 2.0)  # voxel sizes that the search runs through; finer pictures are averaged down to them
BINS = 32  # of the joint histogram, an axis
SAMPLES = 100_000  # voxels a level looks at, at the most
STEPS = 300  # of a level, at the most
SETTLED_MM = 0.005  # a level ends when its step is this small
CUT = (0.5, 99.5)  # percentiles; brighter and darker voxels count as these
POINTS = 3000  # of the head, at the most, over which distances are averaged
FEWEST = 8  # voxels along each axis
LEAST_OVERLAP = 0.25  # share of one head at least that must lie in the other picture
LEAST_INFORMATION = 0.05  # nats; below it the pictures tell nothing of each other
WORST_MM = 5.0  # disagreement of forward and backward above which the search has failed
ALIGNED_MM = 0.5  # a pair on one grid that is moved by less was aligned already
REMEDY = "see whether both show the same part of one patient."
ENDINGS, TRANSFORM_ENDINGS = (".nii", ".nii.gz"), (".tfm", ".txt")


@dataclass(frozen=True)
class Report:
    """What was found; distances are means over the head of the fixed picture."""

    fixed: str
    moving: str
    out: str
    transform: str
    rotation_deg: tuple[float, float, float]  # ITK's Euler angles about x, y, z
    translation_mm: tuple[float, float, float]  # along x, y, z, of the head's centre
    centre_mm: tuple[float, float, float]  # the head's centre, about which is turned
    moved_mm: float  # how far the motion carries the head
    information_before: float | None  # mutual information, nats, more is better; None: the headers leave no overlap
    information_after: float
    overlap: float  # share of a head that lies inside the other picture afterwards; the greater of the two
    residual_mm: float  # the same pair registered backward, then forward: how far a point misses itself
    same_grid: bool  # whether both pictures had one grid from the start
    aligned_before: bool  # whether they also were aligned already
    tre_mm: float | None  # distance from the true place, where a true transform was given
    note: str  # one sentence

    def to_dict(self) -> dict[str, Any]:
        """Plain values, fit for JSON."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    def __str__(self) -> str:
        turned = ", ".join(f"{v:.2f}" for v in self.rotation_deg)
        moved = ", ".join(f"{v:.2f}" for v in self.translation_mm)
        lines = [
            f"{self.out}: {self.moving} on the grid of {self.fixed}; the motion is in {self.transform}",
            f"turned by {turned} degrees (about x, y, z), moved by {moved} mm: {self.moved_mm:.2f} mm over the head",
            f"residual {self.residual_mm:.2f} mm (registered forward and backward)"
            + (f", {self.tre_mm:.2f} mm from the known transform" if self.tre_mm is not None else ""),
        ]
        return "\n".join([*lines, self.note] if self.note else lines)


class _Volume(NamedTuple):
    """A picture as read, and what the search works on."""

    path: Path
    image: Any  # as read
    levels: tuple[Any, ...]  # float32, one a level
    head: np.ndarray  # (N, 3) mm, points of the head


def register(
    fixed: str | Path,
    moving: str | Path,
    out: str | Path,
    *,
    transform: str | Path | None = None,
    truth: str | Path | None = None,
    seed: int = 0,
) -> Report:
    """Align ``moving`` with ``fixed``; write it on the grid of ``fixed`` to ``out`` and the motion beside it.

    ``fixed`` and ``moving``: a NIfTI file or a folder with one DICOM series. ``out``: .nii or .nii.gz, of the moving
    picture's number type, linearly interpolated, its least value where it does not reach. ``transform``: the motion's
    file (.tfm), by default named after ``out``. ``truth``: an ITK transform file to measure the motion against.
    The residual tells whether the search settles on one motion, not whether it is the true one: two patients may pass.
    Raises DataError for a picture that cannot be used, a pair that shares too little and a search that fails;
    CallError for an ending or a seed that is not possible, or if SimpleITK or nibabel is missing.
    """
    fixed, moving, out = Path(fixed), Path(moving), Path(out)
    transform = Path(transform or out.with_name(out.name.removesuffix(".gz").removesuffix(".nii") + ".tfm"))
    _check_call((fixed, moving, *([Path(truth)] if truth is not None else [])), out, transform, seed)
    sitk = _sitk()
    true = _read_transform(Path(truth)) if truth is not None else None
    one, other = _volume(fixed), _volume(moving)
    motion, settled = _search(one, other, int(seed))
    facts = _facts(one, other, motion, true)
    _check_result(one, other, facts, 0.0)
    backward, settled_too = _search(other, one, int(seed))
    residual = _apart(_carry(backward, _carry(motion, one.head)), one.head)
    _check_result(one, other, facts, residual)
    note = _note(facts, residual, settled and settled_too)
    report = Report(str(fixed), str(moving), str(out), str(transform), residual_mm=residual, note=note, **facts)
    _write(out, lambda place: sitk.WriteImage(_resampled(one.image, other.image, motion), place))
    _write(transform, lambda place: sitk.WriteTransform(motion, place))
    return report


def _facts(one: _Volume, other: _Volume, motion: Any, true: Any) -> dict[str, Any]:
    """What a report says of a motion, without its residual."""
    still, there = _sitk().Euler3DTransform(), _carry(motion, one.head)
    moved, same = _apart(there, one.head), _same_grid(one.image, other.image)
    return {
        "rotation_deg": tuple(math.degrees(a) for a in (motion.GetAngleX(), motion.GetAngleY(), motion.GetAngleZ())),
        "translation_mm": tuple(motion.GetTranslation()),
        "centre_mm": tuple(motion.GetCenter()),
        "moved_mm": moved,
        "information_before": _information(one, other, still) if _overlap(one, other, still) else None,
        "information_after": _information(one, other, motion),
        "overlap": _overlap(one, other, motion),
        "same_grid": same,
        "aligned_before": same and moved < ALIGNED_MM,
        "tre_mm": None if true is None else _apart(there, _carry(true, one.head)),
    }


def _note(facts: dict[str, Any], residual: float, settled: bool) -> str:
    text = "Already aligned on one grid: moved" if facts["aligned_before"] else "Moved"
    text += f" by {facts['moved_mm']:.2f} mm on average, forward and backward agree to {residual:.2f} mm"
    if facts["information_before"] is None:
        text += "; by their headers the pictures did not overlap"
    if not settled:
        text += "; the search was still moving when its steps ran out"
    return text + "."


def _sitk() -> Any:
    try:
        import nibabel  # noqa: F401
        import SimpleITK
    except ImportError as error:
        raise CallError("register: needs SimpleITK and nibabel; run: pip install 'crossmask[volumes]'.") from error
    return SimpleITK


def _check_call(given: tuple[Path, ...], out: Path, transform: Path, seed: object) -> None:
    if not isinstance(seed, Integral) or isinstance(seed, bool):
        raise CallError(f"register: seed={seed!r} is not possible; give a whole number.")
    for path, endings in ((out, ENDINGS), (transform, TRANSFORM_ENDINGS)):
        if not path.name.endswith(endings):
            raise CallError(f"{path}: ends with neither {' nor '.join(endings)}; give it such an ending.")
        if path.resolve() in [other.resolve() for other in given]:
            raise CallError(f"{path}: is one of the files to read; write to another one.")


def _check_result(one: _Volume, other: _Volume, facts: dict[str, Any], residual: float) -> None:
    if facts["overlap"] < LEAST_OVERLAP:
        why = f"only {facts['overlap']:.0%} of the head would overlap"
    elif not facts["information_after"] >= LEAST_INFORMATION:
        why = f"mutual information {facts['information_after']:.3f}: neither tells anything of the other"
    elif not residual <= WORST_MM:
        why = f"the search did not converge: forward and backward disagree by {residual:.1f} mm"
    else:
        return
    raise DataError(f"{other.path}: could not be aligned with {one.path} ({why}); {REMEDY}")


def _read(path: Path) -> Any:
    """The picture, three axes and one number a voxel, all finite and not all equal."""
    sitk = _sitk()
    if not path.exists():
        raise DataError(f"{path}: there is no such file or folder.")
    try:
        if path.is_dir():
            image = _series(path)
        else:
            reader = sitk.ImageFileReader()
            reader.SetFileName(str(path))
            reader.ReadImageInformation()
            if reader.GetDimension() != 3:
                raise DataError(f"{path}: has {reader.GetDimension()} axes; give a volume with three.")
            image = reader.Execute()
            if path.name.endswith(ENDINGS):
                _check_whole(path)
    except RuntimeError as error:
        why = str(error).strip().split("\n")[-1].strip()
        raise DataError(f"{path}: cannot be read as a volume ({why}); copy it again from its source.") from error
    if image.GetNumberOfComponentsPerPixel() != 1:
        raise DataError(f"{path}: has several numbers a voxel; give a volume with one.")
    if min(image.GetSize()) < FEWEST:
        size = " x ".join(map(str, image.GetSize()))
        raise DataError(f"{path}: {size} voxels are too few; a motion in space needs {FEWEST} along each axis.")
    values = sitk.GetArrayViewFromImage(image)
    if values.min() == values.max():
        raise DataError(f"{path}: every voxel is {values.min():g}; give a picture that shows something.")
    return image


def _check_whole(path: Path) -> None:
    """ITK reads a NIfTI file that breaks off as if nothing were amiss, and values that are not finite as 0."""
    import nibabel

    try:
        image: Any = nibabel.load(path)
        sound = np.isfinite(np.asarray(image.dataobj)).all()
    except (OSError, EOFError, ValueError, zlib.error, nibabel.filebasedimages.ImageFileError) as error:
        raise DataError(f"{path}: breaks off or is damaged; copy it again from its source.") from error
    if not sound:
        raise DataError(f"{path}: holds values that are not finite; replace them, by 0 for instance.")


def _series(folder: Path) -> Any:
    """The folder's one DICOM series; its slices must lie evenly along their normal."""
    import pydicom

    sitk = _sitk()
    series = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
    if len(series) != 1:
        raise DataError(f"{folder}: holds {len(series) or 'no'} DICOM series; give a folder with one.")
    files = list(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), series[0]))
    if len(files) == 1:  # of many frames, or too thin
        return sitk.ReadImage(files[0])
    tags = ["ImagePositionPatient", "ImageOrientationPatient"]
    headers = [pydicom.dcmread(file, stop_before_pixels=True, force=True, specific_tags=tags) for file in files]
    try:
        places, axes = (np.array([[float(v) for v in header[tag].value] for header in headers]) for tag in tags)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{folder}: a slice does not say where it lies; convert the series to NIfTI.") from error
    steps, normal = np.diff(places, axis=0), np.cross(axes[0, :3], axes[0, 3:])
    length = float(np.linalg.norm(step := steps.mean(axis=0)))
    if np.ptp(axes, axis=0).max() > 1e-3 or np.linalg.norm(step - normal * (step @ normal)) > 0.02 * length:
        raise DataError(f"{folder}: its slices do not lie square above each other; resample the series first.")
    if length == 0 or np.linalg.norm(steps - step, axis=1).max() > 0.05 * length:
        raise DataError(f"{folder}: its slices are not evenly spaced; see whether one is missing or stands twice.")
    return sitk.ReadImage(files)


def _read_transform(path: Path) -> Any:
    try:
        found = _sitk().ReadTransform(str(path))
        found.TransformPoint((0.0, 0.0, 0.0))
    except RuntimeError as error:
        raise DataError(f"{path}: is no ITK transform file of three axes that can be read; name another.") from error
    return found


def _volume(path: Path) -> _Volume:
    sitk = _sitk()
    image = _read(path)
    plain = sitk.Cast(image, sitk.sitkFloat32)
    low, high = (float(v) for v in np.percentile(sitk.GetArrayViewFromImage(plain), CUT))
    if low < high:
        plain = sitk.Clamp(plain, sitk.sitkFloat32, low, high)
    levels = tuple(_shrunk(plain, mm) for mm in LEVELS_MM)
    coarse = levels[1]
    head = sitk.GetArrayFromImage(sitk.OtsuThreshold(coarse, 0, 1))  # a copy: a view would outlive its picture
    places = np.argwhere(head > 0)[:, ::-1]
    places = places[:: max(1, math.ceil(len(places) / POINTS))]
    axes = np.reshape(coarse.GetDirection(), (3, 3)) * coarse.GetSpacing()
    return _Volume(path, image, levels, places @ axes.T + coarse.GetOrigin())


def _shrunk(image: Any, mm: float) -> Any:
    """Averaged down to voxels of about ``mm``, each axis by itself, but to no fewer than FEWEST voxels."""
    pairs = zip(image.GetSize(), image.GetSpacing(), strict=True)
    factors = [max(1, min(round(mm / spacing), size // FEWEST)) for size, spacing in pairs]
    return _sitk().BinShrink(image, factors)


def _search(fixed: _Volume, moving: _Volume, seed: int) -> tuple[Any, bool]:
    """The motion (Euler3DTransform, fixed point -> moving point) and whether it came to rest."""
    centre, shifts = fixed.head.mean(axis=0), [np.zeros(3)]
    pictures = (moving.image, fixed.image)
    middles = [i.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in i.GetSize()]) for i in pictures]
    for shift in (np.subtract(*middles), moving.head.mean(axis=0) - centre):
        if all(np.linalg.norm(shift - other) > 1 for other in shifts):
            shifts.append(shift)
    found: list[tuple[float, Any]] = []
    for shift in shifts:
        start = _sitk().Euler3DTransform(centre.tolist(), 0.0, 0.0, 0.0, shift.tolist())
        if _overlap(fixed, moving, start) < LEAST_OVERLAP:
            continue
        with contextlib.suppress(RuntimeError):  # it left the moving picture
            motion, value, _ = _descend(fixed, moving, start, 0, seed)
            if _overlap(fixed, moving, motion) >= LEAST_OVERLAP:
                found.append((value, motion))
    failed = f"{moving.path}: found no overlap with {fixed.path}; {REMEDY}"
    if not found:
        raise DataError(failed)
    motion, settled = min(found, key=lambda item: item[0])[1], False
    try:
        for level in range(1, len(LEVELS_MM)):
            motion, _, settled = _descend(fixed, moving, motion, level, seed)
    except RuntimeError as error:
        raise DataError(failed) from error
    return motion, settled


def _descend(fixed: _Volume, moving: _Volume, start: Any, level: int, seed: int) -> tuple[Any, float, bool]:
    """From ``start`` downhill on one level: the motion, its value (less is better), whether it came to rest."""
    image = fixed.levels[level]
    method = _method()
    share = SAMPLES / image.GetNumberOfPixels()
    if share < 1:
        method.SetMetricSamplingStrategy(method.RANDOM)
        method.SetMetricSamplingPercentage(share, number(seed, "register", level) % 2**31 + 1)  # 0 is the clock
    # Steps shrink slowly: with a factor of 0.5 the search ends in the wrong place where turns hardly matter.
    step, slower, flat = LEVELS_MM[level] / 4, 0.9, 1e-10  # first step in mm, factor at each turn, least slope
    method.SetOptimizerAsRegularStepGradientDescent(step, SETTLED_MM, STEPS, slower, flat)
    method.SetOptimizerScalesFromPhysicalShift()
    motion = _sitk().Euler3DTransform(start)
    method.SetInitialTransform(motion, inPlace=True)
    with _one_thread():
        method.Execute(image, moving.levels[level])
    return motion, float(method.GetMetricValue()), method.GetOptimizerIteration() < STEPS


def _method() -> Any:
    sitk = _sitk()
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(BINS)
    method.SetInterpolator(sitk.sitkLinear)
    return method


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Sums in one order; ITK's metric heeds this number alone, which is the whole process's, so it is put back."""
    process = _sitk().ProcessObject
    threads = process.GetGlobalDefaultNumberOfThreads()
    process.SetGlobalDefaultNumberOfThreads(1)
    try:
        yield
    finally:
        process.SetGlobalDefaultNumberOfThreads(threads)


def _information(fixed: _Volume, moving: _Volume, motion: Any) -> float:
    """Mutual information in nats over all voxels of the middle level; 0 where the pictures do not meet."""
    method = _method()
    method.SetInitialTransform(motion)
    with contextlib.suppress(RuntimeError), _one_thread():
        return -float(method.MetricEvaluate(fixed.levels[1], moving.levels[1]))
    return 0.0


def _carry(motion: Any, points: np.ndarray) -> np.ndarray:
    """Where the points (N, 3) mm come to lie; any kind of transform."""
    return np.array([motion.TransformPoint(point) for point in points.tolist()])


def _apart(points: np.ndarray, others: np.ndarray) -> float:
    """Mean distance in mm of two rows of points (N, 3)."""
    return float(np.linalg.norm(points - others, axis=1).mean())


def _share(head: np.ndarray, image: Any, motion: Any) -> float:
    """Share of the points (N, 3) mm that the motion brings inside the image."""
    axes = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    places = np.linalg.solve(axes, (_carry(motion, head) - image.GetOrigin()).T).T
    return float(((places > -0.5) & (places < np.array(image.GetSize()) - 0.5)).all(axis=1).mean())


def _overlap(one: _Volume, other: _Volume, motion: Any) -> float:
    """The greater of the shares of both heads that lie inside the other picture: a slab may lie in a whole head."""
    return max(_share(one.head, other.image, motion), _share(other.head, one.image, motion.GetInverse()))


def _same_grid(one: Any, other: Any) -> bool:
    first, second = (np.array(i.GetOrigin() + i.GetSpacing() + i.GetDirection()) for i in (one, other))
    return bool(one.GetSize() == other.GetSize() and np.allclose(first, second, atol=1e-3))


def _resampled(fixed: Any, moving: Any, motion: Any) -> Any:
    """The moving picture on the fixed grid, of its own number type, its least value where it does not reach."""
    sitk = _sitk()
    kind = moving.GetPixelID()
    least = float(sitk.GetArrayViewFromImage(moving).min())
    if kind in (sitk.sitkFloat32, sitk.sitkFloat64):
        return sitk.Resample(moving, fixed, motion, sitk.sitkLinear, least)
    # ITK would cut the fractions off.
    return sitk.Cast(sitk.Round(sitk.Resample(moving, fixed, motion, sitk.sitkLinear, least, sitk.sitkFloat64)), kind)


def _write(path: Path, write: Callable[[str], None]) -> None:
    """Let SimpleITK write, and put the file under its name when it is whole."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / path.name
        try:
            write(str(place))
        except RuntimeError as error:  # SimpleITK's, of the folder for temporary files
            why = " ".join(str(error).split())[:200]
            raise ResourceError(f"{path}: could not be written ({why}); free some space in {folder}.") from error
        with atomic(path, "wb") as stream:
            stream.write(place.read_bytes())
