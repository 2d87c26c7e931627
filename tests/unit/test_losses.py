"""Losses against hand-computed numbers and closed forms."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from crossmask.losses import (
    area_similarity,
    consistency,
    contrastive,
    cross_entropy,
    dice_loss,
    mutual_dice,
    pixel_weight,
    probabilities,
    ramp,
    soft_terms,
)

LOGIT_3_4 = math.log(3.0)  # sigmoid 3/4
MASK = torch.tensor([[[1, 0], [1, 0]]])
LOGITS = torch.tensor([[[[LOGIT_3_4, LOGIT_3_4], [-LOGIT_3_4, -LOGIT_3_4]]]])  # p 3/4 3/4 / 1/4 1/4


def random_case(classes: int, batch: int = 3, size: int = 6, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, classes, size, size, generator=generator)
    return logits, torch.randint(0, max(classes, 2), (batch, size, size), generator=generator)


def test_cross_entropy_by_hand():
    wanted = (-math.log(3 / 4) - math.log(1 / 4) - math.log(1 / 4) - math.log(3 / 4)) / 4
    assert float(cross_entropy(LOGITS, MASK)) == pytest.approx(wanted, rel=1e-6)


def test_dice_by_hand():
    # 2 * (3/4 + 1/4) = 2; sum p = 2; sum t = 2
    assert float(dice_loss(LOGITS, MASK, smooth=0.0)) == pytest.approx(1 - 2 / 4)
    assert float(dice_loss(LOGITS, MASK)) == pytest.approx(1 - 3 / 5)


def test_dice_over_cases_or_batch():
    mask = torch.cat([MASK, torch.ones_like(MASK)])
    logits = torch.cat([LOGITS, LOGITS])
    # second case: 2 * 2 = 4; 2 + 4 = 6
    assert float(dice_loss(logits, mask, smooth=0.0)) == pytest.approx(1 - (2 / 4 + 4 / 6) / 2)
    assert float(dice_loss(logits, mask, smooth=0.0, over="batch")) == pytest.approx(1 - 6 / 10)


def test_multi_class_by_hand():
    share = torch.tensor([[0.5, 0.25, 0.25], [0.2, 0.6, 0.2]])  # two pixels
    logits = share.log().T.reshape(1, 3, 1, 2)
    mask = torch.tensor([[[1, 1]]])
    assert float(cross_entropy(logits, mask)) == pytest.approx(-(math.log(0.25) + math.log(0.6)) / 2)
    first = 1 - 2 * 0.85 / (0.85 + 2)  # class 1
    second = 1 - 0 / 0.45  # class 2: not there, yet predicted
    assert float(dice_loss(logits, mask, smooth=0.0)) == pytest.approx((first + second) / 2)


def test_perfect_and_empty():
    sure = torch.where(MASK == 1, 50.0, -50.0)[:, None]
    assert float(dice_loss(sure, MASK)) == pytest.approx(0, abs=1e-6)
    assert float(cross_entropy(sure, MASK)) == pytest.approx(0, abs=1e-6)
    empty = torch.zeros_like(MASK)
    nothing = torch.full((1, 1, 2, 2), -50.0)
    assert float(dice_loss(nothing, empty)) == pytest.approx(0, abs=1e-6)  # both empty
    assert float(dice_loss(-nothing, empty)) == pytest.approx(1 - 1 / 5)  # all wrong, softened by one pixel
    assert float(dice_loss(nothing, MASK)) == pytest.approx(1 - 1 / 3)
    three = torch.tensor([50.0, 0, 0]).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    assert float(dice_loss(three, empty)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("over", ["case", "batch", "both"])
@pytest.mark.parametrize("ignore", [None, 255])
def test_two_classes_equal_binary(over, ignore):
    logits, mask = random_case(1)
    if ignore is not None:
        mask[:, :2] = ignore
    two = torch.cat([torch.zeros_like(logits), logits], 1)
    for loss, options in ((dice_loss, {"over": over}), (cross_entropy, {})):
        one = loss(logits, mask, ignore=ignore, **options)
        torch.testing.assert_close(one, loss(two, mask, ignore=ignore, **options))
    torch.testing.assert_close(probabilities(logits), probabilities(two))


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("loss", [dice_loss, cross_entropy])
def test_ignored_pixels_count_nowhere(classes, loss):
    logits, mask = random_case(classes)
    kept = loss(logits[..., 2:], mask[..., 2:])
    hidden = mask.clone()
    hidden[..., :2] = 255
    torch.testing.assert_close(loss(logits, hidden, ignore=255), kept)
    moved = logits.clone().requires_grad_()
    loss(moved, hidden, ignore=255).backward()
    assert not moved.grad[..., :2].any()
    assert moved.grad[..., 2:].any()
    everything = torch.full_like(mask, 255)
    nothing = loss(moved, everything, ignore=255)
    assert float(nothing.detach()) == 0
    nothing.backward()
    assert moved.grad.isfinite().all()


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("loss", [dice_loss, cross_entropy])
def test_weights(classes, loss):
    logits, mask = random_case(classes)
    one = torch.ones(mask.shape)
    torch.testing.assert_close(loss(logits, mask, weight=one), loss(logits, mask))
    half = one.clone()
    half[..., :2] = 0
    torch.testing.assert_close(loss(logits, mask, weight=half), loss(logits[..., 2:], mask[..., 2:]))
    twice = one.clone()
    twice[..., 5] = 2  # a pixel of weight 2 is there twice
    doubled = [torch.cat([x, x[..., 5:]], -1) for x in (logits, mask)]
    torch.testing.assert_close(loss(logits, mask, weight=twice), loss(*doubled))


def test_pixel_weight():
    mask = torch.tensor([[[0, 1, 255]]])
    assert pixel_weight(mask, None, 255).tolist() == [[[1, 1, 0]]]
    assert pixel_weight(mask, torch.tensor([[[0.5, 2, 3]]]), 255).tolist() == [[[0.5, 2, 0]]]
    assert pixel_weight(mask, None, None).tolist() == [[[1, 1, 1]]]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_full(dtype):
    logits, mask = random_case(1, size=96)
    for loss in (dice_loss, cross_entropy):
        value = loss(logits.to(dtype), mask)
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, loss(logits, mask), rtol=1e-2, atol=1e-3)


# --- contrast --------------------------------------------------------------------------------------------------------


def scores(rows: int = 5, columns: int = 5) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def everyone(count: int = 5) -> torch.Tensor:
    return torch.ones(count, dtype=torch.bool)


def test_identity_targets_are_cross_entropy_both_ways():
    similarity, own = scores(), torch.arange(5)
    wanted = 0.5 * (F.cross_entropy(similarity, own) + F.cross_entropy(similarity.T, own))
    torch.testing.assert_close(contrastive(similarity, torch.eye(5).double(), everyone(), everyone()), wanted)


def test_pairs_that_are_not_valid_take_no_part():
    similarity = scores().requires_grad_()
    valid = torch.tensor([True, False, True, True, False])
    loss = contrastive(similarity, torch.eye(5).double(), valid, valid)
    part = similarity.detach()[valid][:, valid]
    torch.testing.assert_close(loss.detach(), contrastive(part, torch.eye(3).double(), everyone(3), everyone(3)))
    loss.backward()
    pairs = valid[:, None] & valid
    assert not similarity.grad[~pairs].any()
    assert similarity.grad[pairs].all()


@pytest.mark.parametrize("valid", [[True], [False], [True, False, False], [False, False]])
def test_fewer_than_two_pairs_give_zero(valid):
    valid = torch.tensor(valid)
    similarity = scores(len(valid), len(valid)).requires_grad_()
    loss = contrastive(similarity, torch.eye(len(valid)).double(), valid, valid)
    loss.backward()
    assert float(loss.detach()) == 0
    assert similarity.grad.isfinite().all()
    assert not similarity.grad.any()


def test_equal_sentences_as_positives_by_hand():
    similarity = torch.tensor([[2.0, 1.0, 0.0], [1.0, 0.0, -1.0], [0.0, 0.5, 3.0]])
    text = torch.tensor([4, 4, 7])
    targets = (text[:, None] == text[None]).float()
    across, down = similarity.log_softmax(1), similarity.log_softmax(0)
    rows = -(across[0, :2].mean() + across[1, :2].mean() + across[2, 2]) / 3
    columns = -(down[:2, 0].mean() + down[:2, 1].mean() + down[2, 2]) / 3
    torch.testing.assert_close(contrastive(similarity, targets, everyone(3), everyone(3)), (rows + columns) / 2)
    # targets need not be normalised
    torch.testing.assert_close(contrastive(similarity, 7 * targets, everyone(3), everyone(3)), (rows + columns) / 2)


def test_a_shared_target_equals_the_identity_when_the_columns_are_equal():
    """Known, and why 'probability shared' alone does not undo false negatives: equal sentences have equal states,
    so their shares are equal, and it does not matter how the target is split among them."""
    half = scores(5, 3)
    text = torch.tensor([0, 1, 0, 2, 1])  # columns 0 and 2, 1 and 4: one sentence
    gradients = []
    for targets in (torch.eye(5).double(), (text[:, None] == text[None]).double()):
        words = half.clone().requires_grad_()
        loss = contrastive(words[:, text], targets, everyone(), everyone())
        loss.backward()
        gradients.append((loss.detach(), words.grad))
    torch.testing.assert_close(gradients[0], gradients[1])


def test_extreme_scores_stay_finite():
    similarity = (1e4 * scores().float()).requires_grad_()
    loss = contrastive(similarity, torch.eye(5), everyone(), everyone())
    loss.backward()
    assert loss.isfinite()
    assert similarity.grad.isfinite().all()


def test_equal_sentences_are_left_out_of_the_comparison() -> None:
    """same-text: the other images of a sentence are neither positives nor negatives."""
    torch.manual_seed(0)
    scores = torch.randn(4, 4)
    text = torch.tensor([7, 7, 8, 9])
    own = torch.eye(4)
    neither = (text[:, None] == text[None]) & (own == 0)
    there = torch.ones(4, dtype=torch.bool)
    wanted = 0.0
    for axis in (0, 1):
        s = scores if axis else scores.T
        for i in range(4):
            against = [j for j in range(4) if j == i or text[j] != text[i]]
            wanted -= float(s[i, against].log_softmax(0)[against.index(i)]) / 8
    assert float(contrastive(scores, own, there, there, neither)) == pytest.approx(wanted, rel=1e-5)
    assert float(contrastive(scores, own, there, there)) > wanted


PROCESS = """
import os, sys, warnings
import torch
import torch.distributed as dist
from crossmask.blocks import Alignment
from crossmask.models.gloria import longest

warnings.simplefilter("ignore")
torch.set_num_threads(1)
store, rank, world = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])


def run(rows, targets):
    torch.manual_seed(0)
    align = Alignment((6, 8), 5, targets, 4)
    maps = [torch.randn(6, 6, 2, 2)[rows], torch.randn(6, 8, 1, 1)[rows]]
    text, there = torch.randn(6, 3, 5), torch.ones(6, 3, dtype=torch.bool)
    there[4] = False
    text[2] = text[0]
    loss = align(maps, text[rows], there[rows], torch.tensor([0, 1, 0, 2, -1, 3])[rows])
    loss.backward()
    return torch.cat([loss.detach().view(1), *(w.grad.flatten() for w in align.parameters())])


names = ("identity", "same-text", "soft")
alone = [run(slice(None), targets) for targets in names]
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
for wanted, targets in zip(alone, names):
    found = run(slice(rank * 6 // world, (rank + 1) * 6 // world), targets)
    dist.all_reduce(found)
    torch.testing.assert_close(found / world, wanted)
assert longest(3 + rank, torch.device("cpu")) == 3 + world - 1
dist.barrier()
print("equal", flush=True)
os._exit(0)
"""


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no distributed package")
def test_two_processes_give_the_loss_and_gradient_of_one(tmp_path):
    call = [sys.executable, "-c", PROCESS, str(tmp_path / "store")]
    started = [
        subprocess.Popen([*call, str(rank), "2"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    try:
        for process in started:
            out, errors = process.communicate(timeout=120)
            assert out.strip().endswith("equal"), errors
    finally:
        for process in started:
            process.kill()


def test_dice_over_both_is_the_mean_of_the_two():
    logits = torch.randn(3, 4, 9, 9, generator=torch.Generator().manual_seed(0))
    mask = torch.randint(0, 4, (3, 9, 9), generator=torch.Generator().manual_seed(1))
    case, batch, both = (float(dice_loss(logits, mask, over=over)) for over in ("case", "batch", "both"))
    assert both == pytest.approx((case + batch) / 2)


def test_consistency_mutual_dice_and_ramp():
    one = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)).softmax(1)
    assert float(consistency(one, one)) == 0
    weight = torch.zeros(2, 8, 8)
    assert float(consistency(one, one.flip(1), weight)) == 0
    hard = torch.zeros(1, 2, 4, 4)
    hard[:, 1, :2] = 1
    hard[:, 0, 2:] = 1
    assert float(mutual_dice(hard, hard)) == 0
    assert float(mutual_dice(hard, hard.flip(2))) == 1
    half = hard.clone()
    half[:, 1, 1] = 0
    half[:, 0, 1] = 1
    assert float(mutual_dice(hard, half)) == pytest.approx(1 - 2 * 4 / (8 + 4))
    assert float(mutual_dice(hard, hard.flip(2), torch.tensor([False]))) == 0
    faint = torch.full_like(hard, 0.01)  # a case without the class, summed with the other, costs little
    both = 2 * (8 + 16 * 0.01 * 0.01) / (16 + 2 * 16 * 0.01)
    assert float(mutual_dice(torch.cat([hard, faint]), torch.cat([hard, faint]))) == pytest.approx(1 - both, abs=1e-6)
    seen = torch.tensor([True, False])
    assert float(mutual_dice(torch.cat([hard, faint]), torch.cat([hard, faint]), seen)) == 0
    assert ramp(0.2, 0.4) == pytest.approx(math.exp(-5 * 0.25))


@pytest.mark.parametrize("classes", [1, 3])
def test_soft_terms_equal_the_labelled_losses_on_one_hot_targets(classes):
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(2, classes, 7, 7, generator=generator)
    mask = torch.randint(0, max(classes, 2), (2, 7, 7), generator=generator)
    weight = torch.rand(2, 7, 7, generator=generator)
    target = torch.nn.functional.one_hot(mask, max(classes, 2)).permute(0, 3, 1, 2).float()
    wanted = dice_loss(logits, mask, weight=weight, over="batch") + cross_entropy(logits, mask, weight=weight)
    assert float(soft_terms(logits, target, weight)) == pytest.approx(float(wanted), abs=1e-5)


def test_area_similarity_prefers_the_partner():
    generator = torch.Generator().manual_seed(4)
    masks = (torch.rand(4, 1, 16, 16, generator=generator) > 0.5).float()
    shares = torch.cat([1 - masks, masks], 1)
    other = torch.roll(shares, 1, 0)
    assert float(area_similarity(shares, shares)) < float(area_similarity(shares, other))
    # By hand: two cases, disjoint halves: partner 1, the others 0.
    half = torch.zeros(2, 2, 1, 4)
    half[0, 1, 0, :2] = 1
    half[1, 1, 0, 2:] = 1
    wanted = -math.log(math.e / (math.e + 2))
    assert float(area_similarity(half, half)) == pytest.approx(wanted, abs=1e-4)
