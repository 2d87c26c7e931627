"""Semi-CML: two image branches that agree, follow their averaged teacher, and learn again from its pseudo-labels.

Source: the blog post 'Multi-modal contrastive mutual learning and pseudo-label re-learning' (2025), sections 2.2 and 3.
Probabilities (B, K, H, W), background first.

stated: L_inter = 1 - 2|Y_1 n Y_2| / (|Y_1| + |Y_2|) between the branches; L_intra = mean squared error between
student and averaged teacher; pseudo-labels where the probability exceeds tau(t) = tau0 + (1 - tau0) min(0.9, t /
T_warmup), tau0 0.7; Monte-Carlo dropout lowers the weight of uncertain pixels; x 0.3 where the branches disagree.
reconstructed: the sum ``sup(fused) + 0.5 sup(branches) + r(t) (inter L_inter + intra L_intra + relearn L_pseudo)``
with the usual ramp r; soft Dice for the intersection (a hard one has no gradient), over all cases that have both;
L_intra over all heads, strong view against weak; the teacher's fused head labels, all heads learn; uncertainty =
entropy of the mean of ``passes`` repeats of the teacher's decoder with dropout, w = 1 - H / ln K; 'in the next round'
= disagreement of the teacher, which is the last rounds' state; T_warmup is a share of the run.
deviates: ``x03='weight'`` scales the pixel's weight, as the text says; 'literal' does what the pseudo-code does and
turns a label of 1 into 0.3; 'off' leaves the rule out. ``threshold='fixed'`` keeps tau0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossmask.core import Batch, Progress, Unlabelled
from crossmask.errors import CallError
from crossmask.losses import Over, consistency, mutual_dice, probabilities, ramp, soft_terms
from crossmask.methods.supervised import Supervised, dropout_switched

SUSPECT = 0.3  # weight of a pixel where the branches disagree
LATEST = 0.9  # of the way from tau0 to 1


class SemiCML(Supervised):
    """``averaged`` is the teacher, and answers."""

    needs_unlabelled = True

    def __init__(
        self,
        network: nn.Module,
        *,
        inter: float,
        intra: float,
        relearn: float,
        tau0: float,
        threshold: str,
        warmup: float,
        passes: int,
        x03: str,
        **supervised: float | str,
    ) -> None:
        super().__init__(network, **supervised)  # type: ignore[arg-type]
        if self.averaged is None:
            raise CallError("method 'semi-cml' needs its averaged teacher; give method.ema a value such as 0.99.")
        if not hasattr(getattr(network, "decoder", None), "branches"):
            raise CallError(
                "method 'semi-cml' needs a network with one branch a modality (dual-branch), which "
                f"{type(network).__name__} is not; use that network, or semi-cml-asc, which takes two copies of any."
            )
        self.inter, self.intra, self.relearn = inter, intra, relearn
        self.tau0, self.threshold, self.warmup, self.passes, self.x03 = tau0, threshold, warmup, passes, x03

    def forward(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        """Labelled cases and strong views go through the network together, so that they share their statistics."""
        own, other = batch.labelled, batch.unlabelled
        count = len(own.image)
        image, present = own.image, own.present
        if other is not None:
            image, present = torch.cat([image, other.strong]), torch.cat([present, other.present])
        logits, features = self.network(image, None, None, present, features=True)
        mine = {"branches": features["branches"][:, :count], "present": present[:count]}
        terms = self.terms_of(logits[:count], mine, own)
        strength = ramp(progress.fraction, self.warmup)
        heads = torch.cat([logits[None], features["branches"]])  # (1 + M, B, K, H, W), the fused head first
        if self.inter and heads.shape[0] > 2:
            terms["inter"] = strength * self.inter * branch_dice(heads, present)
        if other is None:
            return terms
        (truth, weight), seen_by_teacher = self.teach(other, self.tau(progress.fraction))
        known = torch.cat([torch.ones_like(other.present[:, :1]), other.present], 1).T  # of the same heads
        each = list(zip(heads[:, count:], seen_by_teacher, known, strict=True))
        if self.intra:
            losses = [consistency(probabilities(h), t, pixels(k, h)) for h, t, k in each]
            terms["intra"] = strength * self.intra * torch.stack(losses).mean()
        if self.relearn:
            losses = [soft_terms(h, truth, weight * pixels(k, h)) for h, _, k in each]
            terms["pseudo"] = strength * self.relearn * torch.stack(losses).mean()
        return terms

    def tau(self, fraction: float) -> float:
        """The least probability of a pseudo-label."""
        if self.threshold == "fixed":
            return self.tau0
        along = fraction / self.warmup if self.warmup > 0 else 1.0
        return self.tau0 + (1 - self.tau0) * min(LATEST, along)

    @torch.no_grad()
    def teach(self, other: Unlabelled, tau: float) -> tuple[tuple[Tensor, Tensor], list[Tensor]]:
        """(target distribution (B, K, H, W), weight (B, H, W)) and every head's probabilities on the weak view."""
        teacher: Any = self.averaged
        height, width = other.weak.shape[-2:]
        maps = teacher.encode(other.weak, None, None, other.present)
        fused = probabilities(teacher.decode(maps)[..., :height, :width])
        branches = [probabilities(b[..., :height, :width]) for b in teacher.decoder.branches(maps)]
        confidence, labels = fused.max(1)
        weight = (confidence >= tau).float() * self.certainty(teacher, maps, fused, (height, width))
        target = F.one_hot(labels, fused.shape[1]).permute(0, 3, 1, 2).float()
        if len(branches) > 1 and self.x03 != "off":
            classes = torch.stack([b.argmax(1) for b in branches])
            suspect = (classes != classes[0]).any(0) & other.present.all(1)[:, None, None]
            if self.x03 == "weight":
                weight = torch.where(suspect, weight * SUSPECT, weight)
            else:  # the mask itself times 0.3: what is left of a label goes to the background
                nothing = F.one_hot(torch.zeros_like(labels), fused.shape[1]).permute(0, 3, 1, 2).float()
                target = torch.where(suspect[:, None], SUSPECT * target + (1 - SUSPECT) * nothing, target)
        self.pseudo = labels, weight
        return (target, weight), [fused, *branches]

    def certainty(self, teacher: Any, maps: list[Tensor], fused: Tensor, size: tuple[int, int]) -> Tensor:
        """1 - H / ln K of the mean over Monte-Carlo passes of the decoder alone: (B, H, W)."""
        mean = fused
        if self.passes:
            with dropout_switched(teacher.decoder, True):
                found = [probabilities(teacher.decode(maps)[..., : size[0], : size[1]]) for _ in range(self.passes)]
            mean = torch.stack(found).mean(0)
        entropy = -(mean * mean.clamp_min(1e-8).log()).sum(1)
        return (1 - entropy / math.log(mean.shape[1])).clamp(0, 1)


def pixels(known: Tensor, logits: Tensor) -> Tensor:
    """(B,) bool -> (B, H, W) weights of one head's pixels."""
    return known.float().view(-1, 1, 1).expand(logits.shape[0], *logits.shape[-2:])


def branch_dice(heads: Tensor, present: Tensor) -> Tensor:
    """L_inter: mean over the pairs of branches."""
    shares = [probabilities(h) for h in heads[1:]]
    pairs = [(a, b) for a in range(len(shares)) for b in range(a)]
    return torch.stack([mutual_dice(shares[a], shares[b], present[:, a] & present[:, b]) for a, b in pairs]).mean()


def build(
    make: Callable[..., nn.Module],
    *,
    teacher: nn.Module | None = None,
    inter: float = 0.3,
    intra: float = 1.0,
    relearn: float = 0.5,
    tau0: float = 0.7,
    threshold: Literal["dynamic", "fixed"] = "dynamic",
    warmup: float = 0.33,
    passes: int = 4,
    x03: Literal["weight", "literal", "off"] = "weight",
    dice: float = 1.0,
    ce: float = 1.0,
    auxiliary: float = 0.5,
    over: Over = "case",
    ema: float = 0.99,
) -> SemiCML:
    """inter, intra, relearn: weights of the three losses (a, b, c). tau0, threshold, warmup: the pseudo-labels' least
    probability and the ramp. passes: Monte-Carlo repeats. x03: the rule for disagreement. auxiliary: weight of the
    branches' own labelled loss. ema: of the teacher. teacher: not used. dice, ce, over: as in 'supervised'."""
    options = {"dice": dice, "ce": ce, "auxiliary": auxiliary, "over": over, "ema": ema}
    mine = {"inter": inter, "intra": intra, "relearn": relearn, "passes": passes, "x03": x03}
    return SemiCML(make(), tau0=tau0, threshold=threshold, warmup=warmup, **mine, **options)  # type: ignore[arg-type]
