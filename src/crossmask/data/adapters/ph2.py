"""PH2: 200 dermoscopic pictures of nevi and melanomas with lesion masks and an expert's table of criteria.

Layout: ``PH2Dataset/PH2 Dataset images/IMD002/`` (also ``PH2_Dataset_images``) with
``IMD002_Dermoscopic_Image/IMD002.bmp``, ``IMD002_lesion/IMD002_lesion.bmp`` and ``IMD002_roi/`` (not read), also as jpg
or png; ``PH2_dataset.xlsx`` (a legend above a header in two rows, marks of ``X``) or ``PH2_dataset.txt`` (fields
between ``||``, numbers for diagnosis and colours). The set ships no sentences; sheets of your own in MedCLIPSeg's
layout (``Prompts_Folder``) become ``text``. Of several trees below the given folder the fullest is read. A case without
one of its two folders is an error, as the copy is damaged; a missing mask file makes it unlabelled.

Source: Mendonca et al., EMBC 2013 (ADDI project, Hospital Pedro Hispano; on request, for research and benchmarking).
Known faults: no patient is told, so there is no group; most histological diagnoses are empty, as nevi are not cut out;
a few masks cover nearly the whole picture. LEFT is the left of the picture.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from crossmask.data import tables
from crossmask.data.adapters.prompts import Sentences, images_of, with_masks
from crossmask.data.layouts import DEPTH, Found, Part, between, child, folders, given, needed, present, tables_in
from crossmask.data.manifest import Case
from crossmask.data.tables import Losses, key, plain
from crossmask.errors import DataError
from crossmask.files import read_text

SOURCE = "PH2"
LOOKED_FOR = (
    "'PH2 Dataset images' with a folder for each case, such as 'IMD002', in which 'IMD002_Dermoscopic_Image' and "
    "'IMD002_lesion' lie"
)
IMAGE, LESION = "_Dermoscopic_Image", "_lesion"
TABLE = "PH2_dataset"
NAMES = ("imagename", "name")  # a column that is called so makes a row the header
CLINICAL = {"0": "common nevus", "1": "atypical nevus", "2": "melanoma"}
DIAGNOSES = {"Common Nevus": "common nevus", "Atypical Nevus": "atypical nevus", "Melanoma": "melanoma"}
DEGREES = {"a": "absent", "p": "present", "t": "typical", "at": "atypical"}
CRITERIA = {
    "pigment_network": "Pigment Network",
    "dots_globules": "Dots/Globules",
    "streaks": "Streaks",
    "regression_areas": "Regression Areas",
    "blue_whitish_veil": "Blue-Whitish Veil",
}
COLOURS = ("White", "Red", "Light-Brown", "Dark-Brown", "Blue-Gray", "Black")  # in the order of their numbers, from 1
COLUMNS = ("diagnosis", "histology", "asymmetry", *CRITERIA, "colours")


def scan(root: str | Path) -> list[Case]:
    """All cases of the fullest tree below ``root``."""
    losses = Losses(SOURCE)
    top = given(root)
    tree, homes = find(top, losses)
    parts = [Part(h.name, needed(h, "image", (h.name + IMAGE,)), needed(h, "mask", (h.name + LESION,))) for h in homes]
    found = with_masks(images_of(parts, losses), parts, losses, endings=(LESION,))
    places = between(top, tree)
    facts = read_experts(places, found, losses)
    told = Sentences(found, losses)
    told.read((f for f in tables_in(places) if plain(f.stem) != plain(TABLE)), split=None)
    cases = told.cases(lambda name: facts.get(key(name), dict.fromkeys(COLUMNS, "")))
    losses.log()
    return cases


def find(top: Path, losses: Losses) -> tuple[Path, list[Path]]:
    """The folder of pictures that holds most cases, and their folders."""
    trees: dict[Path, list[Path]] = {}
    level = [top]
    for _ in range(DEPTH + 1):
        trees |= {f: homes for f in level if (homes := [h for h in folders(f) if is_case(h)])}
        level = [d for f in level if f not in trees for d in folders(f)]
    if not trees:
        raise DataError(f"{top}: looked for {LOOKED_FOR}, here and up to {DEPTH} folders below; {present(top)}.")
    tree = max(trees, key=lambda f: len(trees[f]))
    others = [f"{f.relative_to(top)} ({len(homes)} cases)" for f, homes in trees.items() if f != tree]
    losses.add(f"further trees left aside (the fullest is read: {tree.relative_to(top)})", *others)
    losses.add("folders that are no case (left aside)", *(d.name for d in folders(tree) if d not in trees[tree]))
    return tree, trees[tree]


def is_case(folder: Path) -> bool:
    return any(child(folder, (folder.name + ending,)) for ending in (IMAGE, LESION))


# -- the experts' table ----------------------------------------------------------------------------------


def read_experts(places: Iterable[Path], found: Iterable[Found], losses: Losses) -> dict[str, dict[str, str]]:
    """Picture -> what the table says of it, by column."""
    files = [f for f in tables_in(places, (".xlsx", ".txt")) if plain(f.stem) == plain(TABLE)]
    files.sort(key=lambda f: f.suffix.casefold() != ".xlsx")
    if not files:
        losses.add("tables missing (all columns are left empty)", f"{TABLE}.xlsx or {TABLE}.txt")
        return {}
    losses.add("tables left aside", *(f"{f.name} ({files[0].name} is read)" for f in files[1:]))
    ids = {f.key: f.id for f in found}
    facts: dict[str, dict[str, str]] = {}
    for name, cells in rows_of(files[0], losses):
        if key(name) not in ids:
            losses.add("table rows without an image", name or "(empty)")
        elif key(name) in facts:
            losses.add("further table rows of an image (the first is kept)", name)
        else:
            facts[key(name)] = facts_of(name, cells, losses)
    losses.add(
        "images without a table row (all columns are left empty)", *(i for k, i in ids.items() if k not in facts)
    )
    losses.add("images of unknown diagnosis (left empty)", *(ids[k] for k, f in facts.items() if not f["diagnosis"]))
    return facts


def rows_of(file: Path, losses: Losses) -> list[tuple[str, dict[str, str]]]:
    """Picture and cells of each row below the header, which is the first row that has a column for the name."""
    lines = [cells for _, cells in tables.sheet_lines(file)] if file.suffix.casefold() == ".xlsx" else fields(file)
    start = next((n for n, cells in enumerate(lines) if any(plain(c) in NAMES for c in cells)), None)
    if start is None:
        raise DataError(f"{file}: no row has a column 'Image Name' or 'Name'; take the table as the set ships it.")
    header = [plain(c) for c in lines[start]]
    wanted = ["Asymmetry", *CRITERIA.values()]
    wanted += [] if column(header, "Clinical Diagnosis") else DIAGNOSES
    wanted += [] if column(header, "Colors") else COLOURS
    losses.add(f"columns missing in {file.name} (left empty)", *(w for w in wanted if not column(header, w)))
    place = next(n for n, c in enumerate(header) if c in NAMES)
    found = [cells for cells in lines[start + 1 :] if any(map(plain, cells))]  # rules are no rows
    short = [cells[0] for cells in found if len(cells) < len(header) and file.suffix.casefold() == ".txt"]
    losses.add(f"rows of {file.name} with fewer fields than the header (the last are left empty)", *short)
    rows = [dict(zip(header, cells, strict=False)) for cells in found]
    return [(row.get(header[place], ""), row) for row in rows]


def fields(file: Path) -> list[list[str]]:
    """The lines of the text table that have fields; rules and legends between them have none."""
    lines = [line.strip() for line in read_text(file).splitlines() if "||" in line]
    return [[cell.strip() for cell in line.removeprefix("||").removesuffix("||").split("||")] for line in lines]


def column(header: Iterable[str], title: str) -> str:
    """The column whose name begins with ``title``, as it may go on with its codes; '' if there is none."""
    return next((c for c in header if c.startswith(plain(title))), "")


def facts_of(name: str, cells: Mapping[str, str], losses: Losses) -> dict[str, str]:
    """A row in words; codes that are not known are counted and left out."""

    def cell(title: str) -> str:
        return cells.get(column(cells, title), "")

    def coded(title: str, codes: Mapping[str, str]) -> str:
        value = cell(title).casefold()
        word = value if value in codes.values() else codes.get(value, "")
        if value and not word:
            losses.add("codes of the expert table that are not known (left empty)", f"{name} {title} '{cell(title)}'")
        return word

    def marked(title: str) -> bool:
        return bool(coded(title, {"x": "x"}))

    if column(cells, "Clinical Diagnosis"):
        diagnosis = coded("Clinical Diagnosis", CLINICAL)
    else:
        several = [word for title, word in DIAGNOSES.items() if marked(title)]
        diagnosis = several[0] if len(several) == 1 else ""
    if column(cells, "Colors"):
        numbers = re.findall(r"[^\s,;]+", cell("Colors"))
        known = {str(n): colour for n, colour in enumerate(COLOURS, 1)}
        odd = [f"{name} Colors '{number}'" for number in numbers if number not in known]
        losses.add("codes of the expert table that are not known (left empty)", *odd)
        colours = [colour for number, colour in known.items() if number in numbers]
    else:
        colours = [colour for colour in COLOURS if marked(colour)]
    words = [colour.casefold().replace("-", " ") for colour in colours]
    told = {"diagnosis": diagnosis, "histology": cell("Histological Diagnosis").casefold()}
    told["asymmetry"] = coded("Asymmetry", {n: n for n in "012"})
    told |= {criterion: coded(title, DEGREES) for criterion, title in CRITERIA.items()}
    return told | {"colours": ", ".join(words)}


def fake(root: str | Path) -> Path:
    """Four cases as .bmp with the experts' workbook and a sheet of sentences; returns what to scan."""
    import openpyxl

    from crossmask.data.adapters.prompts import fake_pair, fake_sheet

    tree = Path(root) / "PH2Dataset"
    book = openpyxl.Workbook()
    sheet = book.active
    sheet["F2"], sheet["F3"], sheet["H3"] = "Legends", "Asymmetry", "Fully Symmetric"
    sheet["C12"], sheet["L12"] = "Clinical Diagnosis", "Colors"
    sheet.merge_cells("C12:E12")
    sheet.merge_cells("L12:Q12")
    titles = ["Asymmetry\n(0/1/2)", *(f"{title}\n(A/AT/T)" for title in CRITERIA.values())]
    lines: list[list[str | int | None]] = [
        ["Image Name", "Histological Diagnosis", *DIAGNOSES, *titles, *COLOURS],
        ["IMD002", None, None, "X", None, 1, "AT", "T", "A", "A", "A", None, None, "X", "X", None, None],
        ["IMD003", None, "X", None, None, 0, "T", "A", "A", "A", "A", None, None, None, "X", None, None],
        ["IMD058", "Melanoma", None, None, "X", 2, "AT", "AT", "P", "P", "P", "X", "X", None, "X", "X", "X"],
        ["IMD424", None, None, None, "X", 2, "AT", "AT", "A", "A", "P", None, None, None, "X", "X", None],
    ]
    for row, values in enumerate(lines, 13):
        for place, value in enumerate(values, 1):
            sheet.cell(row, place, value)
    names = [str(line[0]) for line in lines[1:]]
    for n, name in enumerate(names):
        home = tree / "PH2 Dataset images" / name
        fake_pair(home / f"{name}{IMAGE}/{name}.bmp", home / f"{name}{LESION}/{name}{LESION}.bmp", n)
        fake_pair(home / f"{name}_roi/{name}_R1_Label4.bmp", home / f"{name}_roi/{name}_R2_Label3.bmp", n)
    book.save(tree / f"{TABLE}.xlsx")
    rows = [(f"{name}.bmp", "one dark brown lesion in the center of the image", f"{name}_lesion.bmp") for name in names]
    fake_sheet(tree / "Prompts_Folder" / "Train_text.xlsx", rows)
    return Path(root)
