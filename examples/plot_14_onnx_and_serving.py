"""
ONNX and serving
================

A tuned estimator becomes one ONNX file that leaves early in plain onnxruntime: later
stages lie inside branches, and who has left is not computed further. Nothing of this
package runs there, and no torch.
"""

# %%
# Tune, and write
# ---------------

import json
import tempfile
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import onnxruntime
import torch
from digits_network import split_digits, trained

from sk_e2cm import E2CMClassifier, TorchExtractor, TunedExitsCV, to_onnx

torch.set_num_threads(1)
network = trained()
_, (X, y), (X_new, y_new) = split_digits()
clf = E2CMClassifier(TorchExtractor(network, exits=7))
search = TunedExitsCV(clf, max_drop=0.01, random_state=0).fit(X, y)
folder = tempfile.TemporaryDirectory()
path = Path(folder.name) / "early.onnx"
to_onnx(search, path, only_open=True)
print(f"{path.stat().st_size / 1e6:.2f} MB")

# %%
# Run it
# ------
# This is all that is needed where it is served.

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
options.log_severity_level = 3
session = onnxruntime.InferenceSession(path, options)
label, proba, exit_ = session.run(None, {"X": X_new})

same = (label == search.predict(X_new)).mean()
print(f"the same answers for {same:.1%}, {(label == y_new).mean():.3f} right")
costs = json.loads(session.get_modelmeta().custom_metadata_map["costs"])
print(f"mean cost {np.mean(np.array(costs)[exit_]):.3f}")

# %%
# What a request takes
# --------------------
# One picture for each request, in turn. ``clf.prepare(X)`` does before the first
# request what is done once; ``examples/serving.py`` is the web service, with torch or
# without.

search.prepare(X_new[:1])


@torch.inference_mode()
def plain(X):
    return network(torch.from_numpy(X))


ways = {
    "torch": plain,
    "torch, early exits": search.predict_all,
    "onnxruntime, early exits": lambda X: session.run(None, {"X": X}),
}
spent = {name: [] for name in ways}
for row in range(100):
    for name, run in ways.items():
        started = time.perf_counter()
        run(X_new[row : row + 1])
        spent[name].append(1000 * (time.perf_counter() - started))

_, axes = plt.subplots(figsize=(7, 3), layout="constrained")
axes.boxplot(list(spent.values()), orientation="horizontal", tick_labels=list(spent))
axes.set_xlabel("Milliseconds for one picture")
axes.set_xlim(0, 1.1 * np.quantile(spent["torch"], 0.9))
for name, times in spent.items():
    print(f"{name:26}{np.median(times):6.2f} ms")
