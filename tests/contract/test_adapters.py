"""What every data adapter passes, found by discovery: its fake set is scanned, and what is missing is named."""

from __future__ import annotations

import importlib
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crossmask import rooms
from crossmask.core import SIDE_CONVENTIONS, TEXT_ORIGINS
from crossmask.data import manifest
from crossmask.data.images import read_image
from crossmask.data.manifest import Case
from crossmask.data.masks import read_mask
from crossmask.data.tables import TABLE_SUFFIXES
from crossmask.data.volumes import check_same_grid, is_volume, read_labels, read_volume
from crossmask.errors import DataError

NAMES = rooms.names("adapter")
VOLUMES = ["brats", "chaos", "decathlon", "lits", "nnunet"]  # their layouts are tested in unit/test_volume_adapters.py
BARE = ["busi", "refsegrs"]  # pictures without a table of sentences, tested in unit/test_small_adapters.py
FLAT = [name for name in NAMES if name not in (*VOLUMES, *BARE)]


@pytest.fixture(params=NAMES)
def adapter(request: pytest.FixtureRequest) -> Any:
    return rooms.module("adapter", request.param)


def of_pictures(test: Callable[..., None]) -> Callable[..., None]:
    """Only for adapters of pictures with tables of sentences."""
    return pytest.mark.parametrize("adapter", [rooms.module("adapter", n) for n in FLAT], ids=FLAT)(test)


@pytest.fixture
def root(adapter: Any, tmp_path: Path) -> Path:
    return adapter.fake(tmp_path / "set")


def outcome(scan: Callable[..., list[Case]], root: Path, caplog: pytest.LogCaptureFixture) -> tuple[list[Case], str]:
    """The cases and all that was said, whether as an error or as warnings."""
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="crossmask"):
        try:
            cases = scan(root)
        except DataError as error:
            return [], str(error)
    return cases, "\n".join(record.getMessage() for record in caplog.records)


def test_there_are_adapters() -> None:
    assert len(FLAT) >= 4
    assert set(VOLUMES) < set(NAMES)


def test_options_are_keyword_only_with_defaults_and_annotations(adapter: Any) -> None:
    for name, parameter in rooms.options(adapter.scan).items():
        assert parameter.default is not parameter.empty, name
        assert parameter.annotation is not parameter.empty, name
    assert not rooms.option_faults(adapter.scan, {}, where="adapter")
    assert (adapter.__doc__ or "").split("\n")[0].endswith(".")


def test_four_cases_of_which_all_is_there(adapter: Any, root: Path) -> None:
    cases = adapter.scan(root)
    assert len(cases) == 4
    assert len({case.id.casefold() for case in cases}) == 4
    for case in cases:
        assert case.id
        assert case.id == case.id.strip()
        assert case.group is None or (isinstance(case.group, str) and case.group)
        assert case.text_origin in TEXT_ORIGINS
        assert case.side_convention in SIDE_CONVENTIONS
        assert case.images
        assert all(os.path.isabs(path) for path in (*case.images.values(), case.mask))
        assert all(case.texts.values())
        assert all(case.splits.values())
        assert case.mask is not None
        if is_volume(next(iter(case.images.values()))):
            grids = [read_volume(path).grid for path in case.images.values()]
            mask, _ = read_labels(case.mask, grids[0])
            for grid in grids:
                check_same_grid(grids[0], grid, "another modality")
                assert grid.inner_shape == mask.shape
        else:
            mask, _ = read_mask(case.mask)
            for path in case.images.values():
                assert read_image(path).pixels.shape[1:] == mask.shape
        assert mask.dtype == np.uint8
        assert set(np.unique(mask)) <= {0, 1}


def test_which_read_volumes(adapter: Any, root: Path) -> None:
    name = adapter.__name__.rpartition(".")[2].replace("_", "-")
    assert (name in VOLUMES) == is_volume(next(iter(adapter.scan(root)[0].images.values())))


def test_scanning_twice_gives_the_same(adapter: Any, root: Path) -> None:
    assert adapter.scan(root) == adapter.scan(str(root))


def test_a_relative_root_gives_the_same(adapter: Any, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = adapter.scan(root)
    monkeypatch.chdir(root.parent)
    assert adapter.scan(root.name) == cases


@pytest.mark.parametrize("ending", [".csv", ".jsonl"])
def test_manifest_round_trip(adapter: Any, root: Path, tmp_path: Path, ending: str) -> None:
    cases = adapter.scan(root)
    assert manifest.read(manifest.write(tmp_path / f"cases{ending}", cases)) == cases


def test_an_unpacked_folder_in_a_folder_is_found(adapter: Any, root: Path, tmp_path: Path) -> None:
    shutil.move(root, tmp_path / "unpacked" / "set")
    assert len(adapter.scan(tmp_path / "unpacked")) == 4


@of_pictures
def test_a_missing_image_folder_is_named(adapter: Any, root: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = Path(next(iter(adapter.scan(root)[0].images.values()))).parent
    shutil.rmtree(folder)
    cases, said = outcome(adapter.scan, root, caplog)
    assert folder.name.lower() in said.lower()
    assert len(cases) < 4


@of_pictures
def test_a_missing_mask_folder_is_named(adapter: Any, root: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = Path(adapter.scan(root)[0].mask).parent
    shutil.rmtree(folder)
    cases, said = outcome(adapter.scan, root, caplog)
    assert folder.name.lower() in said.lower()
    assert "missing" in said
    assert not any(case.mask for case in cases)


@of_pictures
def test_missing_tables_are_named(adapter: Any, root: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = [f for f in root.rglob("*") if f.suffix in (*TABLE_SUFFIXES, ".json")]
    assert files
    for file in files:
        file.unlink()
    cases, said = outcome(adapter.scan, root, caplog)
    assert "table" in said
    assert all(not case.texts for case in cases)


def test_an_empty_folder_says_what_was_looked_for_and_what_there_was(adapter: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"looked for .*there is: nothing"):
        adapter.scan(tmp_path)
    (tmp_path / "holiday.txt").write_text("sun")
    with pytest.raises(DataError, match=r"looked for .*holiday\.txt"):
        adapter.scan(tmp_path)


def test_no_folder_and_a_file(adapter: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        adapter.scan(tmp_path / "nowhere")
    (tmp_path / "set.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match="unpack"):
        adapter.scan(tmp_path / "set.zip")


@of_pictures
def test_empty_image_folders_are_an_error(adapter: Any, root: Path) -> None:
    for case in adapter.scan(root):
        for path in case.images.values():
            os.unlink(path)
    with pytest.raises(DataError, match="no image is there"):
        adapter.scan(root)


@of_pictures
def test_an_image_without_mask_and_row_is_kept_and_counted(
    adapter: Any, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = Path(next(iter(adapter.scan(root)[0].images.values())))
    shutil.copy(first, first.with_name(f"alone{first.suffix}"))
    cases, said = outcome(adapter.scan, root, caplog)
    assert len(cases) == 5
    assert next(case for case in cases if case.id == "alone").mask is None
    assert "1 images without a mask (kept as unlabelled): alone" in said
    assert "1 images without a sentence" in said


@of_pictures
def test_a_mask_without_an_image_is_counted(adapter: Any, root: Path, caplog: pytest.LogCaptureFixture) -> None:
    mask = Path(adapter.scan(root)[0].mask)
    shutil.copy(mask, mask.with_name("mask_orphan.png"))
    cases, said = outcome(adapter.scan, root, caplog)
    assert len(cases) == 4
    assert "1 masks without an image: mask_orphan.png" in said


@of_pictures
def test_a_row_without_its_image_is_counted(adapter: Any, root: Path, caplog: pytest.LogCaptureFixture) -> None:
    case = adapter.scan(root)[0]
    for path in case.images.values():
        os.unlink(path)
    cases, said = outcome(adapter.scan, root, caplog)
    assert len(cases) == 3
    assert "table rows without an image" in said
    assert case.id in said


def test_archive_leftovers_are_no_cases(adapter: Any, root: Path) -> None:
    first = Path(next(iter(adapter.scan(root)[0].images.values())))
    first.with_name(f"._{first.name}").write_bytes(b"\0\5\26\7")
    (root / "__MACOSX").mkdir()
    (first.parent / "Thumbs.db").write_bytes(b"x")
    assert len(adapter.scan(root)) == 4


def test_summary_is_read_without_import(adapter: Any) -> None:
    name = adapter.__name__.rpartition(".")[2]
    assert rooms.summary("adapter", name) == (adapter.__doc__ or "").split("\n")[0].rstrip(".")
    assert importlib.import_module(adapter.__name__) is adapter
