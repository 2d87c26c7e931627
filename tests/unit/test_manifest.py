"""The manifest: what is written comes back, and every fault is named with its row and its fix, all at once."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossmask.data.manifest import Case, fingerprint, parse_spacing, read, write
from crossmask.errors import DataError

# What a cell can hold: any text without half surrogate pairs; read strips the ends of the columns it knows.
CELL = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40).map(str.strip).filter(bool)
AWKWARD = st.sampled_from(['a,b"c"\nd', "x\r\ny", "x\ry", "=1+1", ";;", '"', "肺 ß é e\u0301", "\u2028", "\ufeff", "0"])
TEXT = CELL | AWKWARD.filter(lambda t: t == t.strip())
NAME = st.text("abcdefgh-_", min_size=1, max_size=8)


def written(folder: Path, content: str | bytes, name: str = "cases.csv") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    for picture in "abc":
        (folder / f"{picture}.png").write_bytes(b"")
    return path


def faults(path: Path, **options) -> list[str]:
    with pytest.raises(DataError) as caught:
        read(path, **options)
    return str(caught.value).split("\n")


@st.composite
def cases(draw) -> list[Case]:
    ids = draw(st.lists(TEXT, min_size=1, max_size=5, unique=True))
    modalities = draw(st.lists(st.just("") | NAME, min_size=1, max_size=3, unique=True))
    return [
        Case(
            id=one,
            images={m: f"{n}/{m or 'plain'}.png" for m in modalities},
            group=draw(st.none() | TEXT),
            splits=draw(st.dictionaries(st.just("") | NAME, NAME, max_size=2)),
            mask=draw(st.none() | st.just(f"masks/{n}.png")),
            texts=draw(st.dictionaries(st.just("") | NAME, TEXT, max_size=2)),
            text_origin=draw(st.sampled_from(["report", "from-mask", "unknown"])),
            side_convention=draw(st.sampled_from(["image", "patient", "unknown"])),
            spacing=draw(st.none() | st.just((0.5, 0.25))),
            source=draw(st.just("") | TEXT),
            free={"age": draw(st.just("") | st.text(st.characters(exclude_categories=["Cs"]), max_size=20))},
        )
        for n, one in enumerate(ids)
    ]


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
@settings(max_examples=60, deadline=None)
@given(made=cases())
def test_whatever_is_written_is_read_again(ending, made):
    with tempfile.TemporaryDirectory() as folder:
        placed = [
            Case(
                **{
                    **vars(c),
                    "images": {m: f"{folder}/{p}" for m, p in c.images.items()},
                    "mask": c.mask and f"{folder}/{c.mask}",
                }
            )
            for c in made
        ]
        again = read(write(Path(folder) / f"cases.{ending}", placed), check_files=False)
    assert again == placed
    assert fingerprint(again) == fingerprint(placed)


def test_paths_are_relative_to_the_manifest(tmp_path, monkeypatch):
    (tmp_path / "tables").mkdir()
    (tmp_path / "elsewhere").mkdir()
    path = written(tmp_path, "")
    case = Case(id="1", images={"": str(tmp_path / "a.png")}, mask=str(tmp_path / "b.png"))
    path = write(tmp_path / "tables" / "cases.csv", [case])
    assert "../a.png" in path.read_text()
    assert str(tmp_path) not in path.read_text()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert read(path) == [case]
    assert read(Path("../tables/cases.csv"))[0].id == "1"
    absolute = written(tmp_path, f"id,image\n1,{tmp_path}/a.png\n")
    assert read(absolute)[0].images[""] == str(tmp_path / "a.png")


def test_a_manifest_in_a_linked_folder_finds_its_pictures(tmp_path):
    deep = tmp_path / "x" / "y" / "z"
    deep.mkdir(parents=True)
    written(deep, "")
    (tmp_path / "link").symlink_to(deep)
    case = Case(id="1", images={"": str(tmp_path / "link" / "a.png")})
    assert read(write(tmp_path / "link" / "cases.csv", [case])) == [case]


def test_free_columns_and_unlabelled_rows_are_kept(tmp_path):
    path = written(tmp_path, "id,image,mask,text:short,age\n 1 ,a.png,, says so ,60\n2,b.png,c.png,,\n")
    one, two = read(path)
    assert (one.id, one.mask, one.texts, one.free) == ("1", None, {"short": "says so"}, {"age": "60"})
    assert (two.mask, two.texts, two.group, two.spacing) == (str(tmp_path / "c.png"), {}, None, None)
    assert one.with_text("long", "more").texts == {"short": "says so", "long": "more"}


@pytest.mark.parametrize(
    ("header", "missing", "hint"),
    [("idd,image", "'id'", "did you mean 'idd'?"), ("id,imgae", "'image'", "did you mean 'imgae'?")],
)
def test_wrong_columns_suggest_the_near_miss(tmp_path, header, missing, hint):
    (fault,) = faults(written(tmp_path, f"{header}\n1,a.png\n"))
    assert missing in fault
    assert hint in fault


def test_a_missing_column_without_a_near_miss_is_still_a_sentence(tmp_path):
    (fault,) = faults(written(tmp_path, "case,image\n1,a.png\n"))
    assert "is missing. There are: case, image" in fault


def test_a_doubled_id_names_both_rows(tmp_path):
    (fault,) = faults(written(tmp_path, "id,image\n1,a.png\n2,b.png\n1,c.png\n"))
    assert "row 4: id '1' already stands in row 2" in fault


def test_bytes_that_are_not_utf8_are_named_with_their_line(tmp_path):
    (fault,) = faults(written(tmp_path, b"id,image,text\n1,a.png,fine\n2,b.png,l\xe9sion\n"))
    assert "line 3: byte 0xe9 is not UTF-8" in fault
    assert "save the file as UTF-8" in fault


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("delimiter", [",", ";"])
def test_spreadsheet_programs_files_are_read(tmp_path, encoding, delimiter):
    rows = [["id", "image", "text"], ["1", "a.png", '"lésion, à gauche; petite"']]
    content = "\r\n".join(delimiter.join(row) for row in rows) + "\r\n"
    (case,) = read(written(tmp_path, content.encode(encoding)))
    assert case.texts == {"": "lésion, à gauche; petite"}


def test_utf16_cut_short_is_a_sentence(tmp_path):
    (fault,) = faults(written(tmp_path, "id,image\n1,a.png\n".encode("utf-16")[:-1]))
    assert "UTF-16" in fault


def test_ragged_rows_are_named_beside_other_faults(tmp_path):
    found = faults(written(tmp_path, "id,image,text\n1,a.png,left, lower\n2,b.png\n3,c.png,ok\n3,c.png,ok\n"))
    assert [f.split(":")[0].rsplit(", ", 1)[1] for f in found] == ["row 2", "row 3", "row 5"]
    assert "has 4 fields where the header has 3" in found[0]
    assert "double quotes" in found[0]
    assert "id '3' already stands in row 4" in found[2]


@pytest.mark.parametrize("spacing", ["0.5", "a b", "0 1", "-1 1", "nan 1", "inf 1", "1 1 1 1", "1e9 1", "1,5 1,5"])
def test_bad_spacing(tmp_path, spacing):
    (fault,) = faults(written(tmp_path, f'id,image,spacing\n1,a.png,"{spacing}"\n'))
    assert f"row 2: spacing is '{spacing}'" in fault


@pytest.mark.parametrize("spacing", ["0.5 0.7", "0.5x0.7", "0.5;0.7", " 0.5  0.7 "])
def test_good_spacing(spacing):
    assert parse_spacing(spacing) == ((0.5, 0.7), [])


@pytest.mark.parametrize("column", ["text_origin", "side_convention"])
def test_unknown_words_are_refused_with_the_known_ones(tmp_path, column):
    (fault,) = faults(written(tmp_path, f"id,image,{column}\n1,a.png,invented\n"))
    assert f"{column} is 'invented'; write one of" in fault
    assert "unknown" in fault


def test_missing_files_are_named_unless_not_asked_for(tmp_path):
    path = written(tmp_path, "id,image,mask\n1,a.png,m.png\n2,z.png,\n")
    first, second = faults(path)
    assert "row 2: the mask '" in first
    assert "m.png' does not exist" in first
    assert "row 3: the image '" in second
    assert len(read(path, check_files=False)) == 2


def test_all_faults_are_told_at_once_and_the_rest_counted(tmp_path):
    rows = "".join(f"{n},a.png,bad\n" for n in range(30))
    found = faults(written(tmp_path, f"id,image,spacing\n{rows}"))
    assert len(found) == 21
    assert found[-1] == "... and 10 more"


@pytest.mark.parametrize("content", ["", "\n\n", "id,image\n", "\ufeffid,image\n\n"])
def test_nothing_in_it(tmp_path, content):
    (fault,) = faults(written(tmp_path, content))
    assert "holds no case" in fault


def test_no_such_manifest(tmp_path):
    (fault,) = faults(tmp_path / "none.csv")
    assert "there is no such manifest" in fault


def test_rows_without_id_or_image(tmp_path):
    found = faults(written(tmp_path, "id,image\n,a.png\n,b.png\n3,\n"))
    assert [f.partition("row ")[2] for f in found] == [
        "2: the id is empty; give the case an id.",
        "3: the id is empty; give the case an id.",
        "4: no image is named; fill the column 'image'.",
    ]


def test_doubled_columns(tmp_path):
    assert "column text stands twice" in faults(written(tmp_path, "id,image,text,text\n1,a.png,x,y\n"))[0]


def test_jsonl_faults(tmp_path):
    lines = ["{", "[1]", json.dumps({"image": "a.png"}), "", json.dumps({"id": 7, "image": "b.png", "text": None})]
    found = faults(written(tmp_path, "\n".join(lines), "cases.jsonl"))
    assert ["row 1: is not JSON" in found[0], "row 2: is no JSON object" in found[1], "row 3: the id" in found[2]] == [
        True
    ] * 3
    (case,) = read(written(tmp_path, lines[-1], "cases.jsonl"))
    assert (case.id, case.texts) == ("7", {})


def test_the_fingerprint_knows_the_content_and_not_the_place(tmp_path):
    case = Case(id="1", images={"": "/one/a.png"}, texts={"": "x"})
    moved = Case(id="1", images={"": "/two/a.png"}, texts={"": "x"})
    other = Case(id="2", images={"": "/one/b.png"})
    assert fingerprint([case, other]) == fingerprint([other, moved])
    assert fingerprint([case]) != fingerprint([case.with_text("", "y")])
