"""A table's picture: the same cases, the truth and each network's answer side by side.

The cases are not picked by hand: they lie at even steps of the reference row's Dice, from its worst to its best.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from crossmask.data.images import overlay, read_image
from crossmask.data.loader import convention_of, says
from crossmask.data.manifest import Case
from crossmask.data.masks import read_mask
from crossmask.files import atomic
from crossmask.predict import Predictor, Query
from crossmask.run import Run
from crossmask.table import DONE, Table, run_folder

SIDE = 1.7  # inches of a cell


def draw(table: Table, cases: Sequence[Case], folder: Path, device: str = "cpu") -> Path | None:
    """Write ``TABLE.png`` from the rows' first runs; None where the table has no figure or a run is missing."""
    wanted = [next(row for row in table.rows if row.name == name) for name in table.figure.get("rows", ())]
    places = {row.name: run_folder(folder, row, row.seeds[0], row.folds[0]) for row in wanted}
    if not places or not all((place / DONE).is_file() for place in places.values()):
        return None
    scores = {name: dice_of(Run(place), table.split) for name, place in places.items()}
    reference = table.reference if table.reference in scores else wanted[0].name
    chosen = spread(scores[reference], int(table.figure.get("cases", 6)))
    by_id = {case.id: case for case in cases}
    columns = {
        "image": [shown(picture_of(by_id[i])) for i in chosen],
        "truth": [truth_of(by_id[i], places[reference]) for i in chosen],
    }
    for name, place in places.items():
        predictor = Predictor(Run(place), device=device)
        columns[name] = [answer(predictor, by_id[i]) for i in chosen]
    path = folder / f"{table.name}.png"
    with atomic(path, "wb") as stream:
        sheet(columns, scores, chosen).savefig(stream, format="png", dpi=110, metadata={"Software": None})
    return path


def dice_of(run: Run, split: str) -> dict[str, float]:
    rows = run.cases(split)
    rows = rows[rows.variant == "right"]
    return dict(zip(rows.id, rows.dice.astype(float), strict=True))


def spread(scores: Mapping[str, float], count: int) -> list[str]:
    """Ids at even steps of their score, worst first.

    >>> spread({"a": 0.9, "b": 0.1, "c": 0.5}, 2)
    ['b', 'a']
    """
    order = sorted(scores, key=lambda i: (scores[i], i))
    places = np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int)
    return [order[p] for p in places]


def short(name: str, length: int = 28) -> str:
    """A name that fits under a cell: its middle goes, as names of one data set differ at their ends."""
    kept = (length - 1) // 2
    return name if len(name) <= length else f"{name[:kept]}…{name[-kept:]}"


def picture_of(case: Case) -> np.ndarray:
    return read_image(next(iter(case.images.values()))).unit()


def shown(picture: np.ndarray) -> np.ndarray:
    """(C, h, w) in [0, 1] -> as it is, for the eye."""
    empty = np.zeros(picture.shape[-2:], np.uint8)
    return overlay(picture, empty)


def truth_of(case: Case, place: Path) -> np.ndarray:
    """The picture with the truth outlined."""
    labels = (Run(place).recipe().get("data") or {}).get("labels")
    truth = read_mask(str(case.mask), labels=labels)[0]
    return overlay(picture_of(case), np.zeros_like(truth), truth)


def answer(predictor: Predictor, case: Case) -> np.ndarray:
    """The picture with a network's prediction and the truth, the sentence given as the run reads it."""
    data = predictor.recipe.data
    query = Query(case.id, dict(case.images), says(case, data.text, data.sides), convention_of(case, data.sides))
    mask = predictor.predict_many([query])[0].mask
    return overlay(picture_of(case), mask, read_mask(str(case.mask), labels=predictor.settings.labels)[0])


def sheet(columns: Mapping[str, Sequence[np.ndarray]], scores: Mapping[str, Any], chosen: Sequence[str]) -> Any:
    """A matplotlib figure, a row a case."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(SIDE * len(columns), SIDE * 1.13 * len(chosen) + 0.3), layout="constrained")
    axes = figure.subplots(len(chosen), len(columns), squeeze=False)
    for place, (name, pictures) in enumerate(columns.items()):
        for row, (case, picture) in enumerate(zip(chosen, pictures, strict=True)):
            one = axes[row][place]
            one.imshow(picture)
            one.set_xticks([])
            one.set_yticks([])
            told = f"Dice {scores[name][case]:.3f}" if name in scores else short(case)
            one.set_xlabel(told, fontsize=7, labelpad=2)
            if row == 0:
                one.set_title(name, fontsize=8)
    return figure
