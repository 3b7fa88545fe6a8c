"""Extractors: what can be computed stage by stage."""

from ._protocol import Extractor
from ._torch import TorchExtractor, to_tensor

__all__ = ["Extractor", "TorchExtractor", "to_tensor"]
