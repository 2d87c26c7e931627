"""CMG-Net: a U-Net whose decoder weighs the image against words made from the patient's data, place by place.

Source: Su and Meng, "Skin Lesion Image Segmentation Enhancement Method Based on Cross-Modal Attention", Modeling and
Simulation 14(4), 2025 (no code was published). Shapes: maps (B, C, h, w) at strides 1, 2, 4, 8, 16, widths w, 2w, 4w,
8w, 16w; text (B, L, D); logits (B, K, H, W).

stated: U-Net with two 3x3 convolutions, BN and ReLU a level, four down- and four up-samplings with skips; MASA at the
lowest level (attention along rows, columns and channels, side by side, then a linear layer); words from a frozen BERT;
CMFM: self-attention inside each modality, cross-attention between them in two streams, feed-forward; alpha =
sigmoid(f([A_cross; F_I; F_T])), F = alpha F_I + (1 - alpha) A_cross; stacked from low to high resolution; 1x1 head.
reconstructed: text queries on image keys (formula 4) give (B, L, d), which formula 6 cannot add to (B, HW, C): here
that stream refines the words, and the image's queries on the refined words carry them to each pixel, which is A_cross.
CMFM stands on the decoder at strides 16, 8 and 4 (``cmfm_levels``), and its answer goes on up the decoder. alpha is one
number a pixel (``alpha='pixel'``) or an image (``'global'``). 'Dynamic parameter sharing', named in the abstract alone:
all levels share one set of projections, and a gate mixes in a low-rank part of the level's own
(``sharing='dynamic'``; ``'shared'``: without that part, ``'separate'``: each level its own). MASA is residual, with
codes of place. Above 32x32 places the image's self-attention runs along rows and columns.
deviates: formula 2 as printed multiplies the queries with themselves although its text says query and key: the default
takes both, ``literal=True`` follows the print.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossmask.blocks import (
    NoText,
    PyramidSegmenter,
    TextProjection,
    conv_norm_act,
    double_conv,
    masked_mean,
    position_code,
    upsample,
)

Alpha = Literal["pixel", "global", "off"]
Sharing = Literal["dynamic", "shared", "separate"]
STRIDES = (1, 2, 4, 8, 16)
FULL = 32 * 32  # places up to which every pixel looks at every other
RANK = 8  # of a level's own part of a shared projection


def heads_of(x: Tensor, heads: int) -> Tensor:
    """(..., N, C) -> (..., heads, N, C / heads)."""
    return x.unflatten(-1, (heads, -1)).transpose(-3, -2)


def joined(x: Tensor) -> Tensor:
    """(..., heads, N, C) -> (..., N, heads * C)."""
    return x.transpose(-3, -2).flatten(-2)


def along_last(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention of (B, H, heads, N, C) inside each row: as four axes, since the kernels that hold no (N, N) matrix take
    no more."""
    found = F.scaled_dot_product_attention(query.flatten(0, 1), key.flatten(0, 1), value.flatten(0, 1))
    return found.unflatten(0, query.shape[:2])


# --- image -----------------------------------------------------------------------------------------------------------


class MultiAxisAttention(nn.Module):
    """MASA: (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int, heads: int, literal: bool) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(channels)
        self.q, self.v = nn.Linear(channels, channels), nn.Linear(channels, channels)
        self.k = None if literal else nn.Linear(channels, channels)
        self.first, self.second = (nn.Linear(channels, channels, bias=False) for _ in range(2))  # W1, W2 of formula 2
        self.mix = nn.Linear(3 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        normed = self.norm(x.flatten(2).transpose(1, 2))
        placed = normed + position_code(height, width, normed.shape[-1], normed)
        query = self.q(placed)
        key = query if self.k is None else self.k(placed)
        grids = [t.unflatten(1, (height, width)) for t in (self.first(query), self.second(key), self.v(normed))]
        found = torch.cat([self.rows(*grids), self.columns(*grids), self.channels(*grids)], -1)
        return x + self.mix(found).permute(0, 3, 1, 2)

    def rows(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Each place looks along its row: (B, H, W, C)."""
        q, k, v = (heads_of(t, self.heads) for t in (query, key, value))
        return joined(along_last(q, k, v))

    def columns(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return self.rows(*(t.transpose(1, 2) for t in (query, key, value))).transpose(1, 2)

    def channels(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Each channel looks at the others of its head, by how alike their maps are."""
        q, k, v = (heads_of(t.flatten(1, 2), self.heads).transpose(-2, -1) for t in (query, key, value))
        found = F.scaled_dot_product_attention(q, k, v)  # scaled by the number of places
        return joined(found.transpose(-2, -1)).unflatten(1, query.shape[1:3])


class Encoder(nn.Module):
    """(B, C, H, W) in [0, 1] -> five maps at strides 1, 2, 4, 8, 16, the last one through MASA."""

    def __init__(self, channels: int, widths: Sequence[int], *, heads: int, masa: bool, literal: bool) -> None:
        super().__init__()
        self.levels = nn.ModuleList(double_conv(a, b) for a, b in zip((channels, *widths[:-1]), widths, strict=True))
        self.masa = MultiAxisAttention(widths[-1], heads, literal) if masa else nn.Identity()

    def forward(self, image: Tensor) -> list[Tensor]:
        x, maps = 2 * image - 1, []
        for place, level in enumerate(self.levels):
            x = level(F.max_pool2d(x, 2) if place else x)
            maps.append(x)
        return [*maps[:-1], self.masa(maps[-1])]


# --- image and words -------------------------------------------------------------------------------------------------


def one_number(inputs: int, start: float) -> nn.Linear:
    """A gate before its sigmoid, near ``start`` at first."""
    layer = nn.Linear(inputs, 1)
    nn.init.constant_(layer.bias, start)
    return layer


class LevelLinear(nn.Module):
    """A projection that several levels use: (B, N, inputs), level -> (B, N, outputs)."""

    def __init__(self, inputs: int, outputs: int, levels: int, sharing: Sharing) -> None:
        super().__init__()
        self.whole = nn.ModuleList(nn.Linear(inputs, outputs) for _ in range(levels if sharing == "separate" else 1))
        own = levels if sharing == "dynamic" else 0
        self.down = nn.ModuleList(nn.Linear(inputs, RANK, bias=False) for _ in range(own))
        self.up = nn.ModuleList(nn.Linear(RANK, outputs, bias=False) for _ in range(own))
        self.gate = nn.ModuleList(one_number(inputs, -2.0) for _ in range(own))  # the shared part has most of the say

    def forward(self, x: Tensor, level: int) -> Tensor:
        found = self.whole[level if len(self.whole) > 1 else 0](x)
        if not len(self.gate):
            return found
        share = self.gate[level](x).sigmoid()  # of each token, so that its neighbours and padding have no say
        return (1 - share) * found + share * self.up[level](self.down[level](x))


class LevelAttention(nn.Module):
    """Multi-head attention whose projections several levels use. query (B, N, C), keys (B, L, C), mask (B, L)."""

    def __init__(self, width: int, heads: int, levels: int, sharing: Sharing, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, nn.Dropout(dropout)
        self.q, self.k, self.v, self.out = (LevelLinear(width, width, levels, sharing) for _ in range(4))

    def forward(self, query: Tensor, key: Tensor, value: Tensor, level: int, mask: Tensor | None = None) -> Tensor:
        seen = None if mask is None else mask[:, None, None, :]
        found = F.scaled_dot_product_attention(*self.projected(query, key, value, level), attn_mask=seen)
        return self.dropout(self.out(joined(found), level))

    def over_places(self, query: Tensor, value: Tensor, size: tuple[int, int], level: int) -> Tensor:
        """Self-attention of (B, H * W, C): all places, or, of many, the mean of those in the row and in the column."""
        if size[0] * size[1] <= FULL:
            return self(query, query, value, level)
        along = [t.unflatten(2, size).transpose(1, 2) for t in self.projected(query, query, value, level)]  # B H h W C
        rows = along_last(*along)
        upright = [t.transpose(1, 3) for t in along]
        columns = along_last(*upright).transpose(1, 3)
        return self.dropout(self.out(joined(0.5 * (rows + columns)).flatten(1, 2), level))

    def projected(self, query: Tensor, key: Tensor, value: Tensor, level: int) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = self.q(query, level), self.k(key, level), self.v(value, level)
        return heads_of(q, self.heads), heads_of(k, self.heads), heads_of(v, self.heads)

    def weights(self, query: Tensor, key: Tensor, level: int) -> Tensor:
        """(B, N, L): where each query looks, mean over the heads. For pictures; the answer does not need it."""
        q, k, _ = self.projected(query, key, key, level)
        return (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1).mean(1)


class LevelFeedForward(nn.Module):
    def __init__(self, width: int, levels: int, sharing: Sharing, dropout: float) -> None:
        super().__init__()
        self.norm, self.dropout = nn.LayerNorm(width), nn.Dropout(dropout)
        self.widen = LevelLinear(width, 2 * width, levels, sharing)
        self.narrow = LevelLinear(2 * width, width, levels, sharing)

    def forward(self, x: Tensor, level: int) -> Tensor:
        return x + self.dropout(self.narrow(F.gelu(self.widen(self.norm(x), level)), level))


class CrossModalFusion(nn.Module):
    """CMFM on all its levels. ``forward(level, x, words, mask)``: x (B, C, h, w), words (B, L, d), mask (B, L) ->
    the fused map (B, C, h, w), the refined words. record: alpha and where the words look are added to its lists."""

    def __init__(
        self,
        channels: Sequence[int],
        width: int,
        *,
        heads: int,
        alpha: Alpha,
        sharing: Sharing,
        dropout: float,
    ) -> None:
        super().__init__()
        levels = len(channels)
        self.alpha = alpha
        self.enter = nn.ModuleList(nn.Linear(c, width) for c in channels)
        self.leave = nn.ModuleList(nn.Linear(width, c) for c in channels)
        self.norms = nn.ModuleDict({name: nn.LayerNorm(width) for name in ("pixels", "words", "read", "ask", "answer")})

        def attention() -> LevelAttention:
            return LevelAttention(width, heads, levels, sharing, dropout)

        self.look_around, self.talk = attention(), attention()  # inside each modality
        self.read_image, self.read_words = attention(), attention()  # between them
        self.think_words = LevelFeedForward(width, levels, sharing, dropout)
        self.think_pixels = LevelFeedForward(width, levels, sharing, dropout)
        # the image has the larger share at the start
        self.gate = nn.ModuleList(one_number(2 * c + width, 1.0) for c in channels if alpha != "off")

    def forward(
        self, level: int, x: Tensor, words: Tensor, mask: Tensor, record: dict[str, Any] | None = None
    ) -> tuple[Tensor, Tensor]:
        size = (x.shape[-2], x.shape[-1])
        image = x.flatten(2).transpose(1, 2)  # F_I
        pixels = self.enter[level](image)
        place = position_code(*size, pixels.shape[-1], pixels)
        normed = self.norms["pixels"](pixels)
        pixels = pixels + self.look_around.over_places(normed + place, normed, size, level)
        normed = self.norms["words"](words)
        words = words + self.talk(normed, normed, normed, level, mask)
        asked, seen = self.norms["read"](words), self.norms["ask"](pixels)
        words = self.think_words(words + self.read_image(asked, seen + place, seen, level), level)
        told = self.norms["answer"](words)
        crossed = self.think_pixels(self.read_words(seen + place, told, told, level, mask), level)
        crossed = self.leave[level](crossed)  # A_cross
        alpha = self.share(level, image, crossed, masked_mean(words, mask))
        if record is not None:
            record["alpha"].append(alpha.expand(-1, image.shape[1], -1).unflatten(1, size)[..., 0])
            looks = self.read_image.weights(asked, seen + place, level)
            record["word_attention"].append(looks.unflatten(2, size))
        fused = alpha * image + (1 - alpha) * crossed
        return fused.transpose(1, 2).unflatten(2, size), words

    def share(self, level: int, image: Tensor, crossed: Tensor, sentence: Tensor) -> Tensor:
        """alpha (B, HW, 1) or (B, 1, 1): what of the fused map is the image's."""
        if self.alpha == "off":
            return image.new_full((image.shape[0], 1, 1), 0.5)
        if self.alpha == "global":
            image, crossed = image.mean(1, keepdim=True), crossed.mean(1, keepdim=True)
        told = sentence[:, None].expand(-1, image.shape[1], -1)
        return self.gate[level](torch.cat([crossed, image, told], -1)).sigmoid()


class PlainFusion(nn.Module):
    """What the ablation without CMFM has in its place: the mean word beside each pixel, then a 1x1 convolution."""

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.joins = nn.ModuleList(conv_norm_act(c + width, c, 1) for c in channels)

    def forward(
        self, level: int, x: Tensor, words: Tensor, mask: Tensor, record: dict[str, Any] | None = None
    ) -> tuple[Tensor, Tensor]:
        sentence = masked_mean(words, mask)[..., None, None].expand(-1, -1, *x.shape[-2:])
        return self.joins[level](torch.cat([x, sentence], 1)), words


class Decoder(nn.Module):
    """Strides 16 -> 8 -> 4 -> 2 -> 1 with skips; words come in on the levels of ``cmfm_levels``; then 1x1."""

    def __init__(
        self, widths: Sequence[int], classes: int, fusion: nn.Module | None, strides: Sequence[int],
        text_dim: int, width: int, dropout: float,
    ) -> None:  # fmt: skip
        super().__init__()
        upper = zip(widths[::-1], widths[-2::-1], strict=False)
        self.levels = nn.ModuleList(double_conv(below + own, own, dropout) for below, own in upper)
        self.fusion = fusion
        self.project = TextProjection(text_dim, width) if fusion is not None else None
        self.place = {stride: n for n, stride in enumerate(sorted(strides, reverse=True))}
        self.classify = nn.Conv2d(widths[0], classes, 1)

    def forward(
        self, maps: list[Tensor], text: Tensor, text_mask: Tensor, record: dict[str, Any] | None = None
    ) -> Tensor:
        words = self.project(text) if self.project is not None else text
        x = maps[-1]
        for n, stride in enumerate(STRIDES[::-1]):
            if n:
                x = self.levels[n - 1](torch.cat([upsample(x), maps[-1 - n]], 1))
            if self.fusion is not None and stride in self.place:
                x, words = self.fusion(self.place[stride], x, words, text_mask, record)
        return self.classify(x)


class CMGNet(PyramidSegmenter):
    """``text_share(features)``: what of the fused maps is the words'.

    With ``features=True`` also ``alpha``, a list of (B, h, w), and ``word_attention``, a list of (B, L, h, w) (where
    each word looks), one entry a level of CMFM from low to high resolution."""

    def forward(
        self,
        image: Tensor,
        text: Tensor | None = None,
        text_mask: Tensor | None = None,
        present: Tensor | None = None,
        features: bool = False,
    ) -> Any:
        if not features:
            return super().forward(image, text, text_mask, present)
        maps = self.encode(image, text, text_mask, present)
        record: dict[str, Any] = {"stages": maps, "alpha": [], "word_attention": []}
        logits = self.decoder(maps, *self.words(text, text_mask, image.shape[0]), record)
        return logits[..., : image.shape[-2], : image.shape[-1]], record

    @property
    def gated(self) -> bool:
        """Whether there is a learned share of the words."""
        fusion = self.decoder.fusion
        return self.uses_text and isinstance(fusion, CrossModalFusion) and fusion.alpha != "off"

    def text_share(self, features: dict[str, Any], size: tuple[int, int]) -> Tensor:
        """1 - alpha, mean over the levels of CMFM, at the picture's size: (B, H, W)."""
        padded = features["stages"][0].shape[-2:]
        levels = [F.interpolate(1 - alpha[:, None], padded, mode="bilinear") for alpha in features["alpha"]]
        return torch.stack(levels).mean(0)[:, 0, : size[0], : size[1]]


def build(
    *,
    channels: tuple[int, ...],
    classes: int,
    text_dim: int | None = None,
    dropout: float = 0.0,
    width: int = 64,
    heads: int = 4,
    masa: bool = True,
    cmfm: Literal["full", "concat", "off"] = "full",
    cmfm_levels: Sequence[int] = (16, 8, 4),
    alpha: Alpha = "pixel",
    sharing: Sharing = "dynamic",
    literal: bool = False,
) -> nn.Module:
    """channels: one entry a modality. classes: K of the logits. width: channels at stride 1 (the paper's U-Net has 64).
    cmfm: 'concat' is the ablation without it, 'off' reads no words at all (with ``masa=False``: the plain U-Net).
    cmfm_levels: strides (the source does not name them, so they stay to be tried). alpha: 'off' is the ablation with
    equal shares. literal: formula 2 as printed."""
    widths = [width * stride for stride in STRIDES]
    tokens = 4 * width
    own = [width * stride for stride in sorted(cmfm_levels, reverse=True)]
    fusion: nn.Module | None = None
    if cmfm == "full":
        fusion = CrossModalFusion(own, tokens, heads=heads, alpha=alpha, sharing=sharing, dropout=dropout)
    elif cmfm == "concat":
        fusion = PlainFusion(own, tokens)
    words = text_dim or 64
    return CMGNet(
        Encoder(sum(channels), widths, heads=heads, masa=masa, literal=literal),
        Decoder(widths, classes, fusion, cmfm_levels, words, tokens, dropout),
        channels=channels,
        no_text=NoText(words),
        uses_text=text_dim is not None and fusion is not None,
    )
