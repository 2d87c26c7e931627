"""A table as a reader sees it: its rows in Markdown, and what one has to know to trust or doubt them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from crossmask import rooms
from crossmask.errors import name_list
from crossmask.table import Table, recipe_with

COSTS = ("weights (M)", "GFLOPs", "ms", "step memory (MiB)")
CONVENTION = (
    "GFLOPs: one picture on the recipe's grid and a sentence of 24 tokens; convolutions and matrix products alone, a "
    "multiply-add is two operations; the frozen text encoder is left out, as its states are computed once a sentence. "
    "ms: one picture at a time, the median, on the machine that made the table. Step memory: weights, gradients, two "
    "moments and what the backward pass keeps of one batch."
)


def markdown(table: Table, result: Mapping[str, Any]) -> str:
    """The table as a reader sees it."""
    quoted = any(row.printed for row in table.rows)
    heads = ["row", *(["printed"] if quoted else []), *table.scores]
    heads += [f"{table.column}: minus {table.reference}", *(["p (Holm)"] if table.holm else [])]
    unpaired = {name for name, one in result["rows"].items() if one.get("to_parent", {}).get("unpaired")}
    related = any(row.parent not in (None, table.reference) or row.name in unpaired for row in table.rows)
    heads += ["minus another row"] if related else []
    heads += [*(COSTS if table.cost else []), "last iterate", "by seed", "trained"]
    lines = [f"## {table.title}", "", budget(table, result.get("overrides", ())), ""]
    lines += ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    cases = part_size(result)
    seeded = any(len(one["by_seed"]) > 1 for one in result["rows"].values())
    for row in table.rows:
        one = result["rows"].get(row.name)
        if one is None:
            why = "made with other settings" if (row.of or row.name) in result.get("unlike", ()) else "not made yet"
            lines.append(f"| {row.name} | {why} |" + " |" * (len(heads) - 2))
            continue
        name = row.name if one["cases"] == cases else f"{row.name} ({one['cases']:,} cases)"
        cells = [name, *(told(one["estimates"].get(name)) for name in table.scores)]
        if quoted:
            cells.insert(1, ", ".join(f"{name} {value:g}" for name, value in row.printed.items()) or "–")
        cells.append(over_seeds(one["difference"]) if "difference" in one else "")
        if table.holm:
            cells.append(f"{one['p_holm']:.2g}" if "p_holm" in one else "")
        if related:
            shown = "to_parent" in one and (row.parent != table.reference or row.name in unpaired)
            how = ", other cases" if row.name in unpaired else ""
            cells.append(f"{over_seeds(one['to_parent'])} ({row.parent}{how})" if shown else "")
        if table.cost:
            cells += cost_cells(one.get("cost"))
        cells.append("" if one.get("last") is None else f"{one['last']:.3f}")
        seeds = one["by_seed"]
        cells.append(" ".join(f"{v:.3f}" for v in seeds.values()) if len(seeds) > 1 else "one seed" if seeded else "")
        cells.append(trained(one) if one.get("images") else f"scored from '{row.of}'")
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", *kind_tables(table, result), *facts(table, result)]
    return "\n".join(lines).rstrip() + "\n"


def budget(table: Table, overrides: Sequence[str]) -> str:
    """What each run was given: the table's recipe with what holds for all rows."""
    recipe = recipe_with(table, overrides)
    data, train = recipe.data, recipe.train
    height, width = data.grid_size
    words = [
        f"A run sees {train.images:,} images of {height} x {width} px in batches of {train.batch + train.unlabelled}"
    ]
    if isinstance(data.selection, float):
        words.append(f"drawn from train, {of_train(data.selection)} set aside for selection")
    if isinstance(data.labelled, float):
        words.append(f"with the masks of {of_train(data.labelled)}")
    return ", ".join(words) + f", unless its row says otherwise (recipe {table.recipe})."


def of_train(number: float) -> str:
    """A share of the cases below 1, else a count of patients, as ``data/split.py`` takes them.

    >>> of_train(0.05), of_train(2.0), of_train(0)
    ('5 % of its cases (whole patients)', '2 of its patients', 'none of its cases')
    """
    if not number:
        return "none of its cases"
    return f"{100 * number:g} % of its cases (whole patients)" if number < 1 else f"{number:g} of its patients"


def trained(one: Mapping[str, Any]) -> str:
    device = one.get("device") or "cpu"
    return f"{one['images']:,} images, {one['minutes']:g} min" + (f" on {device}" if device != "cpu" else "")


def kind_tables(table: Table, result: Mapping[str, Any]) -> list[str]:
    """A table a stratum: the rows' means on each kind of case, with the difference to the reference on them. Rows of
    other cases, whose thirds are others, have one of their own."""
    lines = []
    for name in dict.fromkeys(name for one in result["rows"].values() for name in one["kinds"]):
        rows = {row: one["kinds"][name] for row, one in result["rows"].items() if one["kinds"].get(name)}
        for some in of_like_kinds(rows):
            sizes: dict[str, int] = {}
            for own in some.values():
                for kind in own:
                    sizes.setdefault(kind["kind"], kind["cases"])
            beside = any("difference" in kind for own in some.values() for kind in own)
            minus = f", in brackets minus {table.reference} on the same cases" if beside else ""
            lines += [f"{table.column} by {name.replace('_', ' ')}{minus}:", ""]
            heads = [f"{kind}, {count} cases" for kind, count in sizes.items()]
            lines += ["| row | " + " | ".join(heads) + " |", "|" + "---|" * (len(heads) + 1)]
            for row, own in some.items():
                cells = {k["kind"]: kind_cell(k, sizes[k["kind"]]) for k in own}
                lines.append(f"| {row} | " + " | ".join(cells.get(kind, "") for kind in sizes) + " |")
            lines.append("")
    return lines


def of_like_kinds(rows: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows, those together whose kinds the first of them has.

    >>> of_like_kinds({"a": [{"kind": "up to 1"}], "b": [{"kind": "up to 2"}], "c": [{"kind": "up to 1"}]})
    [{'a': [{'kind': 'up to 1'}], 'c': [{'kind': 'up to 1'}]}, {'b': [{'kind': 'up to 2'}]}]
    """
    groups: list[tuple[set[str], dict[str, Any]]] = []
    for row, own in rows.items():
        kinds = {kind["kind"] for kind in own}
        place = next((some for known, some in groups if kinds <= known), None)
        if place is None:
            groups.append((kinds, place := {}))
        place[row] = own
    return [some for _, some in groups]


def kind_cell(kind: Mapping[str, Any], size: int) -> str:
    """The mean and its difference, and how many cases where they are not those of the head."""
    words = told(kind["mean"]) + (f" ({signed(kind['difference'])})" if "difference" in kind else "")
    return words + (f", {kind['cases']:,} cases" if kind["cases"] != size else "")


def cost_cells(measured: Mapping[str, float] | None) -> list[str]:
    if not measured:
        return [""] * len(COSTS)
    weights = f"{measured['trainable'] / 1e6:.1f} + {measured['frozen'] / 1e6:.1f}"
    return [weights, f"{measured['gflops']:.1f}", f"{measured['ms']:.0f}", f"{measured['step_mib']:,.0f}"]


def facts(table: Table, result: Mapping[str, Any]) -> list[str]:
    """What a reader has to know to trust or doubt the numbers."""
    rows = result["rows"]
    lines = []
    if rows:
        lines.append(
            f"Part '{table.split}', {part_size(result):,} cases; 95 % intervals by resampling groups (patients where "
            "they are known, else pictures; all seeds together); differences are paired case by case, averaged over "
            "the seeds that both rows have, whose own differences follow. An interval is about other cases, not other "
            "trainings: how these differ, the seeds say."
        )
    lines += leaks(rows)
    for name, one in rows.items():
        if one.get("text_share"):
            lines.append(f"{name}: {share_words(one['text_share'])}.")
    if table.holm:
        lines.append(
            f"p: of no difference to '{table.reference}', by exchanging each patient's two answers at random, "
            f"corrected for the table's {sum('p_holm' in one for one in rows.values())} questions (Holm); variants of "
            "a row's runs and what had no fair chance are not tested."
        )
    if table.cost:
        lines.append(f"Weights: millions that learn + millions that are frozen. {CONVENTION}")
    chosen = [(name, one["tries"]) for name, one in rows.items() if one.get("tries")]
    if chosen:
        counts = sorted({len(t["scores"]) for _, t in chosen})
        lines.append(
            f"Settings tried a row: {name_list(counts)}, chosen on the selection part: "
            + "; ".join(f"{name} {t['setting'] or 'as the recipe has it'}" for name, t in chosen)
            + "."
        )
    selected = {describe(one["selection"]) for one in rows.values() if one.get("selection")}
    lines += [f"Checkpoint and threshold: {text}." for text in sorted(selected)]
    if result.get("overrides"):
        lines.append(f"Made with other settings than the table's own: {' '.join(result['overrides'])}.")
    lines += deviations(rows)
    for name, values in table.printed.items():
        lines.append(f"Printed in the source: {name}: {values}.")
    return [*lines, "", table.about.strip()]


def deviations(rows: Mapping[str, Any]) -> list[str]:
    """What each network does otherwise than its source, as the head of its file has it, under the name of the row that
    is called like it (a U-Net may be CMG-Net without its parts), else of the first row with it."""
    found: dict[str, str] = {}
    for name, one in rows.items():
        network = one.get("network")
        letters = "".join(c for c in name.casefold() if c.isalnum())
        if network and (network not in found or letters == network.replace("-", "").replace("_", "")):
            found[network] = name
    told = {name: rooms.deviations("network", network) for network, name in found.items()}
    return [f"{name} against its source: {text}" for name, text in told.items() if text]


def leaks(rows: Mapping[str, Any]) -> list[str]:
    """Whose split puts cases of one patient (or copies of one picture) into train and into the scored part."""
    found: dict[str, list[str]] = {}
    for name, one in rows.items():
        if one.get("shared"):
            found.setdefault(f"{one['shared']:,} of {one['cases']:,}", []).append(name)
    return [
        f"The split leaks: {count} cases are of patients (or copies of pictures) of which the run learnt others"
        + (f" ({name_list(names, shown=20)})." if len(found) > 1 or len(names) < len(rows) else ".")
        for count, names in found.items()
    ]


def part_size(result: Mapping[str, Any]) -> int:
    """How many cases the first row was scored on."""
    return next((one["cases"] for one in result["rows"].values()), 0)


def share_words(found: Mapping[str, Any]) -> str:
    """The words' share of the gate, and what it goes with."""
    words = f"the words' share of the gate (1 - alpha) near the border is {told(found['mean'])}"
    ranks = [f"{name.replace('_', ' ')} {signed(one)}" for name, one in found["correlation"].items()]
    held = found.get("size_held") or {}
    ranks += [f"{name.replace('_', ' ')} where size is held {signed(one)}" for name, one in held.items()]
    return words + (f"; its rank correlation with {', with '.join(ranks)}" if ranks else "")


def describe(selection: Mapping[str, Any]) -> str:
    cases = selection.get("cases", 0)
    if not cases:
        return "nothing was set aside, so the last weights answer, at threshold 0.5"
    by = f"chosen by {selection['by']} on {cases} case{'s' if cases > 1 else ''} ({selection['part']})"
    return f"the last weights, threshold {by}" if selection.get("keep") == "last" else by


def told(estimate: Mapping[str, Any] | None) -> str:
    failed = (estimate or {}).get("failed")
    if estimate is None or estimate["value"] is None:
        return "–" + (f", all {failed} answers failed" if failed else "")
    digits = 3 if abs(estimate["value"]) <= 1 else 1
    text = f"{estimate['value']:.{digits}f}"
    if estimate["low"] is not None:
        text += f" [{estimate['low']:.{digits}f}, {estimate['high']:.{digits}f}]"
    return text + (f", {failed} of {estimate['n'] + failed} answers failed" if failed else "")


def signed(estimate: Mapping[str, Any]) -> str:
    if estimate["value"] is None:
        return "–"
    if estimate["low"] is None:
        return f"{estimate['value']:+.3f}"
    return f"{estimate['value']:+.3f} [{estimate['low']:+.3f}, {estimate['high']:+.3f}]"


def over_seeds(estimate: Mapping[str, Any]) -> str:
    """A difference and, where there are several, those of the single seeds.

    >>> over_seeds({"value": 0.02, "low": 0.01, "high": 0.03, "by_seed": {"0": 0.05, "1": -0.01}})
    '+0.020 [+0.010, +0.030]; by seed +0.050 -0.010'
    """
    seeds = estimate.get("by_seed", {})
    return signed(estimate) + ("; by seed " + " ".join(f"{v:+.3f}" for v in seeds.values()) if len(seeds) > 1 else "")
