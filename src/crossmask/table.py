"""What a table of comparisons is: its rows, and where their runs lie.

A table is a YAML file in ``tables/``:

    title, about       what stands above and below the numbers
    recipe, set        the recipe and the overrides of all rows (a section given whole replaces the recipe's)
    split              the part that is scored, once, when everything is chosen
    scores             summary names to print (dice_mean, hd95_mean, ...)
    folds              names of split columns that every row has a run of (default the recipe's own split)
    evaluate           arguments of evaluation beside the recipe's (text_variants, shifts)
    compare            the per-case column of the paired differences (dice), ``with``, the row they are taken from, and
                       holm: true for a test of each, corrected for their number
    cost               true: weights, operations, time and memory of each row's network
    rows               name -> set, seeds (default [0]), folds (names of split columns; default the recipe's own),
                       tries (up to three settings, the best on the selection part is kept), like: a row above whose
                       kept setting this one starts from (an ablation), or of: another row, whose runs are scored;
                       variant: one that evaluation scores (shift: 2 mm, modalities: t1, none) in place of ``right``,
                       against: a row from which a difference is taken besides ``with`` (default: of or like),
                       ranked: false for a row that had no fair chance, which is not tested,
                       split: another part than the table's,
                       teacher: a row whose run of the same seed and fold teaches,
                       printed: the source's numbers of this row (IoU: 0.84, ...), quoted beside ours
    printed            further numbers of the source, as text
    asks               overrides that have to be given, as they name a place on this machine (train.init) -> what for
    needs              source (as the manifest's column says) without which the table cannot be made -> what is missing
    figure             cases: how many, rows: which; a picture of the same cases, each row's answer beside the truth
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crossmask import recipe as recipes
from crossmask import rooms
from crossmask.errors import CallError, name_list
from crossmask.files import read_json, read_yaml
from crossmask.run import Run

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
    printed: Mapping[str, float] = field(default_factory=dict)  # score -> the source's number
    like: str | None = None  # a row with tries, above, whose kept setting comes before ``set``

    against: str | None = None
    ranked: bool = True

    @property
    def parent(self) -> str | None:
        """The row that this one is compared with besides the table's reference; the whole where it is an ablation."""
        return self.against or self.of or self.like


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
    needs: Mapping[str, str] = field(default_factory=dict)  # source of the cases -> what is missing without it
    asks: Mapping[str, str] = field(default_factory=dict)  # override that must be given -> what it is
    figure: Mapping[str, Any] = field(default_factory=dict)  # cases: how many, rows: which
    holm: bool = False
    cost: bool = False


def load(name: str) -> Table:
    """A shipped table by its name, or a file. Raises CallError for a table that does not hold together."""
    known = recipes.shipped("tables")
    path = Path(name) if Path(name).is_file() else known.get(name)
    if path is None:
        raise CallError(f"no table '{name}'{rooms.near_miss(name, known)} There are: {name_list(known, shown=40)}.")
    plain = read_yaml(path, CallError)
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
                given.get("printed", {}),
                given.get("like"),
                given.get("against"),
                given.get("ranked", True),
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
            plain.get("needs", {}),
            plain.get("asks", {}),
            plain.get("figure", {}),
            bool(plain["compare"].get("holm", False)),
            bool(plain.get("cost", False)),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise CallError(f"{path}: is no table: {type(error).__name__} {error}; see 'tables/' for the form.") from error
    names = [row.name for row in rows]
    for wanted in [
        table.reference,
        *table.figure.get("rows", ()),
        *(w for r in rows for w in (r.of, r.teacher, r.like, r.against) if w),
    ]:
        if wanted not in names:
            raise CallError(f"{path}: the row '{wanted}' is named but not there; there are {name_list(names)}.")
    for place, row in enumerate(rows):
        if row.like and not any(r.name == row.like and r.tries for r in rows[:place]):
            raise CallError(f"{path}: row '{row.name}' is like '{row.like}', which has no tries or stands below it.")
    return table


def recipe_with(table: Table, overrides: Sequence[str], *changes: Mapping[str, Any], where: str = "") -> recipes.Recipe:
    """What a run is made from: the table's recipe, what it sets for all rows, further changes in their order, and the
    caller's overrides, which have the last word. Without changes: what all rows start from. where: for what is refused.
    """
    plain = recipes.plain(table.recipe)
    for given in (table.set, *changes):
        for key, value in given.items():
            recipes.put(plain, key, value)
    for override in overrides:
        recipes.apply(plain, override)
    return recipes.check(plain, where or table.name)


# --- where runs lie --------------------------------------------------------------------------------------------------


def slug(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name.lower().replace("+", "plus")).strip("-")


def tries_path(folder: Path, row: Row) -> Path:
    return folder / f"{slug(row.name)}-tries.json"


def try_folder(folder: Path, row: Row, number: int) -> Path:
    return folder / f"{slug(row.name)}-try{number + 1}"


def run_folder(folder: Path, row: Row, seed: int, fold: str) -> Path:
    """Where a run lies; the first one of a row with tries is the try that was kept."""
    if row.tries and (seed, fold) == (row.seeds[0], row.folds[0]) and tries_path(folder, row).is_file():
        return try_folder(folder, row, read_json(tries_path(folder, row))["kept"])
    return folder / "-".join(filter(None, (slug(row.name), slug(fold), f"seed{seed}")))


def runs_of(row: Row, folder: Path) -> list[Run]:
    places = [run_folder(folder, row, seed, fold) for fold in row.folds for seed in row.seeds]
    return [Run(place) for place in places if (place / DONE).is_file()]
