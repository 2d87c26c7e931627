"""Prepared cases: decoded and resized once into memory-mapped arrays, keyed by the content of their files.

A picture is one row of the store, a volume one row a slice. Layout: ``images.npy`` (N, C, H, W) uint8 or float16,
``masks.npy`` (N, H, W) uint8, ``rows.npy`` (N, 3) case, slice (-1: a picture) and whether anything is to be seen,
``meta.json``. While it is built it is called ``<key>.part`` and remembers how many cases are done, so that an
interrupted build goes on.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from filelock import FileLock

from crossmask.data.grid import Grid
from crossmask.data.images import read_image
from crossmask.data.manifest import SEVERAL, Case, mask_files
from crossmask.data.masks import read_mask
from crossmask.data.volumes import is_volume, part_of, read_grid
from crossmask.errors import CallError, CasesError, DataError
from crossmask.files import digest, file_digest, read_json, sentence_for_write_errors, write_json

VERSION = 2
FLUSH_EVERY = 128  # rows
Tick = Callable[[int, int], None]


@dataclass(frozen=True)
class Settings:
    """How a case is prepared. Whatever changes a pixel stands here."""

    grid: Grid
    modalities: Mapping[str, int]  # column name -> channels, in order
    labels: Mapping[str, Any] | None = None  # name -> value in the mask files; None: binary
    precision: Literal["uint8", "float16"] = "uint8"
    windows: Mapping[str, tuple[float, float]] = field(default_factory=dict)  # volumes: real units that become 0 and 1
    context: int = 0  # volumes: slices on each side that stand beside a slice as further channels (2.5D)

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels a modality, as the network sees them."""
        return tuple(n * (2 * self.context + 1) for n in self.modalities.values())

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the foreground classes."""
        return tuple(self.labels)[1:] if self.labels else ("foreground",)


@dataclass(frozen=True)
class Store:
    """An open store; cases are in the order of ``ids``, the rows of a case stand together."""

    folder: Path
    ids: tuple[str, ...]  # of the cases
    images: np.ndarray  # (N, C, H, W), memory-mapped
    masks: np.ndarray  # (N, H, W), memory-mapped; zeros where labelled is False
    case: np.ndarray  # (N,) which case a row belongs to
    slices: np.ndarray  # (N,) which slice of its volume it is, -1: a picture
    busy: np.ndarray  # (N,) bool, whether anything is to be seen (a picture always)
    labelled: np.ndarray  # (cases,) bool
    present: np.ndarray  # (cases, M) bool
    shapes: tuple[tuple[int, ...], ...]  # native sizes, (h, w) or (d, h, w)
    spacings: tuple[tuple[float, ...] | None, ...]  # read from the files' headers
    notes: Mapping[str, int]  # conversion -> cases it happened in

    @property
    def places(self) -> dict[str, int]:
        """id -> place among the cases."""
        return {case_id: place for place, case_id in enumerate(self.ids)}

    def read(self, rows: np.ndarray, context: int = 0) -> np.ndarray:
        """(B, C * (2 * context + 1), H, W): each channel's neighbouring slices beside it, the edge slice repeated."""
        if not context:
            return self.images[rows]
        around = np.asarray(rows)[:, None] + np.arange(-context, context + 1)
        first, last = np.searchsorted(self.case, self.case[rows]), np.searchsorted(self.case, self.case[rows], "right")
        around = around.clip(first[:, None], last[:, None] - 1)
        found = self.images[around.ravel()].reshape(*around.shape, *self.images.shape[1:])
        return found.swapaxes(1, 2).reshape(len(rows), -1, *self.images.shape[2:])


def prepare(cases: Sequence[Case], settings: Settings, folder: str | Path, *, tick: Tick | None = None) -> Store:
    """The store of these cases, built if it is not there yet. Raises CasesError, which names every unreadable case."""
    folder = Path(folder)
    faults: dict[str, str] = {}
    contents = []
    for case in cases:
        try:
            contents.append(content(case, settings))
        except OSError as error:
            faults[case.id] = f"{error.filename}: cannot be read ({error.strerror}); correct the path."
    if faults:
        raise CasesError(faults)
    kind = (settings.grid, dict(settings.modalities), settings.labels, settings.precision, dict(settings.windows))
    target = folder / digest(VERSION, *kind, contents)
    if not (target / "meta.json").is_file():
        with sentence_for_write_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / f"{target.name}.lock"):
                if not (target / "meta.json").is_file():
                    build(cases, settings, target, tick)
    return open_store(target)


def prepare_readable(
    cases: Sequence[Case], settings: Settings, folder: str | Path, *, tick: Tick | None = None
) -> tuple[Store, dict[str, str]]:
    """The store of the cases that can be read, and what is wrong with the others (id -> fault). Raises CasesError where
    none can."""
    faults: dict[str, str] = {}
    while True:
        readable = [case for case in cases if case.id not in faults]
        if faults and not readable:
            raise CasesError(faults)
        try:
            return prepare(readable, settings, folder, tick=tick), faults
        except CasesError as error:
            faults |= error.faults


def content(case: Case, settings: Settings) -> tuple[Any, ...]:
    images = [fingerprint(case.images[m]) if m in case.images else "" for m in columns(case, settings)]
    return case.id, tuple(images), SEVERAL.join(fingerprint(file) for file in mask_files(case.mask))


def fingerprint(path: str) -> str:
    """What a file, a folder of slices or one volume ('#k') of a file holds."""
    file, number = part_of(path)
    if os.path.isdir(file):
        return digest(*(file_digest(entry) for entry in sorted(Path(file).iterdir()) if entry.is_file()))
    if file.lower().endswith((".mhd", ".nhdr")):  # a header; the voxels are in a file beside it
        beside = sorted(Path(file).parent.glob(f"{Path(file).stem}.*"))
        return digest(*(file_digest(entry) for entry in beside))
    return file_digest(file) + (f"#{number}" if number is not None else "")


def columns(case: Case, settings: Settings) -> list[str]:
    """The recipe's modality names as this case's columns: 'image' is the plain column."""
    return ["" if name == "image" and "image" not in case.images else name for name in settings.modalities]


def depth(case: Case, settings: Settings) -> int:
    """How many rows the case needs: its volume's slices, 1 for a picture."""
    for column in columns(case, settings):
        file = case.images.get(column)
        if file is not None:
            return read_grid(file).inner_shape[0] if is_volume(file) else 1
    return 1


def build(cases: Sequence[Case], settings: Settings, target: Path, tick: Tick | None) -> None:
    """Fill a store case by case; what a kill leaves behind is taken up again."""
    part = target.with_name(target.name + ".part")
    progress = part / "progress.json"
    done: dict[str, Any] = read_json(progress) if progress.is_file() else {}
    if done.get("cases") != len(cases):
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        counts: list[int] = []
        faults: dict[str, str] = {}
        for case in cases:
            try:
                counts.append(depth(case, settings))
            except DataError as error:
                faults[case.id] = str(error)
        if faults:
            shutil.rmtree(part, ignore_errors=True)
            raise CasesError(faults)
        done = {"cases": len(cases), "counts": counts, "done": 0, "facts": [], "faults": {}}
    starts = np.concatenate([[0], np.cumsum(done["counts"])]).astype(int)
    shape = (int(starts[-1]), sum(settings.modalities.values()), *settings.grid.size)
    mode = "r+" if done["done"] else "w+"
    kind = np.uint8 if settings.precision == "uint8" else np.float16
    images = np.lib.format.open_memmap(part / "images.npy", mode=mode, dtype=kind, shape=shape)
    masks = np.lib.format.open_memmap(part / "masks.npy", mode=mode, dtype=np.uint8, shape=(shape[0], *shape[2:]))
    rows = np.lib.format.open_memmap(part / "rows.npy", mode=mode, dtype=np.int32, shape=(shape[0], 3))
    written = 0
    for place in range(done["done"], len(cases)):
        own = slice(starts[place], starts[place + 1])
        try:
            done["facts"].append(load_into(cases[place], settings, images[own], masks[own], rows[own]))
            rows[own, 0] = place
        except DataError as error:
            done["faults"][cases[place].id] = str(error)
            done["facts"].append({})
        written += own.stop - own.start
        if written >= FLUSH_EVERY:
            for array in (images, masks, rows):
                array.flush()
            done["done"], written = place + 1, 0
            write_json(progress, done)
        if tick:
            tick(place + 1, len(cases))
    for array in (images, masks, rows):
        array.flush()
    if done["faults"]:
        shutil.rmtree(part, ignore_errors=True)
        raise CasesError(done["faults"])
    progress.unlink(missing_ok=True)
    write_json(part / "meta.json", {"ids": [c.id for c in cases], "facts": done["facts"]})
    part.rename(target)


def load_into(
    case: Case, settings: Settings, images: np.ndarray, masks: np.ndarray, rows: np.ndarray
) -> dict[str, Any]:
    """Write one case's rows and return what was noticed."""
    if any(is_volume(case.images[c]) for c in columns(case, settings) if c in case.images):
        from crossmask.data.slices import load_volume

        return load_volume(case, settings, images, masks, rows)
    images[0], masks[0], facts = load(case, settings)
    rows[0, 1:] = (-1, 1)
    return facts


def load(case: Case, settings: Settings) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """One case on the grid: image (C, H, W) in the store's precision, mask (H, W), and what was noticed."""
    if settings.context:
        raise CallError(f"data.context={settings.context} takes slices of volumes; for pictures it is 0.")
    planes, present, notes = [], [], set()
    native: tuple[int, int] | None = None
    spacing: tuple[float, ...] | None = None
    for name, column, count in zip(settings.modalities, columns(case, settings), settings.channels, strict=True):
        file = case.images.get(column)
        present.append(file is not None)
        if file is None:
            planes.append(np.zeros((count, *settings.grid.size), np.float32))
            continue
        picture = read_image(file, channels=count)
        notes |= set(picture.notes)
        size = picture.pixels.shape[-2:]
        if native is not None and size != native:
            raise DataError(
                f"{file}: modality '{name}' is {size[1]}x{size[0]} pixels, another of the case is "
                f"{native[1]}x{native[0]}; bring them to one grid."
            )
        native, spacing = (int(size[0]), int(size[1])), spacing or picture.spacing_mm
        if picture.bits > 8 and settings.precision == "uint8":
            notes.add("more than 8 bits stored as 8 (data.precision=float16 keeps more)")
        planes.append(settings.grid.image(picture.unit()))
    if native is None:
        raise DataError(f"none of the modalities {', '.join(settings.modalities)} is there; fill its image column.")
    mask = np.zeros(settings.grid.size, np.uint8)
    if case.mask:
        labels, mask_notes = read_mask(case.mask, labels=settings.labels)
        notes |= set(mask_notes)
        if labels.shape != native:
            raise DataError(
                f"{case.mask}: the mask is {labels.shape[1]}x{labels.shape[0]} pixels, its image "
                f"{native[1]}x{native[0]}; give the mask of this image in the image's size."
            )
        mask = settings.grid.mask(labels)
    image = np.concatenate(planes)
    stored = in_precision(image, settings)
    facts = {"shape": list(native), "present": present, "labelled": case.mask is not None}
    return stored, mask, facts | {"spacing": spacing, "notes": sorted(notes)}


def in_precision(image: np.ndarray, settings: Settings) -> np.ndarray:
    """Values in [0, 1] as the store keeps them."""
    return np.round(image * 255).clip(0, 255).astype(np.uint8) if settings.precision == "uint8" else image


def open_store(folder: Path) -> Store:
    meta = read_json(folder / "meta.json")
    facts = meta["facts"]
    rows = np.load(folder / "rows.npy")
    return Store(
        folder=folder,
        ids=tuple(meta["ids"]),
        images=np.load(folder / "images.npy", mmap_mode="r"),
        masks=np.load(folder / "masks.npy", mmap_mode="r"),
        case=rows[:, 0],
        slices=rows[:, 1],
        busy=rows[:, 2].astype(bool),
        labelled=np.array([f["labelled"] for f in facts], bool),
        present=np.array([f["present"] for f in facts], bool),
        shapes=tuple(tuple(f["shape"]) for f in facts),
        spacings=tuple(tuple(f["spacing"]) if f["spacing"] else None for f in facts),
        notes=Counter(note for f in facts for note in f["notes"]),
    )
