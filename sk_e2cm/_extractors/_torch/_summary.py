"""A table of the stages, to be printed."""

from __future__ import annotations

from collections.abc import Sequence

from torch import fx, nn

from ._macs import Meter

_HEADER = ("stage", "module", "output shape", "multiply-adds", "share")


def summarize(
    meter: Meter,
    start: fx.Node,
    names: Sequence[str],
    modules: Sequence[nn.Module],
    ends: Sequence[fx.Node],
) -> str:
    """Return a line for the input and for each stage, with the cost up to there."""
    whole = meter.macs[ends[-1]] or 1.0
    rows = [_HEADER, ("input", "", str(meter.shapes[start]), "0", "0.000")]
    for name, module, end in zip(names, modules, ends, strict=True):
        macs = meter.macs[end]
        shape = meter.shapes.get(end, "no tensor")
        rows.append(
            (
                name,
                type(module).__name__,
                str(shape),
                f"{macs:,.0f}",
                f"{macs / whole:.3f}",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        f"{name:{widths[0]}}  {kind:{widths[1]}}  {shape:{widths[2]}}  "
        f"{macs:>{widths[3]}}  {share:>{widths[4]}}"
        for name, kind, shape, macs, share in rows
    )
