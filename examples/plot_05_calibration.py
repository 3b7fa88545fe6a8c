"""
Confidence before and after calibration
=======================================

A threshold of .9 should mean that nine answers of ten are right. Without calibration it
does not.
"""

# %%

import matplotlib.pyplot as plt
import numpy as np
from digits_network import split_digits, trained

from sk_e2cm import E2CMClassifier, TorchExtractor
from sk_e2cm.metrics import calibration_error

_, (X, y), (X_new, y_new) = split_digits()
extractor = TorchExtractor(trained(), ["stem", *(f"blocks.{i}" for i in range(6))])
settings = {
    "Euclidean, none": {"metric": "euclidean", "calibration": None},
    "Euclidean, temperature": {"metric": "euclidean"},
    "whitened, none": {"calibration": None},
    "whitened, temperature (default)": {},
}
proba = {
    name: E2CMClassifier(extractor, pooling=1, **params).fit(X, y).exit_proba(X_new)
    for name, params in settings.items()
}

# %%
# The calibration error of each exit: by how much confidence and accuracy differ, in the
# mean.

for name, p in proba.items():
    errors = [calibration_error(y_new, p[:, j], classes=range(10)) for j in range(7)]
    print(f"{name:32}", " ".join(f"{error:.3f}" for error in errors))

# %%
# Confidence against accuracy at the first exit
# ---------------------------------------------
# Each point is a tenth of the new images, sorted by confidence. On the dotted line both
# agree.

figure, axes = plt.subplots(figsize=(5.5, 5), layout="constrained")
for (name, p), marker in zip(proba.items(), "v^so", strict=True):
    confidence = p[:, 0].max(axis=1)
    right = p[:, 0].argmax(axis=1) == y_new
    tenths = np.array_split(confidence.argsort(), 10)
    points = [(confidence[rows].mean(), right[rows].mean()) for rows in tenths]
    axes.plot(*np.transpose(points), marker + "-", label=name)
axes.axline((0, 0), (1, 1), color="k", linestyle=":")
axes.set(xlabel="Mean confidence", ylabel="Share that is right", title="First exit")
axes.legend()
