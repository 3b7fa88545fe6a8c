"""A torch network as stages."""

from ._extractor import TorchExtractor, chained
from ._freeze import check_module, frozen_copy, is_dense, like, picklable, with_tensors
from ._trace import Trace

__all__ = [
    "TorchExtractor",
    "Trace",
    "chained",
    "check_module",
    "frozen_copy",
    "is_dense",
    "like",
    "picklable",
    "with_tensors",
]
