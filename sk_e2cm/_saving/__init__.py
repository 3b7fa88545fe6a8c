"""Fitted estimators in files that hold data alone, and no code."""

from ._load import load
from ._save import save

__all__ = ["load", "save"]
