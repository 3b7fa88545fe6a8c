"""What the README and the quick start show runs, and what they point at exists."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

ROOT = Path(__file__).parents[1]
FENCED = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
DIRECTIVE = re.compile(
    r"^\.\. code-block:: python\n((?:   :.*\n)*)\n((?:(?:   .*)?\n)+)", re.MULTILINE
)
NOT_RUN = ":class: not-run"


@pytest.fixture
def yours():
    """What the texts call yours: a network, and samples it was not trained on."""
    digits = load_digits()
    images = (digits.images[:, None] / 16).astype(np.float32)
    torch.manual_seed(0)
    network = torch.nn.Sequential()
    for i, n_in in enumerate((1, 8, 8, 8, 8), start=1):
        layer = torch.nn.Sequential(
            torch.nn.Conv2d(n_in, 8, 3, padding=1), torch.nn.ReLU()
        )
        network.add_module(f"layer{i}", layer)
    network.add_module("flatten", torch.nn.Flatten())
    network.add_module("head", torch.nn.Linear(8 * 64, 10))
    return {
        "network": network,
        "images": images,
        "labels": digits.target,
        "X": images[:900],
        "y": digits.target[:900],
        "X_new": images[900:],
        "y_new": digits.target[900:],
    }


def blocks_of(path: Path) -> list[str]:
    text = path.read_text()
    if path.suffix == ".md":
        return FENCED.findall(text)
    return [
        re.sub(r"^   ", "", code, flags=re.MULTILINE)
        for options, code in DIRECTIVE.findall(text)
        if NOT_RUN not in options
    ]


@pytest.mark.filterwarnings("ignore:The thresholds chosen close")
@pytest.mark.filterwarnings("ignore:By the clock")
@pytest.mark.parametrize(
    ("name", "n_blocks"), [("README.md", 2), ("docs/quick_start.rst", 4)]
)
def test_the_blocks_of_code_run_one_after_the_other(name, n_blocks, yours):
    blocks = blocks_of(ROOT / name)
    assert len(blocks) >= n_blocks
    for block in blocks:
        exec(compile(block, name, "exec"), yours)
    assert yours["search"].predict(yours["X_new"]).shape == yours["y_new"].shape


def test_the_files_that_the_readme_links_exist():
    links = re.findall(r"\]\(([^)#]+)", (ROOT / "README.md").read_text())
    here = [link for link in links if "://" not in link]
    assert here
    assert [link for link in here if not (ROOT / link).exists()] == []


def test_the_version_that_is_cited_is_that_of_the_package():
    from sk_e2cm import __version__

    assert f"version: {__version__}\n" in (ROOT / "CITATION.cff").read_text()
