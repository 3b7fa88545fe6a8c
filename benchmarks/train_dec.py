"""Train the encoders of the benchmark: ``python -m benchmarks.train_dec``.

Ten of them, five for each data set, some five minutes each on two CPU cores. They have
7 MB each and stay in ``$SK_E2CM_DATA/dec``; what is there is not trained anew.
"""

import argparse

from examples import datasets, dec

NAMES = ["mnist", "fashion_mnist"]
SEEDS = [0, 1, 2, 3, 4]
N_CLUSTERS = 10


def encoder_of(name: str, seed: int, X):
    """Return an encoder, trained now if it was not before."""
    path = datasets.home() / "dec" / f"{name}-{seed}.pt"
    return dec.load_or_train(path, X, N_CLUSTERS, seed=seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", default=NAMES)
    parser.add_argument("--seeds", nargs="*", type=int, default=SEEDS)
    args = parser.parse_args()
    for name in args.names:
        X = datasets.load(f"npz:{name}").X_train
        for seed in args.seeds:
            encoder_of(name, seed, X)


if __name__ == "__main__":
    main()
