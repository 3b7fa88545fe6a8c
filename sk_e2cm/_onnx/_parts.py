"""The parts of a network that are exported: stages, poolings and heads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from .._extractors._torch._cut import cut
from .._extractors._torch._extractor import TorchExtractor
from .._extractors._torch._rows import INPUT, KeepRules, Rows
from .._multi_exit._estimator_logits import ClassifierLogits
from .._multi_exit._heads import Head
from .._multi_exit._network import MultiExitNetwork
from ._heads import layers_of
from ._modules import (
    FeaturesModule,
    HeadModule,
    LiveTensors,
    PoolingModule,
    StageModule,
)

# Of one row torch takes the number for a constant.
_EXAMPLE_ROWS = 3

ONE_ROW_EACH = Rows(axis=0, per_sample=1)


@dataclass(frozen=True)
class Part:
    """A module that takes and returns tensors.

    Parameters
    ----------
    what : str
        For the messages.

    module : nn.Module
        Takes them one by one, and returns one or a tuple.

    example : sequence of tensor
        What it may be given.

    rows : sequence of Rows
        Which entries of these belong to a sample.
    """

    what: str
    module: nn.Module
    example: Sequence[Tensor]
    rows: Sequence[Rows]


@dataclass(frozen=True, kw_only=True)
class StageParts:
    """One stage of the network, and its head.

    Parameters
    ----------
    name : str
        Of the stage.

    number : int
        Of the stage, among those of the estimator.

    stage : Part
        From the tensors that are alive before it to those after it, of which the first
        is its output.

    after : LiveTensors
        Those after it.

    head : Part
        From the features that are carried and the output to probabilities, or to the
        features that `classifier` takes.

    classifier : ClassifierLogits or None
        What torch does not compute.

    carried : tuple of int
        The stages before whose features those are.

    pooling : Part or None
        From the output to the features that later heads take; None if none do.

    features : Tensor or None
        Those, for the example.
    """

    name: str
    number: int
    stage: Part
    after: LiveTensors
    head: Part
    classifier: ClassifierLogits | None
    carried: tuple[int, ...]
    pooling: Part | None
    features: Tensor | None


@torch.no_grad()
def parts_of(
    network: MultiExitNetwork, input_shape: tuple[int, ...], kept: Sequence[int]
) -> list[StageParts]:
    """Return the parts of the stages, in the form that predictions run.

    Parameters
    ----------
    network : MultiExitNetwork
        On the CPU, over a `TorchExtractor`.

    input_shape : tuple of int
        Of one sample.

    kept : sequence of int
        The exits that are kept, and the last stage: what lies between two of them is
        one stage.

    Raises
    ------
    ValueError
        If a head or a pooling cannot be written to ONNX.
    """
    extractor: Any = network.extractor
    # Only its shape and its type count.
    example = torch.zeros((_EXAMPLE_ROWS, *input_shape), dtype=extractor.input_dtype)
    before = LiveTensors(INPUT, (example,))
    found: dict[int, StageParts] = {}
    for number, module, rules in _stages_of(extractor, example, kept):
        # Copies, since stages may work in place.
        after = LiveTensors(rules, tuple(module(*before.copies())))
        stage = StageModule(module, before, after)
        found[number] = _with_head(network, number, stage, before, after, found)
        before = after
    return list(found.values())


def _with_head(
    network: MultiExitNetwork,
    number: int,
    stage: StageModule,
    before: LiveTensors,
    after: LiveTensors,
    stages_before: Mapping[int, StageParts],
) -> StageParts:
    """Return the parts of a stage."""
    name, head = network.stage_names[number], network.heads[number]
    output, of_output, axis = after.tensors[:1], after.rows[:1], after.rows[0].axis
    carried = [stages_before[s].features for s in head.carried]
    classifier = _other_than_layers(head)
    module: nn.Module
    if classifier is None:
        module = HeadModule(head, axis)
    else:
        module = FeaturesModule(head, classifier, axis)
    pooling = features = None
    if any(number in later.carried for later in network.heads):
        pools = PoolingModule(head, axis)
        pooling = Part(f"The pooling of stage {name!r}", pools, output, of_output)
        features = pools(*output)
    return StageParts(
        name=name,
        number=number,
        stage=Part(f"Stage {name!r}", stage, before.tensors, before.rows),
        after=after,
        head=Part(
            f"The head of stage {name!r}",
            module,
            [*(each for each in carried if each is not None), *output],
            [*(ONE_ROW_EACH for _ in carried), *of_output],
        ),
        classifier=classifier,
        carried=head.carried,
        pooling=pooling,
        features=features,
    )


def _other_than_layers(head: Head) -> ClassifierLogits | None:
    """Return the classifier of a head, if it cannot be written as layers."""
    logits = head.logits
    if isinstance(logits, ClassifierLogits) and layers_of(logits) is None:
        return logits
    return None


def _stages_of(
    extractor: TorchExtractor, example: Tensor, kept: Sequence[int]
) -> Iterator[tuple[int, fx.GraphModule, KeepRules]]:
    form = extractor.form_for(example)
    modules = cut(form.root, form.graph, [form.ends[number] for number in kept])
    rules = form.rules[example.shape[1:]]
    return zip(kept, modules, (rules[number] for number in kept), strict=True)
