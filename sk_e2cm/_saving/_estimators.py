"""Fitted estimators as JSON and tensors, and back over an extractor."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from sklearn.utils.validation import check_is_fitted

from .._classifier import E2CMClassifier
from .._clusterer import E2CMClusterer
from .._extractors import Extractor, RawFeatures, TorchExtractor, layouts_of
from .._multi_exit._network import MultiExitNetwork
from .._tuned import TunedExitsCV
from ._values import Decoder, Encoder

_WITH_EXITS: dict[str, Any] = {
    "E2CMClassifier": E2CMClassifier,
    "E2CMClusterer": E2CMClusterer,
}

# Of a fitted estimator, what is saved in another way or not at all: sums over samples
# are many times as large as the exits, and what was warned of, others have not read.
_APART = {"network_", "clusterer_", "estimator_", "statistics_", "_warned_of"}

# Caches of joblib are pickles: a file is not to say where some lie.
_OF_THIS_PLACE = {"memory"}


def fitted_inside(estimator: Any) -> Any:
    """Return the fitted estimator with exits: what was tuned, or the estimator itself.

    Raises
    ------
    TypeError
        If it is none of this package's.

    NotFittedError
        If it is not fitted.
    """
    if type(estimator) is TunedExitsCV:
        check_is_fitted(estimator, "estimator_")
        estimator = estimator.estimator_
    if type(estimator) not in _WITH_EXITS.values():
        raise TypeError(
            "save takes a fitted E2CMClassifier, E2CMClusterer or TunedExitsCV, got "
            f"{type(estimator).__name__}. Of a pipeline, save the last step; for "
            "others, use joblib.dump or pickle."
        )
    check_is_fitted(estimator, "network_")
    return estimator


def encode_estimator(estimator: Any, encoder: Encoder) -> dict[str, Any]:
    """Return a fitted estimator as JSON, without its extractor.

    Raises
    ------
    TypeError
        If it has something that a file cannot hold.
    """
    if type(estimator) is not TunedExitsCV:
        return _encode_with_exits(estimator, encoder)
    before, inside = estimator.estimator, estimator.estimator_
    parameters = estimator.get_params(deep=False)
    parameters.pop("estimator")
    return {
        "class": "TunedExitsCV",
        "parameters": encoder.each(parameters),
        "estimator": _encode_parameters(before, encoder, "estimator."),
        # As with cv="prefit".
        "is_fitted": vars(before).get("network_") is inside.network_,
        "estimator_": _encode_with_exits(inside, encoder, "estimator_."),
        "fitted": _encode_fitted(estimator, encoder),
    }


def decode_estimator(
    saved: Mapping[str, Any], extractor: Extractor, decoder: Decoder
) -> Any:
    """Return the estimator that was saved, over an extractor."""
    if saved["class"] != "TunedExitsCV":
        return _decode_with_exits(saved, extractor, decoder)
    inside = _decode_with_exits(saved["estimator_"], extractor, decoder)
    before = _decode_parameters(saved["estimator"], extractor, decoder)
    if saved["is_fitted"]:
        fitted = copy.copy(inside)
        before = fitted.set_params(**before.get_params(deep=False))
    search: Any = TunedExitsCV(before, **decoder.each(saved["parameters"]))
    vars(search).update(decoder.each(saved["fitted"]), estimator_=inside)
    return search


def _encode_with_exits(
    estimator: Any, encoder: Encoder, prefix: str = ""
) -> dict[str, Any]:
    # First, since messages about them say what users have passed.
    parameters = _encode_parameters(estimator, encoder, prefix)
    network = estimator.network_
    return parameters | {
        "network": encoder.each(
            {
                "heads": [*network.heads],
                "labels": network.labels,
                "costs": network.costs,
                "pooling": network.pooling,
                "at_once": network.at_once,
            },
            prefix,
        ),
        "fitted": _encode_fitted(estimator, encoder, prefix),
    }


def _decode_with_exits(
    saved: Mapping[str, Any], extractor: Extractor, decoder: Decoder
) -> Any:
    estimator = _decode_parameters(saved, extractor, decoder)
    network = MultiExitNetwork(extractor, **decoder.each(saved["network"]))
    fitted = decoder.each(saved["fitted"])
    if isinstance(estimator, E2CMClusterer):
        last: Any = network.heads[-1].logits
        fitted["clusterer_"] = last.clusterer
    vars(estimator).update(fitted, network_=network, _warned_of=set())
    return estimator


def _encode_parameters(estimator: Any, encoder: Encoder, prefix: str) -> dict[str, Any]:
    parameters = estimator.get_params(deep=False)
    extractor = parameters.pop("extractor")
    kept = {k: v for k, v in parameters.items() if k not in _OF_THIS_PLACE}
    return {
        "class": type(estimator).__name__,
        "parameters": encoder.each(kept, prefix),
        "in_other_layout": _in_other_layout(extractor),
    }


def _decode_parameters(
    saved: Mapping[str, Any], extractor: Extractor, decoder: Decoder
) -> Any:
    """Return an estimator that is not fitted."""
    if saved["class"] not in _WITH_EXITS:
        raise ValueError(f"it names the estimator {saved['class']!r:.60}")
    given: Extractor | None = extractor
    if isinstance(extractor, RawFeatures):
        given = None
    elif saved["in_other_layout"] != _in_other_layout(extractor):
        given = layouts_of(extractor)[-1]
    parameters = decoder.each(saved["parameters"])
    return _WITH_EXITS[saved["class"]](given, **parameters)


def _encode_fitted(
    estimator: Any, encoder: Encoder, prefix: str = ""
) -> dict[str, Any]:
    names = vars(estimator).keys() - estimator.get_params(deep=False).keys() - _APART
    return encoder.each({name: vars(estimator)[name] for name in sorted(names)}, prefix)


def _in_other_layout(extractor: Extractor | None) -> bool:
    """Tell an extractor that costs in seconds have put in the place of the given."""
    return isinstance(extractor, TorchExtractor) and extractor.made_of.in_other_layout
