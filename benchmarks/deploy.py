"""Early exits in onnxruntime against torch: ``make bench-deploy``.

All run in one process on one thread, in turn. *Efficiency* is the ideal time over the
measured one. The ideal is the time of the plain network in onnxruntime, of which each
stage has the share that it takes there in full batches, times the share of the samples
that reach it: exits that cost nothing, and survivors that are computed as quickly as
in full batches.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from sk_e2cm import to_onnx
from sk_e2cm.metrics import first_exit
from sk_e2cm.onnx_exits import OnnxExits

from .deploy_subjects import MAKERS, Deployed, make
from .tables import read_table, spread, write_table

BATCH_SIZES = [1, 32]
CHECKED_SIZES = [0, 1, 7, 64]
# Confidences this near to a threshold may fall on either side of it.
NEAR = 1e-5
N_ROUNDS = 7
# A run takes about so many seconds, but so many batches at least.
ROUND, FEWEST_BATCHES = 0.5, 2

PLAIN, EARLY = "torch", "torch, early exits"
PLAIN_ONNX, FILE, FOLDER = "onnxruntime", "one file", "per stage"


def options() -> onnxruntime.SessionOptions:
    found = onnxruntime.SessionOptions()
    found.intra_op_num_threads = 1
    # It warns that thresholds may be given.
    found.log_severity_level = 3
    return found


class Exported:
    """A subject in every form that is timed.

    Parameters
    ----------
    subject : Deployed
        The subject.

    folder : Path
        For the files.
    """

    def __init__(self, subject: Deployed, folder: Path) -> None:
        self.subject = subject
        self.file, self.folder = folder / "early.onnx", folder / "stages"
        write = partial(to_onnx, subject.fitted, only_open=subject.only_open)
        self.seconds = {
            FILE: seconds(lambda: write(self.file)),
            FOLDER: seconds(lambda: write(self.folder, single_file=False)),
        }
        plain = folder / "plain.onnx"
        export_plain(subject, plain)
        start = onnxruntime.InferenceSession
        self.plain, self.early = start(plain, options()), start(self.file, options())
        self.exits = OnnxExits(self.folder, sess_options=options())
        self.stages = [
            start(self.folder / stage["file"], options())
            for stage in self.exits.manifest["stages"]
        ]

    @property
    def runs(self) -> dict[str, Callable[[np.ndarray], Any]]:
        plain, fitted = self.subject.plain, self.subject.fitted
        return {
            PLAIN: lambda X: plain(torch.from_numpy(X)),
            EARLY: fitted.predict,
            PLAIN_ONNX: lambda X: self.plain.run(None, {"X": X}),
            FILE: lambda X: self.early.run(None, {"X": X}),
            FOLDER: self.exits.run,
        }

    def stage_seconds(self, batches: list[np.ndarray]) -> np.ndarray:
        """Return what each stage takes by itself in onnxruntime, without its exit."""
        no_exits = onnxruntime.RunOptions()
        no_exits.only_execute_path_to_fetches = True
        flow = self.exits.manifest["stages"]
        spent = np.zeros(len(flow))
        for X in batches:
            live = {"X": X}
            for i, (session, stage) in enumerate(zip(self.stages, flow, strict=True)):
                names = stage["makes"] or ["probabilities"]
                taken = {name: live[name] for name in stage["takes"]}
                started = time.perf_counter()
                made = session.run(names, taken, no_exits)
                spent[i] += time.perf_counter() - started
                live |= dict(zip(names, made, strict=True))
        return spent


def export_plain(subject: Deployed, path: Path) -> None:
    """Write the network as anybody would without this package."""
    X = torch.from_numpy(subject.X[:3])
    torch.onnx.export(
        subject.plain,
        (X,),
        path,
        dynamo=True,
        input_names=["X"],
        dynamic_shapes=({0: torch.export.Dim("n")},),
        verbose=False,
    )


def seconds(run: Callable[[], Any]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def time_all(exported: Exported, size: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return seconds for a sample of every contestant in every round, and who leaves.

    The exits are of the samples of a round, the same ones in each.
    """
    X = exported.subject.X
    exported.runs[PLAIN_ONNX](X[:size])
    one = seconds(lambda: exported.runs[PLAIN_ONNX](X[:size]))
    n = max(int(ROUND / one), FEWEST_BATCHES)
    n = min(n, max(len(X) // size, 1))
    batches = [X[i * size : (i + 1) * size] for i in range(n)]

    def through(run: Callable[[np.ndarray], Any]) -> Callable[[], None]:
        return lambda: [run(batch) for batch in batches] and None

    spent: dict[str, list[Any]] = {name: [] for name in [*exported.runs, "stages"]}
    for _ in range(N_ROUNDS + 1):
        for name, run in exported.runs.items():
            spent[name].append(seconds(through(run)))
        spent["stages"].append(exported.stage_seconds(batches))
    # The first round warms up.
    of_each = {k: np.array(v[1:]) / (n * size) for k, v in spent.items()}
    return of_each, exported.subject.fitted.predict_exit(X[: n * size])


def timed(exported: Exported, size: int) -> dict[str, str]:
    """Return a line of the table of times."""
    spent, stage = time_all(exported, size)
    stages = spent["stages"] / spent["stages"].sum(axis=1, keepdims=True)
    last = [each["number"] for each in exported.exits.manifest["stages"]]
    # Whoever has left at one of the stages before does not reach it.
    reach = np.array([(stage > before).mean() for before in [-1, *last[:-1]]])
    ideal = (stages * reach).sum(axis=1) * spent[PLAIN_ONNX]
    fitted = exported.subject.fitted
    line = {
        "network": exported.subject.name,
        "at once": str(size),
        "MACs": f"{fitted.stage_cost_[stage].mean():.2f}",
    }
    line |= {f"{name}, ms": median(1000 * spent[name]) for name in exported.runs}
    line["ideal, ms"] = median(1000 * ideal)
    for name in (FILE, FOLDER):
        line[f"efficiency, {name}"] = spread(ideal / spent[name])
    line["one file / torch"] = spread(spent[FILE] / spent[PLAIN])
    line["one file / onnxruntime"] = spread(spent[FILE] / spent[PLAIN_ONNX])
    return line


def checked(exported: Exported) -> dict[str, str]:
    """Return a line of the table of checks: what is exported against the estimator."""
    subject = exported.subject
    forms = {name: exported.runs[name] for name in (FILE, FOLDER)}
    if (openvino := in_openvino(exported.file)) is not None:
        forms["OpenVINO"] = openvino
    line = {"network": subject.name, "exits": str(len(exported.stages) - 1)}
    far, stage, proba = expected(subject)
    for name, run in forms.items():
        n_other, largest = 0, 0.0
        for size in CHECKED_SIZES:
            _, found, exit_ = run(subject.X[:size])
            rows = np.flatnonzero(far[:size])
            n_other += int((exit_[rows] != stage[rows]).sum())
            apart = np.abs(found[rows] - proba[rows]).max(initial=0.0)
            largest = max(largest, float(apart))
        line[f"{name}: other exits"] = str(n_other)
        line[f"{name}: probabilities apart"] = f"{largest:.0e}"
    of_folder = sum(path.stat().st_size for path in exported.folder.iterdir())
    line["one file, MB"] = f"{exported.file.stat().st_size / 1e6:.2f}"
    line["folder, MB"] = f"{of_folder / 1e6:.2f}"
    line["one file, s"] = f"{exported.seconds[FILE]:.0f}"
    line["folder, s"] = f"{exported.seconds[FOLDER]:.0f}"
    return line


def expected(subject: Deployed) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return who is far from all thresholds, and the stage and probabilities of all."""
    fitted = subject.fitted
    X = subject.X[: max(CHECKED_SIZES)]
    everything = fitted.exit_proba(X)
    thresholds = fitted.network_.thresholds(fitted.threshold)[:, 0]
    confidence = everything.max(axis=2)[:, :-1]
    stage = first_exit(everything, fitted.threshold)
    far = (np.abs(confidence - thresholds) > NEAR).all(axis=1)
    return far, stage, everything[np.arange(len(X)), stage]


def in_openvino(path: Path) -> Callable[[np.ndarray], Any] | None:
    """Return what the file answers in OpenVINO; None if that is not installed."""
    try:
        import openvino
    except ImportError:
        print("OpenVINO is not installed.")
        return None
    core = openvino.Core()
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    model = core.compile_model(core.read_model(path), "CPU", exact)
    return lambda X: model([X]).to_tuple()


def median(values: np.ndarray) -> str:
    return f"{np.median(values):.3g}"


def add(table: str, line: dict[str, str], key: list[str]) -> None:
    """Put a line into a table, in place of an older one."""
    others = [
        each for each in read_table(table) if any(each[k] != line[k] for k in key)
    ]
    lines = [*others, line]
    header = list(line)
    write_table(table, [header, *([each.get(h, "") for h in header] for each in lines)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "names", nargs="*", default=list(MAKERS), metavar="|".join(MAKERS)
    )
    parser.add_argument("--checks", action="store_true", help="without times")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    names = "torch", "onnx", "onnxscript", "onnxruntime", "numpy"
    print(json.dumps({name: version(name) for name in names}))
    for name in arguments.names:
        subject = make(name)
        with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
            exported = Exported(subject, Path(folder))
            line = checked(exported)
            print(json.dumps(line), flush=True)
            add("deploy_checks", line, ["network"])
            for size in [] if arguments.checks else BATCH_SIZES:
                line = timed(exported, size)
                print(json.dumps(line), flush=True)
                add("deploy", line, ["network", "at once"])


if __name__ == "__main__":
    main()
