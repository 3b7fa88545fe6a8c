"""Early exits of many kinds on the same frozen networks: ``make bench-peers``.

Exits after the stem and after every block of two ResNet-20s. Each method has the
training images for its exits; thresholds of all are chosen by the search of
`TunedExitsCV` on the 5,000 images that the network was not trained on, and accuracy
and cost are those of the test images. Runs are added to docs/benchmarks/peers_runs.csv
as they come, and what is there is not run again.
"""

import argparse
from functools import partial

from . import (
    peers_branchynet,
    peers_earlyon,
    peers_efficientnet,
    peers_ours,
    peers_static,
    peers_trained,
)
from .peers_picture import draw_macs, draw_seconds
from .peers_store import ONE_SIZE, Store, keep, kept, points, write_tables
from .peers_subjects import Subject, load_subject

SEEDS = [0, 1, 2]
GROUPS = {
    "ours": peers_ours,
    "trained": peers_trained,
    "branchynet": peers_branchynet,
    "earlyon": peers_earlyon,
    "static": peers_static,
}
ANYWHERE = ["ours", "trained"]
RESNETS = ["fashion_mnist", "cifar10"]
SUBJECTS = [*RESNETS, peers_efficientnet.NAME]


def run(
    subject: Subject, group: str, todo: list[tuple[str, int]], store: Store
) -> None:
    """Run methods and seeds of a group, but for those that are stored."""
    module = GROUPS[group]
    done = store.done()
    todo = [each for each in todo if (subject.name, *each) not in done]
    if not todo:
        return
    if module is peers_static:
        for name, seed, accuracy, cost, seconds, n_bytes in module.sizes(subject, todo):
            reached = {ONE_SIZE: (accuracy, cost)}
            add(subject, name, seed, reached, seconds, n_bytes, store)
        return
    for name, seed, found in module.answers(subject, todo):
        keep((subject.name, name, seed), found)
        reached = points(found, subject, seed)
        add(subject, name, seed, reached, found.seconds, found.n_bytes, store)


def choose_again(subject: Subject, todo: list[tuple[str, int]], store: Store) -> None:
    """Choose the thresholds of runs anew whose answers are kept."""
    for name, seed in todo:
        found = kept((subject.name, name, seed))
        if found is not None:
            reached = points(found, subject, seed)
            store.forget((subject.name, name, seed))
            add(subject, name, seed, reached, found.seconds, found.n_bytes, store)


def add(
    subject: Subject,
    name: str,
    seed: int,
    reached: dict[str, tuple],
    seconds: float,
    n_bytes: int,
    store: Store,
) -> None:
    run = subject.name, name, seed
    store.add(run, reached, seconds / subject.plain_pass, n_bytes)
    accuracies = [f"{accuracy:.3f}" for accuracy, _ in reached.values()]
    print(*run, *accuracies, sep=" | ", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("subjects", nargs="*", default=SUBJECTS, metavar="|".join(SUBJECTS))
    add("--groups", nargs="+", default=list(GROUPS), choices=list(GROUPS))
    add("--methods", nargs="+", help="these only, by name")
    add("--seeds", nargs="+", type=int, default=SEEDS)
    add("--samples", type=int, help="of each part only, to try it out")
    add("--again", action="store_true", help="run what is stored, too")
    add("--choose", action="store_true", help="choose thresholds anew, run nothing")
    add("--table", action="store_true", help="write tables and pictures only")
    options = parser.parse_args()
    store = Store()
    for name in options.subjects if not options.table else ():
        is_resnet = name in RESNETS
        load = partial(load_subject, name) if is_resnet else peers_efficientnet.load
        subject = load(options.samples)
        # The others train all of a ResNet-20.
        for group in [g for g in options.groups if is_resnet or g in ANYWHERE]:
            todo = [
                (method, seed)
                for method in GROUPS[group].METHODS
                if method in (options.methods or GROUPS[group].METHODS)
                for seed in options.seeds
            ]
            for each in todo if options.again else ():
                store.forget((name, *each))
            if options.choose:
                choose_again(subject, todo, store)
            else:
                run(subject, group, todo, store)
            write_tables(store)
    write_tables(store)
    draw_macs()
    draw_seconds()


if __name__ == "__main__":
    main()
