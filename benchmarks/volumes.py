"""Prediction of volumes: memory and minutes, each in a process of its own.

    python benchmarks/volumes.py            # both sizes
    python benchmarks/volumes.py --side 512 --slices 600

A dual-branch run of full width is made without training (the time does not depend on the weights), two made-up int16
volumes are written as .nii.gz, and ``crossmask predict`` is run on them. Aims: 512x512x600 within 3 GiB of memory,
240x240x155 within 60 s on 2 cores.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

AIMS = {(512, 600): "memory below 3 GiB", (240, 155): "below 60 s"}


def make(folder: Path, side: int, slices: int) -> dict[str, str]:
    """Two scans of one head: noise in an ellipsoid, background exactly 0."""
    import nibabel as nib

    random = np.random.default_rng(0)
    x, y = np.meshgrid(np.linspace(-1, 1, side), np.linspace(-1, 1, side), indexing="ij")
    images = {}
    for name in ("flair", "t1ce"):
        array = np.zeros((side, side, slices), np.int16)
        for k, z in enumerate(np.linspace(-1, 1, slices)):
            inside = (x**2 + y**2) / 0.7 + z**2 < 1
            array[..., k][inside] = random.integers(100, 900, int(inside.sum()))
        path = folder / f"{name}.nii.gz"
        nib.save(nib.Nifti1Image(array, np.diag([-1.0, -1, 1, 1])), path)
        images[name] = str(path)
    return images


def untrained(folder: Path, size: int) -> Path:
    """A run folder with random weights."""
    import torch

    from crossmask import checkpoint, parts
    from crossmask import recipe as recipes
    from crossmask.run import Run

    chosen = recipes.load("semi_cml/brats", [f"data.size={size}", "train.precision=fp32"])
    run = Run(folder / "run")
    facts = {"hash": "", "native_sizes": [[1, 1], [10_000, 10_000]], "pixel_mm": None, "text_dim": None}
    run.start(chosen.to_dict(), {}, facts, {})
    torch.manual_seed(0)
    checkpoint.save_weights(run, "best", parts.method(chosen, None), {"step": 0}, None)
    return run.folder


def child(run: str, out: str, images: dict[str, str]) -> None:
    """What is measured: predict one case and write its mask."""
    from crossmask.predict import Predictor, Query
    from crossmask.predict_folder import predict_to_folder

    predictor = Predictor(run)
    began = time.perf_counter()
    rows, faults = predict_to_folder(predictor, [Query("case", images)], out)
    assert len(rows) == 1, faults
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({"seconds": time.perf_counter() - began, "gib": peak}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int)
    parser.add_argument("--slices", type=int)
    parser.add_argument("--size", type=int, default=160, help="the model's grid")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(*json.loads(given.child))
        return
    sizes = [(given.side, given.slices)] if given.side else list(AIMS)
    for side, slices in sizes:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            images = make(folder, side, slices)
            call = json.dumps([str(untrained(folder, given.size)), str(folder / "out"), images])
            told = subprocess.run([sys.executable, __file__, "--child", call], capture_output=True, text=True)
            if told.returncode:
                sys.exit(told.stderr)
            found = json.loads(told.stdout.splitlines()[-1])
        aim = AIMS.get((side, slices), "no aim")
        print(
            f"{side}x{side}x{slices}, two modalities, model at {given.size} px: {found['seconds']:.0f} s with writing, "
            f"{found['gib']:.2f} GiB at most (aim: {aim})"
        )


if __name__ == "__main__":
    main()
