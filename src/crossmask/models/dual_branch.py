"""Two image branches that look at each other, one a modality, with a decoder each and one on what they share.

Source: the blog post 'Multi-modal contrastive mutual learning and pseudo-label re-learning' (2025), sections 2.1
and 5.2. Shapes: image (B, C, H, W); maps of a branch at strides 2, 4, 8, 16; logits (B, K, H, W).

stated: a ResNet34 encoder a modality, from scratch; features [B, 512, H/16, W/16] each; side by side (1024), 1x1
convolution to 512, batch normalisation, ReLU; cross-modal attention aligns the two.
reconstructed: a plain ResNet34 has 512 channels at stride 32, so its last stage is dilated to stay at 16; the attention
is multi-head cross-attention of each branch's last map to the others' (residual, learned scale; ``attention=False``
leaves it out); decoders after U-Net, one a branch and one on the fused map, which is the answer; their finest skip, at
stride 2, is a convolution of its own, since the ResNet begins at 4; any number of modalities, also one; the state of a
modality that is not there is learned.
``width``: channels of the first stage (64 is ResNet34; fewer for a CPU).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from crossmask import encoders
from crossmask.blocks import Attention, conv_norm_act, pad_to_stride, position_code, upsample
from crossmask.losses import cross_entropy, dice_loss


class CrossModalAttention(nn.Module):
    """Each branch's map looks at the other branches': M maps (B, C, h, w), there (B, M) -> M maps."""

    def __init__(self, channels: int, branches: int, dropout: float) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(branches))
        self.look = nn.ModuleList(Attention(channels, 4, dropout) for _ in range(branches))
        self.scales = nn.Parameter(torch.ones(branches))

    def forward(self, maps: Sequence[Tensor], there: Tensor) -> list[Tensor]:
        height, width = maps[0].shape[-2:]
        tokens = [norm(x.flatten(2).transpose(1, 2)) for norm, x in zip(self.norms, maps, strict=True)]
        place = position_code(height, width, tokens[0].shape[-1], tokens[0])
        answers = []
        for m, own in enumerate(tokens):
            others = [n for n in range(len(tokens)) if n != m]
            keys = torch.cat([tokens[n] + place for n in others], 1)
            values = torch.cat([tokens[n] for n in others], 1)
            seen = torch.cat([there[:, n : n + 1].expand(-1, height * width) for n in others], 1)
            any_other = seen.any(1, keepdim=True)
            found = self.look[m](own + place, keys, values, seen | ~any_other)  # a row without keys would be NaN
            found = (found * any_other.unsqueeze(-1)).transpose(1, 2).unflatten(2, (height, width))
            answers.append(maps[m] + self.scales[m] * found)
        return answers


class Decoder(nn.Module):
    """Strides 16 -> 8 -> 4 -> 2 with skips, -> 1 without, then 1x1: [skip2, skip4, skip8, top] -> (B, K, H, W)."""

    def __init__(self, skips: Sequence[int], top: int, widths: Sequence[int], classes: int, dropout: float) -> None:
        super().__init__()
        self.enter = nn.Sequential(conv_norm_act(top, widths[0]), nn.Dropout2d(dropout))
        self.levels = nn.ModuleList()
        before = widths[0]
        rates = (dropout, dropout, 0.0, 0.0)  # whole channels of the narrow last levels are not to be spared
        for skip, width, rate in zip((*reversed(skips), 0), widths[1:], rates, strict=True):
            self.levels.append(nn.Sequential(conv_norm_act(before + skip, width), nn.Dropout2d(rate)))
            before = width
        self.classify = nn.Conv2d(before, classes, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        x = self.enter(maps[3])
        for level, skip in zip(self.levels, (maps[2], maps[1], maps[0], None), strict=True):
            x = upsample(x)
            x = level(x if skip is None else torch.cat([x, skip], 1))
        return self.classify(x)


def finest(first: int) -> int:
    """Channels at stride 2; a narrow network keeps enough for its classes."""
    return max(first // 2, 16)


class Decoders(nn.Module):
    """The fused decoder (the answer) and one a branch. ``forward(maps)``: the fused logits."""

    def __init__(self, branches: int, channels: Sequence[int], classes: int, dropout: float) -> None:
        super().__init__()
        first, second, _, top = channels
        skips = (finest(first), first, second)
        widths = (top // 2, *reversed(skips), max(first // 4, 16))
        self.count = branches
        self.fused = Decoder([s * branches for s in skips], top, widths, classes, dropout)
        self.single = nn.ModuleList(Decoder(skips, top, widths, classes, dropout) for _ in range(branches))

    def forward(self, maps: list[Tensor], text: Tensor | None = None, text_mask: Tensor | None = None) -> Tensor:
        """text and text_mask: taken as every decoder takes them, and not looked at."""
        of_branch = [maps[4 * m : 4 * m + 4] for m in range(self.count)]
        skips = [torch.cat([own[level] for own in of_branch], 1) for level in range(3)]
        return self.fused([*skips, maps[-1]])

    def branches(self, maps: list[Tensor]) -> Tensor:
        """(M, B, K, H, W): each branch's own answer."""
        return torch.stack([single(maps[4 * m : 4 * m + 4]) for m, single in enumerate(self.single)])


class DualBranch(nn.Module):
    """``forward = decode(encode(image, ..., present))``; with ``features=True`` also the branches' logits."""

    def __init__(
        self, branches: Sequence[nn.Module], channels: Sequence[int], classes: int, *, attention: bool, dropout: float
    ) -> None:
        super().__init__()
        self.counts = tuple(channels)
        self.encoder = nn.ModuleList(branches)
        widths: tuple[int, ...] = branches[0].channels  # type: ignore[assignment]
        kept = (finest(widths[0]), widths[0], widths[1], widths[3])
        self.fine = nn.ModuleList(conv_norm_act(count, kept[0], stride=2) for count in channels)
        several = len(channels) > 1  # a lone modality is always there
        self.absent = nn.ParameterList(0.02 * torch.randn(len(channels), width) for width in kept if several)
        cross = attention and several
        self.attention = CrossModalAttention(widths[3], len(channels), dropout) if cross else None
        self.fusion_layer = conv_norm_act(widths[3] * len(channels), widths[3], 1)
        self.decoder = Decoders(len(channels), widths, classes, dropout)

    def encode(
        self,
        image: Tensor,
        text: Tensor | None = None,
        text_mask: Tensor | None = None,
        present: Tensor | None = None,
    ) -> list[Tensor]:
        """image (B, C, H, W) in [0, 1] -> strides 2, 4, 8, 16 of each branch, then the fused map at 16."""
        if present is None:
            present = torch.ones(image.shape[0], len(self.counts), dtype=torch.bool, device=image.device)
        found = []
        padded = pad_to_stride(image)
        for m, part in enumerate(padded.split(self.counts, 1)):
            maps = self.encoder[m](part)
            there = present[:, m].view(-1, 1, 1, 1)
            kept = [self.fine[m](2 * part - 1), maps[0], maps[1], maps[3]]
            for place, state in enumerate(self.absent):
                kept[place] = torch.where(there, kept[place], state[m].to(image.dtype).view(1, -1, 1, 1))
            found.append(kept)
        tops = [own[3] for own in found]
        if self.attention is not None:
            tops = self.attention(tops, present)
        maps = [x for own, top in zip(found, tops, strict=True) for x in (*own[:3], top)]
        return [*maps, self.fusion_layer(torch.cat(tops, 1))]

    def decode(
        self,
        maps: list[Tensor],
        text: Tensor | None = None,
        text_mask: Tensor | None = None,
        decoder: nn.Module | None = None,
    ) -> Tensor:
        """Maps -> the fused logits (B, K, H, W) of the padded image; ``decoder``: another one of the same form."""
        return (decoder or self.decoder)(maps, text, text_mask)

    def forward(
        self,
        image: Tensor,
        text: Tensor | None = None,
        text_mask: Tensor | None = None,
        present: Tensor | None = None,
        features: bool = False,
    ) -> Any:
        height, width = image.shape[-2:]
        maps = self.encode(image, text, text_mask, present)
        logits = self.decode(maps)[..., :height, :width]
        if not features:
            return logits
        if present is None:
            present = torch.ones(image.shape[0], len(self.counts), dtype=torch.bool, device=image.device)
        single = self.decoder.branches(maps)[..., :height, :width]
        return logits, {"stages": maps, "branches": single, "present": present}

    def auxiliary(
        self, features: dict[str, Any], mask: Tensor, text: Tensor, text_mask: Tensor, text_id: Tensor
    ) -> dict[str, Tensor]:
        """The branches' Dice (over the batch) + cross entropy, summed; a modality that is not there counts nothing."""
        total = mask.new_zeros((), dtype=torch.float32)
        for m, logits in enumerate(features["branches"]):
            weight = features["present"][:, m].float().view(-1, 1, 1).expand(mask.shape)
            total = total + dice_loss(logits, mask, weight=weight, over="batch")
            total = total + cross_entropy(logits, mask, weight=weight)
        return {"branches": total}


def build(
    *,
    channels: tuple[int, ...],
    classes: int,
    text_dim: int | None = None,
    dropout: float = 0.0,
    encoder: str = "resnet34",
    weights: str = "none",
    width: int | None = None,
    attention: bool = True,
) -> DualBranch:
    """channels: one entry a modality, a branch each. classes: K of the logits. text_dim: not used. weights: 'none' as
    the source has it. width: channels of the encoders' first stage (None: its own). attention: across modalities."""
    branches = [encoders.build(encoder, channels=count, weights=weights, width=width) for count in channels]
    for branch in branches:
        encoders.dilate_last_stage(branch)
    return DualBranch(branches, channels, classes, attention=attention, dropout=dropout)
