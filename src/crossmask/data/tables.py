"""What adapters share: foreign tables, the names in them, and a count of all that is left out."""

from __future__ import annotations

import csv
import io
import json
import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from crossmask.data.images import IMAGE_SUFFIXES
from crossmask.errors import DataError, name_list
from crossmask.files import read_text

TABLE_SUFFIXES = (".xlsx", ".csv", ".tsv", ".jsonl")
IMAGE_NAMES = ("image", "filename", "file", "name", "id", "imageid", "imagename", "imagepath")
TEXT_NAMES = ("text", "description", "report", "caption", "sentence", "findings", "impression", "note")
SPLIT_NAMES = ("split", "set", "part", "fold")
PARTS = {
    "train": ("train", "training", "tr"),
    "valid": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "ts"),
}


class Losses:
    """All that is left out or doubtful, by kind; logged as one line a kind, so that nothing goes silently."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.kinds: dict[str, list[str]] = {}

    def add(self, kind: str, *names: object) -> None:
        if names:
            self.kinds.setdefault(kind, []).extend(map(str, names))

    def log(self) -> None:
        for kind, names in self.kinds.items():
            text = f"{self.source}: {len(names)} {kind}: {name_list(names, shown=3)}"
            logging.getLogger("crossmask").warning("%s", text)


def plain(name: str) -> str:
    """A name without case, spaces and signs.

    >>> plain("Ground-truths") == plain("ground truths")
    True
    """
    return re.sub(r"[\W_]+", "", name.casefold())


def part_of(name: str) -> str | None:
    """'Train Set', 'Val_Folder', 'validation' -> train, valid, test; None for all else."""
    word = plain(name)
    for end in ("folder", "set", "data"):
        word = word.removesuffix(end)
    return next((part for part, words in PARTS.items() if word in words), None)


def part_in(name: str) -> str | None:
    """The part that a table's name speaks of: 'Val_text_MosMedData+ 1' -> valid."""
    words = [part_of(w) for w in re.split(r"[\W_]+", name)]
    start = re.match(r"train|val|test", plain(name))
    return next((w for w in words if w), part_of(start[0]) if start else None)


def stem(name: str) -> str:
    """A picture's name without folders and without its ending, if it has one.

    >>> stem("a/mask_x.1.PNG"), stem("mask_x.1")
    ('mask_x.1', 'mask_x.1')
    """
    name = name.strip().replace("\\", "/").rsplit("/", 1)[-1]
    base, _, end = name.rpartition(".")
    return base if base and f".{end.casefold()}" in IMAGE_SUFFIXES else name


def key(name: str) -> str:
    """What a picture, its mask and its table row have in common.

    >>> key("mask_Covid_1.png") == key("covid_1")
    True
    """
    return stem(name).casefold().removeprefix("mask_")


# -- tables --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Table:
    """A table as written: values stripped, line ends inside them made spaces, rows with their number."""

    path: Path
    columns: tuple[str, ...]
    rows: tuple[tuple[int, dict[str, str]], ...]

    def column(self, names: Iterable[str]) -> str | None:
        """The first of ``names`` that is a column here (case, spaces and signs aside)."""
        known = {plain(c): c for c in reversed(self.columns)}
        return next((known[plain(n)] for n in names if plain(n) in known), None)

    def needed(self, what: str, names: Sequence[str]) -> str:
        found = self.column(names)
        if found is None:
            raise DataError(
                f"{self.path}: has no column for the {what} (looked for: {name_list(names, shown=20)}); "
                f"there are: {name_list(self.columns, shown=20)}. Rename one or say which it is."
            )
        return found


def read_table(path: str | Path) -> Table:
    """An .xlsx, .csv, .tsv or .jsonl file; a table without even a header has no columns."""
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: there is no such table.")
    suffix = path.suffix.casefold()
    if suffix == ".jsonl":
        return _jsonl(path)
    if suffix not in TABLE_SUFFIXES:
        raise DataError(f"{path}: is not a table that can be read; save it as {name_list(TABLE_SUFFIXES)}.")
    lines = list(sheet_lines(path) if suffix == ".xlsx" else _separated(path, "\t" if suffix == ".tsv" else None))
    filled = [(number, values) for number, values in lines if any(values)]
    if not filled:
        return Table(path, (), ())
    header = filled[0][1]
    while header and not header[-1]:
        header = header[:-1]
    doubled = sorted({h for h in header if h and header.count(h) > 1})
    if doubled:
        raise DataError(f"{path}: the column {name_list(doubled)} stands twice; rename or remove one.")
    rows = []
    for number, values in filled[1:]:
        if any(values[len(header) :]):
            raise DataError(
                f"{path}, row {number}: has {len(values)} fields where the header has {len(header)}; "
                "put sentences that hold the separator in double quotes."
            )
        pairs = zip_longest(header, values[: len(header)], fillvalue="")
        rows.append((number, {h: v for h, v in pairs if h}))
    return Table(path, tuple(h for h in header if h), tuple(rows))


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # a spreadsheet's 7.0 was typed as 7
    return re.sub(r"\s*[\r\n\t\v\f\x00]+\s*", " ", str(value)).strip()


def sheet_lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    import zipfile

    import openpyxl

    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
        try:
            for sheet in book.worksheets:
                sheet.reset_dimensions()  # some programs write wrong ones, which would cut the table
                lines = [[_text(v) for v in row] for row in sheet.iter_rows(values_only=True)]
                if any(map(any, lines)):
                    yield from enumerate(lines, 1)
                    return
        finally:
            book.close()
    except (OSError, KeyError, ValueError, TypeError, SyntaxError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: is not a readable .xlsx workbook ({error}); save it anew.") from error


def _separated(path: Path, separator: str | None) -> Iterator[tuple[int, list[str]]]:
    text = read_text(path)
    head = text.partition("\n")[0]
    separator = separator or max(",;\t", key=head.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    start = 1
    try:
        for values in reader:
            yield start, [_text(v) for v in values]
            start = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{path}, row {start}: is not readable ({error}); look for a lone double quote there."
        ) from error


def _jsonl(path: Path) -> Table:
    rows = []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            fault = f"{path}, row {number}: is not JSON ({error}); write one object a line."
            raise DataError(fault) from error
        if not isinstance(value, dict):
            raise DataError(f"{path}, row {number}: is no JSON object; write one object a line.")
        rows.append((number, {str(k).strip(): _text(v) for k, v in value.items()}))
    columns = tuple(dict.fromkeys(c for _, row in rows for c in row))
    return Table(path, columns, tuple((n, {c: row.get(c, "") for c in columns}) for n, row in rows))
