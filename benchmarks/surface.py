"""Surface scores against MONAI on the same masks: HD95 alone, and all columns of one case.

    python benchmarks/surface.py [--rounds 7]

Needs monai. Both sides in one run, in turns, single-threaded; the ratios are what counts, the times are this machine's.
Asked for are 3 times in 2D and 1.5 times in 3D. Each side gets its own form of the masks, made beforehand:
one-hot float tensors for MONAI (HD95; the symmetric mean distance; surface Dice with sub-voxel surfaces), label
arrays for us. MONAI measures the distances anew for each score; ``score`` gives all four columns at once.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy and torch are loaded

import numpy as np
import torch
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_surface_dice
from scipy import ndimage

from crossmask.metrics import surface

TOLERANCE_MM = 2.0
MM = 1e-4
PLANE, VOLUME = (1.0, 1.0), (1.5, 1.0, 0.8)

Masks = tuple[np.ndarray, np.ndarray, tuple[float, ...]]


def ellipsoid(size: int, centre: tuple[float, ...], radii: tuple[float, ...], rough: float = 0.0, seed: int = 0):
    """An ellipse or ellipsoid; ``rough`` moves its edge by that share of the radius, lobes 3 pixels wide."""
    axes = np.meshgrid(*[np.arange(size)] * len(radii), indexing="ij", sparse=True)
    out = np.sqrt(sum(((x - c) / r) ** 2 for x, c, r in zip(axes, centre, radii, strict=True)))
    if rough:
        noise = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(out.shape), 3)
        out = out + rough * noise / noise.std()
    return out < 1


def pairs() -> dict[str, Masks]:
    flat, solid = ((112, 110), (60, 40)), ((64, 64, 64), (40, 35, 30))
    left, right = ((34, 64, 64), (20, 25, 27)), ((90, 66, 68), (22, 21, 25))
    return {
        "2D 224 ellipses": (ellipsoid(224, *flat), ellipsoid(224, (114, 113), (57, 44)), PLANE),
        "2D 224 lobulated": (ellipsoid(224, *flat, 0.25, 1), ellipsoid(224, *flat, 0.25, 2), PLANE),
        "3D 128 ellipsoids": (ellipsoid(128, *solid), ellipsoid(128, (67, 62, 66), (38, 37, 31)), VOLUME),
        "3D 128 lobulated": (ellipsoid(128, *solid, 0.2, 1), ellipsoid(128, *solid, 0.2, 2), VOLUME),
        "3D 128 apart": (ellipsoid(128, *left), ellipsoid(128, *right), VOLUME),
    }


def our_hd95(masks: Masks) -> float:
    return float(max(np.percentile(d, 95) for d in surface.directed_distances(*masks)))


def our_columns(masks: Masks) -> list[float]:
    columns = surface.score(*masks, tolerance_mm=TOLERANCE_MM)
    return [columns[name] for name in ("hd95", "assd", "nsd")]


class Monai:
    """The same pair as one-hot tensors ``(1, 2, ...)``."""

    def __init__(self, masks: Masks) -> None:
        self.pair = [torch.from_numpy(np.stack([~m, m])[None].astype(np.float32)) for m in masks[:2]]
        self.spacing = masks[2]

    def hd95(self) -> float:
        return compute_hausdorff_distance(*self.pair, percentile=95, spacing=self.spacing).item()

    def columns(self) -> list[float]:
        assd = compute_average_surface_distance(*self.pair, symmetric=True, spacing=self.spacing)
        nsd = compute_surface_dice(*self.pair, [TOLERANCE_MM], spacing=self.spacing, use_subvoxels=True)
        return [self.hd95(), assd.item(), nsd.item()]


def in_turns(ours: Callable[[], object], theirs: Callable[[], object], rounds: int) -> tuple[float, float]:
    """Median ms of each, after one call to warm up."""
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(rounds + 1):
        for side, call in zip(times, (ours, theirs), strict=True):
            began = time.perf_counter()
            call()
            if turn:
                side.append(1000 * (time.perf_counter() - began))
    return statistics.median(times[0]), statistics.median(times[1])


def limits(masks: Masks) -> str:
    """What a case is made of: surface pixels, and the share of them too far off to be looked up place by place."""
    both = np.concatenate(surface.directed_distances(*masks))
    far = float(np.mean(both > surface.NEAR * min(masks[2])))
    return f"{both.size:6d} surface pixels, {far:4.0%} left to the tree"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    print(f"{'':19}{'HD95 alone, ms':>28}{'':8}{'HD95, ASSD, NSD, ms':>22}")
    print(f"{'':19}{'ours':>10}{'MONAI':>10}{'ratio':>8}{'ours':>12}{'MONAI':>10}{'ratio':>8}")
    ratios: dict[str, list[float]] = {"2D": [], "3D": []}
    for name, masks in pairs().items():
        monai = Monai(masks)
        assert np.allclose(our_columns(masks), monai.columns(), rtol=0, atol=MM), f"{name}: the two sides disagree"
        calls = rounds * (10 if masks[0].ndim == 2 else 1)
        hd95 = in_turns(partial(our_hd95, masks), monai.hd95, calls)
        every = in_turns(partial(our_columns, masks), monai.columns, calls)
        ratios[name[:2]] += [hd95[1] / hd95[0], every[1] / every[0]]
        print(
            f"{name:19}{hd95[0]:10.2f}{hd95[1]:10.2f}{hd95[1] / hd95[0]:8.1f}"
            f"{every[0]:12.2f}{every[1]:10.2f}{every[1] / every[0]:8.1f}   {limits(masks)}"
        )
    for rank, aim in (("2D", 3.0), ("3D", 1.5)):
        least = min(ratios[rank])
        answer = "met" if least >= aim else "missed"
        print(f"{rank}: at least {least:.2f} times MONAI's speed, asked for {aim}: {answer}")
    print(
        "What limits it: in 3D the tree, which is asked for the points whose distance is above "
        f"{surface.NEAR} of the smallest step\n(1 to 2 us a point, MONAI asks it for all); in 2D the calls of NumPy, "
        "some 5 us each, not the pixels."
    )


if __name__ == "__main__":
    main()
