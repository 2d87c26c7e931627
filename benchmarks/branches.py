"""What a second branch costs: one branch, two, and the two distilled into one, side by side in one run.

    python benchmarks/branches.py           # full width, 160 px
    python benchmarks/branches.py --width 16

For each: parameters, milliseconds an image in prediction and a training step, and the memory that a training step adds
(the peak of what autograd keeps, measured by saved-tensor hooks) beside the weights and their optimiser states. The
source says that two branches take 40 % more memory than one.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch

from crossmask import rooms
from crossmask.cost import kept_bytes

MIB = 2**20


def network(modalities: int, width: int | None) -> Any:
    torch.manual_seed(0)
    door = rooms.door("network", "dual-branch")
    return door(channels=(1,) * modalities, classes=4, width=width).to(memory_format=torch.channels_last)


def measure(net: Any, image: torch.Tensor, repeats: int) -> dict[str, float]:
    weights = sum(p.numel() for p in net.parameters())
    found = {"parameters": weights, "weights_mib": 4 * weights / MIB, "states_mib": 16 * weights / MIB}
    net.train()
    found["kept_mib"] = kept_bytes(net, image, features=True) / MIB
    for mode in ("train", "predict"):
        net.train(mode == "train")
        for n in range(repeats + 1):
            if n == 1:
                began = time.perf_counter()
            if mode == "train":
                logits, features = net(image, features=True)
                (logits.square().mean() + features["branches"].square().mean()).backward()
                net.zero_grad(set_to_none=True)
            else:
                with torch.inference_mode():
                    net(image)
        found[mode] = 1000 * (time.perf_counter() - began) / repeats / len(image)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--width", type=int, default=None)
    given = parser.parse_args()
    made = {
        "two branches": network(2, given.width),
        "one branch (also what distilling leaves)": network(1, given.width),
    }
    rows = {}
    for name, net in made.items():
        modalities = len(net.counts)
        image = torch.rand(given.batch, modalities, given.size, given.size).to(memory_format=torch.channels_last)
        rows[name] = measure(net, image, given.repeats)
    heads = [
        "",
        "parameters",
        "weights MiB",
        "with gradients and AdamW MiB",
        f"kept for backward MiB (batch {given.batch})",
    ]
    print(" | ".join([*heads, "train ms/image", "predict ms/image"]))
    for name, r in rows.items():
        print(
            f"{name} | {r['parameters']:,.0f} | {r['weights_mib']:.0f} | {r['states_mib']:.0f} | {r['kept_mib']:.0f} | "
            f"{r['train']:.1f} | {r['predict']:.1f}"
        )
    two, one = rows.values()
    whole = [r["states_mib"] + r["kept_mib"] for r in (two, one)]
    print(
        f"two branches against one: memory of a training step {whole[0] / whole[1] - 1:+.0%}, weights "
        f"{two['weights_mib'] / one['weights_mib'] - 1:+.0%}, "
        f"training {two['train'] / one['train']:.2f} times as long, "
        f"prediction {two['predict'] / one['predict']:.2f} times"
    )


if __name__ == "__main__":
    main()
