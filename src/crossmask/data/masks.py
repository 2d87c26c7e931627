"""Masks between files and arrays: binary ones and those of classes, every conversion noted by name.

The formats are those of ``images.py``. Reading never raises anything but ``DataError`` for a bad file and ``CallError``
for a bad argument.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from crossmask.data.dicom import check_values
from crossmask.data.images import LUMA, raw, sentences, write_png
from crossmask.data.manifest import mask_files
from crossmask.errors import CallError, DataError, name_list

_FEW_LEVELS = 16  # up to so many values look like class labels rather than smear


def read_mask(
    path: str | Path, *, labels: Mapping[str, int | tuple[int, int, int]] | None = None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Read a mask as (H, W) uint8 labels, with the notes of what was done. Of several files ('a.png|b.png') the union.

    Without ``labels`` the mask is binary, 0 or 1. With ``labels`` (name -> grey value, or name -> RGB
    colour) the result holds positions in that table; its first entry is the background, 0.
    Raises DataError as ``read_image`` does, for values or colours the table lacks, and for a binary mask of
    a few values that all lie on one side of half the range (most likely class labels without a table).
    """
    several = mask_files(str(path))
    if len(several) > 1:
        return _union(several, labels)
    path = Path(path)
    notes: list[str] = []
    if labels is not None:
        _check_table(labels)
    with sentences(path):
        array, palette = raw(path, notes)
        if labels is not None:
            return _classes(path, array, palette, labels), tuple(notes)
        return _binary(path, array, palette, notes).astype(np.uint8), tuple(notes)


def _union(
    files: Sequence[str], labels: Mapping[str, int | tuple[int, int, int]] | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    union, notes = read_mask(files[0], labels=labels)
    for file in files[1:]:
        mask, more = read_mask(file, labels=labels)
        notes += tuple(n for n in more if n not in notes)
        if mask.shape != union.shape:
            sizes = [f"{m.shape[1]}x{m.shape[0]}" for m in (mask, union)]
            raise DataError(f"{file}: is {sizes[0]} pixels, the mask it is united with {sizes[1]}; give one size.")
        if ((mask > 0) & (union > 0) & (mask != union)).any():
            raise DataError(f"{file}: gives pixels another class than {files[0]} does; correct one of them.")
        union = np.maximum(union, mask)
    return union, (*notes, "several masks united")


def write_mask(path: str | Path, mask: np.ndarray, *, binary: bool | None = None) -> Path:
    """Write (H, W) labels as an 8-bit PNG, complete or not at all.

    binary: 0 and 1 become 0 and 255; otherwise labels stay as they are. None: binary if only 0 and 1 occur. Raises
    CallError.
    """
    mask = np.asarray(mask)
    if mask.ndim != 2 or not mask.size or mask.dtype.kind not in "bui" or mask.min() < 0 or mask.max() > 255:
        raise CallError(f"{path}: a mask is (H, W) whole numbers in 0..255, not {mask.dtype} {mask.shape}.")
    return write_png(
        path, mask.astype(np.uint8) * np.uint8(255 if (mask.max() <= 1 if binary is None else binary) else 1)
    )


def _binary(path: Path, array: np.ndarray, palette: np.ndarray | None, notes: list[str]) -> np.ndarray:
    """(H, W) bool out of stored values."""
    check_values(path, array)
    if palette is not None:
        used = np.unique(array)
        if len(used) == 2:
            notes.append("darker of two palette colours taken as background")
            return array != used[np.argmin(palette[used] @ np.array(LUMA))]  # a tie: the lower index
        if len(used) == 1 and used[0] == 0:
            return (palette[array] > 127).any(axis=2)  # index zero alone is foreground only if it is bright
        array = palette[array]
    levels = np.unique(array)
    if levels[0] < 0:
        raise DataError(f"{path}: this mask holds negative values; write the background as 0.")
    full, few = _full_range(array), len(levels) <= 2
    if len(levels) == 1 or (few and levels[0] == 0):
        mask: Any = array > 0
        if levels[-1] not in (0, 1, full):
            notes.append(f"mask value {levels[-1]:g} taken as foreground")
    else:
        mask = array > full / 2
        notes.append("two-level mask without zero cut at half" if few else "many-valued mask cut at half")
    mask = mask.any(axis=2) if mask.ndim == 3 else mask
    lossy = path.suffix.lower() in (".jpg", ".jpeg")
    if mask.min() == mask.max() and len(levels) <= _FEW_LEVELS and not lossy and (array != array[0, 0]).any():
        raise DataError(
            f"{path}: every pixel counts as {'foreground' if mask.any() else 'background'} although the mask "
            f"holds the values {name_list(f'{v:g}' for v in levels)}; give a table of labels for them."
        )
    return mask


def _full_range(array: np.ndarray) -> float:
    """The greatest value the type holds; for floats the likeliest of 1, 255 and 65535."""
    if array.dtype == bool:
        return 1
    if array.dtype.kind in "ui":
        return int(np.iinfo(array.dtype).max)
    return next((top for top in (1, 255, 65535) if array.max() <= top), float(array.max()))


def _check_table(labels: Mapping[str, Any]) -> None:
    values = list(labels.values())
    colours = [v for v in values if isinstance(v, tuple | list) and len(v) == 3]
    whole = [v for v in values if isinstance(v, int)]
    if not 1 <= len(values) <= 256 or len(values) not in (len(colours), len(whole)):
        raise CallError("A label table maps 1 to 256 names, each to a grey value or each to an RGB colour.")
    if len({str(v) for v in map(np.ravel, values)}) < len(values):
        raise CallError("Two names of the label table share one value; give each its own.")


def _classes(path: Path, array: np.ndarray, palette: np.ndarray | None, labels: Mapping[str, Any]) -> np.ndarray:
    """(H, W) uint8 positions in the table."""
    check_values(path, array)
    wanted = np.array(list(labels.values()), dtype=np.int64)
    if array.dtype == bool:
        array = array * np.uint8(1 if 1 in wanted and wanted.ndim == 1 else 255)
    colour = palette[array] if palette is not None else array
    colour = np.stack([colour] * 3, axis=2) if colour.ndim == 2 else colour
    is_grey = (colour == colour[..., :1]).all()
    if wanted.ndim == 2:
        keys = np.array([2.0**34, 2.0**17, 1])  # one number a colour, exact up to 16 bits each
        tries, values = [colour @ keys], wanted @ keys
    else:
        # A palette image is tried by index, then by its greys; a colour image only if it is grey.
        tries, values = [array] if array.ndim == 2 else [], wanted
        tries += [colour[..., 0]] if is_grey and (palette is not None or array.ndim == 3) else []
        if not tries:
            raise DataError(f"{path}: is a colour mask but the label table gives grey values; give colours.")
    order = np.argsort(values)
    found: list[np.ndarray] = []
    for tried in tries:
        spot = order[np.searchsorted(values, tried, sorter=order).clip(0, len(values) - 1)]
        known = values[spot] == tried
        if known.all():
            return spot.astype(np.uint8)
        found.append(tried[~known])
    unknown: list[Any] = [f"{v:g}" for v in np.unique(found[0])]
    if wanted.ndim == 2:
        unknown = [tuple(map(int, c)) for c in np.unique(colour[~known], axis=0)]
    table = ", ".join(f"{name} {value}" for name, value in labels.items())
    raise DataError(
        f"{path}: holds {name_list(unknown)}, which the label table ({table}) lacks; "
        "add them to the table or correct the mask (JPEG smears labels, PNG keeps them)."
    )
