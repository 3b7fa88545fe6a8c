"""
Cheap features first, on a table
================================

Early exits without a network: three fitted scikit-learn transformers, of which the last
costs a hundred times as much as the others. Rows that the cheap features are sure of
never reach it.
"""

# %%
# Transformers as stages
# ----------------------

import time

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.kernel_approximation import Nystroem
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sk_e2cm import E2CMClassifier, PipelineExtractor, TunedExitsCV

X, y = load_digits(return_X_y=True)
X, X_new, y, y_new = train_test_split(X, y, test_size=0.4, random_state=0)
pipeline = make_pipeline(
    StandardScaler(),
    LinearDiscriminantAnalysis(n_components=9),
    Nystroem(gamma=0.05, n_components=400, random_state=0),
).fit(X, y)

# %%
# What each of them costs: nanoseconds for a row, measured.


def nanoseconds(transformer, X):
    times = []
    for _ in range(20):
        started = time.perf_counter_ns()
        transformer.transform(X)
        times.append(time.perf_counter_ns() - started)
    return np.median(times) / len(X)


costs, Z = [], X
for _, step in pipeline.steps:
    costs.append(nanoseconds(step, Z))
    Z = step.transform(Z)
for (name, _), cost in zip(pipeline.steps, costs, strict=True):
    print(f"{name:28}{cost:8.0f} ns")

# %%
# Fit and tune
# ------------
# At the end a logistic regression on the expensive features answers.

extractor = PipelineExtractor(pipeline, costs=costs)
clf = E2CMClassifier(extractor, final=LogisticRegression(C=10, max_iter=1000))
search = TunedExitsCV(clf, max_drop=0.001, random_state=0).fit(X, y)
full = search.exit_proba(X_new)[:, -1].argmax(axis=1)
print(f"full accuracy   {(full == y_new).mean():.3f}")
print(f"early accuracy  {search.score(X_new, y_new):.3f}")
print(f"cost            {search.cost(X_new):.3f}")

# %%
# Who leaves where
# ----------------

from sk_e2cm.inspection import ExitDisplay, TradeoffDisplay

_, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
TradeoffDisplay.from_estimator(search, X_new, y_new, name="cheap first", ax=left)
ExitDisplay.from_estimator(search, X_new, y_new, ax=right)
