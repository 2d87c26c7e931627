"""Prepared cases: decoded and resized once into memory-mapped arrays, keyed by the content of their files.

Layout of a store: ``images.npy`` (N, C, H, W) uint8 or float16, ``masks.npy`` (N, H, W) uint8, ``meta.json``. While it
is built it is called ``<key>.part`` and remembers how many rows are done, so that an interrupted build goes on.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from filelock import FileLock

from crossmask.data.grid import Grid
from crossmask.data.images import read_image
from crossmask.data.manifest import Case
from crossmask.data.masks import read_mask
from crossmask.errors import DataError, listed
from crossmask.files import digest, file_digest, read_json, sentence_for_write_errors, write_json

VERSION = 1
FLUSH_EVERY = 128
Tick = Callable[[int, int], None]


@dataclass(frozen=True)
class Settings:
    """How a case is prepared. Whatever changes a pixel stands here."""

    grid: Grid
    modalities: Mapping[str, int]  # column name -> channels, in order
    labels: Mapping[str, Any] | None = None  # name -> value in the mask files; None: binary
    precision: Literal["uint8", "float16"] = "uint8"

    @property
    def channels(self) -> tuple[int, ...]:
        return tuple(self.modalities.values())

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the foreground classes."""
        return tuple(self.labels)[1:] if self.labels else ("foreground",)


@dataclass(frozen=True)
class Store:
    """An open store; rows are in the order of ``ids``."""

    folder: Path
    ids: tuple[str, ...]
    images: np.ndarray  # (N, C, H, W), memory-mapped
    masks: np.ndarray  # (N, H, W), memory-mapped; zeros where labelled is False
    labelled: np.ndarray  # (N,) bool
    present: np.ndarray  # (N, M) bool
    shapes: tuple[tuple[int, int], ...]  # native sizes
    spacings: tuple[tuple[float, ...] | None, ...]  # read from the files' headers
    notes: Mapping[str, int]  # conversion -> cases it happened in

    @property
    def rows(self) -> dict[str, int]:
        return {case_id: row for row, case_id in enumerate(self.ids)}


def prepare(cases: Sequence[Case], settings: Settings, folder: str | Path, *, tick: Tick | None = None) -> Store:
    """The store of these cases, built if it is not there yet. Every unreadable case is named, all at once."""
    folder = Path(folder)
    faults: list[str] = []
    contents = []
    for case in cases:
        try:
            contents.append(content(case, settings))
        except OSError as error:
            faults.append(f"case '{case.id}': {error.filename}: cannot be read ({error.strerror}); correct the path.")
    if faults:
        raise DataError(listed(faults))
    key = digest(VERSION, settings.grid, dict(settings.modalities), settings.labels, settings.precision, contents)
    target = folder / key
    if not (target / "meta.json").is_file():
        with sentence_for_write_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / f"{key}.lock"):
                if not (target / "meta.json").is_file():
                    build(cases, settings, target, tick)
    return open_store(target)


def content(case: Case, settings: Settings) -> tuple[Any, ...]:
    images = [file_digest(case.images[m]) if m in case.images else "" for m in columns(case, settings)]
    return case.id, tuple(images), file_digest(case.mask) if case.mask else ""


def columns(case: Case, settings: Settings) -> list[str]:
    """The recipe's modality names as this case's columns: 'image' is the plain column."""
    return ["" if name == "image" and "image" not in case.images else name for name in settings.modalities]


def build(cases: Sequence[Case], settings: Settings, target: Path, tick: Tick | None) -> None:
    part = target.with_name(target.name + ".part")
    shape = (len(cases), sum(settings.channels), *settings.grid.size)
    progress = part / "progress.json"
    done: dict[str, Any] = read_json(progress) if progress.is_file() else {}
    if done.get("shape") != list(shape):
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        done = {"shape": list(shape), "rows": 0, "facts": [], "faults": []}
    mode = "r+" if done["rows"] else "w+"
    kind = np.uint8 if settings.precision == "uint8" else np.float16
    images = np.lib.format.open_memmap(part / "images.npy", mode=mode, dtype=kind, shape=shape)
    masks = np.lib.format.open_memmap(part / "masks.npy", mode=mode, dtype=np.uint8, shape=(shape[0], *shape[2:]))
    for row in range(done["rows"], len(cases)):
        try:
            images[row], masks[row], facts = load(cases[row], settings)
            done["facts"].append(facts)
        except DataError as error:
            done["faults"].append(f"case '{cases[row].id}': {error}")
            done["facts"].append({})
        if (row + 1) % FLUSH_EVERY == 0:
            images.flush()
            masks.flush()
            done["rows"] = row + 1
            write_json(progress, done)
        if tick:
            tick(row + 1, len(cases))
    images.flush()
    masks.flush()
    if done["faults"]:
        shutil.rmtree(part, ignore_errors=True)
        raise DataError(listed(done["faults"]))
    progress.unlink(missing_ok=True)
    write_json(part / "meta.json", {"ids": [c.id for c in cases], "facts": done["facts"]})
    part.rename(target)


def load(case: Case, settings: Settings) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """One case on the grid: image (C, H, W) in the store's precision, mask (H, W), and what was noticed."""
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
    stored = np.round(image * 255).clip(0, 255).astype(np.uint8) if settings.precision == "uint8" else image
    facts = {"shape": list(native), "present": present, "labelled": case.mask is not None}
    return stored, mask, facts | {"spacing": spacing, "notes": sorted(notes)}


def open_store(folder: Path) -> Store:
    meta = read_json(folder / "meta.json")
    facts = meta["facts"]
    return Store(
        folder=folder,
        ids=tuple(meta["ids"]),
        images=np.load(folder / "images.npy", mmap_mode="r"),
        masks=np.load(folder / "masks.npy", mmap_mode="r"),
        labelled=np.array([f["labelled"] for f in facts], bool),
        present=np.array([f["present"] for f in facts], bool),
        shapes=tuple((f["shape"][0], f["shape"][1]) for f in facts),
        spacings=tuple(tuple(f["spacing"]) if f["spacing"] else None for f in facts),
        notes=Counter(note for f in facts for note in f["notes"]),
    )
