"""A fitted network as programs, and the values that go from one to the next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from .._extractors._torch._rows import Rows
from ._graph import Program, Type
from ._parts import ONE_ROW_EACH, StageParts
from ._programs import export_parts
from ._sklearn import classifier_program


class Value(NamedTuple):
    """A tensor that goes from stage to stage.

    Parameters
    ----------
    name : str
        The same for as long as it stays what it is.

    rows : Rows
        Which of its entries belong to a sample.

    type : Type
        The axis of the samples has no fixed length.
    """

    name: str
    rows: Rows
    type: Type


@dataclass(frozen=True, kw_only=True)
class ExportedStage:
    """One stage of the network, and its head.

    Parameters
    ----------
    name : str
        Of the stage.

    number : int
        Of the stage, among those of the estimator.

    takes, gives : list of Value
        What is alive before and after it. The first of `gives` is its output.

    stage : Program
        From these to those.

    head_takes : list of Value
        The features that are carried from stages before, then the output.

    head : list of Program
        From these to probabilities, one after the other.

    features : Value or None
        The features that later heads take; None if none do.

    pooling : Program or None
        From the output to those.
    """

    name: str
    number: int
    takes: list[Value]
    gives: list[Value]
    stage: Program
    head_takes: list[Value]
    head: list[Program]
    features: Value | None
    pooling: Program | None

    @property
    def used(self) -> list[Value]:
        """What is needed to compute the stage and its head, from before it."""
        *carried, output = self.head_takes
        pairs = zip(self.takes, self.stage.used, strict=True)
        return [*(v for v, is_used in pairs if is_used or v == output), *carried]

    @property
    def made(self) -> list[Value]:
        """What it adds to the values that are known."""
        new = [value for value in self.gives if value not in self.takes]
        return new if self.features is None else [*new, self.features]


def needed_from(stages: Sequence[ExportedStage], i: int) -> list[Value]:
    """Return the values that stage `i` and those after it take from before it."""
    made: set[str] = set()
    needed: dict[str, Value] = {}
    for stage in stages[i:]:
        needed.update({v.name: v for v in stage.used if v.name not in made})
        made.update(value.name for value in stage.made)
    return list(needed.values())


def export_stages(of_stages: Sequence[StageParts], opset: int) -> list[ExportedStage]:
    """Export the parts of all stages.

    Parameters
    ----------
    of_stages : sequence of StageParts
        Those.

    opset : int
        The version of the operations.

    Raises
    ------
    ValueError
        With the stage that torch cannot write.
    """
    parts = [
        part
        for of_stage in of_stages
        for part in (of_stage.stage, of_stage.head, of_stage.pooling)
        if part is not None
    ]
    programs = iter(export_parts(parts, opset))
    (X,) = of_stages[0].stage.example
    takes = [Value("X", ONE_ROW_EACH, _type_of(X, ONE_ROW_EACH))]
    found: dict[int, ExportedStage] = {}
    for of_stage in of_stages:
        number = of_stage.number
        stage, head = next(programs), [next(programs)]
        if of_stage.classifier is not None:
            head.append(classifier_program(of_stage.classifier, opset))
        gives = _values_after(of_stage, stage, takes)
        carried = [found[s].features for s in of_stage.carried]
        features = pooling = None
        if of_stage.features is not None:
            pooling = next(programs)
            of_features = _type_of(of_stage.features, ONE_ROW_EACH)
            features = Value(f"stage_{number}_features", ONE_ROW_EACH, of_features)
        found[number] = ExportedStage(
            name=of_stage.name,
            number=number,
            takes=takes,
            gives=gives,
            stage=stage,
            head_takes=[*(each for each in carried if each), gives[0]],
            head=head,
            features=features,
            pooling=pooling,
        )
        takes = gives
    return list(found.values())


def _values_after(
    of_stage: StageParts, stage: Program, takes: Sequence[Value]
) -> list[Value]:
    """Return the values after a stage; what it hands on keeps its name."""
    known = dict(zip(stage.inputs, takes, strict=True))
    after = of_stage.after
    of_outputs = zip(stage.outputs, after.rows, after.tensors, strict=True)
    prefix = f"stage_{of_stage.number}_value"
    return [
        known.get(name) or Value(f"{prefix}_{k}", rows, _type_of(tensor, rows))
        for k, (name, rows, tensor) in enumerate(of_outputs)
    ]


def _type_of(tensor: Tensor, rows: Rows) -> Type:
    shape: list[int | str] = list(tensor.shape)
    each = "" if rows.per_sample == 1 else f"{rows.per_sample} * "
    shape[rows.axis] = f"{each}n_samples"
    return Type(tensor.numpy().dtype, tuple(shape))
