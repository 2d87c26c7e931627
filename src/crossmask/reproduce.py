"""Tables made by one command: every row trained or reused, scored on the same cases, compared case by case.

A table is a YAML file in ``tables/``:

    title, about       what stands above and below the numbers
    recipe, set        the recipe and the overrides of all rows (a section given whole replaces the recipe's)
    split              the part that is scored, once, when everything is chosen
    scores             summary names to print (dice_mean, hd95_mean, ...)
    compare            the per-case column of the paired differences (dice), and ``with``, the row they are taken from
    rows               name -> set, seeds (default [0]), folds (names of split columns; default the recipe's own),
                       tries (up to three settings, the best on the selection part is kept), or of + variant: another
                       row's runs under one of the variants that evaluation scores (shift: 2 mm, modalities: t1),
                       split: another part than the table's,
                       teacher: a row whose run of the same seed and fold teaches
    printed            numbers of the source, quoted beside ours

Runs lie in the output folder and are taken up where they were stopped; nothing that is finished is done again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from crossmask import recipe as recipes
from crossmask import rooms, statistics
from crossmask.data.manifest import Case
from crossmask.errors import CallError, name_list
from crossmask.evaluate import evaluate
from crossmask.files import atomic, read_json, write_json
from crossmask.predict import Predictor
from crossmask.progress import notice
from crossmask.recipe import Recipe
from crossmask.run import Run
from crossmask.train import train

DONE = "reproduced.json"  # in a run folder: trained whole, with this recipe


@dataclass(frozen=True)
class Row:
    name: str
    set: Mapping[str, Any] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0,)
    folds: tuple[str, ...] = ("",)
    tries: tuple[Mapping[str, Any], ...] = ()
    teacher: str | None = None
    of: str | None = None
    variant: str = "right"
    split: str | None = None  # the part that is scored; None: the table's


@dataclass(frozen=True)
class Table:
    name: str
    title: str
    about: str
    recipe: str
    set: Mapping[str, Any]
    split: str
    scores: tuple[str, ...]
    column: str
    reference: str
    rows: tuple[Row, ...]
    printed: Mapping[str, Any] = field(default_factory=dict)
    evaluate: Mapping[str, Any] = field(default_factory=dict)  # options of evaluation


def load(name: str) -> Table:
    """A shipped table by its name, or a file. Raises CallError for a table that does not hold together."""
    known = recipes.shipped("tables")
    path = Path(name) if Path(name).is_file() else known.get(name)
    if path is None:
        raise CallError(f"no table '{name}'{rooms.near_miss(name, known)} There are: {name_list(known, shown=40)}.")
    plain = yaml.safe_load(path.read_text(encoding="utf-8"))
    try:
        rows = tuple(
            Row(
                row,
                given.get("set", {}),
                tuple(given.get("seeds", (0,))),
                tuple(given.get("folds", plain.get("folds", ("",)))),
                tuple(given.get("tries", ())),
                given.get("teacher"),
                given.get("of"),
                given.get("variant", "right"),
                given.get("split"),
            )
            for row, given in plain["rows"].items()
        )
        table = Table(
            path.stem,
            plain["title"],
            plain.get("about", ""),
            plain["recipe"],
            plain.get("set", {}),
            plain["split"],
            tuple(plain["scores"]),
            plain["compare"]["column"],
            plain["compare"]["with"],
            rows,
            plain.get("printed", {}),
            plain.get("evaluate", {}),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise CallError(f"{path}: is no table: {type(error).__name__} {error}; see 'tables/' for the form.") from error
    names = [row.name for row in rows]
    for wanted in [table.reference, *(r.of for r in rows if r.of), *(r.teacher for r in rows if r.teacher)]:
        if wanted not in names:
            raise CallError(f"{path}: the row '{wanted}' is named but not there; there are {name_list(names)}.")
    return table


@dataclass(frozen=True)
class Work:
    """What making a table needs beside the row."""

    table: Table
    cases: Sequence[Case]
    folder: Path
    overrides: Sequence[str]
    device: str
    manifest: str


def reproduce(
    name: str,
    cases: Sequence[Case],
    folder: str | Path,
    *,
    overrides: Sequence[str] = (),
    only: Sequence[str] = (),
    device: str = "auto",
    manifest: str = "",
) -> str:
    """Make what is missing of a table and return it as Markdown; ``TABLE.md`` and ``TABLE.json`` lie in the folder.

    overrides: of every row (``train.images=200``). only: rows to make; the others are printed if they are there.
    """
    table, folder = load(name), Path(folder)
    unknown = sorted(set(only) - {row.name for row in table.rows})
    if unknown:
        raise CallError(f"no row '{unknown[0]}' in {name}; there are {name_list([r.name for r in table.rows])}.")
    work = Work(table, cases, folder, overrides, device, manifest)
    for row in table.rows:
        if row.of is None and (not only or row.name in only):
            make_row(work, row)
    for row in table.rows:
        if row.of is not None and row.split is not None:
            for run in runs_of(next(r for r in table.rows if r.name == row.of), folder):
                score(work, run, row.split)
    result = gather(table, folder)
    write_json(folder / f"{table.name}.json", result)
    text = markdown(table, result)
    with atomic(folder / f"{table.name}.md") as stream:
        stream.write(text)
    return text


# --- runs ------------------------------------------------------------------------------------------------------------


def make_row(work: Work, row: Row) -> None:
    """Train and score all runs of a row."""
    setting = best_try(work, row) if row.tries else {}
    for fold in row.folds:
        for seed in row.seeds:
            run = trained(work, recipe_of(work, row, setting, seed, fold), run_folder(work.folder, row, seed, fold))
            score(work, run, row.split or work.table.split)


def score(work: Work, run: Run, split: str) -> None:
    if not run.scores_path(split, ".json").is_file():
        notice(f"scoring {run.name} on '{split}'")
        evaluate(Predictor(run, device=work.device), work.cases, split, **work.table.evaluate)


def best_try(work: Work, row: Row) -> Mapping[str, Any]:
    """The setting that is best on the selection part, at the first seed and fold; the scored split has no say."""
    scores = []
    for number, setting in enumerate(row.tries):
        resolved = recipe_of(work, row, setting, row.seeds[0], row.folds[0])
        run = trained(work, resolved, try_folder(work.folder, row, number))
        scores.append(float(read_json(run.folder / "selection.json").get("dice_mean", float("nan"))))
    if any(s != s for s in scores):
        raise CallError(f"row '{row.name}' has tries but the recipe sets no selection part aside; give data.selection.")
    best = max(range(len(scores)), key=lambda n: scores[n])
    told = ", ".join(f"{s:.4f}" for s in scores)
    notice(f"{row.name}: {len(scores)} settings tried, selection dice_mean {told}; number {best + 1} is kept")
    write_json(tries_path(work.folder, row), {"scores": scores, "kept": best, "setting": row.tries[best]})
    return row.tries[best]


def trained(work: Work, resolved: Recipe, place: Path) -> Run:
    """The finished run of this recipe in this folder, trained or taken up as far as needed."""
    run = Run(place)
    if (place / DONE).is_file():
        if not recipes.same(run.recipe(), resolved):
            raise CallError(f"{place}: holds a run of another recipe; choose another folder or remove it.")
        return run
    notice(f"training {place.name}")
    begun = (place / "recipe.yaml").is_file()
    run = train(resolved, work.cases, place, resume=begun, device=work.device, manifest=work.manifest)
    write_json(place / DONE, {"seconds": max((e.get("seconds", 0.0) for e in run.entries()), default=0.0)})
    return run


def recipe_of(work: Work, row: Row, setting: Mapping[str, Any], seed: int, fold: str) -> Recipe:
    """A run's recipe: the table's, with what all rows, this row and the tried setting change, and the overrides."""
    table = work.table
    plain = recipes.plain(table.recipe)
    for given in (table.set, row.set, setting):
        for key, value in given.items():
            recipes.put(plain, key, value)
    recipes.put(plain, "train.seed", seed)
    if fold:
        recipes.put(plain, "data.split", fold)
    if row.teacher is not None:
        teacher = next(r for r in table.rows if r.name == row.teacher)
        recipes.put(plain, "train.teacher", str(run_folder(work.folder, teacher, seed, fold)))
    for override in work.overrides:
        recipes.apply(plain, override)
    return recipes.check(plain, f"{table.name}, row '{row.name}'")


def slug(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name.lower()).strip("-")


def tries_path(folder: Path, row: Row) -> Path:
    return folder / f"{slug(row.name)}-tries.json"


def try_folder(folder: Path, row: Row, number: int) -> Path:
    return folder / f"{slug(row.name)}-try{number + 1}"


def run_folder(folder: Path, row: Row, seed: int, fold: str) -> Path:
    """Where a run lies; the first one of a row with tries is the try that was kept."""
    if row.tries and (seed, fold) == (row.seeds[0], row.folds[0]) and tries_path(folder, row).is_file():
        return try_folder(folder, row, read_json(tries_path(folder, row))["kept"])
    return folder / "-".join(filter(None, (slug(row.name), slug(fold), f"seed{seed}")))


# --- numbers ---------------------------------------------------------------------------------------------------------


def gather(table: Table, folder: Path) -> dict[str, Any]:
    """All numbers of the table, from the run folders alone."""
    by_name = {row.name: row for row in table.rows}
    frames = {
        row.name: frame_of(by_name[row.of or row.name], row.variant, row.split or table.split, folder)
        for row in table.rows
    }
    reference = frames[table.reference]
    result: dict[str, Any] = {"table": table.name, "split": table.split, "rows": {}}
    for row in table.rows:
        frame = frames[row.name]
        if frame is None:
            continue
        runs = runs_of(by_name[row.of or row.name], folder)
        one: dict[str, Any] = {
            "estimates": estimates(frame),
            "cases": int(frame.id.nunique()),
            "runs": len(runs),
            "by_seed": seed_means(frame, table.column),
        }
        if row.of is None:
            split = row.split or table.split
            one |= cost(runs, split) | {"last": last_of(runs, split)}
            tries = tries_path(folder, row)
            one["tries"] = read_json(tries) if tries.is_file() else None
        if reference is not None and row.name != table.reference and not row.split:
            difference = statistics.paired_difference(averaged(reference), averaged(frame), column=table.column)
            one["difference"] = difference.to_dict()
        result["rows"][row.name] = one
    return result


def runs_of(row: Row, folder: Path) -> list[Run]:
    places = [run_folder(folder, row, seed, fold) for fold in row.folds for seed in row.seeds]
    return [Run(place) for place in places if (place / DONE).is_file()]


def frame_of(row: Row, variant: str, split: str, folder: Path) -> Any:
    """Per-case rows of all seeds and folds of a row; None while a run is missing."""
    import pandas as pd

    found = []
    for fold in row.folds:
        for seed in row.seeds:
            run = Run(run_folder(folder, row, seed, fold))
            if not run.scores_path(split, ".csv").is_file():
                return None
            cases = run.cases(split)
            cases = cases[cases.variant == variant].assign(seed=seed, fold=fold)
            if cases.empty:
                return None
            found.append(cases)
    return pd.concat(found, ignore_index=True)


def averaged(frame: Any) -> Any:
    """One row a case: the mean over the seeds of every number."""
    numbers = frame.select_dtypes("number").columns.drop(["seed"])
    groups = frame.groupby("id", sort=True)
    return groups[list(numbers)].mean().reset_index().merge(groups["group"].first().reset_index(), on="id")


def estimates(frame: Any) -> dict[str, Any]:
    """Both families and the distances; several seeds enter as cases of one patient, so that they add no patients."""
    from crossmask.metrics import surface

    one = frame.assign(
        group=frame["group"].where(frame["group"].notna() & (frame["group"] != ""), frame["id"]),
        id=frame["id"].astype(str) + " " + frame["fold"] + " seed " + frame["seed"].astype(str),
    )
    found = {name: value.to_dict() for name, value in statistics.summarise(one).items()}
    return found | statistics.distances(one, surface.SCORES)


def seed_means(frame: Any, column: str) -> dict[str, float]:
    return {str(seed): round(float(some[column].mean()), 4) for seed, some in frame.groupby("seed")}


def cost(runs: Sequence[Run], split: str) -> dict[str, Any]:
    summaries = [run.summary(split) for run in runs]
    minutes = [s["training"]["minutes"] for s in summaries]
    return {
        "parameters": summaries[0]["training"]["parameters"],
        "images": summaries[0]["training"]["images"],
        "minutes": round(sum(minutes) / len(minutes), 1),
        "selection": summaries[0]["selection"],
    }


def last_of(runs: Sequence[Run], split: str) -> float | None:
    """The last iterate's dice_mean over the same cases as the chosen one's, which it may be."""
    import pandas as pd

    found = []
    for run in runs:
        cases = run.cases(split)
        found.append(cases[cases.variant == ("last" if (cases.variant == "last").any() else "right")])
    return round(float(pd.concat(found).dice.mean()), 4) if found else None


# --- words -----------------------------------------------------------------------------------------------------------


def markdown(table: Table, result: Mapping[str, Any]) -> str:
    """The table as a reader sees it."""
    heads = ["row", *table.scores, f"{table.column}: minus {table.reference}", "last iterate", "by seed", "trained"]
    lines = [f"## {table.title}", "", "| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for row in table.rows:
        one = result["rows"].get(row.name)
        if one is None:
            lines.append(f"| {row.name} | not made yet |" + " |" * (len(heads) - 2))
            continue
        cells = [row.name, *(told(one["estimates"].get(name)) for name in table.scores)]
        cells.append(signed(one["difference"]) if "difference" in one else "")
        cells.append("" if one.get("last") is None else f"{one['last']:.3f}")
        seeds = one["by_seed"].values()
        cells.append(" ".join(f"{v:.3f}" for v in seeds) if len(seeds) > 1 else "")
        made = one.get("images")
        cells.append(f"{made:,} images, {one['minutes']:g} min" if made else f"scored from '{row.of}'")
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", *facts(table, result)]
    return "\n".join(lines).rstrip() + "\n"


def facts(table: Table, result: Mapping[str, Any]) -> list[str]:
    """What a reader has to know to trust or doubt the numbers."""
    rows = result["rows"]
    lines = []
    if rows:
        first = next(iter(rows.values()))
        lines.append(
            f"Part '{table.split}', {first['cases']} cases; 95 % intervals by resampling patients (all seeds of a "
            "patient together); differences are paired case by case, averaged over seeds."
        )
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
    for name, values in table.printed.items():
        lines.append(f"Printed in the source: {name}: {values}.")
    return [*lines, "", table.about.strip()]


def describe(selection: Mapping[str, Any]) -> str:
    cases = selection.get("cases", 0)
    if not cases:
        return "nothing was set aside, so the last weights answer, at threshold 0.5"
    return f"chosen by {selection['by']} on {cases} case{'s' if cases > 1 else ''} ({selection['part']})"


def told(estimate: Mapping[str, Any] | None) -> str:
    if estimate is None or estimate["value"] is None:
        return "–"
    digits = 3 if abs(estimate["value"]) <= 1 else 1
    text = f"{estimate['value']:.{digits}f}"
    if estimate["low"] is not None:
        text += f" [{estimate['low']:.{digits}f}, {estimate['high']:.{digits}f}]"
    failed = estimate.get("failed")
    return text + (f", {failed} failed" if failed else "")


def signed(estimate: Mapping[str, Any]) -> str:
    if estimate["low"] is None:
        return f"{estimate['value']:+.3f}"
    return f"{estimate['value']:+.3f} [{estimate['low']:+.3f}, {estimate['high']:+.3f}]"
