"""U-Net++: nested skips between the levels of a U-Net; MONAI's network behind the house's door.

Source: Zhou et al., "UNet++: A Nested U-Net Architecture for Medical Image Segmentation", DLMIA 2018; code: MONAI's
``BasicUNetPlusPlus``. Shapes: maps (B, C, h, w) at strides 1, 2, 4, 8, 16; logits (B, K, H, W).

stated: the nested dense skips, two 3x3 convolutions a node.
deviates: the answer is the last node's alone (no deep supervision, no pruning), batch normalisation and ReLU as in the
other U-Nets here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from crossmask.blocks import PyramidSegmenter, from_monai


class Encoder(nn.Module):
    """(B, C, H, W) in [0, 1] -> five maps at strides 1, 2, 4, 8, 16: the nodes X(i, 0)."""

    def __init__(self, whole: Any) -> None:
        super().__init__()
        self.nodes = nn.ModuleList(getattr(whole, f"conv_{i}_0") for i in range(5))

    def forward(self, image: Tensor) -> list[Tensor]:
        x, maps = 2 * image - 1, []
        for node in self.nodes:
            x = node(x)
            maps.append(x)
        return maps


class Decoder(nn.Module):
    """The nodes X(i, j), j > 0, then 1x1."""

    def __init__(self, whole: Any) -> None:
        super().__init__()
        self.nodes = nn.ModuleDict(
            {f"{i}_{j}": getattr(whole, f"upcat_{i}_{j}") for j in range(1, 5) for i in range(5 - j)}
        )
        self.classify = whole.final_conv_0_4

    def forward(self, maps: Sequence[Tensor], text: Tensor | None = None, text_mask: Tensor | None = None) -> Tensor:
        """text and text_mask: taken as every decoder takes them, and not looked at."""
        rows = [[x] for x in maps]  # rows[i][j]: X(i, j)
        for j in range(1, 5):
            for i in range(5 - j):
                rows[i].append(self.nodes[f"{i}_{j}"](rows[i + 1][j - 1], torch.cat(rows[i], 1)))
        return self.classify(rows[0][4])


def build(
    *, channels: tuple[int, ...], classes: int, text_dim: int | None = None, dropout: float = 0.0, width: int = 64
) -> nn.Module:
    """channels: one entry a modality. classes: K of the logits. text_dim: not used. width: channels at stride 1."""
    whole = from_monai("networks.nets", "BasicUNetPlusPlus")(
        spatial_dims=2,
        in_channels=sum(channels),
        out_channels=classes,
        features=(*(width * s for s in (1, 2, 4, 8, 16)), width),
        act=("relu", {"inplace": True}),
        norm="batch",
        dropout=dropout,
    )
    return PyramidSegmenter(Encoder(whole), Decoder(whole), channels=channels, uses_text=False)
