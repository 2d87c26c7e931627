"""TMCA's alignment: what pulls, what pushes, what counts nothing; and that the mask never predicts."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from crossmask.blocks import pad_to_stride
from crossmask.models import crossvlt
from crossmask.models.tmca import TargetAlignment, build, info_nce


def network(**options: object) -> torch.nn.Module:
    torch.manual_seed(0)
    return build(channels=(1,), classes=1, text_dim=12, encoder="tiny", weights="none", **options)  # type: ignore[arg-type]


def batch(n: int = 6) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    image, text = torch.rand(n, 1, 64, 64, generator=generator), torch.randn(n, 5, 12, generator=generator)
    mask = torch.zeros(n, 64, 64, dtype=torch.long)
    for row in range(n):
        mask[row, 8 * row : 8 * row + 12, 10:40] = 1
    return image, text, torch.ones(n, 5, dtype=torch.bool), torch.arange(n), mask


def loss_of(net: torch.nn.Module, image: Tensor, text: Tensor, seen: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    _, features = net(image, text, seen, features=True)
    return net.auxiliary(features, mask, text, seen, ids)["alignment"]  # type: ignore[operator]


def test_prediction_takes_no_mask() -> None:
    net = network()
    for part in (net, net.decoder, net.encoder):
        assert not [name for name in inspect.signature(part.forward).parameters if name == "mask"]  # type: ignore[union-attr]
    image, text, seen, *_ = batch()
    program = torch.export.export(net.eval(), (image, text, seen))
    assert len(program.graph_signature.user_inputs) == 3  # picture, words, which of them are there


@pytest.mark.parametrize("options", [{}, {"distance": False}, {"multilevel": False}, {"enhancement": False},
                                     {"weigh_by": "text"}])  # fmt: skip
def test_every_switch_trains_what_it_has(options: dict[str, object]) -> None:
    net = network(**options)
    image, text, seen, ids, mask = batch()
    logits, features = net(image, text, seen, features=True)
    loss = net.auxiliary(features, mask, text, seen, ids)["alignment"] + logits.square().mean()  # type: ignore[operator]
    loss.backward()
    for name, weight in net.named_parameters():
        if weight.ndim > 1 and "absent" not in name:
            assert weight.grad is not None, name
            assert weight.grad.isfinite().all(), name
    assert len(net.state_dict()) == len({id(v) for v in net.state_dict(keep_vars=True).values()})  # nothing twice


def test_empty_masks_weigh_nothing_and_stay_finite() -> None:
    net = network().eval()
    image, text, seen, ids, mask = batch()
    empty = mask.clone()
    empty[4:] = 0
    silent = seen.clone()
    silent[4:] = False  # without words, an empty mask is nothing at all
    less = loss_of(net, image, text, silent, ids, empty)
    fewer = loss_of(net, image[:4], text[:4], seen[:4], ids[:4], mask[:4])
    torch.testing.assert_close(less, fewer)
    for given in (torch.zeros_like(mask), torch.ones_like(mask)):
        assert loss_of(net, image, text, seen, ids, given).isfinite()
    assert loss_of(net, image[:1], text[:1], seen[:1], ids[:1], mask[:1]) == 0


@pytest.mark.parametrize("make", [build, crossvlt.build])
def test_odd_sizes_keep_the_target_where_it_is(make: Any) -> None:
    """The maps are the padded picture's, and so is the mask that is laid over them."""
    torch.manual_seed(0)
    options = {"weigh_by": "text"} if make is build else {}
    net = make(channels=(1,), classes=1, text_dim=12, encoder="tiny", weights="none", **options).eval()
    image, text, seen, ids, mask = batch()
    image, mask = image[..., :50, :40], mask[..., :50, :40]
    padded = pad_to_stride(mask[:, None].float())[:, 0].long()
    assert padded.shape[-2:] == (64, 64)
    losses = []
    for picture, target in ((image, mask), (pad_to_stride(image), padded)):
        _, features = net(picture, text, seen, features=True)
        losses.append(sum(net.auxiliary(features, target, text, seen, ids).values()))
    torch.testing.assert_close(losses[0], losses[1])


def test_a_sentence_without_target_is_pushed_away() -> None:
    net = network()
    image, text, seen, ids, _ = batch()
    nothing = torch.zeros(6, 64, 64, dtype=torch.long)
    optimizer = torch.optim.Adam(net.alignment.parameters(), 1e-2)  # type: ignore[union-attr]
    first = float(loss_of(net, image, text, seen, ids, nothing))
    for _ in range(20):
        loss = loss_of(net, image, text, seen, ids, nothing)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert first >= 0
    assert float(loss.detach()) <= first
    assert float(loss.detach()) < 0.05


def test_equal_targets_are_no_negatives() -> None:
    """The likelier a pair's targets, the less it counts; equal ones do not count at all."""
    near = torch.randn(3, 3)
    valid, none = torch.ones(3, dtype=torch.bool), torch.zeros(3, 3, dtype=torch.bool)
    full, half = torch.ones(3, 3), torch.ones(3, 3)
    half[0, 1] = half[1, 0] = 0.0
    expected = -torch.stack([F.log_softmax(near, d).diagonal() for d in (0, 1)]).mean()
    torch.testing.assert_close(info_nce(near, None, full, valid, none), expected)
    changed = near.clone()
    changed[0, 1] += 3  # between equal targets: nothing happens
    torch.testing.assert_close(
        info_nce(near, None, half, valid, none), info_nce(changed, None, half, valid, none), atol=1e-4, rtol=0
    )
    assert info_nce(changed, None, full, valid, none) > info_nce(near, None, full, valid, none)
    left_out = none.clone()
    left_out[0, 1] = left_out[1, 0] = True
    torch.testing.assert_close(
        info_nce(near, None, full, valid, left_out), info_nce(near, None, half, valid, none), atol=1e-4, rtol=0
    )


def test_contexts_are_negatives_of_each_text() -> None:
    near, far = torch.zeros(3, 3), torch.full((3, 3), 2.0)
    valid, none, ones = torch.ones(3, dtype=torch.bool), torch.zeros(3, 3, dtype=torch.bool), torch.ones(3, 3)
    assert info_nce(near, far, ones, valid, none) > info_nce(near, None, ones, valid, none)
    torch.testing.assert_close(
        info_nce(near, torch.full((3, 3), -1e4), ones, valid, none), info_nce(near, None, ones, valid, none)
    )


def test_soft_dice_of_the_masks_weighs() -> None:
    align = TargetAlignment((4,), [], distance=True, weigh_by="mask")
    masks = torch.tensor([[1.0, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [1, 0, 0, 0]])
    weight = align.negative_weight(masks)
    torch.testing.assert_close(weight[0], torch.tensor([0.0, 0.0, 1.0, 1 / 3]))
    assert TargetAlignment((4,), [], distance=True, weigh_by="text").negative_weight(masks).eq(1).all()


def test_training_pulls_the_text_to_the_target() -> None:
    net = network()
    image, text, seen, ids, mask = batch()
    image = image * 0.2 + 0.7 * mask[:, None].float() * torch.linspace(0.3, 1, 6).view(-1, 1, 1, 1)
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    losses = []
    for _ in range(40):
        loss = loss_of(net, image, text, seen, ids, mask)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
