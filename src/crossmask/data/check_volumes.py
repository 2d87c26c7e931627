"""What volumes show of a data set: readable, finite, on one grid, their masks whole numbers of the scheme.

``check.py`` hands the cases over. One volume is held at a time, as its file stores it, and seen as real values slab by
slab; only numbers are kept.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from crossmask.data.found import Found, some, spread_of
from crossmask.data.manifest import Case, mask_files, without_part
from crossmask.data.slices import SLAB
from crossmask.data.volumes import (
    Grid3D,
    Volume,
    check_same_grid,
    label_values,
    read_volume,
    sentences,
)
from crossmask.errors import CallError, DataError, name_list

USUAL_MM = (0.01, 50.0)  # a voxel's side outside it is most likely in another unit
MANY = 255  # labels; a mask of more is most likely an image
SHOWN = 20  # label values in the facts
RARE = 0.1  # share of the masks; a label that fewer hold may be a stray one

# What is told of the cases in a list, in this order.
WARNINGS = {
    "identity": "volumes whose header gives no geometry (identity): {}; they get no scores in millimetres.",
    "unit": f"volumes whose voxels have a side under {USUAL_MM[0]:g} or over {USUAL_MM[1]:g} mm: {{}}; look whether "
    "their headers are in mm.",
    "constant": "volumes of one value throughout: {}; look whether they are meant.",
    "twice": "cases two modalities of which are one volume: {}; correct the paths, or say in the column modality_note "
    "that it is meant (a second window of one CT).",
    "empty": "empty 3-D masks: {}; right only where there is nothing to find.",
    "full": "3-D masks that cover the whole volume: {}; look whether they are meant.",
    "many": f"3-D masks of more than {MANY} labels: {{}}; look whether they are images.",
}


@dataclass(frozen=True)
class Seen:
    """What is kept of a volume."""

    grid: Grid3D
    content: str | None  # a hash of its values; None: not finite, or the same throughout


class Volumes:
    """Numbers of all volumes and their masks, gathered one case at a time."""

    def __init__(self, labels: Mapping[str, Any] | None) -> None:
        self.labels = labels
        self.faults: list[str] = []
        self.ids: dict[str, dict[str, None]] = {what: {} for what in WARNINGS}
        self.modalities: Counter[str] = Counter()
        self.shapes: list[tuple[int, int, int]] = []
        self.spacings: list[tuple[float, float, float]] = []  # of volumes that have a geometry
        self.orientations: Counter[str] = Counter()
        self.notes: Counter[str] = Counter()
        self.mask_notes: Counter[str] = Counter()
        self.modality_notes: Counter[str] = Counter()
        self.contents: dict[str, list[Case]] = {}  # hash of a volume's values -> cases
        self.unreadable = 0
        self.unchecked = 0  # masks that only their image says the grid of, which is not readable
        self.labelled = 0
        self.millilitres: list[float] = []
        self.levels: Counter[int] = Counter()  # label value -> masks that hold it
        self.classes: Counter[str] = Counter()  # name -> masks that hold it
        self.left: dict[int, float] = {}  # id() of a case -> share of its mask in the left half, as seen

    def add(self, case: Case) -> None:
        first: Grid3D | None = None
        known: dict[str, Seen | None] = {}
        for modality, file in case.images.items():
            if not os.path.exists(without_part(file)):
                continue  # the manifest's faults name it
            if file not in known:
                known[file] = self.volume(case, file)
            seen = known[file]
            if seen is None:
                continue
            self.modalities[column(modality)] += 1
            self.remember(case, seen)
            if first is not None:
                self.tried(case, check_same_grid, first, seen.grid, f"modality '{modality or 'image'}'")
            first = first or seen.grid
        if case.mask and all(os.path.exists(without_part(file)) for file in mask_files(case.mask)):
            if case.mask in case.images.values():
                what = "is both image and mask; name the mask's own file."
                self.faults.append(f"case '{case.id}': {case.mask}: {what}")
            else:
                self.mask(case, case.mask, first)

    def tried(self, case: Case, work: Any, *given: Any) -> Any:
        """The result, or None and a fault."""
        try:
            return work(*given)
        except (DataError, OSError) as error:
            self.faults.append(f"case '{case.id}': {error}")
        except MemoryError:
            self.faults.append(
                f"case '{case.id}': {given[0]}: is larger than the memory; crop it, or check its header."
            )
        return None

    def remember(self, case: Case, seen: Seen) -> None:
        if seen.content is None:
            return
        cases = self.contents.setdefault(seen.content, [])
        if not any(other is case for other in cases):
            cases.append(case)
        elif note := case.free.get("modality_note", "").strip():
            self.modality_notes[note] += 1
        else:
            self.ids["twice"][case.id] = None

    def volume(self, case: Case, file: str) -> Seen | None:
        volume = self.tried(case, read_volume, file)
        if volume is None:
            self.unreadable += 1
            return None
        grid = volume.grid
        self.shapes.append(volume.shape)
        self.orientations[grid.orientation] += 1
        self.notes.update(volume.notes)
        if grid.is_identity:
            self.ids["identity"][case.id] = None
        else:
            self.spacings.append(grid.spacing)
            if min(grid.spacing) < USUAL_MM[0] or max(grid.spacing) > USUAL_MM[1]:
                self.ids["unit"][case.id] = None
        content = self.tried(case, content_of, file, volume)
        if content == "":
            self.ids["constant"][case.id] = None
        return Seen(grid, content or None)

    def mask(self, case: Case, file: str, grid: Grid3D | None) -> None:
        if self.labels is not None:
            check_scheme(self.labels)
        if grid is None and drawn_on_image(file):
            self.unchecked += 1
            return
        mask = self.tried(case, read_mask_volume, file, grid)
        if mask is None:
            self.unreadable += 1
            return
        self.labelled += 1
        self.mask_notes.update(mask.notes)
        if grid is not None:
            self.tried(case, check_same_grid, grid, mask.grid, "the mask")
        background = values_of(next(iter(self.labels.values()))) if self.labels is not None else None
        counts = self.tried(case, levels_of, file, mask, background)
        if counts is not None:
            self.tried(case, check_levels, file, counts[0], self.labels)
            self.measure(case, mask, *counts)

    def measure(self, case: Case, mask: Volume, levels: Counter[int], by_column: np.ndarray) -> None:
        self.levels.update(levels.keys())
        if len(levels) > MANY:
            self.ids["many"][case.id] = None
        voxels = int(by_column.sum())
        if voxels in (0, mask.stored.size):
            self.ids["full" if voxels else "empty"][case.id] = None
        if not mask.grid.is_identity:
            self.millilitres.append(voxels * abs(float(np.linalg.det(mask.grid.affine[:3, :3]))) / 1000)
        if self.labels is not None:
            held = (name for name, given in self.labels.items() if any(value in levels for value in values_of(given)))
            self.classes.update(held)
            return
        if len(levels) > 2:
            self.mask_notes["labels above 0 taken together"] += 1
        half = len(by_column) // 2
        left, right = (int(side.sum()) for side in (by_column[:half], by_column[len(by_column) - half :]))
        if left + right:  # a middle column is on neither side
            self.left[id(case)] = left / (left + right)

    def report(self, cases: list[Case], found: Found) -> None:
        """``cases``: those that were handed over."""
        found.faults += self.faults
        facts = found.facts
        facts["volumes read"] = dict(self.modalities)
        for modality in sorted({name for case in cases for name in case.images}):
            lacking = [case.id for case in cases if modality not in case.images]
            if lacking:
                facts[f"cases without {column(modality)}"] = some(lacking)
        if self.unreadable:
            facts["files not readable"] = facts.get("files not readable", 0) + self.unreadable
        self.geometry(facts)
        if self.modality_notes:
            facts["one volume as two modalities, by modality_note"] = dict(self.modality_notes.most_common())
        facts["3-D masks read"] = self.labelled
        facts["cases without a mask"] = facts.get("cases without a mask", 0) + sum(c.mask is None for c in cases)
        if self.unchecked:
            facts["3-D masks not checked, their image not being readable"] = self.unchecked
        if self.labelled:
            self.labelling(facts)
        held = {level: count for level, count in sorted(self.levels.items()) if level > 0}
        rare = [f"{level} in {n}" for level, n in held.items() if n <= RARE * self.labelled < max(held.values())]
        if self.labels is None and rare:
            found.warnings.append(
                f"labels that few of the {self.labelled} 3-D masks hold: {name_list(rare)}; correct them if they are "
                "strays (--label background=0 --label NAME=VALUE says which values may be)."
            )
        found.warnings += [WARNINGS[what].format(some(list(ids))) for what, ids in self.ids.items() if ids]

    def geometry(self, facts: dict[str, Any]) -> None:
        for axis, name in enumerate(("slices", "rows", "columns") if self.shapes else ()):
            facts[f"{name} (min median max)"] = spread_of(np.array(self.shapes)[:, axis], "g")
        for axis, name in enumerate(("slices", "rows", "columns") if self.spacings else ()):
            facts[f"mm between {name} (min median max)"] = spread_of(np.array(self.spacings)[:, axis], ".3g")
        if self.shapes:
            facts["orientations"] = dict(self.orientations.most_common())
            facts["volumes without geometry"] = len(self.shapes) - len(self.spacings)
            facts["notes on volumes"] = dict(self.notes.most_common())

    def labelling(self, facts: dict[str, Any]) -> None:
        facts["notes on 3-D masks"] = dict(self.mask_notes.most_common())
        if self.millilitres:
            facts["3-D mask, ml (min median max)"] = spread_of(np.array(self.millilitres), ",.2f")
        facts["empty 3-D masks"] = len(self.ids["empty"])
        facts["full 3-D masks"] = len(self.ids["full"])
        levels = sorted(self.levels.items())
        facts["3-D masks with label"] = {str(level): count for level, count in levels[:SHOWN]}
        if len(levels) > SHOWN:
            facts["further label values"] = len(levels) - SHOWN
        if self.labels is not None:
            facts["3-D masks with class"] = {name: self.classes[name] for name in list(self.labels)[1:]}


def column(modality: str) -> str:
    return f"image:{modality}" if modality else "image"


def content_of(file: str, volume: Volume) -> str:
    """A hash of a volume's values, '' if they are the same throughout. Raises DataError for NaN or infinite ones."""
    hasher = hashlib.blake2b(repr(volume.shape).encode(), digest_size=10)
    low, high = np.inf, -np.inf
    with sentences(file):
        for start in range(0, volume.shape[0], SLAB):
            values = volume.slab(start, start + SLAB)
            values += 0.0  # minus zero is zero
            low, high = min(low, float(values.min())), max(high, float(values.max()))
            hasher.update(np.ascontiguousarray(values).ravel().data)
    return hasher.hexdigest() if low < high else ""


# --- masks -----------------------------------------------------------------------------------------------------------


def drawn_on_image(file: str) -> bool:
    """Whether a mask has no grid of its own: a DICOM SEG, a folder of PNG slices."""
    if os.path.isdir(file):
        return any(name.lower().endswith(".png") for name in os.listdir(file))
    return file.lower().endswith((".dcm", ".dicom"))


def read_mask_volume(file: str, grid: Grid3D | None) -> Volume:
    if grid is None or not drawn_on_image(file):
        return read_volume(file)
    with sentences(file):
        values, notes = label_values(file, grid)
    return Volume(values, 1.0, 0.0, grid, notes)


def levels_of(file: str, mask: Volume, background: list[int] | None) -> tuple[Counter[int], np.ndarray]:
    """Voxels of each label value; voxels of the foreground by column (above 0, or all that is not background).

    Raises DataError for values that are no whole numbers.
    """
    levels: Counter[int] = Counter()
    by_column = np.zeros(mask.shape[2], np.int64)
    with sentences(file):
        for start in range(0, mask.shape[0], SLAB):
            values = whole_numbers(file, mask, start)
            low, high = int(values.min()), int(values.max())
            if low >= 0 and high < 2**16:
                counts = np.bincount(values.ravel())
                levels.update({int(level): int(counts[level]) for level in np.flatnonzero(counts)})
            else:
                found, counts = np.unique(values, return_counts=True)
                levels.update(dict(zip(found.tolist(), counts.tolist(), strict=True)))
            there = values > 0 if background is None else ~np.isin(values, background)
            by_column += there.sum((0, 1))
    return levels, by_column


def whole_numbers(file: str, mask: Volume, start: int) -> np.ndarray:
    """A slab of a mask as int64."""
    if mask.stored.dtype.kind != "f" and (mask.slope, mask.intercept) == (1.0, 0.0):
        return np.asarray(mask.stored[start : start + SLAB]).astype(np.int64)
    values = mask.slab(start, start + SLAB)
    whole = np.rint(values)
    if np.abs(values - whole).max() > 1e-3:
        raise DataError(f"{file}: this mask holds values that are no whole numbers; give labels, not shares.")
    return whole.astype(np.int64)


def values_of(given: Any) -> list[Any]:
    return list(given) if isinstance(given, list | tuple) else [given]


def check_scheme(labels: Mapping[str, Any]) -> None:
    values = [value for given in labels.values() for value in values_of(given)]
    if not 1 <= len(labels) <= 256 or any(not isinstance(v, int) or isinstance(v, bool) for v in values):
        raise CallError("A label table of volumes maps 1 to 256 names, each to a whole number or a list of them.")
    if len(set(values)) < len(values):
        raise CallError("Two names of the label table share one value; give each its own.")


def check_levels(file: str, levels: Counter[int], labels: Mapping[str, Any] | None) -> None:
    """Raises DataError for negative labels or, with a scheme, for those it lacks."""
    if labels is None:
        if min(levels) < 0:
            raise DataError(f"{file}: this mask holds negative values; write the background as 0.")
        return
    known = {value for given in labels.values() for value in values_of(given)}
    beyond = sorted(set(levels) - known)
    if beyond:
        table = ", ".join(f"{name} {given}" for name, given in labels.items())
        raise DataError(
            f"{file}: holds the labels {name_list(beyond)}, which the scheme ({table}) lacks; add them to data.labels."
        )
