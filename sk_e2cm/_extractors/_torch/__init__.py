"""A torch network as stages."""

from ._extractor import TorchExtractor

__all__ = ["TorchExtractor"]
