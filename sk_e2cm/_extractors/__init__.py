"""Extractors: what can be computed stage by stage."""

from ._independence import verify
from ._pipeline import PipelineExtractor
from ._protocol import (
    Extractor,
    channel_axes_of,
    check_columns,
    check_extractor,
    device_of,
    fingerprint_of,
    on_device,
    state_and_output,
    through,
)
from ._raw import RawFeatures
from ._torch import TorchExtractor, picklable

__all__ = [
    "Extractor",
    "PipelineExtractor",
    "RawFeatures",
    "TorchExtractor",
    "channel_axes_of",
    "check_columns",
    "check_extractor",
    "device_of",
    "fingerprint_of",
    "on_device",
    "picklable",
    "state_and_output",
    "through",
    "verify",
]
