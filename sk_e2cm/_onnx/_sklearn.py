"""Classifiers of scikit-learn at the end of a network, by skl2onnx."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from .._multi_exit._estimator_logits import ClassifierLogits
from ._graph import Program, Scope, Type
from ._programs import reason_of

# Of the operations for trees and the like: what skl2onnx has long written.
ML_VERSION = 3


def classifier_program(logits: ClassifierLogits, opset: int) -> Program:
    """Return a fitted classifier as a program, from scaled features to probabilities.

    Parameters
    ----------
    logits : ClassifierLogits
        With the classifier.

    opset : int
        The version of ONNX's operations.

    Raises
    ------
    ValueError
        If skl2onnx is not installed, or does not know the classifier.
    """
    refused = f"{logits.parameter}={logits.classifier!r} cannot be written to ONNX"
    try:
        from skl2onnx import to_onnx
        from skl2onnx.common.data_types import FloatTensorType
    except ImportError as error:
        raise ValueError(
            f"{refused}: linear classifiers and perceptrons can, and others need the "
            'package skl2onnx: pip install "sk-e2cm[onnx]".'
        ) from error
    n_features = int(logits.classifier.n_features_in_)
    try:
        model = to_onnx(
            logits.classifier,
            initial_types=[("features", FloatTensorType([None, n_features]))],
            options={"zipmap": False},
            target_opset={"": opset, "ai.onnx.ml": ML_VERSION},
        )
    except Exception as error:
        raise ValueError(f"{refused}: {reason_of(error)}") from error
    scope = Scope()
    _, proba = scope.call(Program.of(model.graph), ["features"])
    found = scope.op("Cast", proba, to=TensorProto.DOUBLE)
    given = Type(np.dtype(np.float32), (None, n_features))
    graph = scope.graph("classifier", [("features", given)], [(found, given)])
    return Program.of(graph)
