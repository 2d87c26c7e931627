"""crossmask segments medical images with everything known about them. Research use; not a medical device."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from crossmask.predict import Predictor

__version__ = "0.1.0"


def load(run: str, *, checkpoint: str = "best", device: str = "cpu") -> Predictor:
    """A trained run, ready to predict: ``crossmask.load(run).predict(image, text="...")``."""
    from crossmask.predict import Predictor

    return Predictor(run, checkpoint=checkpoint, device=device)
