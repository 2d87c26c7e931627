"""Per-case rows: each case predicted as each variant asks, and scored on its own grid, pictures and volumes alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from crossmask import predict_volumes
from crossmask.data.cache import Store
from crossmask.data.loader import convention_of, pixels, says
from crossmask.data.manifest import Case
from crossmask.data.masks import read_mask
from crossmask.data.volumes import is_volume, read_labels
from crossmask.metrics import overlap, surface
from crossmask.predict import Predictor
from crossmask.progress import Bar

TOLERANCE_MM = 2.0  # of the normalised surface Dice


@dataclass(frozen=True)
class Ask:
    """What a case is told, and what is kept from it."""

    text: str | None = None
    without: tuple[str, ...] = ()  # modalities left out although they are there
    branch: int | None = None  # one branch's answer
    shift_mm: float = 0.0  # every modality but the first, to the patient's left: a pair that is not aligned


@dataclass(frozen=True)
class Chosen:
    """The cases to be scored, and how they were chosen."""

    cases: list[Case]
    shared: list[bool]  # whether the case's group is in train
    left_out: dict[str, int]  # reason -> cases

    @property
    def volumes(self) -> bool:
        return is_volume(next(iter(self.cases[0].images.values())))


Variants = Mapping[str, Sequence[Ask | None]]  # name -> what each case is asked; None: the variant says nothing new


def rows_of(
    predictor: Predictor, chosen: Chosen, store: Store | None, variants: Variants, bar: Bar, already: int = 0
) -> list[dict[str, Any]]:
    """One row a case and variant, in the variants' order. store: of the pictures; None for volumes. already: rows that
    the bar has counted before."""
    found: dict[str, list[Any]] = {name: [None] * len(chosen.cases) for name in variants}
    one_by_one = volumes(predictor, chosen, variants) if store is None else pictures(predictor, chosen, store, variants)
    for done, (name, i, scores) in enumerate(one_by_one, already + 1):
        case, ask = chosen.cases[i], variants[name][i]
        assert ask is not None
        found[name][i] = {
            "id": case.id,
            "group": case.group or "",
            "variant": name,
            "has_text": says(case, predictor.recipe.data.text, "as-is") is not None,
            "group_in_train": chosen.shared[i],
            "text": ask.text or "",
        } | {k: round(v, 6) if isinstance(v, float) else v for k, v in scores.items()}
        bar.update(done)
    return [row for rows in found.values() for row in rows if row is not None]


def pictures(
    predictor: Predictor, chosen: Chosen, store: Store, variants: Variants
) -> Iterator[tuple[str, int, dict[str, Any]]]:
    size = predictor.recipe.evaluate.batch
    for name, asks in variants.items():
        places = [i for i, ask in enumerate(asks) if ask is not None]
        for start in range(0, len(places), size):
            some = places[start : start + size]
            masks = predict_pictures(predictor, chosen, store, some, [asks[i] or Ask() for i in some])
            for i, mask in zip(some, masks, strict=True):
                truth = read_mask(str(chosen.cases[i].mask), labels=predictor.settings.labels)[0]
                yield name, i, scores_of(predictor, mask, truth)


def predict_pictures(
    predictor: Predictor, chosen: Chosen, store: Store, places: Sequence[int], asks: Sequence[Ask]
) -> list[np.ndarray]:
    """Masks on the native grid for cases of the store; the asks share what they leave out."""
    rows = np.asarray(places)
    present = store.present[rows].copy()
    for place, modality in enumerate(predictor.settings.modalities):
        present[:, place] &= modality not in asks[0].without
    conventions = [convention_of(chosen.cases[i], predictor.recipe.data.sides) for i in places]
    shares = predictor.shares(
        pixels(store.images[rows], predictor.device),
        [ask.text for ask in asks],
        present=torch.from_numpy(present).to(predictor.device),
        conventions=conventions,
        branch=asks[0].branch,
    )
    shapes = [(store.shapes[i][0], store.shapes[i][1]) for i in places]
    return [predictor.labels(predictor.native(s, shape)) for s, shape in zip(shares, shapes, strict=True)]


def volumes(predictor: Predictor, chosen: Chosen, variants: Variants) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Case by case, so that each file is read once; millimetres only where the header has a geometry."""
    for i, case in enumerate(chosen.cases):
        opened = predict_volumes.open_case(predictor, case.images)
        truth = read_labels(str(case.mask), opened.grid, predictor.settings.labels)[0]
        spacing = None if opened.grid.is_identity else opened.grid.spacing
        there = {n for n, v in zip(predictor.settings.modalities, opened.volumes, strict=True) if v is not None}
        for name, asks in variants.items():
            ask = asks[i]
            if ask is None or not there - set(ask.without):
                continue
            mask, _ = predict_volumes.segment(
                predictor,
                opened.shifted(ask.shift_mm),
                ask.text,
                convention_of(case, predictor.recipe.data.sides),
                without=ask.without,
                branch=ask.branch,
            )
            yield name, i, scores_of(predictor, mask, truth) | distances_of(predictor, mask, truth, spacing)


def slice_of(predictor: Predictor, case: Case, ask: Ask) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For a picture: the slice with most truth (or prediction), its first modality (1, h, w) in [0, 1], prediction
    and truth (h, w)."""
    opened = predict_volumes.open_case(predictor, case.images)
    truth = read_labels(str(case.mask), opened.grid, predictor.settings.labels)[0]
    convention = convention_of(case, predictor.recipe.data.sides)
    mask, _ = predict_volumes.segment(predictor, opened, ask.text, convention)
    place = int(((truth if truth.any() else mask) > 0).sum((1, 2)).argmax())
    shown, span = next((v, s) for v, s in zip(opened.volumes, opened.ranges, strict=True) if v is not None)
    return shown.unit(place, place + 1, span), mask[place], truth[place]


# --- scores of one case ----------------------------------------------------------------------------------------------


def scored_parts(predictor: Predictor) -> dict[str, tuple[int, ...]]:
    """What is scored: name -> labels. The regions of the recipe (unions, which may overlap), or else each class."""
    classes = predictor.settings.classes
    regions = predictor.recipe.evaluate.regions
    if not regions:
        return {name: (place + 1,) for place, name in enumerate(classes)}
    return {name: tuple(classes.index(c) + 1 for c in members) for name, members in regions.items()}


def scores_of(predictor: Predictor, mask: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    """The overlap columns: plain for one part, '<part>/dice' and their mean for several."""
    parts = scored_parts(predictor)
    if not predictor.recipe.evaluate.regions:
        return overlap.score(mask, truth, classes=predictor.settings.classes)
    each = {n: overlap.score(np.isin(mask, some), np.isin(truth, some)) for n, some in parts.items()}
    return joined(each, overlap.SCORES)


def distances_of(
    predictor: Predictor, mask: np.ndarray, truth: np.ndarray, spacing: tuple[float, ...] | None
) -> dict[str, Any]:
    """The surface columns in millimetres; none without a geometry."""
    if spacing is None:
        return {}
    each = {
        name: surface.score(np.isin(mask, some), np.isin(truth, some), spacing, tolerance_mm=TOLERANCE_MM)
        for name, some in scored_parts(predictor).items()
    }
    return joined(each, surface.SCORES)


def joined(each: Mapping[str, Mapping[str, Any]], plain: Sequence[str]) -> dict[str, Any]:
    """Columns of several parts, and the plain scores as their mean (NaN left out)."""
    if len(each) == 1:
        return dict(next(iter(each.values())))
    columns = {f"{part}/{name}": value for part, scores in each.items() for name, value in scores.items()}
    for name in plain:
        values = np.array([scores[name] for scores in each.values()], float)
        columns[name] = float(np.nanmean(values)) if not np.isnan(values).all() else float("nan")
    return columns
