"""Prediction of volumes: slabs of slices in, labels on the source's grid out, memory bounded by the slab.

What is held at once: the file's own values, ``evaluate.slab`` slices on the model's grid and, for as many, the classes'
probabilities on the native grid, and one byte a voxel of the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crossmask.data.grid import Grid
from crossmask.data.slices import open_modalities, some_volume, spans
from crossmask.data.volumes import Grid3D, Volume
from crossmask.errors import CallError

NATIVE_BYTES = 256 * 2**20  # of probabilities on the native grid at once


@dataclass(frozen=True)
class Opened3D:
    """One case's volumes in the recipe's order, None for a modality that is not there."""

    volumes: list[Volume | None]
    ranges: list[tuple[float, float]]

    @property
    def grid(self) -> Grid3D:
        return some_volume(self.volumes).grid

    @property
    def shape(self) -> tuple[int, int, int]:
        return some_volume(self.volumes).shape

    def picture(self, place: int) -> np.ndarray:
        """Slice ``place`` of the first modality that is there: (1, h, w) in [0, 1]."""
        shown, span = next((v, s) for v, s in zip(self.volumes, self.ranges, strict=True) if v is not None)
        return shown.unit(place, place + 1, span)

    def shifted(self, mm: float) -> Opened3D:
        """Every modality but the first moved ``mm`` to the patient's left (linear interpolation between voxels)."""
        if not mm:
            return self
        step = mm / self.grid.spacing[2]
        moved: list[Volume | None] = [
            v if v is None or place == 0 else replace(v, stored=along_columns(v.stored, step))
            for place, v in enumerate(self.volumes)
        ]
        return Opened3D(moved, self.ranges)

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(n for v in self.volumes if v is not None for n in v.notes))


def fullest(labels: np.ndarray) -> int:
    """The slice of (D, H, W) labels with most foreground."""
    return int((labels > 0).sum((1, 2)).argmax())


def along_columns(stored: np.ndarray, step: float) -> np.ndarray:
    """(D, H, W) moved ``step`` voxels along W; what comes in is the edge."""
    whole = int(np.floor(step))
    place = np.arange(stored.shape[2])
    near = stored[:, :, (place - whole).clip(0, place[-1])].astype(np.float32)
    far = stored[:, :, (place - whole - 1).clip(0, place[-1])].astype(np.float32)
    return near + np.float32(step - whole) * (far - near)


def open_case(predictor: Any, images: Mapping[str, str]) -> Opened3D:
    """images: modality (or '' for the plain column) -> path. Raises DataError if their grids differ."""
    settings = predictor.settings
    names = ["" if name == "image" and "image" not in images else name for name in settings.modalities]
    volumes = open_modalities(images, settings, names)
    return Opened3D(volumes, spans(volumes, settings))


def segment(
    predictor: Any,
    case: Opened3D,
    text: str | None = None,
    convention: str = "unknown",
    *,
    without: Sequence[str] = (),
    branch: int | None = None,
    probability: bool = False,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Labels (D, H, W) uint8 in canonical axes, and the foreground's probability (D, H, W) float16 if asked for.

    without: modalities to leave out although they are there. branch: one branch's answer instead of the network's.
    Slices in which no modality shows anything are background.
    """
    settings = predictor.settings
    unknown = sorted(set(without) - set(settings.modalities))
    if unknown:
        raise CallError(f"'{unknown[0]}' is no modality of this run; it has {', '.join(settings.modalities)}.")
    present = [v is not None and n not in without for n, v in zip(settings.modalities, case.volumes, strict=True)]
    depth, *plane = case.shape
    labels = np.zeros(case.shape, np.uint8)
    share = np.zeros(case.shape, np.float16) if probability else None
    size = slab_size(predictor, plane)
    grid = settings.grid if not predictor.recipe.evaluate.window else training_scale(predictor, case)
    for start in range(0, depth, size):
        stop = min(start + size, depth)
        image = slab(case, settings, grid, present, start, stop)
        busy = np.flatnonzero(image.reshape(stop - start, -1).max(1) > 0)
        if not len(busy):
            continue

        def answer(pictures: Tensor) -> Tensor:
            return predictor.shares(
                pictures,
                [text] * len(pictures),
                present=torch.tensor([present] * len(pictures), device=predictor.device),
                conventions=[convention] * len(pictures),
                branch=branch,
            )

        pictures = torch.from_numpy(image[busy])
        found = answer(pictures) if grid is settings.grid else in_windows(answer, pictures, settings.grid.size)
        native = grid.back(found, (plane[0], plane[1]))
        labels[start + busy] = as_labels(native, predictor.threshold)
        if share is not None:
            share[start + busy] = (native if native.ndim == 3 else 1 - native[:, 0]).cpu().numpy()
    return labels, share


def training_scale(predictor: Any, case: Opened3D) -> Grid:
    """The case's slices with pixels as large, in mm, as the model saw in training."""
    trained = predictor.manifest.get("pixel_mm")
    if trained is None or case.grid.is_identity:
        raise CallError(
            "evaluate.window needs the size of a pixel in mm: the training data or this volume's header give none; "
            "say evaluate.window=false."
        )
    sides = [n * s / mm for n, s, mm in zip(case.shape[1:], case.grid.spacing[1:], trained, strict=True)]
    return Grid((max(1, round(sides[0])), max(1, round(sides[1]))))


@torch.inference_mode()
def in_windows(answer: Callable[[Tensor], Tensor], pictures: Tensor, size: tuple[int, int]) -> Tensor:
    """The answer for pictures larger than the model's grid: windows that overlap by half, weighted towards their
    centres (MONAI's sliding window)."""
    try:
        from monai.inferers import sliding_window_inference
    except ImportError as error:
        raise CallError(
            "evaluate.window needs MONAI: pip install 'crossmask[monai]', or say evaluate.window=false."
        ) from error

    def with_channel(windows: Tensor) -> Tensor:
        share = answer(windows)
        return share if share.ndim == 4 else share[:, None]

    found = sliding_window_inference(pictures, size, len(pictures), with_channel, overlap=0.5, mode="gaussian")
    assert isinstance(found, Tensor)
    return found if found.shape[1] > 1 else found[:, 0]


def as_labels(native: Tensor, threshold: float) -> np.ndarray:
    """(n, h, w) or (n, K, h, w) probabilities -> (n, h, w) uint8."""
    found = native > threshold if native.ndim == 3 else native.argmax(1)
    return found.to(torch.uint8).cpu().numpy()


def slab_size(predictor: Any, plane: Sequence[int]) -> int:
    """Slices at once: the recipe's batch, fewer where their probabilities would take too much memory."""
    classes = max(1, len(predictor.settings.classes) + 1 if len(predictor.settings.classes) > 1 else 1)
    return max(1, min(predictor.recipe.evaluate.batch, NATIVE_BYTES // (4 * classes * plane[0] * plane[1])))


def slab(case: Opened3D, settings: Any, grid: Grid, present: Sequence[bool], start: int, stop: int) -> np.ndarray:
    """Slices start..stop-1 as the network sees them: (n, C, H, W) float32 in [0, 1], context slices beside each."""
    context, depth = settings.context, case.shape[0]
    first, last = max(0, start - context), min(depth, stop + context)
    wanted = (np.arange(start, stop)[:, None] + np.arange(-context, context + 1)).clip(0, depth - 1) - first
    planes = []
    for volume, span, there in zip(case.volumes, case.ranges, present, strict=True):
        if volume is None or not there:
            planes.append(np.zeros((stop - start, 2 * context + 1, *grid.size), np.float32))
            continue
        image = grid.image(volume.unit(first, last, span))
        if settings.precision == "uint8":  # exactly what the cache would have held
            image = np.round(image * 255).clip(0, 255) / np.float32(255)
        planes.append(image[wanted])
    return np.concatenate(planes, 1).astype(np.float32)
