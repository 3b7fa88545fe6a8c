"""Extractors: what can be computed stage by stage."""

from ._pipeline import PipelineExtractor
from ._protocol import Extractor
from ._torch._extractor import TorchExtractor

__all__ = ["Extractor", "PipelineExtractor", "TorchExtractor"]
