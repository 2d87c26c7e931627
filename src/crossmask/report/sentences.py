"""Numbers as text, and the sentences that say what a run's scores show."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

Json = Mapping[str, Any]

TOLD = {
    "right": "the case's own sentence",
    "none": "no sentence",
    "other": "another case's sentence",
    "swapped": "left and right exchanged",
}
LEARNT_FROM = ("train", "selection", "unlabelled", "all")  # parts whose score is no test score
FEW = 5  # cases; fewer choose by chance


# --- numbers as text -------------------------------------------------------------------------------------------------


def known(number: Any) -> bool:
    return isinstance(number, int | float) and math.isfinite(number)


def numeric(number: Any) -> float:
    return float(number) if known(number) else 0.0


def value_text(estimate: Json, signed: bool = False, digits: int = 3) -> str:
    number = estimate.get("value")
    return decimal(number, signed, digits) if known(number) else "not defined"


def decimal(number: Any, signed: bool, digits: int) -> str:
    return (f"{number:+.{digits}f}" if signed else f"{number:.{digits}f}").replace("-", "−")


def spread_text(estimate: Json, signed: bool = False, digits: int = 3) -> str:
    low, high = estimate.get("low"), estimate.get("high")
    if known(low) and known(high):
        return f"[{decimal(numeric(low), signed, digits)}, {decimal(numeric(high), signed, digits)}]"
    return f"no interval (one {'case' if estimate.get('unit') == 'cases' else 'group'})"


def estimate(estimate: Json, signed: bool = False) -> str:
    """
    >>> estimate({"value": 0.888, "low": 0.88, "high": 0.896, "unit": "groups"})
    '0.888 [0.880, 0.896]'
    >>> estimate({"value": 0.888, "low": float("nan"), "high": float("nan"), "unit": "groups"})
    '0.888 no interval (one group)'
    """
    return f"{value_text(estimate, signed)} {spread_text(estimate, signed)}"


def duration(seconds: float) -> str:
    """
    >>> duration(42), duration(600), duration(5400)
    ('42 s', '10 min', '1 h 30 min')
    """
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def many(number: int, thing: str) -> str:
    """
    >>> many(1, "case"), many(2113, "case")
    ('1 case', '2113 cases')
    """
    return f"{number} {thing}" + ("" if number == 1 else "s")


# --- sentences -------------------------------------------------------------------------------------------------------


def unit_sentence(summary: Json) -> str:
    """What was resampled for the intervals."""
    unit = summary["dice_mean"].get("unit")
    if unit == "groups":
        return "95 % intervals: bootstrap over groups (patients, or a picture and its copies)."
    return "95 % intervals: bootstrap over cases, for no case names its group (patient)."


def many_classes(summary: Json | None) -> bool:
    return bool(summary) and any("/" in key for key in (summary or {})["variants"]["right"])


def chosen_sentence(selection: Json | None, summary: Json | None = None, several: bool | None = None) -> str:
    """Which part chose epoch and threshold. several: whether there are classes, and so no threshold."""
    threshold = (summary or {}).get("threshold")
    several = many_classes(summary) if several is None else several
    if not selection:
        words = (
            "What chose epoch and threshold is not known: selection.json, which the end of training writes, is missing."
        )
        if known(threshold) and not several:
            words += f" The scores use the threshold {threshold:g}."
        return words
    step, cases = selection.get("checkpoint_step", "?"), int(numeric(selection.get("cases")))
    own = selection.get("threshold")
    if not cases:
        words = f"No cases were set aside to choose by: these are the last weights (step {step})"
        words += "." if several else f", at the threshold {numeric(own):g}."
    elif selection.get("keep") == "last" and several:
        words = f"The last weights (step {step}), as the recipe says; each pixel takes its most probable class."
    else:
        part = str(selection.get("part", "selection"))
        part = f"the {part}" if part.startswith("part ") else f"the part '{part}'"
        by = selection.get("by")
        what = "The epoch was" if several else "Epoch and threshold were"
        if selection.get("keep") == "last":
            what = "The weights are the last ones, as the recipe says; the threshold was"
        words = f"{what} chosen on {part}, {many(cases, 'case')}"
        words += f", by {by}: step {step}" if by else f": step {step}"
        words += "; each pixel takes its most probable class." if several else f", threshold {numeric(own):g}."
    if known(threshold) and known(own) and abs(numeric(threshold) - numeric(own)) > 1e-9 and not several:
        words += f" The scores use the threshold {threshold:g} instead, as the recipe says."
    if 0 < cases < FEW:
        words += f" Only {many(cases, 'case')} chose: others might well have chosen otherwise."
    return words


def last_sentence(summary: Json) -> str:
    """Whether it mattered which weights were chosen; empty where the last ones were not scored beside them."""
    last = summary.get("last")
    if not last:
        return ""
    weights = f"the last weights (step {last.get('step', '?')})"
    return {
        "falls": f"The chosen weights have a higher Dice per case than {weights}.",
        "rises": f"The chosen weights have a lower Dice per case than {weights}.",
        "open": f"No difference in the Dice per case can be shown between the chosen weights and {weights}.",
        "unknown": f"The Dice of {weights} is given without an interval of the difference: nothing can be concluded.",
    }[direction(last["chosen_minus_last"]["dice_mean"])]


def share_sentence(summary: Json) -> str:
    """How much of a gated network's answer is the words', and whether it goes with how clear the border is."""
    share = summary.get("text_share")
    if not share:
        return ""
    words = f"The words' share of the gate (1 - alpha) near the border is {estimate(share['mean'])} on the mean."
    ranks = [(name.replace("_", " "), found) for name, found in share["correlation"].items()]
    ranks += [
        (f"{name.replace('_', ' ')}, size held,", found) for name, found in (share.get("size_held") or {}).items()
    ]
    for name, found in ranks:
        meaning = {
            "falls": "the larger, the more the words weigh",
            "rises": "the larger, the less the words weigh",
        }.get(direction(found), "no connection can be shown")
        words += f" Its rank correlation with {name} is {estimate(found, signed=True)}: {meaning}."
    return words


def scored_sentence(summary: Json, recipe: Json | None = None) -> str:
    """Which classes or regions the scores are of; empty for a plain foreground. recipe: knows what a region unites."""
    names = [str(name) for name in summary.get("scored") or ()]
    regions = ((recipe or {}).get("evaluate") or {}).get("regions") or {}
    if not names or names == ["foreground"]:
        return ""
    shown = [f"{n} ({' + '.join(map(str, regions[n]))})" if regions.get(n) else n for n in names]
    words = f"Scored: {', '.join(shown)}."
    if len(names) > 1:
        words += " A score that names none of them is their mean."
    members = [c for n in names for c in regions.get(n) or ()]
    return words + (" Regions may overlap." if len(members) > len(set(members)) else "")


def verdict(summary: Json) -> tuple[str, str]:
    """(kind, sentence): whether the intervals show that the words are used. Kinds: yes, no, open, none."""
    use = summary.get("text_use") or {}
    name = next((n for n in ("other", "swapped", "none") if n in use), None)
    if name is None:
        if "without_text" in summary:
            return "none", "No case of this part has a sentence, so whether the words are used cannot be said."
        training = summary.get("training") or {}
        images_alone = "text" in training and not training["text"]
        why = "This network reads no sentences: it sees images alone."
        return "none", why if images_alone else "These scores were made without sentences."
    per_case, pooled = use[name]["dice_mean"], use[name]["dice_pooled"]
    how = f"With {TOLD[name]}"
    what = direction(per_case)
    if what == "unknown":
        change = value_text({"value": -numeric(per_case["value"])}, signed=True)
        words = f"{how} the Dice per case changes by {change}, but there is no interval: nothing can be concluded."
        return "open", words
    if what == "falls":
        ending = {
            "other": "the words are used",
            "swapped": "the words that name a side are used",
            "none": "sentences help; whether it matters what they say, this does not show",
        }[name]
        words = f"{how} the Dice per case falls by {estimate(per_case)}: {ending}."
    elif what == "rises":
        turned = {k: -numeric(per_case[k]) for k in ("value", "low", "high")}
        turned["low"], turned["high"] = turned["high"], turned["low"]
        words = f"{how} the Dice per case rises by {estimate(turned)}: the case's own words do not help."
    else:
        words = (
            f"{how} no difference in the Dice per case can be shown ({estimate(per_case, signed=True)}): "
            "the words may not be used."
        )
    if direction(pooled) not in (what, "unknown"):
        words += f" The pooled Dice does not agree (right minus {name}: {estimate(pooled, signed=True)})."
    return {"falls": "yes", "rises": "no", "open": "open"}[what], words


def direction(difference: Json) -> str:
    """What the Dice does under the variant, from the interval of right minus variant."""
    low, high = difference.get("low"), difference.get("high")
    if not (known(low) and known(high)):
        return "unknown"
    return "falls" if numeric(low) > 0 else "rises" if numeric(high) < 0 else "open"


def caveats(summary: Json) -> list[str]:
    """Counts that a reader of the scores must know."""
    groups, right = summary.get("groups") or {}, summary["variants"]["right"]
    silent = summary.get("without_text")
    total = right["cases"] + (silent["cases"] if silent and len(summary["variants"]) > 1 else 0)
    lines = []
    if summary["split"] in LEARNT_FROM:
        lines.append("The run learnt from cases of this part: this is no test score.")
    shared = int(numeric(groups.get("cases_whose_group_is_in_train")))
    if shared:
        lines.append(
            f"The split leaks: {shared} of {many(total, 'case')} belong to "
            f"{many(int(numeric(groups.get('groups_in_train'))), 'group')} "
            "(patients, or pictures copied many times) of which the run learnt from other cases."
        )
    else:
        lines.append(
            "No case belongs to a group (patient, or picture and copies) that the run is known to have learnt from."
        )
    if unknown := int(numeric(groups.get("cases_without_group"))):
        lines.append(f"{unknown} of {many(total, 'case')} name no group: whose they are is not known.")
    if sides := sides_sentence(summary):
        lines.append(sides)
    lines += [f"{many(int(numeric(n)), 'case')} left out: {why}." for why, n in (summary.get("left_out") or {}).items()]
    if not same_manifest(summary):
        lines.append("The manifest that was scored is not the one trained on (another hash).")
    return lines


def sides_sentence(summary: Json) -> str:
    """Whose left the sentences meant and what was done about it; empty where none names a side."""
    found = summary.get("sides") or {}
    written = found.get("written") or {}
    if not written:
        return ""
    whose = {"image": "the picture's", "patient": "the patient's", "unknown": "nobody knows whose"}
    told = ", ".join(f"{count} {whose.get(name, name)}" for name, count in written.items())
    if found["learnt"] == "as-is":
        return f"Sentences that name a side, by whose left they mean: {told}; all were read as they are."
    return (
        f"Sentences that name a side, by whose left they mean: {told}; the network reads {whose[found['learnt']]} "
        f"left, and {found['turned']} were turned for it."
    )


def same_manifest(summary: Json | None) -> bool:
    hashes = (summary or {}).get("manifest") or {}
    return hashes.get("hash") == hashes.get("trained_on")
