"""How the run was trained: its curves, and what it learnt from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from crossmask.report import charts
from crossmask.report.sentences import Json, known, many, numeric
from crossmask.report.variants import FAMILIES
from crossmask.run import Run

PSEUDO = {"pseudo_kept": "share of pixels kept", "pseudo_dice": "their Dice"}
LOGGED = ("event", "step", "images", "loss", "lr", "gradient_norm", "seconds", *PSEUDO)  # no loss terms
Drawing = tuple[str, str]  # title, SVG


def curves(run: Run, recipe: Json, selection: Json | None) -> list[Drawing]:
    """Loss terms, pseudo-labels, selection Dice and learning rate over images seen."""
    steps, validations = run.entries("step"), run.entries("validation")
    a_step = sum(images_a_step(recipe))
    seen = [numeric(e.get("images")) or numeric(e.get("step")) * a_step for e in steps]
    found = []
    if steps:
        found.append(loss_chart(steps, seen))
        found += pseudo_chart(steps, seen)
    lines = {
        label: ([numeric(e.get("step")) * a_step for e in validations], column(validations, f"dice_{family}"))
        for family, label in FAMILIES.items()
        if any(known(e.get(f"dice_{family}")) for e in validations)
    }
    if lines:
        step = (selection or {}).get("checkpoint_step")
        best = [e.get("step") for e in validations if e.get("best")]
        name = "chosen" if known(step) else "best so far"
        step = step if known(step) else (best[-1] if best else None)
        mark = (numeric(step) * a_step, f"{name}: step {step}") if known(step) else None
        svg = charts.curves("selection", lines, ylabel="Dice", mark=mark, dots=len(validations) <= 60)
        found.append(("Dice on the selection part", svg))
    if any(known(e.get("lr")) for e in steps):
        rate = {"learning rate": (seen, column(steps, "lr"))}
        found.append(("Learning rate", charts.curves("rate", rate, ylabel="learning rate", height=2.2, from_zero=True)))
    return found


def loss_chart(steps: Sequence[Json], seen: Sequence[float]) -> Drawing:
    terms = list(dict.fromkeys(k for e in steps for k in e if k not in LOGGED and known(e[k])))
    names = ["loss", *terms] if len(terms) != 1 else ["loss"]
    lines = {("sum" if name == "loss" and terms else name): (seen, column(steps, name)) for name in names}
    whole = all(numeric(v) >= 0 for _, ys in lines.values() for v in ys)
    return "Training loss", charts.curves("loss", lines, ylabel="loss", from_zero=whole)


def pseudo_chart(steps: Sequence[Json], seen: Sequence[float]) -> list[Drawing]:
    """How much of the unlabelled half was labelled by the method, and how well; nothing where it labels none."""
    lines = {
        label: (seen, column(steps, name)) for name, label in PSEUDO.items() if any(known(e.get(name)) for e in steps)
    }
    if not lines:
        return []
    compared = PSEUDO["pseudo_dice"] in lines
    looked = " (held masks are looked at for this curve alone)" if compared else ""
    label = "share, Dice" if compared else PSEUDO["pseudo_kept"]
    svg = charts.curves("pseudo", lines, ylabel=label, height=2.2, from_zero=True)
    return [(f"Pseudo-labels{looked}", svg)]


def column(entries: Sequence[Json], name: str) -> list[Any]:
    return [e.get(name, math.nan) for e in entries]


def images_a_step(recipe: Json) -> tuple[int, int]:
    """Labelled and unlabelled images of a step: both count as seen."""
    settings = recipe.get("train") or {}
    batches = int(numeric(settings.get("accumulate", 1)) or 1)
    labelled = int(numeric(settings.get("batch", 1)) or 1)
    return labelled * batches, int(numeric(settings.get("unlabelled"))) * batches


def learnt_sentence(manifest: Json, recipe: Json) -> str:
    """How many cases showed their masks; empty where all of them did."""
    parts = manifest.get("parts") or {}
    hidden, shown = (int(numeric(parts.get(name))) for name in ("unlabelled", "train"))
    if not hidden:
        return ""
    labelled, unlabelled = images_a_step(recipe)
    if not unlabelled:
        return f"Learnt from {many(shown, 'labelled case')}; {many(hidden, 'case')} without a mask were not used."
    return (
        f"Learnt from {many(shown, 'labelled case')} and {many(hidden, 'unlabelled case')} (their masks are missing or "
        f"were held back); a step takes {many(labelled, 'image')} of the former and {unlabelled} of the latter."
    )


def ends_with_chosen(run: Run, selection: Json | None) -> bool:
    """Whether the weights that some cases chose are those of the last step that was logged."""
    if not selection or not selection.get("cases"):
        return False
    last = max((numeric(e.get("step")) for e in run.entries()), default=0.0)
    return bool(last) and last == selection.get("checkpoint_step")
