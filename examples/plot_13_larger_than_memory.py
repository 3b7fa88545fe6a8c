"""
Larger than memory
==================

Samples may come batch by batch, from a loader or from an array on a disk. What is kept
of them is sums, and the features of as many as scikit-learn's ``working_memory``
allows.
"""

# %%
# An array on a disk
# ------------------
# Digits with noise, 4,000 of them, written piece by piece. Imagine that they do not
# fit into memory; ``make demo-pictures`` does it with pictures that do not.

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from digits_network import split_digits, trained
from sklearn import config_context
from torch.utils.data import DataLoader, Dataset

from sk_e2cm import E2CMClassifier, TorchExtractor, TunedExitsCV
from sk_e2cm.inspection import TradeoffDisplay

(_, (X, y), (X_new, y_new)), rng = split_digits(), np.random.default_rng(0)
folder = tempfile.TemporaryDirectory()
path, n = Path(folder.name) / "images.npy", 4_000
on_disk = np.lib.format.open_memmap(path, "w+", np.float32, (n, 1, 8, 8))
labels = np.empty(n, dtype=np.int64)
for start in range(0, n, 2000):
    rows = rng.integers(0, len(X), 2000)
    noise = rng.normal(scale=0.1, size=(2000, 1, 8, 8))
    on_disk[start : start + 2000] = X[rows] + noise
    labels[start : start + 2000] = y[rows]
on_disk.flush()
print(f"{path.stat().st_size / 1e6:.1f} MB on the disk")

# %%
# A dataset and a loader
# ----------------------
# Everything that takes an array takes these: ``fit``, tuning, scores and predictions.


class Images(Dataset):
    def __init__(self, path, labels):
        self.X, self.y = np.load(path, mmap_mode="r"), labels

    def __len__(self):
        return len(self.y)

    def __getitem__(self, i):
        return torch.from_numpy(np.array(self.X[i])), self.y[i]


loader = DataLoader(Images(path, labels), batch_size=256)
exits = ["stem", *(f"blocks.{i}" for i in range(4))]
extractor = TorchExtractor(trained(), exits)

with config_context(working_memory=16):  # MiB, for features of a uniform subset
    clf = E2CMClassifier(extractor, pooling=1, final="network").fit(loader)
print(f"accuracy {clf.score(X_new, y_new):.3f} at cost {clf.cost(X_new):.3f}")

# %%
# Part by part
# ------------
# What two machines have seen may be merged: the exits are those of one fit to all, to
# rounding.

here, there = (
    E2CMClassifier(extractor, pooling=1, final="network"),
    E2CMClassifier(extractor, pooling=1, final="network"),
)
half = n // 2
here.partial_fit(on_disk[:half], labels[:half], classes=range(10))
there.partial_fit(on_disk[half:], labels[half:], classes=range(10))
merged = here.merge(there)
whole = E2CMClassifier(extractor, pooling=1, final="network").fit(on_disk, labels)
apart = np.abs(merged.exit_proba(X_new) - whole.exit_proba(X_new)).max()
print(f"probabilities differ by {apart:.0e} at most")

# %%
# Tuned, and drawn
# ----------------

search = TunedExitsCV(whole, max_drop=0.01, cv="prefit", random_state=0)
search.fit(DataLoader(Images(path, labels), batch_size=256))
TradeoffDisplay.from_estimator(search, X_new, y_new, name="fitted to a loader")
plt.gca().set_xlim(0, 1)
