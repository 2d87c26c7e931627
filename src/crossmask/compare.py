"""Runs against each other, case by case: paired differences with intervals, over the cases that all of them scored."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crossmask import statistics
from crossmask.comparison_text import leaks, signed, told
from crossmask.errors import CallError, name_list
from crossmask.run import Run

SCORES = ("dice_mean", "dice_pooled", "iou_mean", "iou_pooled")


def compare(
    folders: Sequence[str | Path], *, split: str = "", column: str = "dice", variant: str = "right", seed: int = 0
) -> dict[str, Any]:
    """The runs' scores over the cases that all have, and every pair's difference (later minus earlier).

    split: the part; '' the one that all runs have scored. column: of the paired differences, as
    ``statistics.paired_difference`` takes it. Raises CallError where there is nothing in common.
    """
    if len(folders) < 2:
        raise CallError("compare: give two or more run folders.")
    runs = [Run.open(folder) for folder in folders]
    part = split or common_part(runs)
    frames = {}
    for name, run in zip(titles(runs), runs, strict=True):
        cases = run.cases(part)
        cases = cases[cases.variant == variant]
        if cases.empty:
            raise CallError(f"{run.folder}: has no scores of '{variant}' on '{part}'; score that part with it.")
        frames[name] = cases
    shared = set.intersection(*(set(frame.id) for frame in frames.values()))
    if not shared:
        raise CallError(f"these runs share no case of '{part}'; compare runs that scored the same cases.")
    left_out = {name: len(frame) - len(shared) for name, frame in frames.items()}
    frames = {name: frame[frame.id.isin(shared)] for name, frame in frames.items()}
    names = list(frames)
    scores = {
        name: {k: v.to_dict() for k, v in statistics.summarise(frame, seed=seed).items() if k in SCORES}
        for name, frame in frames.items()
    }
    pairs = [
        {"first": a, "second": b}
        | statistics.paired_difference(frames[a], frames[b], column=column, seed=seed).to_dict()
        for place, a in enumerate(names)
        for b in names[place + 1 :]
    ]
    summaries = {name: run.summary(part) for name, run in zip(names, runs, strict=True)}
    learnt = {
        name: {"cases": summary["cases"], "shared": summary["groups"]["cases_whose_group_is_in_train"]}
        for name, summary in summaries.items()
    }
    return {"split": part, "variant": variant, "column": column, "cases": len(shared), "left_out": left_out,
            "learnt": learnt, "scores": scores, "differences": pairs}  # fmt: skip


def common_part(runs: Sequence[Run]) -> str:
    parts = [set(run.scored_splits()) for run in runs]
    both = set.intersection(*parts)
    if len(both) == 1:
        return both.pop()
    told = "; ".join(f"{run.name}: {name_list(sorted(p))}" for run, p in zip(runs, parts, strict=True))
    if both:
        raise CallError(f"all runs have scored {name_list(sorted(both))}; say which with --split.")
    raise CallError(f"no part was scored by all runs ({told}); score one with 'crossmask evaluate'.")


def titles(runs: Sequence[Run]) -> list[str]:
    """The folders' names, with their parents' where two are alike."""
    names = [run.name for run in runs]
    long = [f"{run.folder.resolve().parent.name}/{run.name}" for run in runs]
    found = [own if names.count(own) == 1 else whole for own, whole in zip(names, long, strict=True)]
    if len(set(found)) < len(found):
        raise CallError(f"one run stands twice: {name_list(found)}.")
    return found


def text(result: dict[str, Any]) -> str:
    """As the terminal shows it."""
    lines = [f"{result['cases']} cases of '{result['split']}' that all runs have scored ({result['variant']})"]
    for name, count in result["left_out"].items():
        if count:
            lines.append(f"{name}: {count} further cases left out")
    lines += leaks(result["learnt"])
    width = max(len(name) for name in result["scores"])
    for name, scores in result["scores"].items():
        lines.append(f"{name:{width}}  " + "  ".join(f"{k} {told(v)}" for k, v in scores.items()))
    lines.append(f"Differences in {result['column']}, case by case, 95 % intervals:")
    for pair in result["differences"]:
        lines.append(f"{pair['second']} minus {pair['first']}: {signed(pair)}")
    return "\n".join(lines)
