"""A volume's slices on the model's grid: read slab by slab, the same for the cache and for prediction."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from crossmask.data.cache import Settings, columns, in_precision
from crossmask.data.manifest import Case
from crossmask.data.volumes import Volume, check_same_grid, read_labels, read_volume
from crossmask.errors import DataError

SLAB = 16  # slices held as real values at once


def open_modalities(images: Mapping[str, str], settings: Settings, names: list[str]) -> list[Volume | None]:
    """The case's volumes in the recipe's order, None for one that is not there; all on one grid.

    images: column -> path. names: the column of each of the recipe's modalities.
    """
    volumes: list[Volume | None] = []
    first: Volume | None = None
    opened: dict[str, Volume] = {}  # one CT read through two windows is read once
    for name, column, channels in zip(settings.modalities, names, settings.modalities.values(), strict=True):
        path = images.get(column)
        if path is None:
            volumes.append(None)
            continue
        if channels != 1:
            raise DataError(f"{path}: a volume has one channel, data.modalities gives '{name}' {channels}; write 1.")
        if path not in opened:
            opened[path] = read_volume(path)
        volume = opened[path]
        if first is not None:
            check_same_grid(first.grid, volume.grid, f"modality '{name}'")
        first = first or volume
        volumes.append(volume)
    if first is None:
        raise DataError(f"none of the modalities {', '.join(settings.modalities)} is there; fill its image column.")
    return volumes


def some_volume(volumes: list[Volume | None]) -> Volume:
    return next(v for v in volumes if v is not None)


def spans(volumes: list[Volume | None], settings: Settings) -> list[tuple[float, float]]:
    """What becomes 0 and 1 in each modality."""
    return [
        v.range(settings.windows.get(name)) if v is not None else (0.0, 1.0)
        for name, v in zip(settings.modalities, volumes, strict=True)
    ]


def slabs(volumes: list[Volume | None], settings: Settings, size: int = SLAB) -> Iterator[tuple[int, np.ndarray]]:
    """(first slice, (n, M, H, W) in the store's precision) over the whole volume, on the model's grid."""
    count = some_volume(volumes).shape[0]
    ranges = spans(volumes, settings)
    for start in range(0, count, size):
        stop = min(start + size, count)
        planes = [
            settings.grid.image(v.unit(start, stop, span))
            if v is not None
            else np.zeros((stop - start, *settings.grid.size), np.float32)
            for v, span in zip(volumes, ranges, strict=True)
        ]
        yield start, in_precision(np.stack(planes, 1), settings)


def load_volume(
    case: Case, settings: Settings, images: np.ndarray, masks: np.ndarray, rows: np.ndarray
) -> dict[str, Any]:
    """Fill the rows of one volume: images (D, M, H, W), masks (D, H, W), rows (D, 3)."""
    volumes = open_modalities(case.images, settings, columns(case, settings))
    first = some_volume(volumes)
    for start, slab in slabs(volumes, settings):
        images[start : start + len(slab)] = slab
        rows[start : start + len(slab), 2] = slab.reshape(len(slab), -1).max(1) > 0
    rows[:, 1] = np.arange(len(rows))
    notes = {note for v in volumes if v is not None for note in v.notes}
    if case.mask:
        labels, more = read_labels(case.mask, first.grid, settings.labels)
        notes |= set(more)
        for place, plane in enumerate(labels):
            masks[place] = settings.grid.mask(np.ascontiguousarray(plane))
    else:
        masks[:] = 0
    if first.grid.is_identity:
        notes.add("the header gives no geometry: no scores in millimetres")
    return {
        "shape": list(first.shape),
        "present": [v is not None for v in volumes],
        "labelled": case.mask is not None,
        "spacing": None if first.grid.is_identity else list(first.grid.spacing),
        "notes": sorted(notes),
    }
