"""Scores of a run on a part of a manifest: both families, native grid, intervals, and whether words and modalities
are used.

Every case is predicted with its own sentence (``right``), with none (``none``), with another case's (``other``) and
with left and right exchanged (``swapped``); where there are several modalities, with every subset of them; and with the
last iterate beside the chosen one. Per-case counts go into ``scores/<split>.csv``; all else follows from it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

from crossmask import gates, scoring, statistics, strata, stratified
from crossmask.core import rng
from crossmask.data import manifest as manifests
from crossmask.data import sides
from crossmask.data.cache import Store, prepare_readable
from crossmask.data.images import overlay, read_image, write_picture
from crossmask.data.loader import says
from crossmask.data.manifest import Case
from crossmask.data.masks import read_mask
from crossmask.data.split import LEARNT, UNUSED
from crossmask.data.volumes import is_volume
from crossmask.errors import CallError, DataError, name_list
from crossmask.files import cache_folder, read_json
from crossmask.metrics import surface
from crossmask.predict import Predictor
from crossmask.progress import Bar, notice
from crossmask.rooms import near_miss
from crossmask.scoring import Ask, Chosen

VARIANTS = ("right", "none", "other", "swapped")
EXAMPLES = 3  # pictures each of the best, the median and the worst
SUBSETS = "modalities: "  # how a variant with some modalities alone is called
BRANCH = "branch: "  # and one that is a single branch's answer
SHIFT = "shift: "  # and one whose modalities do not lie on each other
LAST = "last"  # the last iterate's answer


def evaluate(
    predictor: Predictor,
    cases: Sequence[Case],
    split: str,
    *,
    text_variants: Sequence[str] = (),
    subsets: bool = True,
    shifts: Sequence[float] = (),
    seed: int = 0,
) -> dict[str, Any]:
    """Score ``split`` into the run folder and return the summary.

    text_variants: further ``text:<wording>`` columns to score as named variants. subsets: also every subset of several
    modalities, and each branch alone. shifts: mm by which every modality but the first is moved (volumes).

    A case that cannot be read is left out, counted, and named in the summary's ``faults``; the others are scored.
    """
    chosen, store = prepared(predictor, choose(predictor, cases, split))
    variants = told(predictor, chosen.cases, text_variants, seed)
    if subsets:
        variants |= modality_variants(predictor, variants["right"])
    if shifts and not chosen.volumes:
        raise CallError("shifts are for volumes of several modalities; these cases are pictures.")
    variants |= {f"{SHIFT}{mm:g} mm": [a and Ask(a.text, shift_mm=mm) for a in variants["right"]] for mm in shifts}
    predictor.learn([ask.text for row in variants.values() for ask in row if ask is not None], keep=True)
    chosen = replace(chosen, facts=strata.facts(predictor, chosen, store, variants["right"]))
    last = last_iterate(predictor)
    total = sum(sum(ask is not None for ask in row) for row in variants.values())
    with Bar("scoring", total=total + (len(chosen.cases) if last else 0)) as bar:
        rows = scoring.rows_of(predictor, chosen, store, variants, bar)
        if last is not None:
            rows += scoring.rows_of(last, chosen, store, {LAST: variants["right"]}, bar, len(rows))
    if chosen.volumes:
        chosen = chosen.without(chosen.faults)
    summary = summarise(predictor, chosen, rows, split, seed)
    summary["manifest"] = {"hash": manifests.fingerprint(cases), "trained_on": predictor.manifest["hash"]}
    summary["manifest"]["read"] = manifests.fingerprint(cases, [*predictor.recipe.wordings, *text_variants])
    summary["asked"] = asked(text_variants, subsets, shifts, seed)
    summary["gate"] = []
    if store is not None and predictor.gated:
        summary["gate"] = gates.pictures(predictor, chosen, store, rows, split)
    summary["examples"] = examples(predictor, chosen, store, rows, split)
    predictor.run.write_scores(split, rows, summary)
    return summary


def asked(
    text_variants: Sequence[str] = (), subsets: bool = True, shifts: Sequence[float] = (), seed: int = 0
) -> dict[str, Any]:
    """What a call of ``evaluate`` asked for, as the summary keeps it."""
    return {
        "text_variants": list(text_variants),
        "subsets": subsets,
        "shifts": [float(mm) for mm in shifts],
        "seed": seed,
    }


def prepared(predictor: Predictor, chosen: Chosen) -> tuple[Chosen, Store | None]:
    """The pictures on the model's grid, and the cases that could be brought there. Volumes are read when their turn
    comes."""
    if chosen.volumes:
        return chosen, None
    with Bar("preparing images") as bar:
        store, faults = prepare_readable(chosen.cases, predictor.settings, cache_folder() / "images", tick=bar.tick)
    return chosen.without(faults), store


def last_iterate(predictor: Predictor) -> Predictor | None:
    """The run with its last weights; None where those are the chosen ones."""
    chosen, last = (predictor.run.step_of(which) for which in ("best", "last"))
    if last is None or chosen == last:
        return None
    return Predictor(predictor.run, checkpoint="last", device=str(predictor.device))


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
    learnt_cases = {c.id for c in cases if frozen.get(c.id) in LEARNT}
    learnt = {c.group for c in cases if c.group and c.id in learnt_cases}
    labelled = [c for c in wanted if c.mask]
    if not labelled:
        raise DataError(f"none of the {len(wanted)} cases of '{split}' has a mask; there is nothing to score against.")
    left_out = {"without mask": len(wanted) - len(labelled)} if len(wanted) > len(labelled) else {}
    if len({is_volume(next(iter(c.images.values()))) for c in labelled}) > 1:
        raise DataError(f"'{split}' mixes pictures and volumes; write them into two parts and score each.")
    if split in (*LEARNT, "all") and any(c.id in learnt_cases for c in labelled):
        notice(f"'{split}' holds cases that the run learnt from; this is no test score")
    return Chosen(labelled, [c.group in learnt if c.group else False for c in labelled], left_out)


def told(predictor: Predictor, cases: Sequence[Case], more: Sequence[str], seed: int) -> dict[str, list[Ask | None]]:
    """What each case is told under each variant; None where the variant says nothing new."""
    if predictor.encoder is None:
        return {"right": [Ask()] * len(cases)}
    data = predictor.recipe.data
    right = [says(c, data.text, data.sides) for c in cases]
    found: dict[str, list[Ask | None]] = {"right": [Ask(s) for s in right]}
    found["none"] = [None if s is None else Ask() for s in right]
    found["other"] = [None if s is None else Ask(s) for s in others(cases, right, seed, data.text or "")]
    found["swapped"] = [None if s is None or not sides.names_side(s) else Ask(sides.swap_sides(s)) for s in right]
    for wording in more:
        row = [says(c, wording, data.sides) for c in cases]
        if all(t is None for t in row):
            raise CallError(f"--variant {wording}: no case of the part has a sentence in 'text:{wording}'.")
        found[wording] = [None if t is None else Ask(t) for t in row]
    return {name: row for name, row in found.items() if any(ask is not None for ask in row)}


def others(cases: Sequence[Case], right: Sequence[str | None], seed: int, wording: str = "") -> list[str | None]:
    """For each case a sentence of another case that says something else: another ``meaning:<wording>`` or ``meaning``
    where the manifest has that column (cases of equal meaning say the same in other words), another text otherwise."""
    meaning = [
        c.free.get(f"meaning:{wording}") or c.free.get("meaning") or s for c, s in zip(cases, right, strict=True)
    ]
    with_text = [i for i, s in enumerate(right) if s is not None]
    found: list[str | None] = [None] * len(cases)
    order = rng(seed, "other sentence").permutation(with_text).tolist()
    for place, i in enumerate(order):
        for step in range(1, len(order)):
            j = order[(place + step) % len(order)]
            if meaning[j] != meaning[i] and right[j] != right[i]:
                found[i] = right[j]
                break
    return found


def modality_variants(predictor: Predictor, right: Sequence[Ask | None]) -> dict[str, list[Ask | None]]:
    """Every proper subset of the modalities, and each branch's own answer where the network has branches."""
    names = list(predictor.settings.modalities)
    found: dict[str, list[Ask | None]] = {}
    for size in range(len(names) - 1, 0, -1):
        for kept in combinations(names, size):
            without = tuple(n for n in names if n not in kept)
            found[SUBSETS + " + ".join(kept)] = [a and Ask(a.text, without) for a in right]
    if predictor.has_branches:
        for place, name in enumerate(names):
            found[BRANCH + name] = [a and Ask(a.text, branch=place) for a in right]
    return found


def summarise(
    predictor: Predictor, chosen: Chosen, rows: Sequence[dict[str, Any]], split: str, seed: int
) -> dict[str, Any]:
    """Both families with intervals for every variant; the headline is the right sentence over cases that have one."""
    import pandas as pd

    table = pd.DataFrame(rows)
    reads = predictor.encoder is not None
    told = table[table.has_text] if reads and table.has_text.any() else table

    right = told[told.variant == "right"]
    everyone = table[table.variant == "right"]
    headline = estimates(right, seed)
    summary: dict[str, Any] = {
        "split": split,
        "run": predictor.run.name,
        "checkpoint": "best",
        "scored": list(scoring.scored_parts(predictor)),
        "threshold": predictor.threshold,
        "grid": "native",
        **{k: headline[k] for k in ("dice_pooled", "dice_mean", "iou_pooled", "iou_mean", "cases")},
        "sides": sides_of(predictor, chosen.cases) if reads else None,
        "left_out": chosen.left_out | ({"not readable": len(chosen.faults)} if chosen.faults else {}),
        "faults": chosen.faults,
        "groups": {
            "cases_without_group": sum(c.group is None for c in chosen.cases),
            "cases_whose_group_is_in_train": sum(chosen.shared),
            "groups_in_train": len({c.group for c, s in zip(chosen.cases, chosen.shared, strict=True) if s}),
        },
        **beside(predictor, told, right, headline, seed),
        "strata": stratified.summarise(everyone, seed=seed),
        "text_share": stratified.share_summary(right, seed=seed) if reads else None,
    }
    disjoint = right[~right.group_in_train & (right.group != "")]
    if len(disjoint) and len(disjoint) < len(right):
        summary["disjoint"] = estimates(disjoint, seed) | {"meaning": "cases with a known group that is not in train"}
    silent = table[(~table.has_text) & (table.variant == "right")]
    if reads and len(silent):
        summary["without_text"] = estimates(silent, seed)
    path = predictor.run.folder / "selection.json"
    summary["selection"] = read_json(path) if path.is_file() else None
    summary["training"] = training(predictor)
    return summary


def estimates(frame: Any, seed: int) -> dict[str, Any]:
    """Both families, shares above an IoU and distances, each with its interval."""
    found = statistics.summarise(frame, seed=seed) | statistics.hits(frame, seed=seed)
    lengths = statistics.distances(frame, surface.SCORES, seed=seed)
    return {name: value.to_dict() for name, value in found.items()} | lengths | {"cases": len(frame)}


def beside(predictor: Predictor, told: Any, right: Any, headline: dict[str, Any], seed: int) -> dict[str, Any]:
    """The other variants, by kind, each with what the right one has more on the same cases."""
    found: dict[str, Any] = {"variants": {"right": headline}, "text_use": {}, "modalities": {}, "last": None}
    for name in dict.fromkeys(told.variant):
        if name == "right":
            continue
        frame = told[told.variant == name]
        same = right[right.id.isin(frame.id)]
        gain = {
            "dice_mean": statistics.paired_difference(frame, same, column="dice", seed=seed).to_dict(),
            "dice_pooled": statistics.paired_difference(frame, same, column="dice_pooled", seed=seed).to_dict(),
            "cases": len(frame),
        }
        if name == LAST:
            step = predictor.run.step_of("last")
            found["last"] = estimates(frame, seed) | {"step": step, "chosen_minus_last": gain}
        elif name.startswith((SUBSETS, BRANCH, SHIFT)):
            found["modalities"][name] = estimates(frame, seed) | {"all_minus_this": gain}
        else:
            found["variants"][name] = estimates(frame, seed)
            found["text_use"][name] = gain
    return found


def sides_of(predictor: Predictor, cases: Sequence[Case]) -> dict[str, Any]:
    """Whose left the run reads, whose the sentences meant, and how many were turned for it."""
    data = predictor.recipe.data
    written = [says(c, data.text, "as-is") for c in cases]
    turned = [s for c, s in zip(cases, written, strict=True) if s is not None and says(c, data.text, data.sides) != s]
    naming = [c.side_convention for c, s in zip(cases, written, strict=True) if s is not None and sides.names_side(s)]
    return {"learnt": data.sides, "written": dict(Counter(naming)), "turned": len(turned)}


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
    predictor: Predictor, chosen: Chosen, store: Store | None, rows: Sequence[dict[str, Any]], split: str
) -> list[dict[str, Any]]:
    """Overlays of the best, median and worst cases, beside the scores; of a volume, its slice with most truth."""
    right = sorted((r for r in rows if r["variant"] == "right"), key=lambda r: (-r["dice"], r["id"]))
    count = min(EXAMPLES, max(1, len(right) // 3))  # so that few cases are not all called the best
    middle = (len(right) - count) // 2
    picks = {"best": right[:count], "median": right[middle : middle + count], "worst": right[::-1][:count]}
    place = {c.id: i for i, c in enumerate(chosen.cases)}
    found, seen = [], set()
    for kind, some in picks.items():
        for rank, row in enumerate(r for r in some if r["id"] not in seen):
            seen.add(row["id"])
            i = place[row["id"]]
            case, ask = chosen.cases[i], Ask(row["text"] or None)
            if store is None:
                picture, mask, truth = scoring.slice_of(predictor, case, ask)
            else:
                mask = scoring.predict_pictures(predictor, chosen, store, [i], [ask])[0]
                truth = read_mask(str(case.mask), labels=predictor.settings.labels)[0]
                picture = read_image(next(iter(case.images.values()))).unit()
            file = f"{split}/{kind}-{rank + 1}.png"
            write_picture(predictor.run.folder / "scores" / file, overlay(picture, mask, truth))
            found.append({"kind": kind, "file": file, "id": case.id, "dice": row["dice"], "text": row["text"]})
    return found
