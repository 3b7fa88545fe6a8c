"""A frozen torch network in a file, and back on a module that is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .._extractors import Extractor, RawFeatures, TorchExtractor
from .._extractors._torch import (
    chained,
    check_module,
    frozen_copy,
    is_quantized_layer,
    like,
    with_tensors,
)
from ._file import reading
from ._fingerprint import (
    architecture,
    check_same,
    differences,
    operations,
    other_operations,
)
from ._tensors import TensorReader, TensorWriter, named_tensors
from ._values import Decoder, Encoder


def encode_extractor(
    extractor: Extractor, writer: TensorWriter
) -> dict[str, Any] | None:
    """Return what the header says of an extractor; None of raw features.

    Raises
    ------
    TypeError
        If it is not a `TorchExtractor`.

    ValueError
        If its network has weights that a file cannot hold.
    """
    if isinstance(extractor, RawFeatures):
        return None
    if type(extractor) is not TorchExtractor:
        raise TypeError(
            f"extractor={extractor!r:.80} cannot be saved: only a TorchExtractor can "
            "be loaded on a network that is given. Use joblib.dump or pickle."
        )
    made_of = extractor.made_of
    network = made_of.module
    _check_savable(network)
    encoder = Encoder(writer)
    return {
        "network": type(network).__name__,
        "architecture": architecture(network),
        "operations": operations(made_of.trace),
        "weights": {
            name: writer.add(f"network.{name}", tensor)
            for name, tensor in named_tensors(network).items()
        },
        "parameters": encoder.each({"exits": made_of.exits, **made_of.others}),
        "in_other_layout": made_of.in_other_layout,
        "findings": encoder.encode([*extractor.findings], "findings"),
    }


def decode_extractor(
    saved: Mapping[str, Any] | None, network: Any, reader: TensorReader, path: Any
) -> Extractor:
    """Return the extractor that was saved, on a copy of the network given.

    Raises
    ------
    TypeError
        If `network` is no module where one is needed.

    ValueError
        If it is another network, or if the file is damaged.
    """
    if saved is None:
        if network is not None:
            raise ValueError(
                "The estimator was fitted to plain features, without a network: load "
                "it with network=None."
            )
        return RawFeatures()
    frozen = frozen_copy(_checked(network, saved))
    given = architecture(frozen)
    with reading(path):
        found = list(differences(saved["architecture"], given))
    check_same(found)
    with reading(path):
        weights = {
            name: reader.get(note) for name, note in dict(saved["weights"]).items()
        }
        parameters = Decoder(reader).each(saved["parameters"])
        exits = parameters["exits"]
        others = {name: parameters[name] for name in ("output", "input_shape", "fold")}
        findings = tuple(Decoder(reader).decode(saved["findings"]))
        module = _with_weights(frozen, weights)
    extractor = TorchExtractor(module, exits, **others)
    computed = operations(extractor.made_of.trace)
    with reading(path):
        found = list(other_operations(saved["operations"], computed))
    check_same(found)
    with reading(path):
        if saved["in_other_layout"]:
            _, extractor = extractor.layouts()
        extractor.findings = findings
    return extractor


def _checked(network: Any, saved: Mapping[str, Any]) -> nn.Module:
    if network is None:
        raise ValueError(
            "The estimator was fitted over a network: pass it as network=, a "
            f"{saved.get('network')!s:.60} with whatever weights."
        )
    if isinstance(network, Sequence) and not isinstance(network, str):
        for module in network:
            check_module(module)
        return chained(network)
    if isinstance(network, Extractor):
        raise TypeError(
            "network must be the torch module itself, not an extractor of it: where "
            "samples leave is in the file."
        )
    if not isinstance(network, nn.Module):
        raise TypeError(
            "network must be a torch.nn.Module, or a list of them if the extractor was "
            f"made by TorchExtractor.from_modules, got {type(network).__name__}."
        )
    check_module(network)
    return network


def _check_savable(network: nn.Module) -> None:
    """Refuse networks with weights where nobody sees them."""
    for name, module in network.named_modules():
        what = f"{name!r} ({type(module).__name__})" if name else type(module).__name__
        if isinstance(module, torch.jit.ScriptModule):
            why = "it is compiled by torch.jit"
        elif is_quantized_layer(module):
            why = "it is quantised, and keeps its weights in a form of its own"
        else:
            continue
        raise ValueError(f"{what} cannot be saved: {why}. Use joblib.dump or pickle.")


def _with_weights(frozen: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
    """Copy a frozen network with the weights of the file, on its own device."""
    names = {id(each): name for name, each in named_tensors(frozen).items()}

    def convert(tensor: Tensor) -> Any:
        saved = weights[names[id(tensor)]]
        if saved.shape != tensor.shape:
            raise ValueError(f"weights of {names[id(tensor)]!r} have another shape")
        return like(tensor, saved.to(tensor.device))

    return with_tensors(frozen, convert)
