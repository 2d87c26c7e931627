"""TransUNet: a transformer over the deepest map of a convolutional pyramid, then U-Net's way up.

Source: Chen et al., "TransUNet: Transformers Make Strong Encoders for Medical Image Segmentation", 2021. Shapes: E_i
(B, C_i, H/s, W/s), s = 4, 8, 16, 16; logits (B, K, H, W).

stated: convolutions to stride 16, a transformer on that grid (pre-norm, GELU), a cascaded up-sampler with skips.
reconstructed: codes of place are sines and cosines for any size (the source learns them for 224 pixels).
deviates: the hybrid's ResNet-50 is one of the house's ResNets with its last stage dilated to keep stride 16; no skip at
stride 2, which the pyramids lack; ``depth`` and ``width`` may be small and from scratch (the source: ViT-B/16 with
ImageNet weights), so tables call it TransUNet-style.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from crossmask import encoders
from crossmask.blocks import PyramidSegmenter, UNetDecoder, position_code


class HybridEncoder(nn.Module):
    """(B, C, H, W) -> maps at strides 4, 8 and 16, the last one through the transformer. ``stem`` and ``stages`` are
    the pyramid's."""

    def __init__(self, pyramid: encoders.Pyramid, depth: int, heads: int, dropout: float) -> None:
        super().__init__()
        width = pyramid.channels[3]
        encoders.dilate_last_stage(pyramid)
        self.pyramid = pyramid
        layer = nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout, activation="gelu", batch_first=True, norm_first=True
        )
        self.transformer = nn.TransformerEncoder(layer, depth, nn.LayerNorm(width), enable_nested_tensor=False)
        self.channels = (pyramid.channels[0], pyramid.channels[1], width)

    @property
    def stem(self) -> nn.Module:
        return self.pyramid.stem

    @property
    def stages(self) -> nn.ModuleList:
        return self.pyramid.stages

    def forward(self, image: Tensor) -> list[Tensor]:
        first, second, _, top = self.pyramid(image)
        height, width = top.shape[-2:]
        tokens = top.flatten(2).transpose(1, 2)
        tokens = self.transformer(tokens + position_code(height, width, tokens.shape[-1], tokens))
        return [first, second, tokens.transpose(1, 2).unflatten(2, (height, width))]


def build(
    *,
    channels: tuple[int, ...],
    classes: int,
    text_dim: int | None = None,
    dropout: float = 0.0,
    encoder: str = "resnet34",
    weights: str = "auto",
    width: int | None = None,
    depth: int = 12,
    heads: int = 4,
    decoder: Sequence[int] | None = None,
) -> nn.Module:
    """channels: one entry a modality. classes: K of the logits. text_dim: not used. width: of a ResNet's first stage,
    from scratch. depth: layers of the transformer. decoder: widths at strides 4, 8, 16 (None: the encoder's own)."""
    pyramid = encoders.build(encoder, channels=sum(channels), weights=weights, width=width)
    hybrid = HybridEncoder(pyramid, depth, heads, dropout)
    widths = tuple(decoder or hybrid.channels)[:3]
    return PyramidSegmenter(
        hybrid, UNetDecoder(hybrid.channels, widths, classes, dropout), channels=channels, uses_text=False
    )
