"""Extractors: what can be computed stage by stage."""

from ._arrays import to_tensor
from ._protocol import Extractor
from ._torch import TorchExtractor

__all__ = ["Extractor", "TorchExtractor", "to_tensor"]
