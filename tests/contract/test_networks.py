"""What every network keeps, found by discovery: a new file in models/ is tested without a line here."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from crossmask import rooms
from crossmask.losses import cross_entropy, dice_loss

NAMES = rooms.names("network")
IMAGE_ONLY = {
    "dual-branch": "two scans, no words",
    **dict.fromkeys(("unet", "unetpp", "transunet", "swinunet", "uctransnet", "tganet"), "a comparator without words"),
}
WITHOUT_GRADIENT: dict[tuple[str, str], str] = {}  # (network, weight): why it may get none
WIDTH = 12
FORMS = [(channels, classes) for channels in ((1,), (1, 2)) for classes in (1, 3)]

each_network = pytest.mark.parametrize("name", NAMES)
each_form = pytest.mark.parametrize(("channels", "classes"), FORMS)


def make(name: str, channels=(1, 2), classes=3, text_dim: int | None = WIDTH, seed: int = 0, **options: Any) -> Any:
    door = rooms.door("network", name)
    if "encoder" in rooms.options(door):
        options = {"encoder": "tiny", "weights": "none", **options}
    elif "width" in rooms.options(door):
        options = {"width": 8, **options}
    torch.manual_seed(seed)
    return door(channels=channels, classes=classes, text_dim=text_dim, **options)


def jitter(network: nn.Module) -> nn.Module:
    """Away from identities and zeros at the start."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in network.parameters():
            weight += 0.05 * torch.randn(weight.shape, generator=generator)
    return network


def inputs(channels=(1, 2), batch: int = 3, size=(64, 64), length: int = 5, seed: int = 2) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    text_mask = torch.arange(length) < torch.randint(1, length, (batch, 1), generator=generator)
    return {
        "image": torch.rand(batch, sum(channels), *size, generator=generator),
        "text": torch.randn(batch, length, WIDTH, generator=generator),
        "text_mask": text_mask,
        "present": torch.ones(batch, len(channels), dtype=torch.bool),
    }


def close(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def test_all_are_found():
    assert len(NAMES) >= 3
    assert IMAGE_ONLY.keys() <= set(NAMES)


@each_network
def test_door(name):
    door = rooms.door("network", name)
    wanted = {"channels", "classes", "text_dim", "dropout"}
    assert wanted <= rooms.options(door).keys() == inspect.signature(door).parameters.keys()
    assert rooms.options(door)["text_dim"].default is None
    network = make(name)
    taken = list(inspect.signature(network.forward).parameters)
    assert taken[:4] == ["image", "text", "text_mask", "present"]
    assert set(taken[4:]) <= {"features"}, "predicting takes no mask"
    assert isinstance(network.decoder, nn.Module)
    assert "mask" not in inspect.signature(network.decoder.forward).parameters


@each_network
@each_form
def test_odd_sizes(name, channels, classes):
    network = make(name, channels, classes).eval()
    for size in ((50, 71), (33, 32), (7, 95)):
        logits = network(**inputs(channels, size=size))
        assert logits.shape == (3, classes, *size)
        assert logits.isfinite().all()


@each_network
@each_form
def test_batch_of_one_in_training(name, channels, classes):
    network = make(name, channels, classes, dropout=0.1).train()
    logits = network(**inputs(channels, batch=1))
    logits.square().mean().backward()
    assert logits.isfinite().all()


@each_network
def test_neighbours_do_not_matter(name):
    network = jitter(make(name)).eval()
    ours, others = inputs(), inputs(seed=3)
    mixed = {key: torch.cat([ours[key][:1], others[key][1:]]) for key in ours}
    mixed["present"] = mixed["present"] & torch.tensor([[True, True], [False, True], [True, False]])
    mixed["text_mask"] = mixed["text_mask"] & torch.tensor([[True], [False], [True]])
    with torch.no_grad():
        together, replaced = network(**ours), network(**mixed)
        alone = network(**{key: value[:1] for key, value in ours.items()})
    close(replaced[0], together[0])
    close(alone[0], together[0])
    assert not torch.allclose(replaced[1], together[1])


@each_network
def test_padding_tokens_do_not_matter(name):
    network = jitter(make(name)).eval()
    given = inputs()
    garbage = torch.where(given["text_mask"][..., None], given["text"], 1e4)
    longer = torch.cat([garbage, torch.full((3, 7, WIDTH), -3e4)], 1)
    longer_mask = torch.cat([given["text_mask"], torch.zeros(3, 7, dtype=torch.bool)], 1)
    with torch.no_grad():
        close(network(**given | {"text": garbage}), network(**given))
        close(network(**given | {"text": longer, "text_mask": longer_mask}), network(**given))


@each_network
def test_no_text(name):
    network = jitter(make(name)).eval()
    given = inputs()
    nobody = torch.zeros_like(given["text_mask"])
    with torch.no_grad():
        without = network(given["image"], present=given["present"])
        close(network(given["image"]), without)
        close(network(**given | {"text_mask": nobody}), without)
        mixed = network(**given | {"text_mask": given["text_mask"] & torch.tensor([[True], [False], [True]])})
        close(mixed[1], without[1])
        close(mixed[0], network(**given)[0])


@each_network
def test_text_changes_the_answer_of_those_that_read(name):
    network = jitter(make(name)).eval()
    given = inputs()
    with torch.no_grad():
        one, other = network(**given), network(**given | {"text": given["text"].roll(1, 0)})
        without = network(given["image"])
    if name in IMAGE_ONLY:
        assert torch.equal(one, other)
        assert torch.equal(one, without)
    else:
        for answer in (other, without):
            assert ((one - answer).flatten(1).abs().amax(1) > 1e-4).all()


@each_network
def test_text_dim_none(name):
    network = jitter(make(name, text_dim=None)).eval()
    given = inputs()
    with torch.no_grad():
        close(network(**given), network(given["image"]))  # words are not looked at
    answer = network.train()(given["image"], features=True)
    assert answer[0].shape == (3, 3, 64, 64)


@each_network
def test_an_absent_modality_is_not_looked_at(name):
    network = jitter(make(name)).eval()
    given = inputs()
    given["present"] = torch.tensor([[True, False]] * 3)
    changed = torch.cat([given["image"][:, :1], torch.rand(3, 2, 64, 64)], 1)
    with torch.no_grad():
        absent = network(**given)
        close(network(**given | {"image": changed}), absent)
        assert not torch.allclose(network(given["image"], given["text"], given["text_mask"]), absent)


def losses(network: Any, given: dict[str, Tensor], mask: Tensor) -> Tensor:
    """All losses of a network for one batch."""
    logits, features = network(**given, features=True)
    total = dice_loss(logits, mask) + cross_entropy(logits, mask)
    for branch in features.get("branches", ()):
        total = total + dice_loss(branch, mask)
    if hasattr(network, "auxiliary"):
        text_id = torch.arange(len(mask))
        extra = network.auxiliary(features, mask, given.get("text"), given.get("text_mask"), text_id)
        for value in extra.values():
            assert value.shape == ()
            total = total + value
    return total


@each_network
@each_form
def test_every_weight_learns(name, channels, classes):
    network = jitter(make(name, channels, classes)).train()
    given = inputs(channels, batch=4)
    mask = torch.randint(0, max(classes, 2), (4, 64, 64), generator=torch.Generator().manual_seed(4))
    variants = [given, {k: v for k, v in given.items() if not k.startswith("text")}]
    for modality in range(len(channels) if len(channels) > 1 else 0):
        variants.append(given | {"present": (torch.arange(len(channels)) != modality).repeat(4, 1)})
    variants.append(given | {"text_mask": given["text_mask"] & (torch.arange(4) % 2 == 0)[:, None]})
    for variant in variants:
        losses(network, variant, mask).backward()
    bad = []
    for weight_name, weight in network.named_parameters():
        if weight.grad is not None and not weight.grad.isfinite().all():
            bad.append(f"{weight_name}: gradient is not finite")
        if weight.ndim >= 2 and (weight.grad is None or not weight.grad.any()):
            if (name, weight_name) not in WITHOUT_GRADIENT:
                bad.append(f"{weight_name}: no gradient")
        elif (name, weight_name) in WITHOUT_GRADIENT:
            bad.append(f"{weight_name}: has a gradient and needs no exception")
    assert not bad


@each_network
def test_features_and_parts(name):
    network = jitter(make(name)).eval()
    given = inputs(size=(50, 71))
    with torch.no_grad():
        logits, features = network(**given, features=True)
        plain = network(**given)
        maps = network.encode(**given)
        decoded = network.decode(maps, given["text"], given["text_mask"])
    assert isinstance(plain, Tensor)
    assert isinstance(features, dict)
    close(logits, plain)
    close(decoded[..., :50, :71], plain)
    for branch in features.get("branches", ()):
        assert branch.shape == logits.shape
    if "encoder" in rooms.options(rooms.door("network", name)):
        for pyramid in network.encoder if isinstance(network.encoder, nn.ModuleList) else [network.encoder]:
            assert isinstance(pyramid.stem, nn.Module)
            assert len(pyramid.stages) == 4


@each_network
def test_save_and_load(name):
    first, second = jitter(make(name)).eval(), make(name, seed=9).eval()
    given = inputs()
    state = load(save({k: v.contiguous().clone() for k, v in first.state_dict().items()}))
    with torch.no_grad():
        assert not torch.allclose(first(**given), second(**given))
        second.load_state_dict(state)
        assert torch.equal(first(**given), second(**given))


@each_network
@pytest.mark.parametrize("with_text", [True, False])
def test_export(name, with_text):
    network = jitter(make(name)).eval()
    given = inputs(batch=2)
    if not with_text:
        given = {"image": given["image"]}
    program = torch.export.export(network, (), given)
    again = inputs(batch=2, seed=5)
    with torch.no_grad():
        for case in (given, {key: again[key] for key in given}):
            close(program.module()(**case), network(**case))


@each_network
def test_wider_decoder_and_its_entry(name):
    door = rooms.door("network", name)
    if "decoder" not in rooms.options(door):
        pytest.skip("has no option 'decoder'")
    network = make(name, decoder=(8, 16, 24, 40)).eval()
    assert network(**inputs()).shape == (3, 3, 64, 64)
