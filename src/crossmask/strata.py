"""Scores by kind of case: by how clear the border is, by size, by what the manifest says of a case; and how much of a
gated network's answer is the words'.

Per-case columns ``stratum:<name>`` (and ``text_share``) go into the score file, so that all else can be recomputed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from crossmask.data.cache import Store
from crossmask.data.images import read_image
from crossmask.data.loader import convention_of, pixels
from crossmask.data.manifest import Case
from crossmask.data.masks import read_mask
from crossmask.errors import CallError, name_list
from crossmask.predict import Predictor
from crossmask.progress import notice
from crossmask.rooms import near_miss
from crossmask.scoring import Ask, Chosen
from crossmask.stratified import COLUMN, MEASURED, SHARE

RING = 0.03  # of the picture's side: how far from the border a pixel counts as near it


def near_border(truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(h, w) bool -> the pixels just inside and just outside the border, each (h, w) bool."""
    reach = max(1, round(RING * float(np.sqrt(truth.size))))
    inwards = ndimage.distance_transform_edt(np.pad(truth, 1, mode="edge"))[1:-1, 1:-1]
    outwards = ndimage.distance_transform_edt(np.pad(~truth, 1, mode="edge"))[1:-1, 1:-1]
    return truth & (inwards <= reach), ~truth & (outwards <= reach)


def border_contrast(picture: np.ndarray, truth: np.ndarray) -> float:
    """How much the colour changes across the border: (C, h, w) in [0, 1] and (h, w) bool -> [0, 1]; NaN without a
    border.

    >>> border_contrast(np.ones((3, 8, 8)), np.zeros((8, 8), bool))
    nan
    """
    if truth.all() or not truth.any():
        return float("nan")
    inside, outside = near_border(truth)
    step = picture[:, inside].mean(1) - picture[:, outside].mean(1)
    return float(np.sqrt(np.square(step).mean()))


def facts(
    predictor: Predictor, chosen: Chosen, store: Store | None, right: Sequence[Ask | None]
) -> list[dict[str, Any]]:
    """The further columns of each case: the recipe's strata, and the share of the words where the network has one."""
    names = predictor.recipe.evaluate.strata
    if store is None and set(names) & set(MEASURED):
        raise CallError("evaluate.strata: border_contrast and size are for pictures; name columns of the manifest.")
    known = {column for case in chosen.cases for column in case.free} | set(MEASURED)
    for name in (n for n in names if n not in known):  # the recipe was made for other data
        notice(
            f"evaluate.strata: the manifest has no column '{name}'{near_miss(name, known)} There are: "
            f"{name_list(sorted(known), shown=20)}. Scores by '{name}' are left out"
        )
    names = [name for name in names if name in known]
    found = [stratum_columns(predictor, case, names) for case in chosen.cases]
    if store is not None and predictor.gated:
        for own, share in zip(found, text_shares(predictor, chosen, store, right), strict=True):
            own[SHARE] = round(share, 6)
    return found


def stratum_columns(predictor: Predictor, case: Case, names: Sequence[str]) -> dict[str, Any]:
    columns: dict[str, Any] = {name: case.free.get(name, "").strip() for name in names}
    if set(names) & set(MEASURED):
        truth = read_mask(str(case.mask), labels=predictor.settings.labels)[0] > 0
        if "size" in names:
            columns["size"] = round(float(truth.mean()), 6)
        if "border_contrast" in names:
            picture = read_image(next(iter(case.images.values()))).unit()
            columns["border_contrast"] = round(border_contrast(picture, truth), 6)
    return {f"{COLUMN}{name}": value for name, value in columns.items()}


def text_shares(predictor: Predictor, chosen: Chosen, store: Store, right: Sequence[Ask | None]) -> list[float]:
    """Per case the words' share of the answer (1 - alpha), mean over the pixels near the truth's border (all pixels
    where there is none), on the model's grid."""
    found: list[float] = []
    size = predictor.recipe.evaluate.batch
    for start in range(0, len(chosen.cases), size):
        rows = np.arange(start, min(start + size, len(chosen.cases)))
        some = range(int(rows[0]), int(rows[-1]) + 1)
        conventions = [convention_of(chosen.cases[i], predictor.recipe.data.sides) for i in some]
        shares = predictor.text_share(
            pixels(store.images[rows], predictor.device),
            [ask.text if (ask := right[i]) is not None else None for i in some],
            present=torch.from_numpy(store.present[rows]).to(predictor.device),
            conventions=conventions,
        )
        for i, share in zip(rows.tolist(), shares.cpu().numpy(), strict=True):
            inside, outside = near_border(np.asarray(store.masks[i]) > 0)
            ring = inside | outside
            found.append(float(share[ring].mean() if ring.any() else share.mean()))
    return found
