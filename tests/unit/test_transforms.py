"""What the augmentation does to a batch: turns that words can follow, blur, colours."""

from __future__ import annotations

import numpy as np
import torch

from crossmask.core import rng
from crossmask.data.transforms import Augment, blurred, draw, intensity, warp

STILL = {"mirror": 0.0, "rotate": 0.0, "zoom": 0.0, "shift": 0.0, "brightness": 0.0, "contrast": 0.0, "gamma": 0.0,
         "noise": 0.0}  # fmt: skip
ANY = np.ones((600, 4), bool)


def test_eighths_are_multiples_of_45_degrees_for_sentences_that_follow() -> None:
    placeless = np.arange(600) % 3 > 0
    drawn = draw(rng(0, "t"), ANY, Augment(**STILL, eighths=True), placeless)
    turns = np.degrees(drawn.angle) / 45
    assert np.allclose(turns, turns.round(), atol=1e-4)
    assert set(turns.round().astype(int)[placeless].tolist()) == set(range(8))
    assert not drawn.angle[~placeless].any()
    assert not draw(rng(0, "t"), ANY, Augment(**STILL)).angle.any()


def test_old_draws_are_as_they_were() -> None:
    """A recipe without the newer changes draws the same numbers as before they existed."""
    plain, more = (draw(rng(3, "t"), ANY, Augment(rotate=10, **extra)) for extra in ({}, {"blur": 0.01}))
    for name in ("mirror", "angle", "zoom", "shift", "brightness", "contrast", "gamma", "noise"):
        assert np.array_equal(getattr(plain, name), getattr(more, name)), name


def test_a_quarter_turn_moves_picture_and_mask_alike() -> None:
    image = torch.zeros(1, 1, 32, 32)
    image[0, 0, 4:9, 20:28] = 1
    drawn = draw(rng(0, "t"), np.ones((1, 4), bool), Augment(**STILL))
    quarter = type(drawn)(**{**vars(drawn), "angle": np.array([np.pi / 2], np.float32)})
    moved, mask = warp(image, image[:, 0].long(), quarter)
    assert mask is not None
    assert torch.equal((moved[:, 0] > 0.5).long(), mask)
    assert any(torch.equal(mask[0], torch.rot90(image[0, 0].long(), k)) for k in (1, 3))


def test_a_third_is_blurred_and_a_third_shifted() -> None:
    drawn = draw(rng(1, "t"), ANY, Augment(**STILL, blur=0.03, colour_shift=0.2))
    shares = [(drawn.blur > 0).mean(), drawn.colour_shift.any(1).mean()]
    assert all(abs(share - 1 / 3) < 0.06 for share in shares)
    assert not ((drawn.blur > 0) & drawn.colour_shift.any(1)).any()
    image = torch.rand(600, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 0.5 + 0.25
    changed = intensity(image, drawn, 0)
    for place in range(600):
        difference = changed[place] - image[place]
        if drawn.colour_shift[place].any():
            expected = torch.from_numpy(drawn.colour_shift[place])[:, None, None].expand(3, 16, 16)
            torch.testing.assert_close(difference, expected, atol=1e-5, rtol=0)
        elif drawn.blur[place] > 0:
            assert changed[place].std() < image[place].std()
        else:
            torch.testing.assert_close(changed[place], image[place], atol=1e-5, rtol=0)


def test_blur_is_scipys() -> None:
    from scipy import ndimage

    image = torch.rand(2, 2, 40, 50, generator=torch.Generator().manual_seed(1))
    ours = blurred(image, 2.0 / 40).numpy()
    theirs = ndimage.gaussian_filter(image.numpy(), (0, 0, 2.0, 2.0), mode="nearest", radius=(0, 0, 6, 6))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_one_channel_can_be_shifted_too() -> None:
    drawn = draw(rng(1, "t"), ANY[:20], Augment(**STILL, colour_shift=0.2))
    assert intensity(torch.full((20, 1, 4, 4), 0.5), drawn, 0).std() > 0
    assert intensity(torch.full((20, 5, 4, 4), 0.5), drawn, 0).shape == (20, 5, 4, 4)
