"""Files are complete or absent, and what the system refuses becomes a sentence."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from crossmask import files
from crossmask.errors import DataError, ResourceError
from crossmask.files import (
    atomic,
    atomic_folder,
    cache_folder,
    digest,
    file_digest,
    read_json,
    read_text,
    write_json,
)


class Stop(Exception):
    pass


def stop_after(_: object, error: type[BaseException]) -> None:
    raise error


def test_atomic_shows_the_file_only_when_it_is_whole(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with atomic(path) as stream:
        stream.write("é\n")
        assert not path.exists()
    assert path.read_bytes() == "é\n".encode()
    assert os.listdir(path.parent) == ["a.txt"]
    with atomic(path, "wb") as stream:
        stream.write(b"\r\n")
    assert path.read_bytes() == b"\r\n"


def test_atomic_gives_the_rights_of_an_ordinary_file(tmp_path):
    with atomic(tmp_path / "a"):
        pass
    (tmp_path / "b").write_text("")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


@pytest.mark.parametrize("error", [Stop, KeyboardInterrupt])
def test_atomic_leaves_nothing_after_an_exception(tmp_path, error):
    (tmp_path / "old").write_text("kept")
    for name in ("new", "old"):
        with pytest.raises(error), atomic(tmp_path / name) as stream:
            stop_after(stream.write("half"), error)
    assert os.listdir(tmp_path) == ["old"]
    assert (tmp_path / "old").read_text() == "kept"


def test_atomic_folder(tmp_path):
    with atomic_folder(tmp_path / "a" / "run") as part:
        (part / "x").write_text("1")
        assert not (tmp_path / "a" / "run").exists()
    assert (tmp_path / "a" / "run" / "x").read_text() == "1"
    with pytest.raises(Stop), atomic_folder(tmp_path / "a" / "other") as part:
        stop_after((part / "x").write_text("1"), Stop)
    with pytest.raises(ResourceError, match="move what is there away"), atomic_folder(tmp_path / "a" / "run") as part:
        (part / "y").write_text("2")
    assert os.listdir(tmp_path / "a") == ["run"]
    assert os.listdir(tmp_path / "a" / "run") == ["x"]


LIMITED = """
import resource, sys
from pathlib import Path
from crossmask.errors import ResourceError
from crossmask.files import atomic, atomic_folder

resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
target = Path(sys.argv[1])
try:
    {block}
except ResourceError as error:
    print(error)
    sys.exit(error.exit_code)
"""
BLOCKS = {
    "text": "with atomic(target) as stream: stream.write('x' * 1_000_000)",
    "bytes": "with atomic(target, 'wb') as stream: stream.write(bytes(1_000_000))",
    "pieces": "with atomic(target, 'wb') as stream:\n        for _ in range(1000): stream.write(bytes(1000))",
    "folder": "with atomic_folder(target) as part: (part / 'x').write_bytes(bytes(1_000_000))",
}


@pytest.mark.skipif(sys.platform == "win32", reason="RLIMIT_FSIZE is Unix's")
@pytest.mark.parametrize("block", BLOCKS)
def test_a_full_disk_is_a_sentence_and_leaves_nothing(tmp_path, block):
    target = tmp_path / "out"
    code = textwrap.dedent(LIMITED).format(block=BLOCKS[block])
    done = subprocess.run([sys.executable, "-c", code, str(target)], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert str(target) in done.stdout
    assert "the write failed half-way (file too large) and was undone; free some space" in done.stdout
    assert os.listdir(tmp_path) == []


def test_a_refusal_is_a_sentence(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(files.os, "replace", refuse)
    with pytest.raises(ResourceError, match=r"a: cannot be written \(permission denied\); choose another folder"):
        write_json(tmp_path / "a", 1)
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="rights do not bind root")
def test_a_folder_without_the_right_to_write(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ResourceError, match="choose another folder"):
        write_json(tmp_path / "a", 1)
    tmp_path.chmod(0o700)


def test_a_place_that_is_taken(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for place in (tmp_path / "file" / "a", tmp_path / "folder"):
        with pytest.raises(ResourceError, match="move what is there away"):
            write_json(place, 1)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_errors_of_other_kinds_pass(tmp_path):
    with pytest.raises(OSError, match="odd"), atomic(tmp_path / "a"):
        raise OSError("odd")


def test_json_comes_back(tmp_path):
    value = {"b": [1, 2.5, None, "é"], "a": True}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value
    assert list(read_json(tmp_path / "a.json")) == ["b", "a"]
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(DataError, match="is not readable JSON"):
        read_json(tmp_path / "a.json")
    with pytest.raises(DataError, match="no such file"):
        read_json(tmp_path / "b.json")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_text_of_sound_encodings(tmp_path, encoding):
    path = tmp_path / "a"
    path.write_bytes("é\r\nß 肺\n".encode(encoding))
    assert read_text(path) == "é\r\nß 肺\n"


@pytest.mark.parametrize(
    ("raw", "said"),
    [(b"a\nb\nc\xe9", "line 3: byte 0xe9 is not UTF-8"), (b"\xff\xfea", "UTF-16"), (b"\xff\xfe\x00\xd8", "UTF-16")],
)
def test_text_of_unsound_encodings(tmp_path, raw, said):
    (tmp_path / "a").write_bytes(raw)
    with pytest.raises(DataError, match=said):
        read_text(tmp_path / "a")


def test_text_that_cannot_be_read(tmp_path):
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(DataError, match="cannot be read"):
            read_text(path)


def test_digests(tmp_path):
    (tmp_path / "a").write_bytes(b"1" * 100_000)
    (tmp_path / "b").write_bytes(b"1" * 100_000)
    assert file_digest(tmp_path / "a") == file_digest(tmp_path / "b") != file_digest(os.devnull)
    assert digest("ab", "c") != digest("a", "bc")
    assert digest(b"a") != digest("a")
    assert digest(1, ("x", None)) == digest(1, ("x", None))


def test_where_the_cache_lies(monkeypatch, tmp_path):
    monkeypatch.setenv("CROSSMASK_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("CROSSMASK_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "crossmask"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert cache_folder() == tmp_path / ".cache" / "crossmask"
