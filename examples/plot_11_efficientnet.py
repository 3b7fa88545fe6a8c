"""
EfficientNet-Lite0 on other data
================================

A network with its ImageNet weights, frozen, on a task that it has not been trained for:
from which photograph is a patch? Patches of the left halves choose class means and
thresholds, those of the right halves are new.
"""

# %%
# The data: patches of photographs that packages bring
# ----------------------------------------------------

import matplotlib.pyplot as plt
import numpy as np
from imagenet import open_picture
from networks import lite0

from sk_e2cm import E2CMClassifier, TorchExtractor, TunedExitsCV
from sk_e2cm.inspection import ExitDisplay

PICTURES = [
    "sklearn/datasets/images/china.jpg",
    "sklearn/datasets/images/flower.jpg",
    "skimage/data/astronaut.png",
    "skimage/data/chelsea.png",
    "skimage/data/coffee.png",
    "skimage/data/hubble_deep_field.jpg",
    "skimage/data/ihc.png",
    "skimage/data/motorcycle_left.png",
    "skimage/data/rocket.jpg",
]
SIDE, rng = 64, np.random.default_rng(0)


def patches(picture, half, n):
    pixels = np.asarray(picture.resize((480, 320)))[:, 240 * half : 240 * (half + 1)]
    corners = rng.integers(0, (320 - SIDE, 240 - SIDE), size=(n, 2))
    cut = [pixels[top : top + SIDE, left : left + SIDE] for top, left in corners]
    return np.stack(cut).transpose(0, 3, 1, 2)


names = [path.rpartition("/")[2].partition(".")[0] for path in PICTURES]
pictures = [open_picture(path) for path in PICTURES]
X, X_new = (
    np.concatenate([patches(picture, half, n) for picture in pictures])
    for half, n in ((0, 80), (1, 40))
)
y, y_new = np.repeat(names, 80), np.repeat(names, 40)

# %%
# Early exits at six places; class means answer at the end, too
# -------------------------------------------------------------
# Patches of one photograph are alike, and so are those of the fit: what thresholds lose
# on patches of the other halves is more than a point.

network = lite0(side=96)
extractor = TorchExtractor(
    network, 6, output="network._avg_pooling", input_shape=X.shape[1:]
)
search = TunedExitsCV(E2CMClassifier(extractor), max_drop=0.01, random_state=0).fit(
    X, y
)
full = search.estimator_.exit_proba(X_new)[:, -1].argmax(axis=1)
print(f"full network  {(search.classes_[full] == y_new).mean():.3f}")
print(f"early exits   {search.score(X_new, y_new):.3f}")
print(f"cost          {search.cost(X_new):.3f}")

# %%
# Which photographs are easy
# --------------------------

_, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
ExitDisplay.from_estimator(search, X_new, y_new, ax=left)
ExitDisplay.from_estimator(search, X_new, y_new, by="class", ax=right)

# %%
# The first patches of each that left at the first open exit, and at the last stage:

stage = search.predict_exit(X_new)
_, axes = plt.subplots(2, 9, figsize=(9, 2.4), layout="constrained")
for line, j in zip(axes, (stage.min(), stage.max()), strict=True):
    for ax, name in zip(line, names, strict=True):
        rows = np.flatnonzero((stage == j) & (y_new == name))
        ax.set(xticks=[], yticks=[])
        if len(rows):
            ax.imshow(X_new[rows[0]].transpose(1, 2, 0))
        else:
            ax.set_frame_on(False)
    line[0].set_ylabel(f"stage {j}")
