"""Shared by all tests: an own cache, one thread a worker, no network, a small phantom set."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

TINY = """
data: {size: 32, selection: 0.2, augment: {rotate: 5, zoom: 0.05}}
text: {encoder: tiny}
model: {network: hcfnet, encoder: tiny}
method: {name: supervised, ema: 0.9}
train: {images: 48, batch: 8, lr: 3e-3}
"""


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """No test reads or fills the user's own cache."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["CROSSMASK_CACHE"] = str(folder)
    return folder


@pytest.fixture(autouse=True)
def denormals() -> None:
    """A training that an earlier test ran flushes denormal numbers in the whole process; hypothesis refuses that."""
    import torch  # here: OMP_NUM_THREADS has to be set before

    torch.set_flush_denormal(False)


@pytest.fixture(scope="session")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The manifest of 48 phantom pictures of 64 px."""
    from crossmask.data.phantom import make

    return make(tmp_path_factory.mktemp("phantom") / "data", cases=48, size=64)


@pytest.fixture(scope="session")
def cases(phantom: Path) -> list:
    from crossmask.data import manifest

    return manifest.read(phantom)


@pytest.fixture(scope="session")
def tiny_recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(TINY, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_recipe: Path, cases: list) -> Path:
    """A finished tiny run."""
    from crossmask import recipe
    from crossmask.train import train

    return train(recipe.load(tiny_recipe), cases, tmp_path_factory.mktemp("runs") / "tiny", device="cpu").folder
