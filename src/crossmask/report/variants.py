"""What the network was told, and which modalities it was given: the rows that compare each with the headline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from crossmask.report import charts
from crossmask.report.distances import cell
from crossmask.report.sentences import TOLD, Json, known, numeric

FAMILIES = {"pooled": "pooled", "mean": "per case"}
SUBSETS = "modalities: "  # as crossmask.evaluate names its variants (a test compares them)
BRANCH = "branch: "
SHIFT = "shift: "


def row(name: str, told: str, scores: Json, difference: Json | None = None) -> dict[str, Any]:
    """A line of a table: Dice of both families, HD95 where there is one, and the paired differences."""
    return {
        "name": name,
        "told": told,
        "cases": scores["cases"],
        "pooled": scores["dice_pooled"],
        "mean": scores["dice_mean"],
        "hd95": cell("hd95", scores["hd95_mean"]) if "hd95_mean" in scores else None,
        "difference": difference,
    }


def words_rows(summary: Json) -> list[dict[str, Any]]:
    use = summary.get("text_use") or {}
    return [
        row(name, TOLD.get(name, f"the wording 'text:{name}'"), scores, use.get(name))
        for name, scores in summary["variants"].items()
    ]


def words_chart(summary: Json) -> str:
    return dice_chart(f"words {summary['split']}", summary["variants"])


def dice_chart(name: str, variants: Mapping[str, Json]) -> str:
    series = {label: [scores[f"dice_{family}"] for scores in variants.values()] for family, label in FAMILIES.items()}
    return charts.intervals(name, list(variants), series, xlabel="Dice with 95 % interval")


# --- modalities ------------------------------------------------------------------------------------------------------


def modality_groups(summary: Json, recipe: Json) -> list[dict[str, Any]]:
    """The kinds of rows that are there, each with a title, what its rows are, and the headline as its first row."""
    data = recipe.get("data") or {}
    names = [str(name) for name in data.get("modalities") or ()]
    right = summary["variants"]["right"]
    found = []
    for prefix, title, about, told in (
        (SUBSETS, "Only these modalities", subsets_sentence(data), lambda kept: left_out(kept, names)),
        (BRANCH, "One branch's own answer", BRANCH_SENTENCE, lambda _: ""),
        (SHIFT, "Scans that do not lie on each other", shift_sentence(names), lambda _: moved(names)),
    ):
        rows = [
            row(name.removeprefix(prefix), told(name.removeprefix(prefix)), scores, scores.get("all_minus_this"))
            for name, scores in (summary.get("modalities") or {}).items()
            if name.startswith(prefix)
        ]
        if rows:
            first = row("all", "the headline", right)
            found.append({"title": title, "about": about, "rows": [first, *rows]})
    return found


def modality_chart(summary: Json) -> str:
    """All kinds in one picture, the headline uppermost."""
    rows = {"all": summary["variants"]["right"]}
    rows |= {name.removeprefix(SUBSETS): scores for name, scores in summary["modalities"].items()}
    return dice_chart(f"modalities {summary['split']}", rows)


BRANCH_SENTENCE = (
    "All modalities are given, but the answer is that of one modality's own branch in place of the fused one. A branch "
    "may have looked at the others."
)


def subsets_sentence(data: Json) -> str:
    words = "The same weights, given only the modalities that are named; the others are kept from the network."
    share = data.get("modality_dropout")
    if known(share) and not numeric(share):
        words += " Training never left one out on purpose (data.modality_dropout is 0)."
    elif known(share):
        words += f" In training each was left out with a chance of {numeric(share):g} (data.modality_dropout)."
    return words


def shift_sentence(names: Sequence[str]) -> str:
    first = f" ({names[0]})" if names else ""
    return (
        f"All modalities are given, but every one except the first{first} is moved by so many millimetres to the "
        "patient's left, as if the scans had not been registered."
    )


def left_out(kept: str, names: Sequence[str]) -> str:
    """
    >>> left_out("flair + t1", ["flair", "t1", "t1ce"])
    'without t1ce'
    """
    missing = [name for name in names if name not in kept.split(" + ")]
    return f"without {', '.join(missing)}" if missing and len(missing) < len(names) else "these alone"


def moved(names: Sequence[str]) -> str:
    return f"{', '.join(names[1:])} moved" if len(names) > 1 else "moved"
