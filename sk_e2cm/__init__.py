"""Early exits for networks that are already trained, in scikit-learn's language."""

from . import inspection, metrics, testing
from ._classifier import E2CMClassifier
from ._clusterer import E2CMClusterer
from ._extractors import Extractor, PipelineExtractor, TorchExtractor
from ._saving import load, save
from ._to_onnx import to_onnx
from ._tuned import TunedExitsCV
from ._tuning._risk import RiskControl
from ._version import __version__ as __version__

__all__ = [
    "E2CMClassifier",
    "E2CMClusterer",
    "Extractor",
    "PipelineExtractor",
    "RiskControl",
    "TorchExtractor",
    "TunedExitsCV",
    "inspection",
    "load",
    "metrics",
    "save",
    "testing",
    "to_onnx",
]
