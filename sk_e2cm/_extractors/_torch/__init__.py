"""A torch network as stages."""

from ._extractor import TorchExtractor
from ._freeze import (
    check_module,
    frozen_copy,
    is_dense,
    like,
    picklable,
    tensors_in,
    with_tensors,
)
from ._made_of import chained
from ._quantized import is_quantized, is_quantized_layer
from ._trace import Trace

__all__ = [
    "TorchExtractor",
    "Trace",
    "chained",
    "check_module",
    "frozen_copy",
    "is_dense",
    "is_quantized",
    "is_quantized_layer",
    "like",
    "picklable",
    "tensors_in",
    "with_tensors",
]
