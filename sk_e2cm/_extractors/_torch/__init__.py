"""A torch network as stages."""

from ._extractor import TorchExtractor
from ._freeze import picklable

__all__ = ["TorchExtractor", "picklable"]
