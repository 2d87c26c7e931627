"""Choosing epoch and threshold on the part of train set aside for it, never on a split that is reported."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from crossmask import checkpoint
from crossmask.data.loader import pixels
from crossmask.files import write_json
from crossmask.joined import Joined
from crossmask.predict import at_zooms, autocast
from crossmask.run import Run

THRESHOLDS = np.round(np.arange(0.2, 0.81, 0.05), 2)


@torch.inference_mode()
def counts(joined: Joined, method: Any, *, whole: bool) -> np.ndarray:
    """(T, N, K, 3) tp, fp, fn of the selection cases at each threshold (one for several classes), on the model's grid;
    a volume's slices are added up.

    whole: predict as the recipe's ``evaluate`` says (mirrored, at several sizes); otherwise each picture as it is.
    """
    method.eval()
    loader, store = joined.loader, joined.store
    size, settings = joined.recipe.evaluate.batch, joined.recipe.evaluate
    zooms = settings.zooms if whole else [1.0]
    found = []
    for start in range(0, len(joined.selection_rows), size):
        some = slice(start, start + size)
        rows = joined.selection_rows[some]
        case = store.case[rows]
        told = loader.sentences[case]
        image = pixels(store.read(rows, loader.context), loader.device)
        present = torch.from_numpy(store.present[case]).to(loader.device)

        def answer(image: Tensor, sentences: np.ndarray, present: Tensor = present) -> Tensor:
            text, text_mask, _ = loader.words.rows(sentences)
            with autocast(joined.recipe, loader.device):
                return at_zooms(lambda at: method.predict(at, text, text_mask, present), image, zooms)

        share = answer(image, told[:, 0])
        if whole and settings.mirror:
            follows = torch.from_numpy(loader.allowed[case, 1]).to(loader.device)
            turned = answer(image.flip(-1), told[:, 1]).flip(-1)
            share = torch.where(follows.view(-1, *[1] * (share.ndim - 1)), (share + turned) / 2, share)
        truth = torch.from_numpy(np.asarray(store.masks[rows])).to(loader.device)
        found.append(counts_at_thresholds(share, truth))
    firsts = np.flatnonzero(np.diff(store.case[joined.selection_rows], prepend=-1))
    return np.add.reduceat(np.concatenate(found, 1), firsts, 1)


def counts_at_thresholds(share: Tensor, truth: Tensor) -> np.ndarray:
    """share (B, H, W) binary or (B, K, H, W); truth (B, H, W) -> (T, B, K, 3)."""
    if share.ndim == 3:
        guesses = [(share > float(t))[:, None] for t in THRESHOLDS]
        truths = (truth == 1)[:, None]
    else:
        labels = torch.arange(1, share.shape[1], device=share.device).view(1, -1, 1, 1)
        guesses = [share.argmax(1, keepdim=True) == labels]
        truths = truth[:, None] == labels
    rows = []
    for guess in guesses:
        both = (guess & truths).sum((2, 3))
        rows.append(torch.stack([both, guess.sum((2, 3)) - both, truths.sum((2, 3)) - both], -1))
    return torch.stack(rows).cpu().numpy()


def best_threshold(counted: np.ndarray, by: str) -> tuple[float, dict[str, float]]:
    """The threshold with the best score, and the Dice scores there (mean over the classes).

    by: 'dice_mean', 'dice_pooled', or their mean 'dice_both' (each family alone drifts away from the other's best).
    """

    def dice(tp: np.ndarray, fp: np.ndarray, fn: np.ndarray) -> np.ndarray:
        total = 2 * tp + fp + fn
        return np.where(total == 0, 1.0, 2 * tp / np.maximum(total, 1))

    mean = dice(*np.moveaxis(counted, -1, 0)).mean((1, 2))
    pooled = dice(*np.moveaxis(counted.sum(1), -1, 0)).mean(1)
    scores = {"dice_mean": mean, "dice_pooled": pooled, "dice_both": (mean + pooled) / 2}
    place = int(scores[by].argmax())
    threshold = float(THRESHOLDS[place]) if len(mean) > 1 else 0.5
    return threshold, {name: float(values[place]) for name, values in scores.items()}


def choose_threshold(run: Run, joined: Joined, method: Any) -> None:
    """Choose the threshold of the kept weights, predicting as evaluation will, and write how all was chosen."""
    tensors, metadata = checkpoint.read(run.checkpoint("best"))
    chosen: dict[str, Any] = {
        "checkpoint_step": int(metadata["step"]),
        "cases": len(np.unique(joined.store.case[joined.selection_rows])),
    }
    chosen["threshold"] = 0.5
    if len(joined.selection_rows):
        method.load_state_dict({k.removeprefix("method."): v for k, v in tensors.items()})
        by = joined.recipe.train.select_by
        threshold, scores = best_threshold(counts(joined, method, whole=True), by)
        part = joined.recipe.data.selection
        where = (
            f"part '{part}' of the manifest" if isinstance(part, str) else "selection (set aside from train, by group)"
        )
        chosen |= {"threshold": threshold, "by": by, "keep": joined.recipe.train.keep, "part": where} | scores
    else:
        chosen |= {"by": "nothing: the last weights, threshold 0.5", "part": "none"}
    write_json(run.folder / "selection.json", chosen)
