"""Tables made by one command: every row trained or reused, scored on the same cases, compared case by case.

Runs lie in the output folder and are taken up where they were stopped; nothing that is finished is done again. What a
table is stands in ``table.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from crossmask import cost, jobs, parts, significance
from crossmask import recipe as recipes
from crossmask.comparison import gather
from crossmask.comparison_text import markdown
from crossmask.data import manifest as manifests
from crossmask.data.manifest import Case
from crossmask.data.split import make
from crossmask.errors import CallError, DataError, name_list
from crossmask.evaluate import asked, evaluate
from crossmask.figures import draw
from crossmask.files import atomic, read_json, write_json
from crossmask.joined import check_columns
from crossmask.predict import Predictor
from crossmask.progress import notice
from crossmask.recipe import Recipe
from crossmask.run import Run
from crossmask.table import DONE, Row, Table, load, recipe_with, run_folder, runs_of, tries_path, try_folder
from crossmask.train import flush_denormals, refuse_other_data, train


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
    beside: int = 1,
) -> str:
    """Make what is missing of a table and return it as Markdown; ``TABLE.md``, ``TABLE.json`` and, where the table asks
    for one, a picture of the same cases under each row lie in the folder.

    overrides: of every row (``train.images=200``). only: rows to make; the others are printed if they are there.
    beside: how many runs are made at once, each in a process of its own; what one of them cannot do is told, and is an
    error once the others are done.
    """
    flush_denormals()  # before anything is scored, or a table that was interrupted would differ in its last bits
    table, folder = load(name), Path(folder)
    unknown = sorted(set(only) - {row.name for row in table.rows})
    if unknown:
        raise CallError(f"no row '{unknown[0]}' in {name}; there are {name_list([r.name for r in table.rows])}.")
    refuse_missing_data(table, cases)
    for key, what in table.asks.items():
        if not any(override.partition("=")[0] == key for override in overrides):
            raise CallError(f"table {table.name} needs {key}=...: {what}.")
    work = Work(table, cases, folder, overrides, device, manifest)
    wanted = [row for row in table.rows if row.of is None and (not only or row.name in only)]
    refuse_what_would_fail_late(work, wanted)
    if beside > 1:
        make_beside(work, wanted, beside)
    for row in wanted:
        make_row(work, row)
    for row in table.rows:
        if row.of is not None and row.split is not None:
            for run in runs_of(next(r for r in table.rows if r.name == row.of), folder):
                score(work, run, row.split)
    if table.cost:
        for row in table.rows:
            for run in runs_of(row, folder)[:1] if row.of is None else ():
                cost.of_run(run, device)
    unlike = [row.name for row in table.rows if row.of is None and row not in wanted and made_otherwise(work, row)]
    result = gather(table, folder, without=unlike) | {"overrides": list(overrides), "unlike": unlike}
    write_json(folder / f"{table.name}.json", result)
    draw(table, cases, folder, device)
    text = markdown(table, result)
    with atomic(folder / f"{table.name}.md") as stream:
        stream.write(text)
    return text


def refuse_missing_data(table: Table, cases: Sequence[Case]) -> None:
    there = {case.source for case in cases}
    missing = [f"{source}: {why}" for source, why in table.needs.items() if source not in there]
    if missing:
        raise DataError(
            f"table {table.name} cannot be made from this manifest, whose cases come from "
            f"{name_list(sorted(filter(None, there))) if any(there) else 'an unnamed source'}. Missing is "
            + "; ".join(missing)
        )


def refuse_what_would_fail_late(work: Work, rows: Sequence[Row]) -> None:
    """Whatever the rows read must be there before the first of them is trained for hours."""
    if work.table.holm:
        significance.holm({})
    wordings = {name for case in work.cases for name in case.texts}
    missing = [w for w in work.table.evaluate.get("text_variants", ()) if w not in wordings]
    if missing:
        raise CallError(
            f"table {work.table.name}: the manifest has no column 'text:{missing[0]}', which is a variant; the head of "
            f"tables/{work.table.name}.yaml says which command makes it."
        )
    for row in rows:
        for fold in row.folds:
            if all((run_folder(work.folder, row, seed, fold) / DONE).is_file() for seed in row.seeds):
                continue
            resolved = recipe_of(work, row, row.tries[0] if row.tries else {}, row.seeds[0], fold, chosen=False)
            check_columns(resolved, work.cases)
            data = resolved.data
            make(work.cases, name=data.split, selection=data.selection, labelled=data.labelled, seed=row.seeds[0])
            parts.network_maker(resolved, None if data.text is None else 8, pretrained=False)()  # a library is missing?


# --- runs ------------------------------------------------------------------------------------------------------------


def make_row(work: Work, row: Row) -> None:
    """Train and score all runs of a row."""
    setting = best_try(work, row) if row.tries else {}
    for fold in row.folds:
        for seed in row.seeds:
            make_run(work, row, setting, fold, seed)


def make_run(work: Work, row: Row, setting: Mapping[str, Any], fold: str, seed: int) -> None:
    flush_denormals()
    run = trained(work, recipe_of(work, row, setting, seed, fold), run_folder(work.folder, row, seed, fold))
    score(work, run, row.split or work.table.split)


def make_beside(work: Work, rows: Sequence[Row], count: int) -> None:
    """All tries of the rows, then all runs, then the same of those that a run teaches, ``count`` at once."""
    log = work.folder / "jobs.log"
    work.folder.mkdir(parents=True, exist_ok=True)
    for taught in (False, True):
        some = [row for row in rows if (row.teacher is not None) == taught]
        tries = {f"{r.name}, setting {n + 1}": partial(tried, work, r, n) for r in some for n in range(len(r.tries))}
        jobs.run(tries, count, "settings", log)
        settings = {row.name: best_try(work, row) if row.tries else {} for row in some}
        runs = {
            ", ".join(filter(None, (row.name, fold, f"seed {seed}"))): partial(
                make_run, work, row, settings[row.name], fold, seed
            )
            for row in some
            for fold in row.folds
            for seed in row.seeds
        }
        jobs.run(runs, count, "runs", log)


def score(work: Work, run: Run, split: str) -> None:
    if not scored(work, run, split):
        notice(f"scoring {run.name} on '{split}'")
        evaluate(Predictor(run, device=work.device), work.cases, split, **work.table.evaluate)


def scored(work: Work, run: Run, split: str) -> bool:
    """Whether the run's scores are what the table asks for, of these sentences and files."""
    if not run.scores_path(split, ".json").is_file():
        return False
    summary = run.summary(split)
    wanted = asked(**work.table.evaluate)
    wordings = [*recipes.check(run.recipe(), run.name).wordings, *wanted["text_variants"]]
    same = {"asked": wanted, "read": manifests.fingerprint(work.cases, wordings)}
    have = {"asked": summary.get("asked", wanted), "read": summary["manifest"].get("read", same["read"])}
    return have == same


def best_try(work: Work, row: Row) -> Mapping[str, Any]:
    """The setting that is best on the selection part, at the first seed and fold; the scored split has no say."""
    scores = [tried(work, row, number) for number in range(len(row.tries))]
    if any(s != s for s in scores):
        raise CallError(f"row '{row.name}' has tries but the recipe sets no selection part aside; give data.selection.")
    best = max(range(len(scores)), key=lambda n: scores[n])
    told = ", ".join(f"{s:.4f}" for s in scores)
    notice(f"{row.name}: {len(scores)} settings tried, selection score {told}; number {best + 1} is kept")
    write_json(tries_path(work.folder, row), {"scores": scores, "kept": best, "setting": row.tries[best]})
    return row.tries[best]


def tried(work: Work, row: Row, number: int) -> float:
    """The selection score of a row's setting, trained as far as needed; NaN where nothing was set aside."""
    resolved = recipe_of(work, row, row.tries[number], row.seeds[0], row.folds[0])
    run = trained(work, resolved, try_folder(work.folder, row, number))
    return float(read_json(run.folder / "selection.json").get(resolved.train.select_by, float("nan")))


def trained(work: Work, resolved: Recipe, place: Path) -> Run:
    """The finished run of this recipe in this folder, trained or taken up as far as needed."""
    run = Run(place)
    if (place / DONE).is_file():
        if not recipes.same(run.recipe(), resolved):
            raise CallError(f"{place}: holds a run of another recipe; choose another folder or remove it.")
        data = resolved.data
        split = make(
            work.cases, name=data.split, selection=data.selection, labelled=data.labelled, seed=resolved.train.seed
        )
        refuse_other_data(run, resolved, work.cases, split.parts)
        return run
    notice(f"training {place.name}")
    begun = (place / "recipe.yaml").is_file()
    run = train(resolved, work.cases, place, resume=begun, device=work.device, manifest=work.manifest)
    write_json(place / DONE, {"seconds": max((e.get("seconds", 0.0) for e in run.entries()), default=0.0)})
    return run


def made_otherwise(work: Work, row: Row) -> bool:
    """Whether a row that is there has runs of another recipe than this call's: no like for its rows."""
    path = tries_path(work.folder, row)
    setting = read_json(path)["setting"] if row.tries and path.is_file() else {}
    places = [(fold, seed, run_folder(work.folder, row, seed, fold)) for fold in row.folds for seed in row.seeds]
    return any(
        not recipes.same(Run(place).recipe(), recipe_of(work, row, setting, seed, fold))
        for fold, seed, place in places
        if (place / DONE).is_file()
    )


def kept_setting(work: Work, name: str) -> Mapping[str, Any]:
    """What the tries of the row of this name came to."""
    path = tries_path(work.folder, next(r for r in work.table.rows if r.name == name))
    if not path.is_file():
        raise CallError(f"{work.table.name}: the row '{name}' has to be made first; its setting is not chosen yet.")
    return read_json(path)["setting"]


def recipe_of(work: Work, row: Row, setting: Mapping[str, Any], seed: int, fold: str, *, chosen: bool = True) -> Recipe:
    """A run's recipe: the table's, with what all rows, the row this is like, this row and the try change; overrides.

    chosen: whether the settings of the row that this is like are chosen already.
    """
    table = work.table
    kept = kept_setting(work, row.like) if row.like and chosen else {}
    own: dict[str, Any] = {"train.seed": seed} | ({"data.split": fold} if fold else {})
    if row.teacher is not None:
        teacher = next(r for r in table.rows if r.name == row.teacher)
        own["train.teacher"] = str(run_folder(work.folder, teacher, seed, fold))
    return recipe_with(table, work.overrides, kept, row.set, setting, own, where=f"{table.name}, row '{row.name}'")
