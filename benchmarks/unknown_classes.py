"""Unknown classes: Fashion-MNIST against MNIST, by probability and by distance.

The ResNet-20 has learned Fashion-MNIST. AUROC: how often a picture of MNIST scores
higher than one of Fashion-MNIST's test images; .5 is a guess.
"""

import numpy as np
from sklearn.metrics import roc_auc_score

from examples import datasets
from examples.distances import NearestMeans
from sk_e2cm import E2CMClassifier, TorchExtractor

from .resnet20 import BLOCKS, load_trained
from .tables import write_table
from .train_resnet20 import split

N_FIT, N_NEW = 5000, 5000


def main() -> None:
    known, unknown = (datasets.load(f"npz:{n}") for n in ("fashion_mnist", "mnist"))
    _, withheld = split(len(known.X_train))
    X, y = known.X_train[withheld][:N_FIT], known.y_train[withheld][:N_FIT]
    extractor = TorchExtractor(load_trained("fashion_mnist"), ["stem", *BLOCKS])
    clf = E2CMClassifier(extractor).fit(X, y)
    near = NearestMeans(extractor).fit(X, y)
    both = known.X_test[:N_NEW], unknown.X_test[:N_NEW]
    is_unknown = np.repeat([0, 1], N_NEW)
    unsure = np.concatenate([1 - clf.exit_proba(Z).max(axis=2) for Z in both])
    far = np.concatenate([near.distances(Z) for Z in both])
    lines = [["stage", "1 - largest probability", "distance to the nearest mean"]]
    for j, name in enumerate(extractor.stage_names):
        lines.append([name, *(area(is_unknown, s[:, j]) for s in (unsure, far))])
    lines += [
        ["largest of all stages", *(area(is_unknown, s.max(1)) for s in (unsure, far))],
        ["least of all stages", *(area(is_unknown, s.min(1)) for s in (unsure, far))],
        ["mean of all stages", *(area(is_unknown, s.mean(1)) for s in (unsure, far))],
    ]
    for line in lines:
        print("  ".join(f"{cell:24}" for cell in line))
    write_table("unknown_classes", lines)


def area(is_unknown: np.ndarray, score: np.ndarray) -> str:
    return f"{roc_auc_score(is_unknown, score):.3f}"


if __name__ == "__main__":
    main()
