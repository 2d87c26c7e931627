"""The one way to real data: a folder below ``CROSSMASK_DATA``, or the test is skipped and says why."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def real(*where: str) -> Path:
    root = os.environ.get("CROSSMASK_DATA")
    if not root:
        pytest.skip(f"CROSSMASK_DATA is not set: {'/'.join(where)} is not read")
    path = Path(root).joinpath(*where)
    if not path.is_dir():
        pytest.skip(f"{'/'.join(where)} is not there")
    return path
