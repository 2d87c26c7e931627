"""Layers that several networks use. Shapes: B batch, C channels, H W pixels, L text tokens, D text width."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossmask.errors import CallError
from crossmask.losses import contrastive

Targets = Literal["identity", "same-text", "soft", "off"]
STRIDE = 32


def pad_to_stride(image: Tensor, stride: int = STRIDE) -> Tensor:
    """Extend (B, C, H, W) at the right and bottom edge to sides divisible by ``stride``."""
    height, width = image.shape[-2:]
    return F.pad(image, (0, -width % stride, 0, -height % stride), mode="replicate")


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """(B, L, D), (B, L) bool -> (B, D); a row without tokens gives zeros."""
    weight = mask.unsqueeze(-1).to(values.dtype)
    return (values * weight).sum(1) / weight.sum(1).clamp_min(1)


def position_code(height: int, width: int, channels: int, like: Tensor) -> Tensor:
    """Sines and cosines of the relative place: (H*W, channels), the same meaning at every size.

    Coordinates run over [0, 1], so that 'upper left' is one code at 96 and at 512 pixels.
    """
    bands = math.ceil(channels / 4)
    frequency = torch.arange(bands, device=like.device, dtype=torch.float32)
    frequency = math.pi * torch.pow(2.0, frequency * 6 / max(bands - 1, 1))  # half a wave to 32 waves
    y = (torch.arange(height, device=like.device) + 0.5) / height
    x = (torch.arange(width, device=like.device) + 0.5) / width
    by_y = (y[:, None] * frequency)[:, None].expand(height, width, bands)
    by_x = (x[:, None] * frequency)[None].expand(height, width, bands)
    code = torch.cat([by_y.sin(), by_y.cos(), by_x.sin(), by_x.cos()], -1)
    return code.reshape(height * width, 4 * bands)[:, :channels].to(like.dtype)


class NoText(nn.Module):
    """The learned state that stands for a sentence that is not there.

    ``forward``: text (B, L, D) or None, text_mask (B, L) bool or None -> both filled in; a row of the mask that
    is all False gets the learned state as its one token. Padding tokens become zero.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.state = nn.Parameter(torch.randn(width) * 0.02)

    def forward(self, text: Tensor | None, text_mask: Tensor | None, batch: int) -> tuple[Tensor, Tensor]:
        if text is None:
            alone = torch.ones(batch, 1, dtype=torch.bool, device=self.state.device)
            return self.state.expand(batch, 1, self.width), alone
        if text_mask is None:
            text_mask = torch.ones(text.shape[:2], dtype=torch.bool, device=text.device)
        first = torch.arange(text.shape[1], device=text.device) == 0
        place = ~text_mask.any(1, keepdim=True) & first
        text = torch.where(text_mask.unsqueeze(-1), text, torch.zeros((), dtype=text.dtype, device=text.device))
        text = torch.where(place.unsqueeze(-1), self.state.to(text.dtype), text)
        return text, text_mask | place


class AbsentModality(nn.Module):
    """A learned grey value per channel stands for a modality that is not there.

    ``forward``: image (B, sum(channels), H, W), present (B, M) bool or None (all there).
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.counts = tuple(channels)
        self.value = nn.Parameter(torch.full((sum(channels),), 0.5))

    def forward(self, image: Tensor, present: Tensor | None) -> Tensor:
        if present is None:
            return image
        there = torch.cat([present[:, m : m + 1].expand(-1, count) for m, count in enumerate(self.counts)], 1)[
            :, :, None, None
        ]
        return torch.where(there, image, self.value.to(image.dtype).view(1, -1, 1, 1))


class Attention(nn.Module):
    """Multi-head attention. query (B, N, C), keys (B, L, C), mask (B, L) bool or None -> (B, N, C).

    dropout acts on the answer: on the attention matrix it would forbid the fused kernels and cost a tenth of a step.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        while width % heads:
            heads -= 1
        self.heads, self.dropout = heads, nn.Dropout(dropout)
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        def split(x: Tensor) -> Tensor:
            return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

        answer = F.scaled_dot_product_attention(
            split(self.q(query)),
            split(self.k(key)),
            split(self.v(value)),
            attn_mask=None if mask is None else mask[:, None, None, :],
        )
        return self.dropout(self.out(answer.transpose(1, 2).flatten(2)))


def conv_norm_act(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def upsample(x: Tensor, factor: int = 2) -> Tensor:
    return F.interpolate(x, scale_factor=float(factor), mode="bilinear", align_corners=False)


def double_conv(inputs: int, outputs: int, dropout: float = 0.0) -> nn.Sequential:
    """Two 3x3 convolutions: (B, inputs, h, w) -> (B, outputs, h, w)."""
    return nn.Sequential(conv_norm_act(inputs, outputs), conv_norm_act(outputs, outputs), nn.Dropout2d(dropout))


class UNetDecoder(nn.Module):
    """U-Net's way up: a level a skip, then two levels without (stride 4 -> 2 -> 1), then 1x1.

    encoder_channels, widths: of the maps, the finest (stride 4) first. ``forward``: maps -> (B, K, 4h, 4w).
    """

    def __init__(self, encoder_channels: Sequence[int], widths: Sequence[int], classes: int, dropout: float) -> None:
        super().__init__()
        top = len(encoder_channels) - 1
        same = encoder_channels[top] == widths[top]
        self.enter = nn.Identity() if same else nn.Conv2d(encoder_channels[top], widths[top], 1)
        self.levels = nn.ModuleList(
            double_conv(widths[i + 1] + encoder_channels[i], widths[i], dropout) for i in range(top - 1, -1, -1)
        )
        half, quarter = max(widths[0] // 2, 8), max(widths[0] // 4, 8)
        self.last = nn.ModuleList([double_conv(widths[0], half), double_conv(half, quarter)])
        self.classify = nn.Conv2d(quarter, classes, 1)

    def forward(self, maps: Sequence[Tensor], text: Tensor | None = None, text_mask: Tensor | None = None) -> Tensor:
        """text and text_mask: taken as every decoder takes them, and not looked at."""
        x = self.enter(maps[-1])
        for level, skip in zip(self.levels, maps[-2::-1], strict=True):
            x = level(torch.cat([upsample(x), skip], 1))
        for level in self.last:
            x = level(upsample(x))
        return self.classify(x)


def with_channel(maps: Sequence[Tensor], extra: Tensor) -> list[Tensor]:
    """Each map (B, C, h, w) with ``extra`` (B, 1, h', w'), resized to it, as one more channel."""
    resized = [F.interpolate(extra, m.shape[-2:], mode="bilinear", align_corners=False) for m in maps]
    return [torch.cat(pair, 1) for pair in zip(maps, resized, strict=True)]


class TextProjection(nn.Module):
    """Word states to a level's width: (B, L, D) -> (B, L, C)."""

    def __init__(self, text_dim: int, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(text_dim), nn.Linear(text_dim, channels), nn.GELU(), nn.Linear(channels, channels)
        )

    def forward(self, text: Tensor) -> Tensor:
        return self.layers(text)


class NonLocalFusion(nn.Module):
    """Every pixel looks at every pixel, then at every word (HCFNet's NLCFM; Ariadne's GuideDecoder).

    x (B, C, H, W), text (B, L, D), text_mask (B, L) bool -> (B, C, H, W). Multi-head cross-attention is stated;
    reconstructed: pre-norm, codes of place for any size, residuals with learned scales, padding masked out.
    """

    def __init__(self, channels: int, text_dim: int, *, heads: int = 4, dropout: float = 0.0) -> None:
        super().__init__()
        self.project = TextProjection(text_dim, channels)
        self.norm_self = nn.LayerNorm(channels)
        self.look_around = Attention(channels, heads, dropout)
        self.norm_cross = nn.LayerNorm(channels)
        self.look_at_words = Attention(channels, heads, dropout)
        self.scale_self = nn.Parameter(torch.ones(()))
        self.scale_cross = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor, text: Tensor, text_mask: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        pixels = x.flatten(2).transpose(1, 2)
        place = position_code(height, width, pixels.shape[-1], pixels)
        normed = self.norm_self(pixels)
        pixels = pixels + self.scale_self * self.look_around(normed + place, normed + place, normed)
        words = self.project(text)
        query = self.norm_cross(pixels) + place
        pixels = pixels + self.scale_cross * self.look_at_words(query, words, words, text_mask)
        return pixels.transpose(1, 2).unflatten(2, (height, width))


class SubPixelHead(nn.Module):
    """Sub-pixel convolution to full size, then 1x1: (B, C, H/4, W/4) -> (B, K, H, W)."""

    def __init__(self, channels: int, classes: int, factor: int = 4) -> None:
        super().__init__()
        width = max(channels // 4, 8)
        self.expand = nn.Conv2d(channels, width * factor**2, 3, padding=1)
        with torch.no_grad():  # all sub-pixels start as one filter (ICNR), each with a bias of its own
            first = self.expand.weight[:: factor**2].clone()
            self.expand.weight.copy_(first.repeat_interleave(factor**2, 0))
        self.shuffle = nn.PixelShuffle(factor)
        self.classify = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(F.relu(self.shuffle(self.expand(x))))


class JoinSkip(nn.Module):
    """Reduce, up-sample, join the skip: x (B, C, h, w), skip (B, S, 2h, 2w) -> (B, O, 2h, 2w)."""

    def __init__(self, channels: int, skip: int, outputs: int) -> None:
        super().__init__()
        self.reduce = conv_norm_act(channels, outputs, 1)
        self.refine = nn.Sequential(conv_norm_act(outputs + skip, outputs), conv_norm_act(outputs, outputs))

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.refine(torch.cat([upsample(self.reduce(x)), skip], 1))


class GuidedDecoder(nn.Module):
    """Three layers guided by words (strides 32 -> 16 -> 8 -> 4), then the sub-pixel head.

    layer: (channels, skip, outputs) -> a module called with (x, text, text_mask, skip). widths: at strides 4 to 32.
    """

    def __init__(
        self,
        encoder_channels: Sequence[int],
        widths: Sequence[int],
        classes: int,
        layer: Callable[[int, int, int], nn.Module],
    ) -> None:
        super().__init__()
        top = encoder_channels[3]
        self.enter = nn.Identity() if top == widths[3] else nn.Conv2d(top, widths[3], 1)
        self.layers = nn.ModuleList(layer(widths[i + 1], encoder_channels[i], widths[i]) for i in (2, 1, 0))
        self.head = SubPixelHead(widths[0], classes)

    def forward(self, maps: list[Tensor], text: Tensor, text_mask: Tensor) -> Tensor:
        x = self.enter(maps[3])
        for layer, skip in zip(self.layers, maps[2::-1], strict=True):
            x = layer(x, text, text_mask, skip)
        return self.head(x)


class PyramidSegmenter(nn.Module):
    """The frame of networks with one image pyramid: pad, encode, decode, crop.

    ``forward = decode(encode(image, text, text_mask, present), text, text_mask)``. ``decoder`` takes
    (maps, text, text_mask) and returns logits at the padded size. ``text_dim=None``: words are not looked at,
    the learned no-text state stands in their place, so that the network without words has the same size.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        *,
        channels: Sequence[int],
        no_text: NoText | None = None,
        uses_text: bool = True,
    ) -> None:
        super().__init__()
        self.absent = AbsentModality(channels)
        self.encoder = encoder
        self.no_text = no_text
        self.decoder = decoder
        self.uses_text = uses_text

    def words(self, text: Tensor | None, text_mask: Tensor | None, batch: int) -> tuple[Any, Any]:
        if self.no_text is None:
            return None, None
        return self.no_text(text if self.uses_text else None, text_mask, batch)

    def encode(
        self,
        image: Tensor,
        text: Tensor | None = None,
        text_mask: Tensor | None = None,
        present: Tensor | None = None,
    ) -> list[Tensor]:
        """image (B, C, H, W) in [0, 1] -> four maps at strides 4, 8, 16, 32 of the padded image."""
        return self.encoder(pad_to_stride(self.absent(image, present)))

    def decode(
        self,
        maps: list[Tensor],
        text: Tensor | None = None,
        text_mask: Tensor | None = None,
        decoder: nn.Module | None = None,
    ) -> Tensor:
        """Maps -> logits (B, K, H, W) of the padded image; ``decoder``: another one of the same form."""
        return (decoder or self.decoder)(maps, *self.words(text, text_mask, maps[0].shape[0]))

    def forward(
        self,
        image: Tensor,
        text: Tensor | None = None,
        text_mask: Tensor | None = None,
        present: Tensor | None = None,
        features: bool = False,
    ) -> Any:
        maps = self.encode(image, text, text_mask, present)
        logits = self.decode(maps, text, text_mask)[..., : image.shape[-2], : image.shape[-1]]
        return (logits, {"stages": maps}) if features else logits


class Alignment(nn.Module):
    """At each stage, pooled image and pooled words in one space, symmetric InfoNCE, mean over the stages (MCCL).

    targets: which pairs belong together. 'identity': an image and its own sentence; 'same-text': the same, other images
    of an equal sentence being left out; 'soft': by the likeness of the frozen sentence states.
    """

    def __init__(self, stages: tuple[int, ...], text_dim: int, targets: Targets, width: int = 256) -> None:
        super().__init__()
        self.targets = targets
        self.image = nn.ModuleList(nn.Linear(c, width) for c in stages)
        self.text = nn.ModuleList(nn.Linear(text_dim, width) for _ in stages)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def aims(self, pooled: Tensor, text_id: Tensor) -> tuple[Tensor, Tensor | None]:
        """Target weights (N, N) of the pairs (rows images, columns texts), and the pairs that count as neither."""
        own = torch.eye(pooled.shape[0], device=pooled.device)
        if self.targets == "identity":
            return own, None
        if self.targets == "same-text":
            return own, (text_id[:, None] == text_id[None]) & (own == 0)
        code = F.normalize(pooled.float(), dim=-1)
        return (code @ code.T / 0.05).softmax(1), None  # soft: by the likeness of the frozen sentence states

    def forward(self, maps: list[Tensor], text: Tensor, text_mask: Tensor, text_id: Tensor) -> Tensor:
        """Every process computes the loss of all pairs, so that their mean gradient is that of one large batch."""
        pooled = masked_mean(text, text_mask)
        valid = gathered(text_mask.any(1))
        aims, neither = self.aims(gathered(pooled), gathered(text_id))
        scale = self.log_scale.exp().clamp(max=100.0)
        loss = scale.new_zeros(())
        for stage, (image, words) in zip(maps, zip(self.image, self.text, strict=True), strict=True):
            v = F.normalize(image(stage.mean((2, 3))).float(), dim=-1)
            t = F.normalize(words(pooled).float(), dim=-1)
            loss = loss + contrastive(scale * gathered(v) @ gathered(t).T, aims, valid, valid, neither)
        return loss / len(maps)


def gathered(x: Tensor) -> Tensor:
    """The tensor of all processes: (B, ...) -> (world * B, ...), every process holding the same B.

    This process's part keeps its gradient, times the number of processes: each computes the loss of all pairs, and
    their gradients are averaged afterwards, so that the mean is the gradient of one large batch.
    """
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return x
    world = distributed.get_world_size()
    parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(world)]
    distributed.all_gather(parts, x.detach().contiguous())
    if x.requires_grad:
        parts[distributed.get_rank()] = x * world - x.detach() * (world - 1)
    return torch.cat(parts)


def from_monai(module: str, name: str) -> Any:
    """A part of MONAI, imported when it is first used."""
    import importlib

    try:
        return getattr(importlib.import_module(f"monai.{module}"), name)
    except ImportError as error:
        raise CallError(f"this network is built on MONAI's {name}: pip install 'crossmask[monai]'.") from error
