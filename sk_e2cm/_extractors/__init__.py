"""Extractors: what can be computed stage by stage."""

from ._independence import some_samples, verify
from ._outputs import (
    checked_output,
    device_of,
    refuse_other_than_numbers,
    state_and_output,
)
from ._pipeline import PipelineExtractor
from ._protocol import (
    Extractor,
    channel_axes_of,
    check_columns,
    check_device,
    check_extractor,
    fingerprint_of,
    has,
    layouts_of,
    on_device,
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
    "check_device",
    "check_extractor",
    "checked_output",
    "device_of",
    "fingerprint_of",
    "has",
    "layouts_of",
    "on_device",
    "picklable",
    "refuse_other_than_numbers",
    "some_samples",
    "state_and_output",
    "through",
    "verify",
]
