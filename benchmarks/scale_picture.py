"""The picture of `scale.py`: time and memory against samples, classes and features."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

PICTURE = Path(__file__).parents[1] / "docs" / "_static" / "scale.png"

Lines = list[dict[str, str]]

PANELS = {
    "samples": ("samples of a stream", {"seconds": "fit"}),
    "classes": (
        "classes (20,000 samples)",
        {"fit": "fit", "tune": "TunedExitsCV", "nearest centroid": "NearestCentroid"},
    ),
    "width": ("features of a stage (10,000 samples)", {"seconds": "fit"}),
}


def points(lines: Lines, job: str, what: str) -> list[tuple[float, float]]:
    here = [line for line in lines if (line["job"], line["what"]) == (job, what)]
    return sorted((float(line["of"]), float(line["median"])) for line in here)


def draw(lines: Lines) -> None:
    figure, axes = plt.subplots(2, 3, figsize=(12, 7), layout="constrained")
    for (job, (label, times)), (time, memory) in zip(
        PANELS.items(), axes.T, strict=True
    ):
        for what, name in times.items():
            if found := points(lines, job, what):
                time.plot(*zip(*found, strict=True), "-o", ms=4, label=name)
        if found := points(lines, job, "MB"):
            memory.plot(*zip(*found, strict=True), "-o", ms=4)
        time.set(xscale="log", yscale="log", xlabel=label, ylabel="seconds")
        memory.set(xscale="log", xlabel=label, ylabel="peak memory, MB", ylim=(0, None))
        if len(time.lines) > 1:
            time.legend(fontsize="small")
    figure.savefig(PICTURE, dpi=120)
