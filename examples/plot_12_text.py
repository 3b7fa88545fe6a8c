"""
Text with padding: pooled by a mask
===================================

A frozen language model on headlines and paragraphs of news, in five topics. Texts are
padded to one length. Averages over all positions are averages over padding, too; a mean
over the real tokens makes better exits.
"""

# %%
# The model and the texts
# -----------------------
# MiniLM (6 layers) and news of the BBC, both from packages. ``Encoder`` writes the
# model as ``torch.fx`` can follow it, with a masked mean after every layer
# (``examples/encoders.py``).

import matplotlib.pyplot as plt
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupShuffleSplit
from text import minilm, news

from sk_e2cm import E2CMClassifier, TorchExtractor, TunedExitsCV
from sk_e2cm.inspection import TradeoffDisplay

network, tokenize = minilm(length=48)
texts, y, article = news(n_articles=300)
X = tokenize(texts)
print(f"{len(X)} texts, {(network.padding == X).mean():.0%} of the tokens padding")
print(texts[0][:70], "...", y[0])

# %%
# No article is on both sides of the split.

fit, new = next(
    GroupShuffleSplit(1, test_size=0.4, random_state=0).split(X, y, article)
)

# %%
# Two places to leave
# -------------------
# After a layer, where the default averages all positions; or after the masked mean of
# that layer. A logistic regression answers at the last layer.

exits = {"means over all positions": "layers.{}.output", "masked means": "means.{}"}
searches = {}
for name, module in exits.items():
    extractor = TorchExtractor(network, [module.format(i) for i in range(5)])
    clf = E2CMClassifier(extractor, final=LogisticRegression(max_iter=1000))
    searches[name] = TunedExitsCV(clf, max_drop=0.01, random_state=0).fit(
        X[fit], y[fit]
    )

# %%
# Accuracy against cost on new articles
# -------------------------------------

_, axes = plt.subplots(figsize=(6.5, 4.5), layout="constrained")
for name, search in searches.items():
    TradeoffDisplay.from_estimator(search, X[new], y[new], name=name, ax=axes)
    left = np.bincount(search.predict_exit(X[new]), minlength=6) / len(new)
    print(f"{name:26} leaves after layer", left.round(2))
