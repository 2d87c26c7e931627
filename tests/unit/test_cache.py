"""The cache: content, resume after a kill, faults all at once, exact grids."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st
from PIL import Image

from crossmask.data.cache import Settings, prepare
from crossmask.data.grid import Grid
from crossmask.data.manifest import Case, read
from crossmask.errors import CallError, DataError

GRID = Settings(Grid((32, 32)), {"image": 1})


def test_rows_hold_what_the_files_hold(cases: list, tmp_path: Path) -> None:
    store = prepare(cases, Settings(Grid((64, 64)), {"image": 1}), tmp_path)
    place = store.places[cases[3].id]
    assert np.array_equal(store.images[place, 0], np.asarray(Image.open(cases[3].images[""]).convert("L")))
    assert store.labelled.tolist() == [c.mask is not None for c in cases]
    assert store.shapes[0] == (64, 64)


def test_second_call_reads_and_a_changed_file_is_prepared_anew(cases: list, tmp_path: Path) -> None:
    some = cases[:6]
    first = prepare(some, GRID, tmp_path / "cache")
    ticks: list[int] = []
    assert prepare(some, GRID, tmp_path / "cache", tick=lambda d, t: ticks.append(d)).folder == first.folder
    assert not ticks
    copy = tmp_path / "changed.png"
    Image.fromarray(255 - np.asarray(Image.open(some[0].images[""]))).save(copy)
    changed = [Case(some[0].id, {"": str(copy)}, mask=some[0].mask), *some[1:]]
    assert prepare(changed, GRID, tmp_path / "cache").folder != first.folder


def test_all_faults_at_once_and_nothing_left(cases: list, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(Path(cases[0].images[""]).read_bytes()[:200])
    Image.new("L", (10, 20)).save(tmp_path / "small.png")
    broken = Case("broken", {"": str(tmp_path / "broken.png")})
    unequal = Case("unequal", {"": cases[0].images[""]}, mask=str(tmp_path / "small.png"))
    with pytest.raises(DataError) as error:
        prepare([broken, *cases[:3], unequal], GRID, tmp_path / "cache")
    told = str(error.value)
    assert "'broken'" in told
    assert "broken.png" in told
    assert "10x20" in told
    assert "64x64" in told
    assert not [p for p in (tmp_path / "cache").iterdir() if p.suffix != ".lock"]


def test_slices_beside_are_for_volumes(cases: list, tmp_path: Path) -> None:
    with pytest.raises(CallError, match=r"data\.context=1 takes slices of volumes; for pictures it is 0"):
        prepare(cases[:1], replace(GRID, context=1), tmp_path)


def test_16_bits_are_counted_or_kept(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 32 * 32).reshape(32, 32).astype(np.uint16)
    Image.fromarray(ramp).save(tmp_path / "deep.png")
    case = Case("deep", {"": str(tmp_path / "deep.png")})
    assert any("more than 8 bits" in note for note in prepare([case], GRID, tmp_path / "a").notes)
    kept = prepare([case], Settings(Grid((32, 32)), {"image": 1}, precision="float16"), tmp_path / "b")
    assert len(np.unique(kept.images)) > 500


def test_a_missing_modality_is_absent_not_faked(cases: list, tmp_path: Path) -> None:
    both = Settings(Grid((32, 32)), {"t1": 1, "flair": 1})
    file = cases[0].images[""]
    store = prepare([Case("a", {"t1": file, "flair": file}), Case("b", {"flair": file})], both, tmp_path)
    assert store.present.tolist() == [[True, True], [False, True]]
    assert not store.images[1, 0].any()
    with pytest.raises(DataError, match="none of the modalities"):
        prepare([Case("c", {"ct": file})], both, tmp_path)


BUILD = """
import sys, time
from crossmask.data import cache, manifest
from crossmask.data.grid import Grid
cache.FLUSH_EVERY = 4
real = cache.load
def slow(case, settings):
    time.sleep(float(sys.argv[3]))
    return real(case, settings)
cache.load = slow
store = cache.prepare(manifest.read(sys.argv[1]), cache.Settings(Grid((32, 32)), {"image": 1}), sys.argv[2])
print(store.folder)
"""


def test_kill_in_building_then_the_same_command(phantom: Path, cases: list, tmp_path: Path) -> None:
    straight = prepare(cases, GRID, tmp_path / "straight")
    folder = tmp_path / "cache"
    call = [sys.executable, "-c", BUILD, str(phantom), str(folder)]
    process = subprocess.Popen([*call, "0.05"], stdout=subprocess.DEVNULL)
    limit = time.monotonic() + 60
    while not list(folder.glob("*.part/progress.json")) and time.monotonic() < limit:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not list(folder.glob("*/meta.json"))
    began = [p.stat().st_ino for p in folder.glob("*.part/images.npy")]
    assert began
    done = subprocess.run([*call, "0"], capture_output=True, text=True, check=True)
    built = Path(done.stdout.strip())
    assert os.stat(built / "images.npy").st_ino in began  # it went on, it did not begin anew
    for name in ("images.npy", "masks.npy", "meta.json"):
        assert (built / name).read_bytes() == (straight.folder / name).read_bytes()


@limits(max_examples=40, deadline=None)
@given(st.integers(30, 90), st.integers(30, 90), st.sampled_from(["stretch", "pad"]))
def test_a_mask_comes_back_where_it_was(height: int, width: int, fit: str) -> None:
    """Down to the grid and back: a ramp keeps its values (a shift would move them), and a big box its pixels, but for
    what a grid pixel and a native one round away."""
    grid = Grid((64, 64), fit)  # type: ignore[arg-type]
    coarse = [max(1.0, n / i) for n, i in zip((height, width), grid.inner((height, width)), strict=True)]
    ramps = np.indices((height, width)).astype(np.float32)
    inside = (slice(None), *(slice(math.ceil(2 * c), -math.ceil(2 * c)) for c in coarse))
    again = grid.back(torch.from_numpy(grid.image(ramps)), (height, width)).numpy()
    assert np.abs(again - ramps)[inside].max() < 0.1  # pixels
    truth = np.zeros((height, width), np.uint8)
    truth[height // 4 : height - 2, width // 5 : width // 2 + 3] = 1
    back = grid.back(torch.from_numpy(grid.mask(truth)).float(), (height, width)).numpy() > 0.5
    dice = 2 * (back & (truth > 0)).sum() / (back.sum() + truth.sum())
    assert dice > 0.9, dice
    for found, true, step in zip(np.nonzero(back), np.nonzero(truth), coarse, strict=True):
        assert abs(found.mean() - true.mean()) <= 0.5 * step + 0.5


def test_manifest_of_phantom_reads(phantom: Path) -> None:
    assert len(read(phantom)) == 48
