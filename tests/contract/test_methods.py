"""What every method keeps, found by discovery: a new file in methods/ is tested without a line here.

That a resumed run equals a straight one bit for bit is tested where the loop is (tests of train.py).
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from crossmask import rooms
from crossmask.core import Batch, Labelled, Progress, Unlabelled
from crossmask.errors import CallError
from crossmask.methods.supervised import dropout_switched
from crossmask.parts import Maker

NAMES = rooms.names("method")
IGNORES_UNLABELLED = {"supervised"}
NEEDS_TEACHER = {"distill"}
NETWORKS = {"semi-cml": ("dual-branch",)}  # methods that do not go with any network
BOTH = ("hcfnet", "unet")
CHANNELS = {"semi-cml": (1, 1), "semi-cml-asc": (1, 1), "distill": (1, 1)}
OPTIONS: dict[str, list[dict[str, Any]]] = {  # besides its defaults
    "supervised": [{"ema": 0.9}, {"over": "batch", "auxiliary": 0.0}],
    "semi-cml": [{"x03": "literal", "threshold": "fixed"}, {"x03": "off", "passes": 0}],
    "semi-cml-asc": [{"answer": "second", "relearn_labelled": True}],
    "distill": [{"modality": 1}],
}
WIDTH, STEPS = 12, 20
CASES = [(name, options) for name in NAMES for options in ({}, *OPTIONS.get(name, []))]
PAIRS = [(name, options, network) for name, options in CASES for network in NETWORKS.get(name, BOTH)]
each_case = pytest.mark.parametrize(("name", "options"), CASES, ids=lambda value: str(value))


def maker(network: str, channels: tuple[int, ...] = (1,)) -> Maker:
    fixed = {"channels": channels, "classes": 1, "text_dim": WIDTH, "encoder": "tiny", "weights": "none"}
    return Maker(rooms.door("network", network), fixed)


def method(name: str, options: dict[str, Any], network: str | None = None, seed: int = 0, teacher: Any = None) -> Any:
    make = maker(network or NETWORKS.get(name, BOTH)[0], CHANNELS.get(name, (1,)))
    if name in NEEDS_TEACHER and teacher is None:
        torch.manual_seed(seed + 50)
        teacher = maker("unet", CHANNELS[name])().requires_grad_(False)
    torch.manual_seed(seed)
    return rooms.door("method", name)(make, teacher=teacher, **options)


def blobs(count: int, size: int = 64, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Bright discs on noise: image (B, 1, H, W), mask (B, H, W)."""
    generator = torch.Generator().manual_seed(seed)
    centre = size * (0.3 + 0.4 * torch.rand(count, 2, 1, 1, generator=generator))
    radius = size * (0.12 + 0.15 * torch.rand(count, 1, 1, generator=generator))
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    mask = ((y - centre[:, 0]) ** 2 + (x - centre[:, 1]) ** 2 < radius**2).long()
    noise = torch.rand(count, 1, size, size, generator=generator)
    return 0.35 * noise + 0.6 * mask[:, None], mask


def batch(count: int = 4, *, unlabelled: int | None = None, seed: int = 0, name: str = "supervised") -> Batch:
    modalities = len(CHANNELS.get(name, (1,)))
    generator = torch.Generator().manual_seed(seed + 100)

    def words(n: int) -> dict[str, Tensor]:
        text_id = torch.arange(n) % 3 - 1  # -1: no sentence; two cases share one
        text = torch.randn(n, 4, WIDTH, generator=torch.Generator().manual_seed(7))
        text_mask = (torch.arange(4) < 3).repeat(n, 1) & (text_id >= 0)[:, None]
        return {"text": text, "text_mask": text_mask, "text_id": text_id}

    def seen(image: Tensor) -> Tensor:
        """The same discs in every modality, fainter in each."""
        return torch.cat([image * (1 - 0.3 * m) for m in range(modalities)], 1)

    def identity(n: int) -> tuple[str, ...]:
        return tuple(f"case{i}" for i in range(n))

    image, mask = blobs(count, seed=seed)
    there = torch.ones(count, modalities, dtype=torch.bool)
    own = Labelled(id=identity(count), image=seen(image), present=there, mask=mask, **words(count))
    if unlabelled is None:
        return Batch(own)
    weak, _ = blobs(unlabelled, seed=seed + 1)
    strong = (weak + 0.1 * torch.randn(weak.shape, generator=generator)).clamp(0, 1)
    there = torch.ones(unlabelled, modalities, dtype=torch.bool)
    return Batch(own, Unlabelled(identity(unlabelled), seen(weak), seen(strong), there, **words(unlabelled)))


def train(
    one: Any, steps: int = STEPS, *, name: str = "supervised", unlabelled: int | None = 2, every_seed: bool = False
) -> list[float]:
    """The sums of the terms, step by step."""
    optimizer = torch.optim.AdamW([w for w in one.parameters() if w.requires_grad], lr=3e-3)
    totals = []
    one.train()
    for step in range(steps):
        torch.manual_seed(step)
        given = batch(unlabelled=unlabelled, seed=step if every_seed else 0, name=name)
        terms = one(given, Progress(step, 0, step / steps))
        assert terms
        for term_name, value in terms.items():
            assert value.shape == (), term_name
            assert value.isfinite(), term_name
        total = sum(terms.values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        one.after_step()
        totals.append(float(total.detach()))
    return totals


def predict(one: Any, given: Labelled) -> Tensor:
    one.eval()
    with torch.inference_mode():
        return one.predict(given.image, given.text, given.text_mask, given.present)


def test_all_are_found():
    assert len(NAMES) >= 7
    assert OPTIONS.keys() <= set(NAMES)
    assert set(NAMES) >= IGNORES_UNLABELLED


@pytest.mark.parametrize(("name", "options", "network"), PAIRS, ids=lambda value: str(value))
def test_loss_falls(name, options, network):
    """The labelled loss; what the unlabelled half adds may grow with its ramp, and the teacher is a random one."""

    def labelled_loss() -> float:
        terms = one.train()(batch(name=name), Progress(0, 0, 0.0))
        return sum(float(value.detach()) for term, value in terms.items() if term != "distill")

    unlabelled = None if name in IGNORES_UNLABELLED else 2
    one = method(name, options, network)
    torch.manual_seed(5)
    start = labelled_loss()
    train(one, name=name, unlabelled=unlabelled)
    assert labelled_loss() < 0.8 * start


@pytest.mark.parametrize("name", [n for n in NAMES if "over" in rooms.options(rooms.door("method", n))])
def test_over_says_what_a_labelled_dice_counts_over(name):
    given = batch(name=name)
    given.labelled.mask[1:] = 0  # one case of four has the class

    def total(over: str) -> float:
        one = method(name, {"over": over})
        torch.manual_seed(1)
        return sum(float(value.detach()) for value in one.train()(given, Progress(0, 0, 0.0)).values())

    assert total("case") == total("case")
    assert abs(total("batch") - total("case")) > 1e-3


@each_case
def test_what_is_not_trained_gets_no_gradient(name, options):
    one = method(name, options)
    train(one, 2, name=name)
    frozen = {key: w for key, w in one.named_parameters() if not w.requires_grad}
    assert all(w.grad is None for w in frozen.values())
    assert any(w.grad is not None for w in one.parameters())
    before = {key: w.clone() for key, w in frozen.items()}
    if options.get("ema"):
        assert frozen, "an averaged copy is there"
        train(one, 2, name=name)
        assert any(not torch.equal(w, before[key]) for key, w in frozen.items()), "and follows"


@each_case
def test_a_teacher_gets_no_gradient(name, options):
    torch.manual_seed(3)
    teacher = maker("unet", CHANNELS.get(name, (1,)))()
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    torch.manual_seed(0)
    one = method(name, options, NETWORKS.get(name, ("unet",))[0], teacher=teacher)
    train(one, 2, name=name)
    assert all(w.grad is None or not w.grad.any() for w in teacher.parameters())
    for key, value in teacher.named_parameters():
        assert torch.equal(value, before[key]), key


@each_case
def test_state_round_trip(name, options):
    one, other = method(name, options), method(name, options, seed=9)
    train(one, 3, name=name)
    given = batch(name=name).labelled
    answer = predict(one, given)
    assert answer.shape == (4, 1, 64, 64)
    assert not torch.allclose(answer, predict(other, given))
    state = {key: value.clone() for key, value in one.state_dict().items()}
    other.load_state_dict(state)
    assert torch.equal(predict(other, given), answer)
    assert torch.equal(predict(one, given), answer)


@each_case
def test_neighbours_do_not_matter_to_predict(name, options):
    one = method(name, options)
    train(one, 2, name=name)
    ours, others = batch(seed=1, name=name).labelled, batch(seed=2, name=name).labelled
    mixed = replace(ours, image=torch.cat([ours.image[:1], others.image[1:]]))
    torch.testing.assert_close(predict(one, mixed)[0], predict(one, ours)[0], rtol=1e-5, atol=1e-5)
    alone = one.predict(ours.image[:1], ours.text[:1], ours.text_mask[:1], ours.present[:1])
    torch.testing.assert_close(alone[0], predict(one, ours)[0], rtol=1e-5, atol=1e-5, check_layout=False)
    one.predict(ours.image, None, None)  # no sentences at all


class Poisoned(Unlabelled):
    """The unlabelled half; a look at a mask is the end."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"the method reads '{name}' of the unlabelled half")


@each_case
def test_hidden_masks_are_out_of_reach(name, options):
    """The unlabelled half has no mask field; a method that looks for one fails."""
    assert not any("mask" in field.name.removeprefix("text_mask") for field in fields(Unlabelled))
    one = method(name, options).train()
    whole = batch(unlabelled=2, name=name)
    assert whole.unlabelled is not None
    poisoned = Poisoned(**vars(whole.unlabelled))
    terms = one(Batch(whole.labelled, poisoned), Progress(0, 0, 0.0))
    assert all(value.isfinite() for value in terms.values())
    if name in IGNORES_UNLABELLED:
        straight, beside = method(name, options), method(name, options)
        assert train(straight, 3, name=name, unlabelled=None) == train(beside, 3, name=name, unlabelled=2)
        assert all(torch.equal(a, b) for a, b in zip(straight.parameters(), beside.parameters(), strict=True))


@each_case
def test_after_validation_and_progress(name, options):
    one = method(name, options).train()
    one.after_validation(0.5)
    for fraction in (0.0, 0.5, 1.0):
        terms = one(batch(unlabelled=2, name=name), Progress(int(10 * fraction), int(3 * fraction), fraction))
        assert all(value.isfinite() for value in terms.values())


def test_the_published_teacher_follows_the_second_network_until_stage_two() -> None:
    one = method("semi-cml-asc", {}).train()
    given = batch(unlabelled=2, name="semi-cml-asc")

    def gap() -> float:
        pairs = zip(one.teacher.parameters(), one.network[1].parameters(), strict=True)
        return max(float((a - b).detach().abs().max()) for a, b in pairs)

    def moved(fraction: float) -> None:
        one(given, Progress(0, 0, fraction))
        with torch.no_grad():
            for weight in one.network[1].parameters():
                weight += 1.0
        one.after_validation(None)

    for _ in range(2):  # without scores an early network has no say in what stage 2 is taught
        moved(0.1)
        assert gap() == 0
    moved(0.9)
    assert gap() == pytest.approx(0.9, abs=1e-4)
    one = method("semi-cml-asc", {}).train()
    moved(0.9)  # the first validation of all falls into stage 2
    assert gap() == 0


def test_cct_follows_an_answer_without_dropout() -> None:
    one = method("cct", {}).train()
    decoder, seen = one.network.decoder, []
    layer = next(m for m in decoder.modules() if isinstance(m, torch.nn.Dropout | torch.nn.Dropout2d))
    decoder.register_forward_hook(lambda *_: seen.append((torch.is_grad_enabled(), layer.training)))
    one(batch(unlabelled=2), Progress(0, 0, 0.5))
    assert seen == [(True, True), (False, False)]  # the labelled answer, then the target
    assert layer.training


def test_distilling_does_not_fade_with_the_temperature() -> None:
    given = batch(name="distill")
    norms = []
    for temperature in (4.0, 8.0):
        one = method("distill", {"temperature": temperature, "ema": 0.0}).train()
        one(given, Progress(0, 0, 0.5))["distill"].backward()
        norms.append(float(torch.stack([w.grad.norm() for w in one.network.parameters() if w.grad is not None]).norm()))
    assert norms[1] == pytest.approx(norms[0], rel=0.2)  # without T^2 it would be a quarter


def test_mean_teacher_without_a_teacher_is_refused() -> None:
    with pytest.raises(CallError, match="method 'mean-teacher' needs its averaged teacher"):
        method("mean-teacher", {"ema": 0})


def test_dropout_inside_torchs_transformer_is_switched_too() -> None:
    layer = torch.nn.TransformerEncoderLayer(8, 2, 16, dropout=0.5, batch_first=True).train()
    x = torch.randn(2, 3, 8)
    with dropout_switched(layer, False):
        torch.testing.assert_close(layer(x), layer(x))
    assert not torch.equal(layer(x), layer(x))
