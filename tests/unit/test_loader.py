"""Batches: a function of (seed, step); words follow the picture; several processes share one global batch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from crossmask.core import rng
from crossmask.data import sides
from crossmask.data.cache import Settings, prepare
from crossmask.data.grid import Grid
from crossmask.data.loader import Loader, Words, convention_of, rows_of_classes, says, variants
from crossmask.data.manifest import Case
from crossmask.data.transforms import Augment, draw, intensity, warp
from crossmask.text.encoders import tiny
from crossmask.text.features import table

STILL = Augment(0, 0, 0, 0, 0, 0, 0, 0, 0)


def make_loader(cases: list, folder: Path, *, augment: Augment = STILL, batch: int = 8, **more: object) -> tuple:
    store = prepare(cases, Settings(Grid((32, 32)), {"image": 1}), folder)
    turned = [variants(c, "", "image") for c in cases]
    found = table(tiny.build(), [s for row in turned for s in row if s], None)
    rows = np.array([[-1 if s is None else found.lookup(s) for s in row] for row in turned])
    silent = np.array([says(c, "", "image") is None for c in cases])
    words = Words(torch.from_numpy(found.tokens), torch.from_numpy(found.mask))
    loader = Loader(
        store,
        range(len(cases)),
        words=words,
        sentences=rows,
        allowed=(rows >= 0) | silent[:, None],
        augment=augment,
        batch=batch,
        seed=3,
        **more,
    )  # type: ignore[arg-type]
    return loader, {v: k for k, v in found.index.items()}


def test_a_batch_is_a_function_of_seed_and_step(cases: list, tmp_path: Path) -> None:
    loud = Augment(0.5, 0.5, 20, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1)
    first, _ = make_loader(cases, tmp_path, augment=loud, text_dropout=0.3)
    second, _ = make_loader(cases, tmp_path, augment=loud, text_dropout=0.3)
    for step in (0, 1):
        first.batch(step)
    a, b = first.batch(7).labelled, second.batch(7).labelled
    assert a.id == b.id
    for name in ("image", "mask", "text", "text_mask", "text_id"):
        assert torch.equal(getattr(a, name), getattr(b, name)), name


def test_each_epoch_sees_each_case_once(cases: list, tmp_path: Path) -> None:
    loader, _ = make_loader(cases, tmp_path)
    for epoch in range(2):
        seen = [i for step in range(6) for i in loader.batch(epoch * 6 + step).labelled.id]
        assert sorted(seen) == sorted(c.id for c in cases)


def test_processes_share_the_global_batch(cases: list, tmp_path: Path) -> None:
    whole, _ = make_loader(cases, tmp_path, batch=8, augment=Augment(noise=0))
    halves = [
        make_loader(cases, tmp_path, batch=4, augment=Augment(noise=0), process=p, processes=2)[0] for p in (0, 1)
    ]
    for step in (0, 5):
        together = torch.cat([h.batch(step).labelled.image for h in halves])
        torch.testing.assert_close(whole.batch(step).labelled.image, together)


def test_mirrored_pictures_have_mirrored_sentences(cases: list, tmp_path: Path) -> None:
    still, sentence = make_loader(cases, tmp_path)
    turned, _ = make_loader(cases, tmp_path, augment=Augment(1.0, 0, 0, 0, 0, 0, 0, 0, 0))
    a, b = still.batch(0).labelled, turned.batch(0).labelled
    torch.testing.assert_close(a.image.flip(-1), b.image, atol=1e-5, rtol=0)
    assert torch.equal(a.mask.flip(-1), b.mask)
    told = 0
    for before, after in zip(a.text_id.tolist(), b.text_id.tolist(), strict=True):
        if before >= 0:
            assert sentence[after] == sides.swap_sides(sentence[before]) != sentence[before]
            told += 1
    assert told


def test_sides_of_unknown_convention_are_never_mirrored(cases: list, tmp_path: Path) -> None:
    unknown = [Case(c.id, c.images, mask=c.mask, texts=c.texts) for c in cases]
    still, _ = make_loader(unknown, tmp_path)
    turned, _ = make_loader(unknown, tmp_path, augment=Augment(1.0, 0, 0, 0, 0, 0, 0, 0, 0))
    a, b = still.batch(0).labelled, turned.batch(0).labelled
    for row, has_text in enumerate((a.text_id >= 0).tolist()):
        wanted = a.image[row] if has_text else a.image[row].flip(-1)
        torch.testing.assert_close(wanted, b.image[row], atol=1e-5, rtol=0)


def test_the_patients_left_is_rewritten() -> None:
    case = Case("a", {"": "x"}, texts={"": "Opacity in the left lung."}, side_convention="patient")
    assert says(case, "", "image") == "Opacity in the right lung."
    assert says(case, "", "as-is") == "Opacity in the left lung."
    assert convention_of(case, "image") == "image"
    unknown = Case("b", {"": "x"}, texts={"": "Opacity in the left lung."})
    assert says(unknown, "", "image") == "Opacity in the left lung."
    assert variants(unknown, "", "image")[1] is None


def test_text_dropout_silences_its_share(cases: list, tmp_path: Path) -> None:
    loader, _ = make_loader(cases, tmp_path, text_dropout=1.0)
    assert not loader.batch(0).labelled.text_mask.any()
    assert (loader.batch(0).labelled.text_id == -1).all()


@pytest.mark.parametrize("size", [(33, 33), (24, 48)])
def test_warp_moves_image_and_mask_alike(size: tuple[int, int]) -> None:
    mask = torch.zeros(64, *size, dtype=torch.long)
    mask[:, size[0] // 4 : size[0] // 2, size[1] // 3 : size[1] // 2] = 1
    drawn = draw(rng(0), np.ones((64, 4), bool), Augment(0.5, 0.5, 25, 0.2, 0.1, 0, 0, 0, 0))
    moved, labels = warp(mask[:, None].float(), mask, drawn)
    assert labels is not None
    assert ((moved[:, 0] > 0.5) == (labels == 1)).float().mean() > 0.99
    assert labels.unique().tolist() == [0, 1]


def test_rotation_keeps_areas_on_oblong_pictures() -> None:
    mask = torch.zeros(32, 40, 80, dtype=torch.long)
    mask[:, 12:28, 32:48] = 1
    drawn = draw(rng(1), np.ones((32, 4), bool), Augment(0, 0, 45, 0, 0, 0, 0, 0, 0))
    _, labels = warp(mask[:, None].float(), mask, drawn)
    assert labels is not None
    areas = labels.sum((1, 2)).float()
    assert (areas - 256).abs().max() < 16


def test_intensity_stays_in_range_and_does_nothing_at_zero() -> None:
    image = torch.rand(8, 2, 16, 16)
    loud = draw(rng(2), np.ones((8, 4), bool), Augment(0, 0, 0, 0, 0, 0.5, 0.9, 1.0, 0.5))
    changed = intensity(image, loud, 5)
    assert 0 <= changed.min() <= changed.max() <= 1
    assert not torch.equal(changed, image)
    torch.testing.assert_close(
        intensity(image.clamp_min(1e-3), draw(rng(2), np.ones((8, 4), bool), STILL), 5), image.clamp_min(1e-3)
    )


def test_the_unlabelled_half_shares_its_geometry_and_shows_no_mask(cases: list, tmp_path: Path) -> None:
    moving = Augment(0.5, 0.0, 20, 0.1, 0.1, 0, 0, 0, 0)
    quiet = Augment(0, 0, 0, 0, 0, 0, 0, 0, 0)
    loader, _ = make_loader(
        cases, tmp_path, augment=moving, batch=4, unlabelled_rows=range(10, 30), unlabelled=6, strong=quiet
    )
    half = loader.batch(3).unlabelled
    assert half is not None
    assert len(half.id) == 6
    assert not hasattr(half, "mask")
    assert torch.equal(half.weak, half.strong)  # one geometry; nothing else was asked for
    assert set(half.id) <= {cases[n].id for n in range(10, 30)}
    again = loader.batch(3).unlabelled
    assert again is not None
    assert torch.equal(half.weak, again.weak)
    seen = [i for step in range(10) for i in loader.batch(step).unlabelled.id]  # type: ignore[union-attr]
    assert sorted(seen) == sorted([cases[n].id for n in range(10, 30)] * 3)


def test_held_masks_are_those_of_the_same_rows(cases: list, tmp_path: Path) -> None:
    loader, _ = make_loader(cases, tmp_path, batch=4, unlabelled_rows=range(20), unlabelled=8)
    masks, known = loader.held_masks(2)
    rows = loader.half(2, "unlabelled").rows
    assert np.array_equal(masks.numpy(), loader.store.masks[rows])
    assert known.tolist() == [cases[n].mask is not None for n in rows]
    turned = Augment(1.0, 0, 0, 0, 0, 0, 0, 0, 0)
    loader, _ = make_loader(cases, tmp_path, augment=turned, batch=4, unlabelled_rows=range(20), unlabelled=8)
    half = loader.half(2, "unlabelled")
    wanted = np.where(half.drawn.mirror[:, None, None], loader.store.masks[rows][:, :, ::-1], loader.store.masks[rows])
    assert np.array_equal(loader.held_masks(2)[0].numpy(), wanted)


def test_strong_views_differ_and_may_be_cut_out(cases: list, tmp_path: Path) -> None:
    loud = Augment(0, 0, 0, 0, 0, 0.3, 0.5, 0.5, 0.1, 0.5)
    loader, _ = make_loader(cases, tmp_path, batch=4, unlabelled_rows=range(8), unlabelled=8, strong=loud)
    half = loader.unlabelled_half(0)
    assert not torch.equal(half.weak, half.strong)
    blank = (half.strong == 0).float().mean((1, 2, 3))
    assert blank.max() > (half.weak == 0).float().mean((1, 2, 3)).max()
    assert half.strong.min() >= 0
    assert half.strong.max() <= 1


def test_a_batch_larger_than_the_labelled_cases(cases: list, tmp_path: Path) -> None:
    loader, _ = make_loader(cases[:3], tmp_path, batch=16)
    seen = [i for step in range(3) for i in loader.batch(step).labelled.id]
    assert {seen.count(c.id) for c in cases[:3]} == {16}
    alone, _ = make_loader(cases, tmp_path, batch=4, unlabelled_rows=[5], unlabelled=4)
    half = alone.batch(7).unlabelled
    assert half is not None
    assert set(half.id) == {cases[5].id}


def test_foreground_share_draws_rows_that_hold_a_class_each_as_often(cases: list, tmp_path: Path) -> None:
    nothing = tmp_path / "nothing.png"
    size = Image.open(cases[0].mask).size
    Image.new("L", size).save(nothing)
    few = [cases[0], *(replace(c, mask=str(nothing)) for c in cases[1:16] if Image.open(c.images[""]).size == size)]
    assert len(few) > 8
    plain, _ = make_loader(few, tmp_path / "store")
    drawn, _ = make_loader(few, tmp_path / "store", foreground=0.5)
    always, _ = make_loader(few, tmp_path / "store", foreground=1.0)
    assert all(float(m.sum()) > 0 for step in range(3) for m in always.batch(step).labelled.mask)
    share = np.mean([i == few[0].id for step in range(60) for i in drawn.batch(step).labelled.id])
    usual = np.mean([i == few[0].id for step in range(60) for i in plain.batch(step).labelled.id])
    assert usual == pytest.approx(1 / len(few), abs=0.02)
    assert share == pytest.approx(0.5 + 0.5 / len(few), abs=0.08)

    masks = np.zeros((9, 4, 4), np.uint8)
    masks[2:8, 0, 0] = 1
    masks[5, 1, 1] = 3
    drawn.store = replace(drawn.store, masks=masks)
    drawn.holding = rows_of_classes(drawn.store, np.arange(9))
    assert [rows.tolist() for rows in drawn.holding] == [[2, 3, 4, 5, 6, 7], [5]]
    drawn.foreground = 1.0
    found = np.concatenate([drawn.with_foreground(np.zeros(16, int), step) for step in range(40)])
    assert np.mean(found == 5) == pytest.approx(0.5 + 0.5 / 6, abs=0.06)  # the rare class's only row, and its share
    assert not rows_of_classes(drawn.store, np.array([0, 1]))
