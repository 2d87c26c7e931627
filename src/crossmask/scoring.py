"""Per-case rows: each case predicted as each variant asks, and scored on its own grid, pictures and volumes alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from crossmask import predict_volumes
from crossmask.data.cache import Store
from crossmask.data.loader import convention_of, pixels, says
from crossmask.data.manifest import Case
from crossmask.data.masks import read_mask
from crossmask.data.volumes import is_volume, read_labels
from crossmask.errors import CasesError, DataError
from crossmask.metrics import overlap, surface
from crossmask.metrics._classes import over_classes
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
    faults: dict[str, str] = field(default_factory=dict)  # id -> why it could not be scored
    facts: Sequence[Mapping[str, Any]] = ()  # further columns of each case

    @property
    def volumes(self) -> bool:
        return is_volume(next(iter(self.cases[0].images.values())))

    def without(self, faults: Mapping[str, str]) -> Chosen:
        """The cases that can be scored. Raises CasesError where none is left."""
        kept = [place for place, case in enumerate(self.cases) if case.id not in faults]
        if not kept:
            raise CasesError(faults)
        return replace(
            self,
            cases=[self.cases[place] for place in kept],
            shared=[self.shared[place] for place in kept],
            facts=[self.facts[place] for place in kept] if self.facts else (),
            faults=self.faults | dict(faults),
        )


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
        found[name][i] |= chosen.facts[i] if chosen.facts else {}
        bar.update(done)
    return [row for rows in found.values() for row in rows if row is not None]


def pictures(
    predictor: Predictor, chosen: Chosen, store: Store, variants: Variants
) -> Iterator[tuple[str, int, dict[str, Any]]]:
    size = predictor.recipe.evaluate.batch
    for name, asks in variants.items():
        places = [i for i, ask in enumerate(asks) if ask is not None and answers(predictor, store.present[i], ask)]
        for start in range(0, len(places), size):
            some = places[start : start + size]
            masks = predict_pictures(predictor, chosen, store, some, [asks[i] or Ask() for i in some])
            for i, mask in zip(some, masks, strict=True):
                truth = read_mask(str(chosen.cases[i].mask), labels=predictor.settings.labels)[0]
                yield name, i, scores_of(predictor, mask, truth)


def answers(predictor: Predictor, present: Sequence[bool], ask: Ask) -> bool:
    """Whether something is left to answer from: a modality that is there, and the branch's own."""
    names = list(predictor.settings.modalities)
    there = {name for name, own in zip(names, present, strict=True) if own} - set(ask.without)
    return bool(there) if ask.branch is None else names[ask.branch] in there


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
    """Case by case, so that each file is read once; millimetres only where the header has a geometry. What cannot be
    read goes into ``chosen.faults``."""
    for i, case in enumerate(chosen.cases):
        try:
            asked = {name: asks[i] for name, asks in variants.items()}
            found = list(of_volume(predictor, case, asked))
        except DataError as error:  # a slice that cannot be used may come late
            chosen.faults[case.id] = str(error)
            continue
        yield from ((name, i, scores) for name, scores in found)


def of_volume(
    predictor: Predictor, case: Case, asked: Mapping[str, Ask | None]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """A case's scores under each variant."""
    opened = predict_volumes.open_case(predictor, case.images)
    truth = read_labels(str(case.mask), opened.grid, predictor.settings.labels)[0]
    spacing = None if opened.grid.is_identity else opened.grid.spacing
    present = [volume is not None for volume in opened.volumes]
    for name, ask in asked.items():
        if ask is None or not answers(predictor, present, ask):
            continue
        mask, _ = predict_volumes.segment(
            predictor,
            opened.shifted(ask.shift_mm),
            ask.text,
            convention_of(case, predictor.recipe.data.sides),
            without=ask.without,
            branch=ask.branch,
        )
        yield name, scores_of(predictor, mask, truth, spacing)


def slice_of(predictor: Predictor, case: Case, ask: Ask) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For a picture: the slice with most truth (or prediction), its first modality (1, h, w) in [0, 1], prediction
    and truth (h, w)."""
    opened = predict_volumes.open_case(predictor, case.images)
    truth = read_labels(str(case.mask), opened.grid, predictor.settings.labels)[0]
    convention = convention_of(case, predictor.recipe.data.sides)
    mask, _ = predict_volumes.segment(predictor, opened, ask.text, convention)
    place = predict_volumes.fullest(truth if truth.any() else mask)
    return opened.picture(place), mask[place], truth[place]


# --- scores of one case ----------------------------------------------------------------------------------------------


def scored_parts(predictor: Predictor) -> dict[str, tuple[int, ...]]:
    """What is scored: name -> labels. The regions of the recipe (unions, which may overlap), or else each class."""
    classes = predictor.settings.classes
    regions = predictor.recipe.evaluate.regions
    if not regions:
        return {name: (place + 1,) for place, name in enumerate(classes)}
    return {name: tuple(classes.index(c) + 1 for c in members) for name, members in regions.items()}


def scores_of(
    predictor: Predictor, mask: np.ndarray, truth: np.ndarray, spacing: tuple[float, ...] | None = None
) -> dict[str, Any]:
    """The overlap columns, and with a spacing the surface columns in millimetres: plain for one part, '<part>/dice' and
    their mean for several."""
    parts = {name: (np.isin(mask, some), np.isin(truth, some)) for name, some in scored_parts(predictor).items()}
    found = over_classes({name: overlap.score(*both) for name, both in parts.items()}, overlap.SCORES)
    if spacing is not None:
        each = {name: surface.score(*both, spacing, tolerance_mm=TOLERANCE_MM) for name, both in parts.items()}
        found |= over_classes(each, surface.SCORES)
    return found
