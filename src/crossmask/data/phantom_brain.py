"""Two made-up, aligned contrasts for each real label map of a head: neither contrast alone shows every border.

The label maps follow FreeSurfer's colour table (SynthSeg's additions above 500 are tissue outside the brain). Every
tissue has a mean in each contrast, as a share of the contrast's range, and belongs there to a group of tissues that
look alike. Inside a group means differ by about the noise (a border there is faint), between groups by several times
the noise (clear). The tissues of the brain, their targets and their means:

    tissue              ids                            target           t1              flair
    white matter        2 41 78 79 250-255             1 white matter   0.68 bright     0.48 middle
    lesion              25 57 77                       1 white matter   0.33 dark       0.80 bright
    cortex              3 42                           2 cortex         0.34 dark       0.53 middle
    ventricle           4 43 5 44 14 15 72             3 ventricles     0.30 dark       0.15 dark
    plexus              136 163 137 164 31 63          3 ventricles     0.33 dark       0.47 middle
    thalamus            9 48 10 49                     4 thalamus       0.36 dark       0.53 middle
    hippocampus         17 53                          5 hippocampus    0.63 bright     0.78 bright
    outer CSF           24                             0                0.30 dark       0.15 dark
    striatum            11 50 12 51 26 58              0                0.36 dark       0.53 middle
    amygdala            18 54                          0                0.36 dark       0.75 bright
    pallidum, ventral   13 52 28 60                    0                0.63 bright     0.20 dark
    brain stem          16                             0                0.66 bright     0.46 middle
    cerebellum, white   7 46                           0                0.68 bright     0.48 middle
    cerebellum, cortex  8 47                           0                0.36 dark       0.53 middle

So every target needs both contrasts, each for some of its borders:

    white matter  t1 for cortex, thalamus and striatum; flair for hippocampus, pallidum and ventral diencephalon
    cortex        t1 for white matter; flair for the outer CSF
    ventricles    t1 where the plexus touches white matter, and for the ventral diencephalon; flair for thalamus,
                  striatum, lesions and cerebellar cortex
    thalamus      t1 for white matter; flair for ventricles and CSF
    hippocampus   t1 for the amygdala; flair for white matter and ventral diencephalon

The contrasts are named after the sequences that they resemble, not measured from them: that grey matter and CSF are
all but equal in t1, and that the hippocampus is as bright as white matter there and stands out in flair, overstates
what scanners show; the iron-rich pallidum and ventral diencephalon are darker in flair than in a patient.

Per brain and contrast: every group's level and, less, every tissue's mean is moved at random (as between scanners), and
the whole is scaled; every tissue is mottled, partial volume comes from a blur below one voxel, then a smooth bias
field and Rician noise. A brain's pictures are a function of the seed, its name and its label map alone.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from numbers import Integral
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage

from crossmask.core import rng
from crossmask.data import manifest
from crossmask.errors import CallError, DataError, listed
from crossmask.files import atomic, atomic_folder, digest, read_json, write_json

VERSION = 1  # raise it whenever the same label maps and seed would give other pictures
CONTRASTS = ("t1", "flair")
GROUPS = ("dark", "middle", "bright")  # in order; t1 has no middle
LABELS = ("background", "white matter", "cortex", "ventricles", "thalamus", "hippocampus")

# All shares are of a contrast's range (from nothing, 0, to its brightest tissue, about 1).
GROUP_SD = 0.10  # of a group's level between brains, before LEAST_GAP is seen to
TISSUE_SD = 0.015  # of a tissue's mean around its group's, between brains
FURTHEST = 2.0  # draws of both are cut at so many standard deviations
LEAST_GAP = 0.15  # between tissues of different groups, so that a clear border is clear in every brain
NOISE = (0.04, 0.06)  # standard deviation; the lowest and highest of a brain and contrast
BLUR = (0.3, 0.7)  # standard deviation in voxels
BIAS = (0.10, 0.25)  # greatest departure of the field from 1
BIAS_WAVES = 4  # half waves along each axis, from none to three
TEXTURE = (0.03, 0.10)  # standard deviation of the mottle inside and outside the brain, as a share of the mean
TEXTURE_VOXELS = 1.5  # its grain
GAIN = (0.8, 1.25)  # a picture's scale: so many thousand units are the range
TEST_SHARE = 0.2


class Tissue(NamedTuple):
    ids: tuple[int, ...]
    target: int  # position in LABELS
    means: tuple[float, float]  # in the order of CONTRASTS
    groups: tuple[str, str]


def _alone(name: str, t1: float, flair: float, *ids: int) -> Tissue:
    return Tissue(ids, 0, (t1, flair), (name, name))


TISSUES: dict[str, Tissue] = {
    "white matter": Tissue((2, 41, 78, 79, *range(250, 256)), 1, (0.68, 0.48), ("bright", "middle")),
    "lesion": Tissue((25, 57, 77), 1, (0.33, 0.80), ("dark", "bright")),
    "cortex": Tissue((3, 42), 2, (0.34, 0.53), ("dark", "middle")),
    "ventricle": Tissue((4, 43, 5, 44, 14, 15, 72), 3, (0.30, 0.15), ("dark", "dark")),
    "plexus": Tissue((136, 163, 137, 164, 31, 63), 3, (0.33, 0.47), ("dark", "middle")),
    "thalamus": Tissue((9, 48, 10, 49), 4, (0.36, 0.53), ("dark", "middle")),
    "hippocampus": Tissue((17, 53), 5, (0.63, 0.78), ("bright", "bright")),
    "outer CSF": Tissue((24,), 0, (0.30, 0.15), ("dark", "dark")),
    "striatum": Tissue((11, 50, 12, 51, 26, 58), 0, (0.36, 0.53), ("dark", "middle")),
    "amygdala": Tissue((18, 54), 0, (0.36, 0.75), ("dark", "bright")),
    "pallidum, ventral": Tissue((13, 52, 28, 60), 0, (0.63, 0.20), ("bright", "dark")),
    "brain stem": Tissue((16,), 0, (0.66, 0.46), ("bright", "middle")),
    "cerebellum, white": Tissue((7, 46), 0, (0.68, 0.48), ("bright", "middle")),
    "cerebellum, cortex": Tissue((8, 47), 0, (0.36, 0.53), ("dark", "middle")),
    # Of the rest every tissue moves by itself. SynthSeg gives 501 to 530 no names; these are readings.
    "vessel, chiasm": _alone("vessel, chiasm", 0.50, 0.40, 30, 62, 85),
    "air": _alone("air", 0.01, 0.01, 0),
    "soft tissue": _alone("soft tissue", 0.50, 0.42, 507),
    "skin": _alone("skin", 0.62, 0.50, 511),
    "bone": _alone("bone", 0.10, 0.10, 515, 165),
    "marrow": _alone("marrow", 0.75, 0.55, 516),
    "dura": _alone("dura", 0.42, 0.36, 514),
    "below the brain": _alone("below the brain", 0.45, 0.40, 502),
    "eyeball": _alone("eyeball", 0.20, 0.15, 506),
    "orbit": _alone("orbit", 0.85, 0.65, 508),
    "nose": _alone("nose", 0.35, 0.32, 509),
    "cord": _alone("cord", 0.62, 0.45, 512),
    "skull base": _alone("skull base", 0.15, 0.12, 530),
}
UNNAMED = "soft tissue"  # ids that stand nowhere above are drawn so, as background, and listed in phantom.json
_BY_ID = {label: name for name, tissue in TISSUES.items() for label in tissue.ids}


@dataclass(frozen=True)
class Scan:
    """How one brain is drawn in one contrast."""

    means: Mapping[str, float]  # tissue -> share of the range
    noise: float  # standard deviation, share of the range
    blur: float  # standard deviation, voxels
    bias: float  # greatest departure of the field from 1
    gain: float  # units that the range has


@dataclass(frozen=True)
class Head:
    """A label map as read."""

    ids: np.ndarray  # (X, Y, Z) int64
    affine: np.ndarray  # (4, 4) mm
    seal: str  # hash of both


def make(
    labelmaps: str | Path,
    out: str | Path,
    *,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Draw every label map (``*.nii.gz``) of a folder into ``out``, complete or not at all; returns cases.csv.

    Writes images/<brain>_t1.nii.gz and images/<brain>_flair.nii.gz (int16), masks/<brain>.nii.gz (uint8, positions
    in LABELS), cases.csv and phantom.json (how each brain was drawn, and the hash to quote). A brain is named by
    its file without '_labels'. ``progress(done, total)`` is called after each brain. A folder made before from the
    same maps and seed is returned as it is.
    Raises DataError for a folder without label maps, for maps that cannot be drawn (all of them named) and if
    something else stands in ``out``; CallError for a seed that is no whole number or if nibabel is missing.
    """
    if not isinstance(seed, Integral) or isinstance(seed, bool):
        raise CallError(f"brain phantom: seed={seed!r} is not possible; give a whole number.")
    seed, out = int(seed), Path(out)
    files = _files(Path(labelmaps))
    seals = _seals(files)
    seal = fingerprint(seals, seed=seed)
    if _stands(out, seal):
        return out / "cases.csv"
    with atomic_folder(out) as part:
        _fill(part.resolve(), files, seals, seed, seal, progress)
    return out / "cases.csv"


def fingerprint(seals: Mapping[str, str], *, seed: int = 0) -> str:
    """What the pictures follow from, as one hash: version, constants, each brain's intensities and label map.

    ``seals``: brain -> hash of its label map. NumPy's and SciPy's versions are not in it.
    """
    constants = (VERSION, CONTRASTS, LABELS, TISSUES, UNNAMED, GROUP_SD, TISSUE_SD, FURTHEST, LEAST_GAP)
    more = (NOISE, BLUR, BIAS, BIAS_WAVES, TEXTURE, TEXTURE_VOXELS, GAIN, TEST_SHARE, seed)
    brains = [(name, seals[name], [asdict(scan(seed, name, c)) for c in CONTRASTS]) for name in sorted(seals)]
    return digest(constants, more, brains)


def scan(seed: int, brain: str, contrast: str) -> Scan:
    """The parameters of one picture, drawn from the seed and the brain's name."""
    random, which = rng(seed, "phantom-brain", brain, contrast, "scan"), CONTRASTS.index(contrast)

    def away(sd: float) -> float:
        return float(np.clip(random.standard_normal(), -FURTHEST, FURTHEST)) * sd

    means: dict[str, float] = {}
    while not means or _least_gap(means, which) < LEAST_GAP:
        groups = {group: away(GROUP_SD) for group in dict.fromkeys(t.groups[which] for t in TISSUES.values())}
        for name, tissue in TISSUES.items():
            moved = tissue.means[which] + groups[tissue.groups[which]] + away(TISSUE_SD)
            means[name] = tissue.means[which] if name == "air" else round(max(moved, 0.03), 4)
    noise, blur, bias = (round(float(random.uniform(*between)), 4) for between in (NOISE, BLUR, BIAS))
    gain = round(1000 * float(np.exp(random.uniform(*np.log(GAIN)))), 1)
    return Scan(means, noise, blur, bias, gain)


def _least_gap(means: Mapping[str, float], which: int) -> float:
    """The least difference of two groups' tissues, negative if groups changed places; lone tissues are left out."""
    groups = [[means[n] for n, t in TISSUES.items() if t.groups[which] == group] for group in GROUPS]
    return min(min(upper) - max(lower) for lower, upper in pairwise(filter(None, groups)))


def draw(ids: np.ndarray, seed: int, brain: str, contrast: str) -> np.ndarray:
    """The picture (X, Y, Z) int16 of the label map ``ids`` (X, Y, Z) in one contrast."""
    how, random = scan(seed, brain, contrast), rng(seed, "phantom-brain", brain, contrast, "picture")
    names = _names(ids)
    means = np.array([how.means[name] for name in names], np.float32)[ids]
    mottle = np.array([TEXTURE[int(TISSUES[name].groups[0] == name)] for name in names], np.float32)[ids]
    # The grain is scaled to a standard deviation of one; on a map all of one value it is nothing.
    grain = ndimage.gaussian_filter(random.standard_normal(ids.shape, np.float32), TEXTURE_VOXELS)
    grain /= max(float(grain.std()), 1e-6)
    signal = means * (1 + mottle * grain)
    signal = ndimage.gaussian_filter(signal, how.blur) * _field(random, ids.shape, how.bias)
    for part in range(2):  # Rician: the magnitude of a complex signal with noise in both parts
        noise = how.noise * random.standard_normal(ids.shape, np.float32)
        signal = signal + noise if part == 0 else np.hypot(signal, noise)
    return np.asarray(np.rint(signal * how.gain).clip(0, 32767), np.int16)


def target(ids: np.ndarray) -> np.ndarray:
    """The mask (X, Y, Z) uint8, positions in LABELS, of a label map (X, Y, Z)."""
    return np.array([TISSUES[name].target for name in _names(ids)], np.uint8)[ids]


def _names(ids: np.ndarray) -> list[str]:
    """The tissue of every label from 0 to the greatest one there."""
    return [_BY_ID.get(label, UNNAMED) for label in range(int(ids.max()) + 1)]


def _field(random: np.random.Generator, shape: tuple[int, ...], bias: float) -> np.ndarray:
    """A smooth field of the given shape, from 1 - bias to 1 + bias at the most, as a sum of slow waves."""
    field = random.standard_normal((BIAS_WAVES,) * len(shape))
    orders = np.indices(field.shape).sum(axis=0)
    field = np.where(orders == 0, 0, field / (1 + orders))
    for size in shape:  # one axis is spread out at a time; it then stands last
        waves = np.cos(np.pi * np.outer(np.arange(BIAS_WAVES), (np.arange(size) + 0.5) / size))
        field = np.tensordot(field, waves, axes=(0, 0))
    return np.asarray(1 + bias * field / max(float(np.abs(field).max()), 1e-6), np.float32)


# The folder


def _nibabel() -> Any:
    try:
        import nibabel
    except ImportError as error:
        raise CallError("brain phantom: needs nibabel; run: pip install 'crossmask[volumes]'.") from error
    return nibabel


def _files(folder: Path) -> dict[str, Path]:
    """Brain -> label map, sorted by name."""
    ending, remedy = ".nii.gz", "give a folder with one FreeSurfer-like map a head."
    if not folder.is_dir():
        raise DataError(f"{folder}: is no folder; {remedy}")
    found: dict[str, Path] = {}
    for path in sorted(p for p in folder.glob(f"*{ending}") if p.is_file()):
        name = path.name.removesuffix(ending).removesuffix("_labels")
        if name in found:
            raise DataError(f"{path}: {found[name].name} is the same brain '{name}'; rename one of them.")
        found[name] = path
    if not found:
        raise DataError(f"{folder}: holds no label map (*{ending}); {remedy}")
    return found


def _seals(files: Mapping[str, Path]) -> dict[str, str]:
    """Brain -> hash of its label map; one DataError that names all maps that cannot be drawn."""
    seals, faults = {}, []
    for name, path in files.items():
        try:
            seals[name] = _read(path).seal
        except DataError as error:
            faults.append(str(error))
    if faults:
        raise DataError(listed(faults))
    return seals


def _read(path: Path) -> Head:
    """A label map, checked."""
    nibabel = _nibabel()
    try:
        image = nibabel.load(path)
        shape, affine = image.shape, np.asarray(image.affine, float)
        values = np.asarray(image.dataobj) if len(shape) == 3 else np.zeros(0)
    except MemoryError:
        raise
    except Exception as error:  # nibabel, gzip and zlib each raise errors of their own kinds
        why = str(error).split("\n")[0] or type(error).__name__
        raise DataError(f"{path}: cannot be read as NIfTI ({why}); copy it again from its source.") from error
    if len(shape) != 3:
        raise DataError(f"{path}: has {len(shape)} axes; give a label map with three.")
    if values.size == 0:
        raise DataError(f"{path}: has no voxels; copy it again from its source.")
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise DataError(f"{path}: its affine places no volume in space; repair the header.")
    if values.dtype.kind not in "iub" and not (np.isfinite(values) & (values == np.rint(values))).all():
        raise DataError(f"{path}: holds values that are no whole numbers; give a label map, not a picture.")
    if values.min() < 0 or values.max() > 65535:
        raise DataError(f"{path}: holds labels outside 0 to 65535; give a label map with FreeSurfer's numbers.")
    ids = values.astype(np.int64)
    if not any(TISSUES[_BY_ID[label]].target for label in np.unique(ids).tolist() if label in _BY_ID):
        raise DataError(f"{path}: none of its labels is of a brain by FreeSurfer's numbers; give another map.")
    seal = digest(ids.shape, np.round(affine, 4).tolist(), ids.astype(np.uint16).tobytes())
    return Head(ids, affine, seal)


def _stands(out: Path, seal: str) -> bool:
    """Whether ``out`` holds this very phantom already; DataError if it holds anything else."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    if not (out / "phantom.json").is_file():
        raise DataError(f"{out}: holds something else; choose another folder for the phantom.")
    found = read_json(out / "phantom.json")
    if not isinstance(found, dict) or found.get("hash") != seal:
        raise DataError(f"{out}: holds a phantom of other label maps, seed or version; choose another folder.")
    if not (out / "cases.csv").is_file():
        raise DataError(f"{out}: the phantom here lost its cases.csv; choose another folder.")
    return True


def parts(brains: list[str], seed: int) -> dict[str, str]:
    """Brain -> train or test: a fifth, by the seed, is for the test (3 of 15); a single brain is for training."""
    count = max(1, round(TEST_SHARE * len(brains))) if len(brains) > 1 else 0
    order = rng(seed, "phantom-brain", "parts").permutation(len(brains))
    held = {sorted(brains)[place] for place in order[:count]}
    return {name: "test" if name in held else "train" for name in brains}


def _fill(
    folder: Path,
    files: Mapping[str, Path],
    seals: Mapping[str, str],
    seed: int,
    seal: str,
    progress: Callable[[int, int], None] | None,
) -> None:
    for name in ("images", "masks"):
        (folder / name).mkdir()
    split, rows, brains = parts(list(files), seed), [], []
    for done, (name, path) in enumerate(files.items(), 1):
        head = _read(path)
        images = {c: folder / "images" / f"{name}_{c}.nii.gz" for c in CONTRASTS}
        mask = folder / "masks" / f"{name}.nii.gz"
        for contrast, image in images.items():
            _write(image, draw(head.ids, seed, name, contrast), head.affine)
        _write(mask, target(head.ids), head.affine)
        rows.append(
            manifest.Case(
                id=name,
                group=name,
                splits={"": split[name]},
                images={c: str(p) for c, p in images.items()},
                mask=str(mask),
                source="brain phantom",
            )
        )
        ids = np.unique(head.ids).tolist()
        facts = {"id": name, "labelmap": path.name, "labelmap_hash": seals[name], "split": split[name]}
        drawn = {"ids": ids, "unnamed_ids": [label for label in ids if label not in _BY_ID]}
        brains.append({**facts, **drawn, **{c: asdict(scan(seed, name, c)) for c in CONTRASTS}})
        if progress:
            progress(done, len(files))
    manifest.write(folder / "cases.csv", rows)
    tissues = {name: {"ids": t.ids, "target": t.target, "means": t.means} for name, t in TISSUES.items()}
    settings = {"version": VERSION, "seed": seed}
    summary = {"settings": settings, "hash": seal, "labels": LABELS, "tissues": tissues, "brains": brains}
    write_json(folder / "phantom.json", summary)


def _write(path: Path, array: np.ndarray, affine: np.ndarray) -> None:
    """A NIfTI file whose bytes follow from the array and the affine alone."""
    nibabel = _nibabel()
    image = nibabel.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    with atomic(path, "wb") as stream:
        stream.write(gzip.compress(image.to_bytes(), compresslevel=6, mtime=0))
