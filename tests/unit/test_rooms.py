"""A part is a file: dropped in it is found, another name is refused, its options are checked all at once."""

from __future__ import annotations

import importlib
import sys

import pytest

from crossmask import rooms
from crossmask.errors import CallError


@pytest.fixture
def room(tmp_path, monkeypatch):
    """A room of its own, 'toy', whose parts are the files written into the returned folder."""
    package = tmp_path / "toyroom"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "_hidden.py").write_text("")
    (package / "red_ball.py").write_text(
        '"""A red ball.\n\nMore."""\n\ndef build(*, size: int = 3):\n    return size\n'
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(rooms.ROOMS, "toy", ("toyroom", "build"))
    yield package
    for name in [n for n in sys.modules if n.partition(".")[0] == "toyroom"]:
        del sys.modules[name]


def test_a_file_dropped_in_is_found(room):
    assert rooms.names("toy") == ["red-ball"]
    (room / "cube.py").write_text("def build(*, edge: float):\n    return edge\n")
    importlib.invalidate_caches()
    assert rooms.names("toy") == ["cube", "red-ball"]
    assert rooms.door("toy", "cube")(edge=2) == 2


@pytest.mark.parametrize("name", ["red-ball", "red_ball"])
def test_either_spelling_opens_the_door(room, name):
    assert rooms.door("toy", name)() == 3
    assert rooms.summary("toy", name) == "A red ball"
    assert rooms.module("toy", name).__name__ == "toyroom.red_ball"


def test_another_name_is_refused_with_the_near_miss(room):
    with pytest.raises(CallError, match=r"no toy is called 'redball', did you mean 'red-ball'\? There are: red-ball\."):
        rooms.door("toy", "redball")
    with pytest.raises(CallError, match=r"no toy is called 'zzz'\. There are: red-ball\."):
        rooms.door("toy", "zzz")


@pytest.mark.parametrize("name", ["os", "crossmask.cli", "..errors", "_hidden", "__init__", "", None, 3, "red-ball.x"])
def test_what_is_no_file_of_the_room_is_never_imported(room, name):
    with pytest.raises(CallError, match="no toy is called"):
        rooms.module("toy", name)


@pytest.mark.parametrize("name", rooms.ROOMS)
def test_every_real_part_is_listed_with_a_line_and_has_its_door(name):
    found = rooms.names(name)
    assert found
    for part in found:
        assert rooms.summary(name, part), part
        door = rooms.door(name, part)
        assert callable(door)
        assert rooms.option_faults(door, {"no_such_option": 1}, where="here")


def test_listing_imports_no_part(room):
    (room / "bad.py").write_text('"""Broken on import."""\nraise RuntimeError\n')
    importlib.invalidate_caches()
    assert rooms.names("toy") == ["bad", "red-ball"]
    assert rooms.summary("toy", "bad") == "Broken on import"


def some_door(
    root: str, *, make: int, size: int, name: str = "x", widths: tuple[int, ...] = (1,), rate: float | None = 0.1
):
    """A door with every kind of option."""


def test_options_are_the_keyword_only_ones():
    assert list(rooms.options(some_door)) == ["make", "size", "name", "widths", "rate"]
    assert list(rooms.options(some_door, given=["make"])) == ["size", "name", "widths", "rate"]


def test_options_that_fit_have_no_fault():
    chosen = {"size": 3, "name": "y", "widths": [1, 2], "rate": None}
    assert rooms.option_faults(some_door, chosen, where="model", given=["make"]) == []


def test_all_faults_come_at_once():
    chosen = {"siz": 3, "name": 5, "widths": ["a"], "rate": "much", "root": "/"}
    found = rooms.option_faults(some_door, chosen, where="model", given=["make"])
    assert [f.split(":")[0] for f in found] == [
        "model.siz",
        "model.name",
        "model.widths",
        "model.rate",
        "model.root",
        "model.size",
    ]
    assert "unknown option, did you mean 'size'? Known: size, name, widths, rate." in found[0]
    assert "5 does not fit (input should be a valid string)" in found[1]
    assert found[4].startswith("model.root: unknown option. Known:")
    assert found[5] == "model.size: missing; it has no default."


@pytest.mark.parametrize(
    ("option", "value"), [("size", 1.5), ("size", "many"), ("size", None), ("widths", 3), ("rate", [])]
)
def test_wrong_types(option, value):
    (fault,) = rooms.option_faults(some_door, {"make": 1, "size": 1, option: value}, where="model")
    assert fault.startswith(f"model.{option}: {value!r} does not fit (")


def test_an_option_that_the_house_hands_in_is_not_the_recipes():
    (fault,) = rooms.option_faults(some_door, {"make": 1, "size": 1}, where="method", given=["make"])
    assert fault.startswith("method.make: unknown option")


def test_what_a_part_does_otherwise_is_read_from_its_head(room):
    (room / "kite.py").write_text('"""A kite.\n\nstated: it flies.\ndeviates: no tail;\nno string.\n\nMore."""\n')
    importlib.invalidate_caches()
    assert rooms.deviations("toy", "kite") == "no tail; no string."
    assert rooms.deviations("toy", "red-ball") == ""
