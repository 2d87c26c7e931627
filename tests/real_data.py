"""Real pictures and volumes, where CROSSMASK_DATA names their folder; tests that read them are skipped without."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def real(*where: str) -> Path:
    root = os.environ.get("CROSSMASK_DATA")
    if not root:
        pytest.skip(f"CROSSMASK_DATA is not set: {'/'.join(where)} is not read")
    path = Path(root).joinpath(*where)
    if not path.exists():
        pytest.skip(f"{'/'.join(where)} is not there")
    return path
