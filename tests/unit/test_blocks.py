"""Layers against what their docstrings say."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from crossmask.blocks import (
    AbsentModality,
    Attention,
    NonLocalFusion,
    NoText,
    SubPixelHead,
    conv_norm_act,
    gathered,
    masked_mean,
    pad_to_stride,
    position_code,
    upsample,
)

LIKE = torch.zeros(1)


@pytest.mark.parametrize(("size", "padded"), [((64, 32), (64, 32)), ((50, 71), (64, 96)), ((1, 33), (32, 64))])
def test_pad_to_stride(size, padded):
    image = torch.rand(2, 3, *size)
    wide = pad_to_stride(image)
    assert wide.shape == (2, 3, *padded)
    assert torch.equal(wide[..., : size[0], : size[1]], image)
    assert torch.equal(wide[..., -1, -1], image[..., -1, -1])


def test_masked_mean():
    values = torch.tensor([[[1.0, 2], [3, 4], [100, 100]], [[5.0, 6], [7, 8], [9, 10]]])
    mask = torch.tensor([[True, True, False], [False, False, False]])
    assert masked_mean(values, mask).tolist() == [[2, 3], [0, 0]]


@pytest.mark.parametrize("channels", [8, 12, 32, 96])
def test_position_code_means_the_same_place_at_every_size(channels):
    small = position_code(3, 5, channels, LIKE).reshape(3, 5, channels)
    large = position_code(9, 15, channels, LIKE).reshape(9, 15, channels)
    assert torch.allclose(large[1::3, 1::3], small, atol=1e-4)
    assert small.abs().max() <= 1


def test_position_code_tells_places_apart():
    code = position_code(16, 16, 32, LIKE)
    distance = torch.cdist(code, code) + 10 * torch.eye(256)
    assert distance.min() > 0.1
    assert position_code(4, 4, 10, LIKE).shape == (16, 10)
    assert position_code(4, 4, 8, torch.zeros(1, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_no_text():
    block = NoText(3)
    state = block.state.detach()
    text, mask = block(None, None, 2)
    assert text.shape == (2, 1, 3)
    assert torch.equal(text[1, 0], state)
    assert mask.all()

    words = torch.arange(18.0).reshape(3, 2, 3)
    given = torch.tensor([[True, True], [False, False], [True, False]])
    text, mask = block(words, given, 3)
    assert torch.equal(text[0], words[0])
    assert torch.equal(text[1, 0], state)
    assert mask.tolist() == [[True, True], [True, False], [True, False]]
    assert not text[1, 1].any()  # padding becomes zero
    assert not text[2, 1].any()

    text, mask = block(words, None, 3)
    assert torch.equal(text, words)
    assert mask.all()
    block(words * float("nan"), torch.zeros(3, 2, dtype=torch.bool), 3)[0].sum().backward()
    assert block.state.grad.isfinite().all()


def test_absent_modality():
    block = AbsentModality((1, 2))
    nn.init.constant_(block.value, 0.25)
    image = torch.rand(2, 3, 4, 4)
    assert torch.equal(block(image, None), image)
    shown = block(image, torch.tensor([[True, False], [False, True]]))
    assert torch.equal(shown[0, 0], image[0, 0])
    assert (shown[0, 1:] == 0.25).all()
    assert (shown[1, 0] == 0.25).all()
    assert torch.equal(shown[1, 1:], image[1, 1:])


def test_attention_by_hand():
    block = Attention(8, 2).eval()
    query, keys = torch.randn(2, 5, 8), torch.randn(2, 3, 8)
    mask = torch.tensor([[True, True, False], [True, True, True]])
    q, k, v = (
        f(x).reshape(2, -1, 2, 4).transpose(1, 2) for f, x in ((block.q, query), (block.k, keys), (block.v, keys))
    )
    scores = (q @ k.transpose(2, 3) / 2).masked_fill(~mask[:, None, None], -torch.inf)
    wanted = block.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(2, 5, 8))
    torch.testing.assert_close(block(query, keys, keys, mask), wanted)
    assert Attention(10, 4).heads == 2  # the largest number not above that divides the width


def test_non_local_fusion_keeps_the_shape():
    x, words = torch.randn(2, 12, 3, 5), torch.randn(2, 4, 7)
    assert NonLocalFusion(12, 7)(x, words, torch.ones(2, 4, dtype=torch.bool)).shape == x.shape


@pytest.mark.parametrize("factor", [2, 4])
def test_sub_pixel_head(factor):
    head = SubPixelHead(24, 3, factor)
    assert head(torch.randn(2, 24, 5, 7)).shape == (2, 3, 5 * factor, 7 * factor)
    with torch.no_grad():  # all sub-pixels start as one filter: constant input, no grid (biases aside)
        nn.init.zeros_(head.expand.bias)
        inner = head(torch.ones(1, 24, 5, 7))[..., factor:-factor, factor:-factor]
    assert torch.allclose(inner, inner[..., :1, :1].expand_as(inner), atol=1e-6)


def test_small_ones():
    assert conv_norm_act(3, 5)(torch.randn(2, 3, 6, 7)).shape == (2, 5, 6, 7)
    assert conv_norm_act(3, 5, 1)(torch.randn(2, 3, 6, 7)).shape == (2, 5, 6, 7)
    assert upsample(torch.randn(2, 3, 6, 7)).shape == (2, 3, 12, 14)
    x = torch.randn(3)
    assert gathered(x) is x
