"""Networks by name, with the preparation of their input built in."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


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


def load(spec: str, weights: str) -> Prepared:
    """Make ``torchvision:NAME`` or ``timm:NAME``.

    `weights` is DEFAULT (downloaded), a file that `save` wrote, or NONE.
    """
    library, _, name = spec.partition(":")
    if Path(weights).is_file():
        return _saved(spec, torch.load(weights, weights_only=True))
    if weights not in ("DEFAULT", "NONE"):
        raise ValueError(f"--weights {weights!r} is neither DEFAULT, NONE nor a file.")
    return _maker(library)(name, pretrained=weights == "DEFAULT")


def save(network: Prepared, spec: str, path: str) -> None:
    torch.save(
        {"spec": spec, "side": network.side, "state": network.state_dict()}, path
    )


def _saved(spec: str, saved: dict) -> Prepared:
    if saved["spec"] != spec:
        raise ValueError(f"These are the weights of {saved['spec']}, not of {spec}.")
    library, _, name = spec.partition(":")
    state = saved["state"]
    n_classes = list(state.values())[-1].shape[0]  # the bias of the head
    network = _maker(library)(name, pretrained=False, num_classes=n_classes)
    network.side = saved["side"]
    network.load_state_dict(state)
    return network


def _maker(library: str):
    makers = {"torchvision": _torchvision, "timm": _timm}
    if library not in makers:
        raise ValueError(f"{library!r} is neither torchvision nor timm.")
    return makers[library]


def _torchvision(name: str, *, pretrained: bool, **options) -> Prepared:
    from torchvision import models

    weights = models.get_model_weights(name).DEFAULT
    network = models.get_model(name, weights=weights if pretrained else None, **options)
    wants = weights.transforms()
    return Prepared(
        network.eval(), side=wants.crop_size[0], mean=wants.mean, std=wants.std
    )


def _timm(name: str, *, pretrained: bool, **options) -> Prepared:
    import timm

    network = timm.create_model(name, pretrained=pretrained, **options)
    wants = network.default_cfg
    return Prepared(
        network.eval(),
        side=wants["input_size"][-1],
        mean=wants["mean"],
        std=wants["std"],
    )
