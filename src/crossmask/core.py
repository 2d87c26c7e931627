"""The nouns that travel through the house. Frozen, with the shape beside each field."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

TextOrigin = Literal["report", "metadata", "annotation", "from-mask", "unknown"]
SideConvention = Literal["image", "patient", "unknown"]
TEXT_ORIGINS: tuple[str, ...] = ("report", "metadata", "annotation", "from-mask", "unknown")
SIDE_CONVENTIONS: tuple[str, ...] = ("image", "patient", "unknown")


def rng(seed: int, *where: object) -> np.random.Generator:
    """The one door for randomness: a generator that is a function of the seed and of where it is used.

    >>> bool(rng(1, "order", 3).integers(100) == rng(1, "order", 3).integers(100))
    True
    """
    return np.random.Generator(np.random.Philox(key=number(seed, *where)))


def number(seed: int, *where: object) -> int:
    """A 63-bit number that is a function of the seed and of where it is used (for ``torch.manual_seed``)."""
    digest = hashlib.blake2b(repr((seed, *where)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


@dataclass(frozen=True)
class Geometry:
    """Where the pixels of a case lie: its source file, native grid and physical size."""

    source: str
    shape: tuple[int, ...]  # native (H, W), or a volume's file axes
    spacing_mm: tuple[float, ...] | None = None  # one per axis of shape; None: unknown
    affine: tuple[tuple[float, ...], ...] | None = None  # volumes: index in the file's axes -> RAS mm
    orientation: str | None = None  # volumes: where the file's axes point, such as 'LPS'


@dataclass(frozen=True)
class Sample:
    """One prepared case on the model's grid."""

    id: str
    group: str | None  # patient; None = unknown, never made up
    image: np.ndarray  # (C, H, W) float32 in [0, 1], the modalities' channels side by side
    present: np.ndarray  # (M,) bool
    mask: np.ndarray | None  # (H, W) uint8, labels 0..K-1; None = unlabelled
    text: str | None
    text_origin: TextOrigin = "unknown"
    side_convention: SideConvention = "unknown"
    spacing_mm: tuple[float, ...] | None = None
    source: str = ""
    slice_index: int | None = None


@dataclass(frozen=True)
class Labelled:
    """The half of a batch whose masks are known."""

    id: tuple[str, ...]
    image: Tensor  # (B, C, H, W) float in [0, 1]
    present: Tensor  # (B, M) bool
    text: Tensor  # (B, L, D)
    text_mask: Tensor  # (B, L) bool; a row all False = no sentence
    text_id: Tensor  # (B,) long; equal sentences share one, -1 = no sentence
    mask: Tensor  # (B, H, W) long


@dataclass(frozen=True)
class Unlabelled:
    """The half without masks: there is no mask field, so a hidden label cannot be read by accident."""

    id: tuple[str, ...]
    weak: Tensor  # (B, C, H, W); shares its geometry with strong
    strong: Tensor  # (B, C, H, W)
    present: Tensor  # (B, M) bool
    text: Tensor  # (B, L, D)
    text_mask: Tensor  # (B, L) bool
    text_id: Tensor  # (B,) long


@dataclass(frozen=True)
class Batch:
    labelled: Labelled
    unlabelled: Unlabelled | None = None


@dataclass(frozen=True)
class Progress:
    """Where training stands, for schedules inside a method."""

    step: int
    epoch: int
    fraction: float  # of the whole run, in [0, 1]


@dataclass(frozen=True)
class Prediction:
    """A mask on the source's own grid."""

    id: str
    mask: np.ndarray  # (H, W) uint8, labels; a volume's in its file's own axes (NIfTI: i, j, k)
    geometry: Geometry
    probability: np.ndarray | None = None  # (H, W) float32 in [0, 1] (binary) or (K, H, W); a volume's foreground
    warnings: tuple[str, ...] = field(default=())
    labels: tuple[str, ...] = ("background", "foreground")

    def save(self, path: str | Path) -> Path:
        """Write the mask as a PNG in the source's size (0/255 if binary, label values otherwise), a volume's as NIfTI
        with
        the source's affine, or as DICOM SEG where the path ends in .dcm."""
        from crossmask.data.masks import write_mask
        from crossmask.data.volumes import write_labels

        if self.mask.ndim == 3:
            return write_labels(path, self.mask, self.geometry, self.labels)
        return write_mask(path, self.mask, binary=len(self.labels) == 2)
