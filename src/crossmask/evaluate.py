"""Scores of a run on a part of a manifest: both families, native grid, intervals, and whether the words are used.

Every case is predicted with its own sentence (``right``), with none (``none``), with another case's (``other``) and
with left and right exchanged (``swapped``). Per-case counts go into ``scores/<split>.csv``; all else follows from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from crossmask import statistics
from crossmask.core import rng
from crossmask.data import manifest as manifests
from crossmask.data import sides
from crossmask.data.cache import Store, prepare
from crossmask.data.images import overlay, read_image, write_picture
from crossmask.data.loader import convention_of, pixels, says
from crossmask.data.manifest import Case
from crossmask.data.masks import read_mask
from crossmask.data.split import SELECTION, UNUSED
from crossmask.errors import CallError, DataError, name_list
from crossmask.files import cache_folder, read_json
from crossmask.metrics import overlap
from crossmask.predict import Predictor
from crossmask.progress import Bar, notice
from crossmask.rooms import near_miss

VARIANTS = ("right", "none", "other", "swapped")
EXAMPLES = 3  # pictures each of the best, the median and the worst


@dataclass(frozen=True)
class Chosen:
    """The cases to be scored, and how they were chosen."""

    cases: list[Case]
    shared: list[bool]  # whether the case's group is in train
    left_out: dict[str, int]  # reason -> cases


def evaluate(
    predictor: Predictor, cases: Sequence[Case], split: str, *, text_variants: Sequence[str] = (), seed: int = 0
) -> dict[str, Any]:
    """Score ``split`` into the run folder and return the summary.

    text_variants: further ``text:<wording>`` columns to score as named variants.
    """
    chosen = choose(predictor, cases, split)
    sentences = variant_sentences(predictor, chosen.cases, text_variants, seed)
    with Bar("preparing images") as bar:
        store = prepare(chosen.cases, predictor.settings, cache_folder() / "images", tick=bar.tick)
    predictor.learn([s for row in sentences.values() for s in row if s is not SKIP], keep=True)
    rows: list[dict[str, Any]] = []
    total = sum(sum(s is not SKIP for s in row) for row in sentences.values())
    with Bar("scoring", total=total) as bar:
        for name, row in sentences.items():
            rows += score_variant(predictor, chosen, store, name, row, bar, len(rows))
    summary = summarise(predictor, chosen, rows, split, seed)
    summary["manifest"] = {"hash": manifests.fingerprint(cases), "trained_on": predictor.manifest["hash"]}
    summary["examples"] = examples(predictor, chosen, store, rows, split)
    predictor.run.write_scores(split, rows, summary)
    return summary


def choose(predictor: Predictor, cases: Sequence[Case], split: str) -> Chosen:
    """Labelled cases of the part: as frozen in the run, or, for cases it does not know, by the manifest's column."""
    frozen = predictor.run.parts()
    column = predictor.recipe.data.split

    def part(case: Case) -> str:
        return frozen.get(case.id) or case.splits.get(column) or case.splits.get("", UNUSED)

    wanted = [c for c in cases if split == "all" or part(c) == split]
    if not wanted:
        known = sorted({part(c) for c in cases})
        raise CallError(
            f"--split {split}: no case is in that part{near_miss(split, known)} There are: {name_list(known)}."
        )
    learnt_cases = {c.id for c in cases if frozen.get(c.id) in ("train", SELECTION)}
    learnt = {c.group for c in cases if c.group and c.id in learnt_cases}
    labelled = [c for c in wanted if c.mask]
    if not labelled:
        raise DataError(f"none of the {len(wanted)} cases of '{split}' has a mask; there is nothing to score against.")
    left_out = {"without mask": len(wanted) - len(labelled)} if len(wanted) > len(labelled) else {}
    if split in ("train", SELECTION, "all") and any(c.id in learnt_cases for c in labelled):
        notice(f"'{split}' holds cases that the run learnt from; this is no test score")
    return Chosen(labelled, [c.group in learnt if c.group else False for c in labelled], left_out)


class _Skip:
    """Stands for: this case has no such variant."""


SKIP = _Skip()
Said = str | None | _Skip


def variant_sentences(
    predictor: Predictor, cases: Sequence[Case], more: Sequence[str], seed: int
) -> dict[str, list[Any]]:
    """What each case is told under each variant; SKIP where the variant says nothing new."""
    if predictor.encoder is None:
        return {"right": [None] * len(cases)}
    data = predictor.recipe.data
    right = [says(c, data.text, data.sides) for c in cases]
    found: dict[str, list[Any]] = {"right": list(right), "none": [SKIP if s is None else None for s in right]}
    found["other"] = others(cases, right, seed)
    found["swapped"] = [SKIP if s is None or not sides.names_side(s) else sides.swap_sides(s) for s in right]
    for wording in more:
        told = [says(c, wording, data.sides) for c in cases]
        if all(t is None for t in told):
            raise CallError(f"--variant {wording}: no case of the part has a sentence in 'text:{wording}'.")
        found[wording] = [SKIP if t is None else t for t in told]
    return {name: row for name, row in found.items() if any(s is not SKIP for s in row)}


def others(cases: Sequence[Case], right: Sequence[str | None], seed: int) -> list[Any]:
    """For each case a sentence of another case that says something else: another ``meaning`` where the manifest has
    that column (cases of equal meaning say the same in other words), another wording otherwise."""
    meaning = [c.free.get("meaning") or s for c, s in zip(cases, right, strict=True)]
    told = [i for i, s in enumerate(right) if s is not None]
    found: list[Any] = [SKIP] * len(cases)
    order = rng(seed, "other sentence").permutation(told).tolist()
    for place, i in enumerate(order):
        for step in range(1, len(order)):
            j = order[(place + step) % len(order)]
            if meaning[j] != meaning[i] and right[j] != right[i]:
                found[i] = right[j]
                break
    return found


def score_variant(
    predictor: Predictor, chosen: Chosen, store: Store, name: str, told: Sequence[Any], bar: Bar, done: int
) -> list[dict[str, Any]]:
    """Per-case rows of one variant."""
    rows = []
    places = [i for i, s in enumerate(told) if s is not SKIP]
    size = predictor.recipe.evaluate.batch
    for start in range(0, len(places), size):
        some = places[start : start + size]
        masks = predict_rows(predictor, chosen, store, some, [told[i] for i in some])
        for i, mask in zip(some, masks, strict=True):
            case = chosen.cases[i]
            truth = read_mask(str(case.mask), labels=predictor.settings.labels)[0]
            scores = overlap.score(mask, truth, store.spacings[i], classes=predictor.settings.classes)
            rows.append(
                {
                    "id": case.id,
                    "group": case.group or "",
                    "variant": name,
                    "has_text": says(case, predictor.recipe.data.text, "as-is") is not None,
                    "group_in_train": chosen.shared[i],
                    "text": told[i] or "",
                }
                | {k: round(v, 6) if isinstance(v, float) else v for k, v in scores.items()}
            )
        bar.update(done + len(rows))
    return rows


def predict_rows(
    predictor: Predictor, chosen: Chosen, store: Store, places: Sequence[int], told: Sequence[str | None]
) -> list[np.ndarray]:
    """Masks on the native grid for rows of the store."""
    rows = np.asarray(places)
    image = pixels(store.images[rows], predictor.device)
    present = torch.from_numpy(store.present[rows]).to(predictor.device)
    conventions = [convention_of(chosen.cases[i], predictor.recipe.data.sides) for i in places]
    shares = predictor.shares(image, told, present=present, conventions=conventions)
    return [predictor.labels(predictor.native(s, store.shapes[i])) for s, i in zip(shares, places, strict=True)]


def summarise(
    predictor: Predictor, chosen: Chosen, rows: Sequence[dict[str, Any]], split: str, seed: int
) -> dict[str, Any]:
    """Both families with intervals for every variant; the headline is the right sentence over cases that have one."""
    import pandas as pd

    table = pd.DataFrame(rows)
    reads = predictor.encoder is not None
    told = table[table.has_text] if reads and table.has_text.any() else table

    def estimates(frame: Any) -> dict[str, Any]:
        found = statistics.summarise(frame, seed=seed)
        return {name: value.to_dict() for name, value in found.items()} | {"cases": len(frame)}

    right = told[told.variant == "right"]
    headline = estimates(right)
    summary: dict[str, Any] = {
        "split": split,
        "run": predictor.run.name,
        "checkpoint": "best",
        "threshold": predictor.threshold,
        "grid": "native",
        **{k: headline[k] for k in ("dice_pooled", "dice_mean", "iou_pooled", "iou_mean", "cases")},
        "left_out": chosen.left_out,
        "groups": {
            "cases_without_group": sum(c.group is None for c in chosen.cases),
            "cases_whose_group_is_in_train": sum(chosen.shared),
            "groups_in_train": len({c.group for c, s in zip(chosen.cases, chosen.shared, strict=True) if s}),
        },
        "variants": {"right": headline},
        "text_use": {},
    }
    for name in dict.fromkeys(told.variant):
        if name != "right":
            frame = told[told.variant == name]
            summary["variants"][name] = estimates(frame)
            same = right[right.id.isin(frame.id)]
            summary["text_use"][name] = {
                "dice_mean": statistics.paired_difference(frame, same, column="dice", seed=seed).to_dict(),
                "dice_pooled": statistics.paired_difference(frame, same, column="dice_pooled", seed=seed).to_dict(),
                "cases": len(frame),
            }
    disjoint = right[~right.group_in_train & (right.group != "")]
    if len(disjoint) and len(disjoint) < len(right):
        summary["disjoint"] = estimates(disjoint) | {"meaning": "cases with a known group that is not in train"}
    silent = table[(~table.has_text) & (table.variant == "right")]
    if reads and len(silent):
        summary["without_text"] = estimates(silent)
    path = predictor.run.folder / "selection.json"
    summary["selection"] = read_json(path) if path.is_file() else None
    summary["training"] = training(predictor)
    return summary


def training(predictor: Predictor) -> dict[str, Any]:
    """What was trained, on what, for how long: what a table row says of a run."""
    recipe, run = predictor.recipe, predictor.run
    last = (run.entries("step") or [{}])[-1]
    environment = run.environment()
    return {
        "network": recipe.model["network"],
        "encoder": recipe.model.get("encoder"),
        "text": recipe.text["encoder"] if predictor.encoder is not None else None,
        "wording": recipe.data.text,
        "split": recipe.data.split,
        "size": list(recipe.data.grid_size),
        "parameters": sum(p.numel() for p in predictor.method.network.parameters()),
        "images": last.get("images", 0),
        "minutes": round(last.get("seconds", 0.0) / 60, 1),
        "device": environment.get("device"),
        "threads": environment.get("threads"),
    }


def examples(
    predictor: Predictor, chosen: Chosen, store: Store, rows: Sequence[dict[str, Any]], split: str
) -> list[dict[str, Any]]:
    """Overlays of the best, median and worst cases, written beside the scores."""
    right = sorted((r for r in rows if r["variant"] == "right"), key=lambda r: (-r["dice"], r["id"]))
    middle = max(0, len(right) // 2 - EXAMPLES // 2)
    picks = {"best": right[:EXAMPLES], "median": right[middle : middle + EXAMPLES], "worst": right[::-1][:EXAMPLES]}
    place = {c.id: i for i, c in enumerate(chosen.cases)}
    found, seen = [], set()
    for kind, some in picks.items():
        for rank, row in enumerate(r for r in some if r["id"] not in seen):
            seen.add(row["id"])
            i = place[row["id"]]
            case = chosen.cases[i]
            mask = predict_rows(predictor, chosen, store, [i], [row["text"] or None])[0]
            truth = read_mask(str(case.mask), labels=predictor.settings.labels)[0]
            picture = read_image(next(iter(case.images.values()))).unit()
            file = f"{split}/{kind}-{rank + 1}.png"
            write_picture(predictor.run.folder / "scores" / file, overlay(picture, mask, truth))
            found.append({"kind": kind, "file": file, "id": case.id, "dice": row["dice"], "text": row["text"]})
    return found
