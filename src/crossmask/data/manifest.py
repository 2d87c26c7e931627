"""The manifest: one table, one row a case. Read, written and validated here and nowhere else.

Columns: ``id``, ``image`` or ``image:<modality>`` (one or more), and where known ``group`` (patient), ``split`` or
``split:<name>``, ``mask``, ``text`` or ``text:<wording>``, ``text_origin``, ``side_convention``, ``spacing``,
``source``; every other column is kept as free metadata. Paths are relative to the manifest. An empty mask field
means unlabelled. An image or mask may be a folder (the slices of a DICOM series); ``file.nii.gz#2`` is one volume of a
4-D file. A picture's mask may be several files, ``a.png|b.png`` (one a lesion): their union. CSV and JSONL hold the
same fields.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from crossmask.core import SIDE_CONVENTIONS, TEXT_ORIGINS
from crossmask.errors import DataError, listed, name_list
from crossmask.files import atomic, digest, read_text
from crossmask.rooms import near_miss

FIXED = ("id", "group", "mask", "text_origin", "side_convention", "spacing", "source")
FAMILIES = ("image", "split", "text")
SEVERAL = "|"  # between the files of one mask


@dataclass(frozen=True)
class Case:
    """One row. Paths are absolute; families are keyed by their name, '' for the plain column."""

    id: str
    images: Mapping[str, str]  # modality -> file; '' is the plain column
    group: str | None = None
    splits: Mapping[str, str] = field(default_factory=dict)
    mask: str | None = None
    texts: Mapping[str, str] = field(default_factory=dict)
    text_origin: str = "unknown"
    side_convention: str = "unknown"
    spacing: tuple[float, ...] | None = None  # mm, one per axis (rows, columns)
    source: str = ""
    free: Mapping[str, str] = field(default_factory=dict)

    @property
    def origins(self) -> set[str]:
        """Where its sentences come from: ``origin:<wording>`` for a wording that says so, else text_origin."""
        return {self.free.get(f"origin:{wording}") or self.text_origin for wording in self.texts}

    def with_text(self, wording: str, text: str) -> Case:
        return replace(self, texts={**self.texts, wording: text})


def read(path: str | Path, *, check_files: bool = True) -> list[Case]:
    """All rows of a manifest, or one :class:`DataError` that lists every fault with its row and its fix."""
    cases, faults = read_leniently(path, check_files=check_files)
    if faults:
        raise DataError(listed(faults))
    return cases


def read_leniently(path: str | Path, *, check_files: bool = True) -> tuple[list[Case], list[str]]:
    """The rows as far as they can be read, and every fault with its row and its fix."""
    path = Path(path)
    if not path.is_file():
        return [], [f"{path}: there is no such manifest; 'crossmask data import' makes one."]
    try:
        rows, faults = jsonl_rows(path) if path.suffix.lower() == ".jsonl" else csv_rows(path)
    except DataError as error:
        return [], [str(error)]
    missing = column_faults(path, list(dict.fromkeys(name for _, row in rows for name in row)))
    if missing:
        return [], faults + missing
    if not rows and not faults:
        faults.append(f"{path}: holds no case; add one row a case below the header.")
    cases = []
    seen: dict[str, int] = {}
    for number, row in rows:
        case, wrong = to_case(row, path.parent, check_files)
        first = seen.setdefault(case.id, number)
        if first != number and case.id:
            wrong.append(f"id '{case.id}' already stands in row {first}; give every case its own id")
        faults += [f"{path}, row {number}: {what}." for what in wrong]
        cases.append(case)
    return cases, faults


def csv_rows(path: Path) -> tuple[list[tuple[int, dict[str, str]]], list[str]]:
    text = read_text(path)
    delimiter = ";" if text.partition("\n")[0].count(";") > text.partition("\n")[0].count(",") else ","
    reader = csv.reader(io.StringIO(text), delimiter=delimiter)
    rows: list[tuple[int, dict[str, str]]] = []
    faults: list[str] = []
    header: list[str] | None = None
    try:
        for values in reader:
            if not any(v.strip() for v in values):
                continue
            if header is None:
                header = [v.strip() for v in values]
                doubled = sorted({h for h in header if h and header.count(h) > 1})
                if doubled:
                    faults.append(f"{path}: column {name_list(doubled)} stands twice; rename or remove one.")
                continue
            if len(values) != len(header):
                faults.append(
                    f"{path}, row {reader.line_num}: has {len(values)} fields where the header has {len(header)}; "
                    "put sentences that hold a comma in double quotes."
                )
                continue
            rows.append((reader.line_num, dict(zip(header, values, strict=True))))
    except csv.Error as error:
        faults.append(f"{path}, row {reader.line_num}: is not readable CSV ({error}); save the table anew.")
    return rows, faults


def jsonl_rows(path: Path) -> tuple[list[tuple[int, dict[str, str]]], list[str]]:
    rows: list[tuple[int, dict[str, str]]] = []
    faults: list[str] = []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            faults.append(f"{path}, row {number}: is not JSON ({error}); write one object a line.")
            continue
        if not isinstance(value, dict):
            faults.append(f"{path}, row {number}: is no JSON object; write one object a line.")
            continue
        rows.append((number, {k: "" if v is None else str(v) for k, v in value.items()}))
    return rows, faults


def column_faults(path: Path, columns: Sequence[str]) -> list[str]:
    if not columns:
        return []
    faults = []
    if "id" not in columns:
        faults.append(
            f"{path}: the column 'id' is missing{near_miss('id', columns)} There are: {name_list(columns)}; "
            "give every case an id of its own."
        )
    if not any(c == "image" or c.startswith("image:") for c in columns):
        faults.append(
            f"{path}: the column 'image' (or 'image:<modality>') is missing{near_miss('image', columns)} "
            f"There are: {name_list(columns)}; add one with the path of each picture."
        )
    return faults


def to_case(row: Mapping[str, str], folder: Path, check_files: bool) -> tuple[Case, list[str]]:
    """A row as a case, and all that is wrong with it."""
    faults: list[str] = []
    families: dict[str, dict[str, str]] = {name: {} for name in FAMILIES}
    free: dict[str, str] = {}
    for column, value in row.items():
        family, _, name = column.partition(":")
        if family in FAMILIES:
            if value.strip():
                families[family][name] = value.strip()
        elif column not in FIXED and column:
            free[column] = value
    images = {name: absolute(value, folder) for name, value in families["image"].items()}
    masks = [absolute(file, folder) for file in mask_files(row.get("mask", ""), folder)]
    mask = SEVERAL.join(masks) or None
    if not row.get("id", "").strip():
        faults.append("the id is empty; give the case an id")
    if not images:
        faults.append("no image is named; fill the column 'image'")
    if check_files:
        named = [("image", p) for p in images.values()] + [("mask", p) for p in masks]
        faults += [
            f"the {what} '{file}' does not exist; correct the path (relative to the manifest) or leave out the row"
            for what, file in named
            if not os.path.exists(without_part(file))
        ]
    origin = row.get("text_origin", "").strip() or "unknown"
    sides = row.get("side_convention", "").strip() or "unknown"
    for what, value, known in (("text_origin", origin, TEXT_ORIGINS), ("side_convention", sides, SIDE_CONVENTIONS)):
        if value not in known:
            faults.append(f"{what} is '{value}'; write one of {', '.join(known)} or leave it empty")
    spacing, wrong = parse_spacing(row.get("spacing", ""))
    case = Case(
        id=row.get("id", "").strip(),
        images=images,
        group=row.get("group", "").strip() or None,
        splits=families["split"],
        mask=mask,
        texts=families["text"],
        text_origin=origin,
        side_convention=sides,
        spacing=spacing,
        source=row.get("source", "").strip(),
        free=free,
    )
    return case, faults + wrong


def mask_files(mask: str | None, folder: Path | None = None) -> list[str]:
    """The files whose union is a case's mask; a file whose own name holds '|' is one.

    >>> mask_files("lesion.png|lesion_1.png"), mask_files("lesion.png"), mask_files(None)
    (['lesion.png', 'lesion_1.png'], ['lesion.png'], [])
    """
    if not mask or not mask.strip():
        return []
    if SEVERAL not in mask or os.path.exists(os.path.join(folder or "", mask.strip())):
        return [mask.strip()]
    return [file.strip() for file in mask.split(SEVERAL) if file.strip()]


def without_part(path: str) -> str:
    """A path without the '#k' that names one volume of a 4-D file."""
    file, mark, number = path.rpartition("#")
    return file if mark and number.isdigit() and not os.path.exists(path) else path


def absolute(value: str, folder: Path) -> str:
    return os.path.normpath(os.path.join(folder, value))


def parse_spacing(value: str) -> tuple[tuple[float, ...] | None, list[str]]:
    """'0.5 0.5' (mm, one number an axis; also 'x' or ';' between) -> numbers, or what is wrong.

    >>> parse_spacing("0.5x0.7")
    ((0.5, 0.7), [])
    """
    if not value.strip():
        return None, []
    try:
        numbers = tuple(float(v) for v in value.replace("x", " ").replace(";", " ").split())
    except ValueError:
        numbers = ()
    if len(numbers) not in (2, 3) or not all(0 < n < 1e4 for n in numbers):
        return None, [f"spacing is '{value}'; write two or three positive numbers in mm, such as '0.5 0.5'"]
    return numbers, []


def to_row(case: Case, folder: Path) -> dict[str, str]:
    def relative(file: str) -> str:
        return os.path.relpath(file, folder)

    def column(family: str, name: str) -> str:
        return f"{family}:{name}" if name else family

    row = {"id": case.id, "group": case.group or ""}
    row |= {column("split", n): v for n, v in case.splits.items()}
    row |= {column("image", n): relative(v) for n, v in case.images.items()}
    row |= {"mask": SEVERAL.join(map(relative, mask_files(case.mask)))}
    row |= {column("text", n): v for n, v in case.texts.items()}
    row |= {"text_origin": case.text_origin, "side_convention": case.side_convention}
    row |= {"spacing": " ".join(f"{s:g}" for s in case.spacing or ()), "source": case.source}
    return row | dict(case.free)


def write(path: str | Path, cases: Iterable[Case]) -> Path:
    """Write a manifest (CSV, or JSONL by the ending), atomically, paths relative to it."""
    path = Path(path)
    folder = Path(os.path.abspath(path.parent))  # not resolved: read goes back by the same name
    rows = [to_row(case, folder) for case in cases]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with atomic(path) as stream:
        if path.suffix.lower() == ".jsonl":
            for row in rows:
                stream.write(json.dumps(row, ensure_ascii=False) + "\n")
        else:
            # The csv module leaves a lone carriage return unquoted and then cannot read it.
            returns = any("\r" in value for row in rows for value in row.values())
            quoting: Literal[0, 1] = csv.QUOTE_ALL if returns else csv.QUOTE_MINIMAL
            writer = csv.DictWriter(stream, columns, restval="", lineterminator="\n", quoting=quoting)
            writer.writeheader()
            writer.writerows(rows)
    return path


def fingerprint(cases: Iterable[Case], wordings: Collection[str] | None = None) -> str:
    """A hash of what the rows say (paths by name alone, so that a moved folder keeps it). wordings: of what a run reads
    of them, that is with these sentences alone and without the splits."""
    parts = []
    for case in cases:
        files = {k: Path(v).name for k, v in case.images.items()}
        mask = SEVERAL.join(Path(file).name for file in mask_files(case.mask))
        parts.append(
            (
                case.id,
                case.group,
                sorted(case.splits.items()) if wordings is None else None,
                sorted(files.items()),
                mask,
                sorted((k, v) for k, v in case.texts.items() if wordings is None or k in wordings),
                case.text_origin,
                case.side_convention,
                case.spacing,
            )
        )
    return digest(*sorted(parts, key=lambda p: p[0]))
