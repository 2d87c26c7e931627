"""What the adapters of ISIC's challenges share: folders found by their names, tables and the archive joined by id.

Wherever below the given folder they lie, image and mask folders are known by their published names (case, spaces and
signs aside), also where an archive unpacked into a folder of its own name. A case has the free columns age, sex, site
and diagnosis; what is not known is empty. Sentences of MedCLIPSeg's sheets become ``text:medclipseg`` and, for its test
variants, ``text:medclipseg_contradictory`` ...; its parts, which are not the challenge's, are ``split:medclipseg``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from crossmask.data.adapters.prompts import Sentences, images_of, pictures_in, with_masks
from crossmask.data.layouts import DEPTH, Found, Part, between, folders, present, tables_in
from crossmask.data.manifest import Case
from crossmask.data.tables import PARTS, Losses, Table, key, part_of, plain, read_table
from crossmask.data.templates import UNKNOWN
from crossmask.errors import DataError, name_list

WORDING = "medclipseg"
SUPERPIXELS = "_superpixels"  # pictures that lie beside those of 2017
PART = r"(?P<part>train(ing)?|val(id(ation)?)?|test)(v\d)?"
COPY = r"\d?"  # 'name (1)', as browsers call a second download
ID_NAMES = ("image_id", "isic_id", "image", "image_name", "id")
COLUMNS = {
    "age": ("age_approximate", "age_approx", "age"),
    "sex": ("sex", "gender"),
    "site": ("anatom_site_general", "anatom_site_general_challenge", "site", "anatom_site"),
    "diagnosis": ("diagnosis", *(f"diagnosis_{level}" for level in (5, 4, 3, 2, 1))),  # the finest that is filled
}


@dataclass(frozen=True)
class Task:
    """How a task calls its folders; '{}' stands for the part."""

    source: str
    images: str
    masks: str
    parts: Mapping[str, str]  # part -> its word in a name

    def named(self, what: str, part: str) -> str:
        return what.format(self.parts[part])


@dataclass
class Tree:
    """Where things lie: parts, train first, and the tables that were not read yet."""

    top: Path
    parts: list[Part]
    tables: list[Path]

    def take(self, published: str) -> dict[str, Path]:
        """Part -> its table of that name; a second one stays with what was not read."""
        taken: dict[str, Path] = {}
        for file in self.tables:
            part = part_named(published, file.stem)
            if part:
                taken.setdefault(part, file)
        self.tables = [f for f in self.tables if f not in taken.values()]
        return taken


def part_named(published: str, name: str) -> str | None:
    """The part of which a folder or table speaks, if it is called ``published``.

    >>> part_named("ISIC-2017_{}_Data", "isic-2017_test_v2_data"), part_named("ISIC-2017_{}_Data", "data")
    ('test', None)
    """
    match = re.fullmatch(plain(published.format("qq")).replace("qq", PART) + COPY, plain(name))
    return part_of(match["part"]) if match else None


def find(top: Path, task: Task, losses: Losses) -> Tree:
    """The parts of a task and the tables that lie about them."""
    below = all_below(top, DEPTH + 1)
    images, masks = by_part(below, task.images), by_part(below, task.masks)
    if not images:
        wanted = name_list(f"'{task.named(task.images, part)}'" for part in task.parts)
        where = f"here and up to {DEPTH + 1} folders below"
        raise DataError(f"{top}: the image folder is missing; looked for {wanted}, {where}; {present(top)}.")
    parts = [
        Part(part, images[part], masks.get(part, images[part].with_name(task.named(task.masks, part))))
        for part in PARTS
        if part in images
    ]
    absent = [part.masks.name for part in parts if not part.masks.is_dir()]
    losses.add("mask folders missing (their images are kept as unlabelled)", *absent)
    lone = [folder.name for part, folder in masks.items() if part not in images]
    losses.add("mask folders left aside, whose image folders are missing", *lone)
    home = Path(os.path.commonpath([*images.values(), *masks.values()]))
    tables = tables_in([*between(top, home), *(f for f in below if home in f.parents)])
    return Tree(top, parts, tables)


def all_below(folder: Path, depth: int) -> list[Path]:
    """A folder and those below."""
    return [folder, *(f for one in folders(folder) for f in all_below(one, depth - 1))] if depth else [folder]


def by_part(below: Iterable[Path], published: str) -> dict[str, Path]:
    """Part -> the folder of that name; of a folder in a folder of one name the one that holds pictures."""
    hits: dict[str, list[Path]] = {}
    for folder in below:
        part = part_named(published, folder.name)
        if part:
            hits.setdefault(part, []).append(folder)
    for several in hits.values():
        full = [f for f in several if pictures_in(f)]
        if len(full) > 1:
            raise DataError(f"{name_list(full)}: mean the same and hold pictures each; keep one of them.")
        several[:] = full or several[-1:]
    return {part: several[0] for part, several in hits.items()}


def pictures(tree: Tree, losses: Losses) -> list[Found]:
    """All pictures with their masks ('_segmentation'); superpixels are none."""
    return with_masks(images_of(tree.parts, losses, SUPERPIXELS), tree.parts, losses)


# -- what tables say -------------------------------------------------------------------------------------


class Facts:
    """What tables say of pictures. What a former table says stands; a later one fills what is unknown."""

    def __init__(self, found: Sequence[Found], losses: Losses) -> None:
        self.found, self.losses = found, losses
        self.values = {f.key: dict.fromkeys(COLUMNS, "") for f in found}

    def add(self, name: str, told: Mapping[str, str], table: Path) -> None:
        values = self.values.get(key(name))
        if values is None:
            self.losses.add(f"table rows without an image ({table.name})", name or "(empty)")
            return
        for column, value in told.items():
            if value and values[column] and value != values[column]:
                self.losses.add(f"rows of {table.name} with another {column} than a former row (that is kept)", name)
            values[column] = values[column] or value

    def read(self, table: Table) -> None:
        """A table with any of the columns, as the challenges and the archive write them."""
        image = table.needed("image's id", ID_NAMES)
        columns = {c: [found for n in names if (found := table.column([n]))] for c, names in COLUMNS.items()}
        for _, row in table.rows:
            told = {c: next(filter(None, (known(row[n]) for n in names)), "") for c, names in columns.items()}
            told["age"] = self.age(told["age"], row[image])
            self.add(row[image], told, table.path)

    def age(self, value: str, name: str) -> str:
        """'55.0' -> '55'; what is no number is counted and left out."""
        if value and not re.fullmatch(r"\d+(\.\d+)?", value):
            self.losses.add("ages that are no number (left empty)", f"{name} '{value}'")
            return ""
        return value.rstrip("0").rstrip(".") if "." in value else value

    def count_unknown(self) -> None:
        for column in COLUMNS:
            lone = [f.id for f in self.found if not self.values[f.key][column]]
            if len(lone) < len(self.found):
                self.losses.add(f"images of unknown {column} (left empty)", *lone)
            else:
                kind = "columns left empty (no table here fills them; metadata= takes one of ISIC's archive)"
                self.losses.add(kind, column)


def known(value: str) -> str:
    """A value in small letters, '' if it says that nothing is known.

    >>> known("Unknown"), known("Melanoma, NOS")
    ('', 'melanoma')
    """
    value = re.sub(r",? nos$", "", value.strip().casefold())
    return "" if value in UNKNOWN else value


def join_archive(metadata: str | None, tree: Tree, facts: Facts) -> None:
    """The table that the user exported from ISIC's archive; it fills what the task's own tables leave open."""
    if metadata is None:
        return
    tried = (Path(metadata), tree.top / metadata)
    file = next((p for p in tried if p.is_file()), tried[0])
    facts.read(read_table(file))
    tree.tables = [f for f in tree.tables if not f.samefile(file)]


def cases(tree: Tree, facts: Facts) -> list[Case]:
    """One case a picture; the folders are the split where there is more than train. What was left out is logged."""
    told = Sentences(facts.found, facts.losses, WORDING)
    told.read(tree.tables, split=WORDING)
    if [part.name for part in tree.parts] != ["train"]:
        told.plain.place_by_folder("")
    facts.count_unknown()
    made = told.cases(lambda name: facts.values[key(name)])
    facts.losses.log()
    return made
