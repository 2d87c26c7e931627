"""A table's numbers, from the run folders alone: estimates, paired differences, costs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from crossmask import significance, statistics, stratified
from crossmask.files import read_json
from crossmask.run import Run
from crossmask.table import Row, Table, run_folder, runs_of, tries_path


def gather(table: Table, folder: Path, *, without: Collection[str] = ()) -> dict[str, Any]:
    """All numbers of the table, from the run folders alone. without: rows that are left out, with what is scored from
    them."""
    by_name = {row.name: row for row in table.rows}
    frames: dict[str, Any] = dict.fromkeys(by_name)
    for row in table.rows:
        if (row.of or row.name) not in without:
            frames[row.name] = frame_of(by_name[row.of or row.name], row.variant, row.split or table.split, folder)
    reference = frames[table.reference]
    result: dict[str, Any] = {
        "table": table.name,
        "title": table.title,
        "split": table.split,
        "column": table.column,
        "reference": table.reference,
        "rows": {},
    }
    for row in table.rows:
        frame = frames[row.name]
        if frame is None:
            continue
        runs = runs_of(by_name[row.of or row.name], folder)
        others = {
            key: by_name[name] for key, name in (("difference", table.reference), ("to_parent", row.parent)) if name
        }
        pairs = {
            key: pair(frames[other.name], frame)
            for key, other in others.items()
            if other is not row and not row.split and same_folds(row, other, by_name)
        }
        compared = pairs.get("difference")
        one: dict[str, Any] = {
            "estimates": estimates(frame),
            "cases": int(frame.id.nunique()),
            "runs": len(runs),
            "by_seed": seed_means(frame, table.column),
            "kinds": kinds(frame, compared, table.column, reference),
            "text_share": share(frame) if row.of is None else None,
        }
        if row.of is None:
            one |= of_runs(table, row, runs, folder)
        for key, two in pairs.items():
            if two is not None:
                one[key] = statistics.paired_difference(*two, column=table.column).to_dict()
                one[key]["by_seed"] = difference_by_seed(frames[others[key].name], frame, table.column)
        other = by_name.get(row.against or "")
        if other is not None and frames[other.name] is not None and not same_folds(row, other, by_name):
            one["to_parent"] = statistics.unpaired_difference(
                averaged(frames[other.name]), averaged(frame), column=table.column
            ).to_dict() | {"unpaired": True}
        if table.holm and compared and row.of is None and row.ranked:  # a network is tested, not each of its variants
            one["p"] = significance.sign_flip(*compared, column=table.column)
        result["rows"][row.name] = one
    asked = {name: one["p"] for name, one in result["rows"].items() if "p" in one}
    for name, p in (significance.holm(asked) if asked else {}).items():
        result["rows"][name]["p_holm"] = p
    return result


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


def same_folds(row: Row, other: Row, by_name: Mapping[str, Row]) -> bool:
    """Whether two rows were trained on the same splits; otherwise what one learnt from may be the other's test."""
    return by_name[row.of or row.name].folds == by_name[other.of or other.name].folds


def pair(first: Any, second: Any) -> tuple[Any, Any] | None:
    """Both rows' cases, averaged over the seeds that both have (over all where they share none), so that one seed is
    not compared with other draws of the labelled cases. None where a row is not made, or no case is in both."""
    if first is None or set(first.id).isdisjoint(second.id):
        return None
    seeds = set(first.seed) & set(second.seed)
    if seeds:
        first, second = (frame[frame.seed.isin(seeds)] for frame in (first, second))
    return averaged(first), averaged(second)


def share(frame: Any) -> dict[str, Any] | None:
    """The words' share of a gated network's answer, over the cases that have a sentence."""
    told = frame[frame.has_text] if "has_text" in frame else frame
    return stratified.share_summary(seeds_as_cases(told))


def averaged(frame: Any) -> Any:
    """One row a case: the mean over the seeds of every number."""
    numbers = frame.select_dtypes("number").columns.drop(["seed"])
    groups = frame.groupby("id", sort=True)
    return groups[list(numbers)].mean().reset_index().merge(groups["group"].first().reset_index(), on="id")


def seeds_as_cases(frame: Any) -> Any:
    """Several seeds enter as cases of one patient, so that they add no patients."""
    return frame.assign(
        group=frame["group"].where(frame["group"].notna() & (frame["group"] != ""), frame["id"]),
        id=frame["id"].astype(str) + " " + frame["fold"] + " seed " + frame["seed"].astype(str),
    )


def estimates(frame: Any) -> dict[str, Any]:
    """Both families, shares above an IoU, and the distances."""
    from crossmask.metrics import surface

    one = seeds_as_cases(frame)
    found = {name: value.to_dict() for name, value in (statistics.summarise(one) | statistics.hits(one)).items()}
    if "accuracy" in one:
        found["accuracy_mean"] = statistics.mean(one, "accuracy").to_dict()
    return found | statistics.distances(one, surface.SCORES)


def kinds(
    frame: Any, compared: tuple[Any, Any] | None, column: str, whole: Any = None
) -> dict[str, list[dict[str, Any]]]:
    """Stratum -> its kinds of case: how many, ``column``'s mean, the difference of the two rows ``compared`` on them.
    whole: a row of more cases, whose thirds are taken where it holds all of these."""
    holder = whole if whole is not None and set(frame.id) <= set(whole.id) else frame
    found: dict[str, list[dict[str, Any]]] = {}
    for name in (c for c in frame.columns if str(c).startswith(stratified.COLUMN)):
        rows = found[str(name).removeprefix(stratified.COLUMN)] = []
        for kind, some in stratified.split_by(holder.drop_duplicates("id"), name):
            own = frame[frame.id.isin(some.id)]
            if own.empty:
                continue
            rows.append(
                {
                    "kind": kind,
                    "cases": int(own.id.nunique()),
                    "mean": statistics.mean(seeds_as_cases(own), column).to_dict(),
                }
            )
            two = [row[row.id.isin(own.id)] for row in compared or ()]
            if two and len(two[0]):
                rows[-1]["difference"] = statistics.paired_difference(*two, column=column).to_dict()
    return found


def seed_means(frame: Any, column: str) -> dict[str, float]:
    return {str(seed): round(float(some[column].mean()), 4) for seed, some in frame.groupby("seed")}


def difference_by_seed(first: Any, second: Any, column: str) -> dict[str, float]:
    """Seed -> mean of ``column``, ``second`` minus ``first``, over the cases and for the seeds that both have."""
    case = ["id", "fold", "seed"]
    both = first[[*case, column]].merge(second[[*case, column]], on=case, suffixes=("", " of second"))
    return seed_means(both.assign(difference=both[f"{column} of second"] - both[column]), "difference")


def of_runs(table: Table, row: Row, runs: Sequence[Run], folder: Path) -> dict[str, Any]:
    """What a row says of its own runs: network, cost, last iterate, the settings that were tried."""
    split, tries, measured = row.split or table.split, tries_path(folder, row), runs[0].folder / "cost.json"
    return {
        "network": runs[0].recipe()["model"]["network"],
        **cost(runs, split, len(row.seeds)),
        "last": last_of(runs, split) if row.variant == "right" else None,
        "tries": read_json(tries) if row.tries and tries.is_file() else None,
        "cost": read_json(measured) if table.cost and measured.is_file() else None,
    }


def cost(runs: Sequence[Run], split: str, seeds: int) -> dict[str, Any]:
    """What a row's runs took. shared: the cases of all folds, mean over the seeds, whose group their run has learnt."""
    summaries = [run.summary(split) for run in runs]
    minutes = [s["training"]["minutes"] for s in summaries]
    return {
        "parameters": summaries[0]["training"]["parameters"],
        "images": summaries[0]["training"]["images"],
        "minutes": round(sum(minutes) / len(minutes), 1),
        "device": summaries[0]["training"]["device"],
        "selection": summaries[0]["selection"],
        "shared": round(sum(s["groups"]["cases_whose_group_is_in_train"] for s in summaries) / seeds),
    }


def last_of(runs: Sequence[Run], split: str) -> float | None:
    """The last iterate's dice_mean over the same cases as the chosen one's, which it may be."""
    import pandas as pd

    found = []
    for run in runs:
        cases = run.cases(split)
        found.append(cases[cases.variant == ("last" if (cases.variant == "last").any() else "right")])
    return round(float(pd.concat(found).dice.mean()), 4) if found else None
