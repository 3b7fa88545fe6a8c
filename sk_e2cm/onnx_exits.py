"""Early exits from a folder of ONNX files: onnxruntime and NumPy, and nothing else.

``sk_e2cm.to_onnx(fitted, folder, single_file=False)`` writes such a folder, with a copy
of this file in it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

FORMAT = 1
MANIFEST = "manifest.json"

Live = Mapping[str, np.ndarray]  # between two stages, by name


class Predictions(NamedTuple):
    """Label, probabilities and exit of each sample; the exit is -1 of who goes on."""

    label: np.ndarray
    probabilities: np.ndarray
    exit: np.ndarray


class OnnxExits:
    """Runs stages one after the other, each for the samples that have not left.

    Parameters
    ----------
    folder : str or path
        As `to_onnx` has written it; FileNotFoundError or ValueError if it is not.

    stages : range, default=None
        Those to be loaded, all by default: each machine may run some of them.

    **session
        What `onnxruntime.InferenceSession` takes: `sess_options`, `providers`.
    """

    def __init__(
        self, folder: str | PathLike[str], stages: range | None = None, **session: Any
    ) -> None:
        import onnxruntime  # not needed to write a folder

        self.manifest = _manifest(Path(folder) / MANIFEST)
        self.classes_ = np.array(self.manifest["classes"])
        files = [Path(folder, stage["file"]) for stage in self.manifest["stages"]]
        self.stages = range(len(files)) if stages is None else stages
        if not set(self.stages) <= set(range(len(files))):
            raise ValueError(f"stages must be among 0 to {len(files) - 1}.")
        # So that the head of a closed exit does not run.
        self._options = onnxruntime.RunOptions()
        self._options.only_execute_path_to_fetches = True
        start = onnxruntime.InferenceSession
        self._sessions = {i: start(files[i], **session) for i in self.stages}

    def run(self, X: Any, thresholds: Any = None) -> Predictions:
        """Predict samples, by thresholds of shape (n_exits, 1) or (n_exits, n_classes).

        By default by those fitted. TypeError or ValueError if X or they do not fit.
        """
        return self.leave(self.begin(X), thresholds)[0]

    def begin(self, X: Any) -> Live:
        """Return samples as the first stage takes them."""
        X, expected = np.asarray(X), self.manifest["values"]["X"]
        dtype, shape = np.dtype(expected["dtype"]), tuple(expected["shape"][1:])
        if X.dtype.kind not in ("biu" if dtype.kind == "i" else "biuf"):
            raise TypeError(f"X must be an array of {dtype}, got {X.dtype}.")
        if X.ndim == 0 or X.shape[1:] != shape:
            raise ValueError(f"Samples must have the shape {shape}, got {X.shape[1:]}.")
        return {"X": np.ascontiguousarray(X, dtype)}

    def leave(self, live: Live, thresholds: Any = None) -> tuple[Predictions, Live]:
        """Run the stages that are loaded, on what `begin` or those before returned.

        Return what they say of all, and what later stages need of those that go on.
        """
        needed = self._thresholds(thresholds)
        rows = np.arange(max(map(self._n_samples, live, live.values()), default=0))
        label = np.zeros(len(rows), self.classes_.dtype)
        proba, n_exits = np.zeros((len(rows), len(self.classes_))), len(needed)
        found = Predictions(label, proba, np.full(len(rows), -1))
        for i in self.stages:
            if not len(rows):
                break
            is_open = i == n_exits or bool((needed[i] < np.inf).any())
            live, proba = self._advance(i, live, is_open)
            if proba is None:
                continue
            column = proba.argmax(axis=1)
            # NaN leaves.
            goes_on = proba.max(axis=1) < (needed[i][column] if i < n_exits else 0)
            left, stay = rows[~goes_on], np.flatnonzero(goes_on)
            found.label[left] = self.classes_[column[~goes_on]]
            number = self.manifest["stages"][i]["number"]
            found.probabilities[left], found.exit[left] = proba[~goes_on], number
            live = {k: self._rows(k, value, stay) for k, value in live.items()}
            rows = rows[goes_on]
        return found, live if len(rows) else {}

    def _advance(self, i: int, live: Live, is_open: bool) -> tuple[Live, Any]:
        stage = self.manifest["stages"][i]
        names = [*stage["makes"], *["probabilities"] * is_open]
        if lacking := [name for name in stage["takes"] if name not in live]:
            raise ValueError(f"Stage {i} needs {lacking}, got {[*live]}.")
        taken = {name: live[name] for name in stage["takes"]}
        values = self._sessions[i].run(names, taken, self._options)
        known = {**live, **dict(zip(names, values, strict=True))}
        live = {name: known[name] for name in stage["keeps"]}
        return live, known.get("probabilities")

    def _n_samples(self, name: str, value: np.ndarray) -> int:
        about = self.manifest["values"][name]
        return value.shape[about["axis"]] // about["per_sample"]

    def _rows(self, name: str, value: np.ndarray, rows: np.ndarray) -> np.ndarray:
        about = self.manifest["values"][name]
        entries = rows[:, None] * about["per_sample"] + np.arange(about["per_sample"])
        return value.take(entries.ravel(), about["axis"])

    def _thresholds(self, thresholds: Any) -> list[np.ndarray]:
        """Return those of each exit, one for each class."""
        if thresholds is None:
            fitted = self.manifest["thresholds"]  # with null for infinity
            thresholds = [[np.inf if t is None else t for t in row] for row in fitted]
        given = np.asarray(thresholds, np.float64)
        n, k = len(self.manifest["stages"]) - 1, len(self.classes_)
        if given.shape not in ((n,), (n, 1), (n, k)) or np.isnan(given).any():
            shapes = f"shape ({n},), ({n}, 1) or ({n}, {k}), got {given.shape}"
            raise ValueError(f"thresholds must be numbers of {shapes}.")
        return [np.broadcast_to(of_exit, k) for of_exit in given]


def _manifest(path: Path) -> dict[str, Any]:
    found = json.loads(path.read_text(encoding="utf-8"))
    if found.get("format") != FORMAT:
        raise ValueError(f"{path} has the format {found.get('format')}, not {FORMAT}.")
    flow = [{"X"}, *(set(stage["keeps"]) for stage in found["stages"])]
    takes = [set(stage["takes"]) for stage in found["stages"]]
    if flow[-1] or any(a - b for a, b in zip(takes, flow, strict=False)):
        raise ValueError(f"{path} lacks a stage.")
    return found
