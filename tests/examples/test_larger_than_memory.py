"""Pictures on disk that are larger than what the process may have in memory."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("efficientnet_lite_pytorch")
pytest.importorskip("torchvision")

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.slow
def test_pictures_larger_than_memory_are_fitted_tuned_and_predicted(tmp_path):
    rng = np.random.default_rng(0)
    y = np.arange(1000) % 4
    X = (rng.normal(40 * y[:, None, None, None] + 60, 20, (1000, 3, 8, 8))).clip(0, 255)
    parts = {"X_train": X[:500], "X_test": X[500:]}
    parts = {name: part.astype(np.uint8) for name, part in parts.items()}
    np.savez(tmp_path / "shades.npz", **parts, y_train=y[:500], y_test=y[500:])
    command = [sys.executable, EXAMPLES / "larger_than_memory.py", "--limit", "2.2"]
    sizes = ["--data", "npz:shades", "--samples", "500", "--side", "448"]
    done = subprocess.run(
        [*command, *sizes, "--folder", tmp_path / "pictures"],
        env=os.environ | {"SK_E2CM_DATA": str(tmp_path), "PYTHONPATH": str(EXAMPLES)},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    pictures, memory = map(float, re.findall(r"([\d.]+) GiB of", done.stdout))
    assert pictures > memory
    used = float(re.search(r"has used ([\d.]+) GiB", done.stdout)[1])
    assert used < memory
    accuracies = [*map(float, re.findall(r"accuracy ([\d.]+)", done.stdout))]
    assert len(accuracies) == 2
    assert min(accuracies) > 0.9
