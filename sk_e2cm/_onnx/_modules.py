"""Stages and heads as torch modules that take and return tensors alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .._extractors._torch._rows import (
    Constant,
    Count,
    Each,
    KeepRules,
    Rows,
    Rule,
    same_kind,
)
from .._multi_exit._estimator_logits import ClassifierLogits
from .._multi_exit._heads import Head
from ._heads import exportable, exportable_pooling


class LiveTensors:
    """The values alive after a stage, as far as they are tensors with rows.

    Numbers of rows follow from these, and constants are known.

    Parameters
    ----------
    rules : KeepRules
        What the values are.

    values : tuple
        They, for some batch.

    Attributes
    ----------
    tensors : list of tensor
        Those of this batch.

    rows : list of Rows
        Which of their entries belong to a sample.
    """

    def __init__(self, rules: KeepRules, values: tuple[Any, ...]) -> None:
        self._rules = rules.rules
        self._values = values
        self.rows = list(_rows_of(self._rules))
        self.tensors = self.among(values)

    def among(self, values: Sequence[Any]) -> list[Tensor]:
        """Return the tensors among the values of a batch."""
        return list(_tensors_of(self._rules, values))

    def copies(self) -> tuple[Any, ...]:
        """Return all values, in memory of their own."""
        return self.of([tensor.clone() for tensor in self.tensors])

    def of(self, tensors: Sequence[Tensor]) -> tuple[Any, ...]:
        """Return all values, given the tensors."""
        first = self.rows[0]
        n_samples = tensors[0].shape[first.axis] // first.per_sample
        given = iter(tensors)
        return tuple(
            _rebuilt(rule, value, given, n_samples)
            for rule, value in zip(self._rules, self._values, strict=True)
        )


def _rows_of(rules: Sequence[Rule]) -> Iterator[Rows]:
    for rule in rules:
        match rule:
            case Rows():
                yield rule
            case Each(parts):
                yield from _rows_of(parts)


def _tensors_of(rules: Sequence[Rule], values: Sequence[Any]) -> Iterator[Tensor]:
    for rule, value in zip(rules, values, strict=True):
        match rule:
            case Rows():
                yield value
            case Each(parts):
                yield from _tensors_of(parts, value)


def _rebuilt(rule: Rule, value: Any, tensors: Iterator[Tensor], n_samples: Any) -> Any:
    match rule:
        case Rows():
            return next(tensors)
        case Count(per_sample):
            return per_sample * n_samples
        case Each(parts):
            of_parts = [
                _rebuilt(part, each, tensors, n_samples)
                for part, each in zip(parts, value, strict=True)
            ]
            return same_kind(value, of_parts)
        case Constant():
            return value


class StageModule(nn.Module):
    """A stage that takes and returns tensors alone.

    Parameters
    ----------
    stage : nn.Module
        Takes and returns all live values.

    before, after : LiveTensors
        What it takes, and what it returns.
    """

    def __init__(
        self, stage: nn.Module, before: LiveTensors, after: LiveTensors
    ) -> None:
        super().__init__()
        self.stage = stage
        self._before = before
        self._after = after

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(self._after.among(self.stage(*self._before.of(tensors))))


class PoolingModule(nn.Module):
    """From a stage's output, whose samples lie along `axis`, to features."""

    def __init__(self, head: Head, axis: int) -> None:
        super().__init__()
        self.pooling = exportable_pooling(head)
        self.axis = axis

    def forward(self, *outputs: Tensor) -> Tensor:
        (output,) = outputs
        features: Tensor = self.pooling(output.movedim(self.axis, 0))
        return features


class HeadModule(nn.Module):
    """From a stage's output, whose samples lie along `axis`, to probabilities.

    Features carried from stages before come first.
    """

    def __init__(self, head: Head, axis: int) -> None:
        super().__init__()
        self.head = exportable(head)
        self.axis = axis

    def forward(self, *carried_and_output: Tensor) -> Tensor:
        *carried, output = carried_and_output
        output = output.movedim(self.axis, 0)
        # Averages first, though for torch they may be folded into the weights: the file
        # is smaller, and as quick.
        return self.head.proba_of([*carried, self.head.pooling.forward(output)])


class FeaturesModule(nn.Module):
    """From a stage's output, whose samples lie along `axis`, to scaled features.

    A classifier that is not torch's takes them, in single precision.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, head: Head, logits: ClassifierLogits, axis: int) -> None:
        super().__init__()
        self.pooling = exportable_pooling(head)
        self.axis = axis
        self.register_buffer("mean", torch.as_tensor(np.float64(logits.mean)))
        self.register_buffer("scale", torch.as_tensor(np.float64(logits.scale)))

    def forward(self, *outputs: Tensor) -> Tensor:
        (output,) = outputs
        features = self.pooling(output.movedim(self.axis, 0))
        return ((features - self.mean) / self.scale).float()
