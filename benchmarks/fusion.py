"""Memory of CMG-Net's fusion (CMFM) against the number of pixels, beside attention of every pixel to every other.

    python benchmarks/fusion.py              # width 64, as the source; what one picture takes, and a batch of 24
    python benchmarks/fusion.py --width 16

For each size of the picture: what CMFM's levels at strides 16, 8 and 4 keep for the backward pass (saved-tensor hooks),
with attention along rows and columns above 32x32 places as built, and with full attention whose matrix is kept. The
last line fits memory = pixels ^ exponent to each.
"""

from __future__ import annotations

import argparse
import math

import torch
from torch import Tensor

from crossmask.cost import saved
from crossmask.models import cmgnet

MIB = 2**20
LEVELS = (16, 8, 4)


class Full(cmgnet.LevelAttention):
    """Every pixel looks at every other, the matrix of weights kept."""

    def over_places(self, query: Tensor, value: Tensor, size: tuple[int, int], level: int) -> Tensor:
        q, k, v = self.projected(query, query, value, level)
        weights = (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1)
        return self.dropout(self.out(cmgnet.joined(weights @ v), level))


def kept_bytes(fusion: cmgnet.CrossModalFusion, width: int, size: int, batch: int) -> int:
    """Sizes of all distinct tensors that the backward pass needs, weights aside."""
    words, mask = torch.randn(batch, 24, 4 * width), torch.ones(batch, 24, dtype=torch.bool)
    alive = []  # so that no address is used twice
    with saved(fusion) as sizes:
        for level, stride in enumerate(LEVELS):
            x = torch.randn(batch, stride * width, size // stride, size // stride, requires_grad=True)
            fused, words = fusion(level, x, words, mask)
            alive += [x, fused]
    return sum(sizes.values())


def made(width: int, full: bool) -> cmgnet.CrossModalFusion:
    torch.manual_seed(0)
    plain = cmgnet.LevelAttention
    try:
        cmgnet.LevelAttention = Full if full else plain  # type: ignore[misc]
        channels = [stride * width for stride in LEVELS]
        return cmgnet.CrossModalFusion(channels, 4 * width, heads=4, alpha="pixel", sharing="dynamic", dropout=0.0)
    finally:
        cmgnet.LevelAttention = plain  # type: ignore[misc]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--sizes", type=int, nargs="+", default=[160, 192, 256, 320])
    parser.add_argument("--batch", type=int, default=24, help="of the second figure, measured at 256 px and below")
    given = parser.parse_args()
    kinds = {"as built": made(given.width, full=False), "full attention": made(given.width, full=True)}
    rows: dict[str, list[float]] = {kind: [] for kind in kinds}
    print(f"picture px | {' | '.join(f'{kind}, MiB a picture' for kind in kinds)} | times")
    for size in given.sizes:
        for kind, fusion in kinds.items():
            rows[kind].append(kept_bytes(fusion, given.width, size, 1) / MIB)
        built, full = (rows[kind][-1] for kind in kinds)
        print(f"{size} | {built:.0f} | {full:.0f} | {full / built:.1f}")
    built = kept_bytes(kinds["as built"], given.width, 256, given.batch) / MIB
    each = kept_bytes(kinds["full attention"], given.width, 256, 1) / MIB
    full = given.batch * each
    print(f"256 px, batch {given.batch}: {built / 1024:.1f} GiB as built (measured), full {full / 1024:.1f} GiB")
    ends = [0, len(given.sizes) - 1]
    pixels = math.log((given.sizes[ends[1]] / given.sizes[ends[0]]) ** 2)
    exponents = {kind: math.log(v[ends[1]] / v[ends[0]]) / pixels for kind, v in rows.items()}
    print("memory grows as pixels to the power of " + ", ".join(f"{e:.2f} ({kind})" for kind, e in exponents.items()))


if __name__ == "__main__":
    main()
