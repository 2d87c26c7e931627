"""Whether a table's printed numbers can come from the formulas that stand beside them.

Per case, and so for the means over cases: IoU lies at or below precision and recall, Dice at or below their mean, IoU
at or above D / (2 - D) of the mean Dice (that curve is convex), and F1 and Dice are one quantity.
"""

from __future__ import annotations

from collections.abc import Mapping

from crossmask.table import Table


def check(table: Table) -> str:
    """What the arithmetic says of each row's printed numbers, as text."""
    lines = [f"{table.title}: the printed numbers against their own formulas"]
    broken = 0
    for row in table.rows:
        if row.printed:
            faults = contradictions(row.printed)
            broken += bool(faults)
            told = ", ".join(f"{name} {value:g}" for name, value in row.printed.items())
            lines.append(f"  {row.name.removesuffix('-style')} ({told}): " + ("; ".join(faults) or "no contradiction"))
    total = sum(bool(row.printed) for row in table.rows)
    lines.append(
        f"{broken} of {total} rows contradict themselves under any averaging over cases: these numbers are no target."
        if broken
        else f"None of {total} rows contradicts itself."
        if total
        else "This table quotes no numbers of a source."
    )
    return "\n".join(lines)


def contradictions(printed: Mapping[str, float], rounding: float = 0.005) -> list[str]:
    """The inequalities that a row breaks by more than rounding to two places explains.

    >>> contradictions({"IoU": 0.75, "Recall": 0.72})
    ['IoU 0.75 is above recall 0.72']
    >>> contradictions({"Dice": 0.8, "F1": 0.8, "Precision": 0.8, "Recall": 0.8, "IoU": 0.68})
    []
    """
    score = {name.casefold(): value for name, value in printed.items()}
    slack = 2 * rounding + 1e-9
    faults = []
    for bound in ("precision", "recall"):
        if {"iou", bound} <= score.keys() and score["iou"] > score[bound] + slack:
            faults.append(f"IoU {score['iou']:g} is above {bound} {score[bound]:g}")
    if {"dice", "precision", "recall"} <= score.keys():
        middle = (score["precision"] + score["recall"]) / 2
        if score["dice"] > middle + slack:
            faults.append(f"Dice {score['dice']:g} is above the mean of precision and recall {middle:g}")
    if {"dice", "iou"} <= score.keys():
        lowest = score["dice"] - rounding  # the curve is up to twice as steep as the line
        if score["iou"] + rounding < lowest / (2 - lowest) - 1e-9:
            faults.append(f"IoU {score['iou']:g} is below D / (2 - D) = {score['dice'] / (2 - score['dice']):.3f}")
        if score["iou"] > score["dice"] + slack:
            faults.append(f"IoU {score['iou']:g} is above Dice {score['dice']:g}")
    if {"dice", "f1"} <= score.keys() and abs(score["dice"] - score["f1"]) > slack:
        faults.append(f"Dice {score['dice']:g} and F1 {score['f1']:g} are one quantity and differ")
    return faults
