"""Reading and writing masks: binary ones, those of classes, and every value that fits no table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from crossmask.data.images import image_size
from crossmask.data.masks import read_mask, write_mask
from crossmask.errors import CallError, DataError

RAMP = np.arange(6 * 5, dtype=np.uint8).reshape(6, 5) * 8
SOME = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def saved(path: Path, array: np.ndarray, **options) -> Path:
    Image.fromarray(array).save(path, **options)
    return path


# --- binary masks

TRUE = np.zeros((12, 10), bool)
TRUE[3:8, 2:6] = True


@pytest.mark.parametrize(
    ("foreground", "note"),
    [
        (np.uint8(255), None),
        (np.uint8(1), None),
        (np.True_, None),
        (np.uint16(65535), None),
        (np.uint16(1), None),
        (np.uint8(7), "mask value 7 taken as foreground"),
        (np.uint16(255), "mask value 255 taken as foreground"),
    ],
)
def test_two_level_masks(tmp_path, foreground, note):
    mask, notes = read_mask(saved(tmp_path / "a.png", TRUE * foreground))
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, TRUE)
    assert notes == ((note,) if note else ())


def test_constant_masks(tmp_path):
    for value, expected in ((0, 0), (1, 1), (255, 1), (9, 1)):
        mask, _ = read_mask(saved(tmp_path / "a.png", np.full((4, 3), value, np.uint8)))
        assert (mask == expected).all()


def test_masks_cut_at_half(tmp_path):
    smeared = saved(tmp_path / "a.jpg", np.kron(TRUE, np.ones((7, 7))).astype(np.uint8) * 255, quality=60)
    assert len(np.unique(np.asarray(Image.open(smeared)))) > 2
    mask, notes = read_mask(smeared)
    np.testing.assert_array_equal(mask, np.kron(TRUE, np.ones((7, 7))))
    assert notes == ("many-valued mask cut at half",)
    mask, notes = read_mask(saved(tmp_path / "b.png", np.where(TRUE, 240, 15).astype(np.uint8)))
    np.testing.assert_array_equal(mask, TRUE)
    assert notes == ("two-level mask without zero cut at half",)
    mask, _ = read_mask(saved(tmp_path / "c.png", np.array([[0, 127, 128, 255]], np.uint8)))
    assert mask.tolist() == [[0, 0, 1, 1]]
    mask, _ = read_mask(saved(tmp_path / "d.png", np.array([[0, 32767, 32768, 65535]], np.uint16)))
    assert mask.tolist() == [[0, 0, 1, 1]]
    tifffile.imwrite(tmp_path / "e.tif", np.array([[0, 0.4, 0.6, 1]], np.float32))
    assert read_mask(tmp_path / "e.tif")[0].tolist() == [[0, 0, 1, 1]]
    # A dim soft map of many values is an honest empty mask.
    assert not read_mask(saved(tmp_path / "f.png", np.arange(60, dtype=np.uint8)[None]))[0].any()


def test_mask_that_is_likely_of_classes(tmp_path):
    for name, array in {
        "labels": np.array([[0, 1, 2]], np.uint8),
        "bright": np.array([[200, 255]], np.uint8),
        "red on white": np.array([[[255, 255, 255], [255, 0, 0]]], np.uint8),
    }.items():
        with pytest.raises(DataError, match="give a table of labels") as caught:
            read_mask(saved(tmp_path / f"{name}.png", array))
        assert ("background" in str(caught.value)) == (name == "labels")
    tifffile.imwrite(tmp_path / "a.tif", np.array([[-1, 0, 1]], np.int16))
    with pytest.raises(DataError, match="negative"):
        read_mask(tmp_path / "a.tif")


def test_colour_and_alpha_masks(tmp_path):
    colour = np.zeros((12, 10, 3), np.uint8)
    colour[TRUE] = (0, 200, 0)
    np.testing.assert_array_equal(read_mask(saved(tmp_path / "a.png", colour))[0], TRUE)
    soft = np.where(TRUE[..., None], (90, 180, 20), (100, 30, 5)).astype(np.uint8)
    np.testing.assert_array_equal(read_mask(saved(tmp_path / "b.png", soft))[0], TRUE)
    opaque = np.dstack([colour, np.full((12, 10), 255, np.uint8)])
    mask, notes = read_mask(saved(tmp_path / "c.png", opaque))
    np.testing.assert_array_equal(mask, TRUE)
    assert "alpha channel dropped" in notes


def palette_png(path: Path, indices: np.ndarray, colours: list[int]) -> Path:
    image = Image.fromarray(indices.astype(np.uint8), mode="P")
    image.putpalette(colours)
    image.save(path)
    return path


def test_palette_masks(tmp_path):
    voc = palette_png(tmp_path / "a.png", TRUE * 1, [0, 0, 0, 128, 0, 0])
    np.testing.assert_array_equal(read_mask(voc)[0], TRUE)
    swapped = palette_png(tmp_path / "b.png", ~TRUE * 1, [255, 255, 255, 0, 0, 0])
    np.testing.assert_array_equal(read_mask(swapped)[0], TRUE)
    dark = palette_png(tmp_path / "c.png", TRUE * 2, [0, 0, 0, 0, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(read_mask(dark)[0], TRUE)
    three = palette_png(tmp_path / "d.png", np.array([[0, 1, 2]]), [0, 0, 0, 128, 0, 0, 0, 128, 0])
    assert read_mask(three)[0].tolist() == [[0, 1, 1]]
    purple = [68, 1, 84, 253, 231, 37]
    assert not read_mask(palette_png(tmp_path / "e.png", np.zeros((3, 3)), purple))[0].any()
    assert read_mask(palette_png(tmp_path / "f.png", np.ones((3, 3)), purple))[0].all()
    assert read_mask(palette_png(tmp_path / "g.png", np.zeros((3, 3)), [255] * 3))[0].all()


# --- masks with a table

GREY = {"background": 0, "liver": 127, "tumour": 255}
RGB = {"background": (0, 0, 0), "liver": (255, 0, 0), "tumour": (0, 0, 255)}
LABELS = np.array([[0, 1, 2], [2, 1, 0]])


def test_label_tables(tmp_path):
    grey = np.array([0, 127, 255], np.uint8)[LABELS]
    colour = np.array([(0, 0, 0), (255, 0, 0), (0, 0, 255)], np.uint8)[LABELS]
    shuffled = {"background": 255, "a": 0, "b": 127}
    for path, table, expected in (
        (saved(tmp_path / "a.png", grey), GREY, LABELS),
        (saved(tmp_path / "a.png", grey), shuffled, np.array([1, 2, 0])[LABELS]),
        (saved(tmp_path / "b.png", np.stack([grey] * 3, axis=2)), GREY, LABELS),
        (saved(tmp_path / "c.png", grey.astype(np.uint16)), GREY, LABELS),
        (saved(tmp_path / "d.png", colour), RGB, LABELS),
        (palette_png(tmp_path / "e.png", LABELS, [c for v in RGB.values() for c in v]), RGB, LABELS),
        (palette_png(tmp_path / "h.png", LABELS, [9] * 9), {"a": 0, "b": 1, "c": 2}, LABELS),
        (palette_png(tmp_path / "f.png", LABELS, [0] * 3 + [127] * 3 + [255] * 3), GREY, LABELS),
        (saved(tmp_path / "g.png", LABELS == 2), {"no": 0, "yes": 1}, LABELS == 2),
        (saved(tmp_path / "g.png", LABELS == 2), {"no": 0, "yes": 255}, LABELS == 2),
        (saved(tmp_path / "g.png", LABELS == 2), {"no": (0, 0, 0), "yes": (255, 255, 255)}, LABELS == 2),
    ):
        mask, _ = read_mask(path, labels=table)
        assert mask.dtype == np.uint8
        np.testing.assert_array_equal(mask, expected, err_msg=f"{path.name} {table}")


def test_values_outside_the_table(tmp_path):
    with pytest.raises(DataError) as caught:
        read_mask(saved(tmp_path / "a.png", np.arange(20, dtype=np.uint8)[None]), labels=GREY)
    text = str(caught.value)
    assert "1, 2, 3, 4, 5, 6, 7, 8 and 11 more" in text
    assert "liver 127" in text
    colour = np.array([[[0, 0, 0], [1, 2, 3]]], np.uint8)
    with pytest.raises(DataError, match=r"\(1, 2, 3\)") as caught:
        read_mask(saved(tmp_path / "b.png", colour), labels=RGB)
    assert "tumour (0, 0, 255)" in str(caught.value)
    with pytest.raises(DataError, match="colour mask"):
        read_mask(tmp_path / "b.png", labels=GREY)
    tifffile.imwrite(tmp_path / "c.tif", np.array([[0, 0.7]], np.float32))
    for table in (GREY, RGB):
        with pytest.raises(DataError, match="table"):
            read_mask(tmp_path / "c.tif", labels=table)


def test_bad_tables(tmp_path):
    path = saved(tmp_path / "a.png", RAMP)
    for table in (
        {},
        {"a": 0, "b": (0, 0, 1)},
        {"a": (0, 1)},
        {"a": 0, "b": 0},
        {str(i): i for i in range(257)},
    ):
        with pytest.raises(CallError):
            read_mask(path, labels=table)


# --- writing

SHAPES = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9)


@SOME
@given(hnp.arrays(np.uint8, SHAPES, elements=st.integers(0, 1)))
def test_binary_round_trip(tmp_path, mask):
    path = write_mask(tmp_path / "new" / "a.png", mask)
    stored = np.asarray(Image.open(path))
    assert stored.dtype == np.uint8
    np.testing.assert_array_equal(stored, mask * 255)
    np.testing.assert_array_equal(read_mask(path)[0], mask)
    assert image_size(path) == mask.shape
    assert [p.name for p in path.parent.iterdir()] == ["a.png"]


@SOME
@given(hnp.arrays(np.int64, SHAPES, elements=st.integers(0, 255)))
def test_label_round_trip(tmp_path, mask):
    mask.flat[0] = 2  # with only 0 and 1 it would be binary
    path = write_mask(tmp_path / "a.png", mask)
    np.testing.assert_array_equal(np.asarray(Image.open(path)), mask)
    labels = {str(i): i for i in range(256)}
    np.testing.assert_array_equal(read_mask(path, labels=labels)[0], mask)
