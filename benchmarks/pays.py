"""Whether early exits pay, by time per stage and batch size: a table of the docs.

The networks and thresholds are those of ``deploy.py``, measured by
`sk_e2cm.inspection.report`; lines are sorted by what a stage of the plain network
takes.
"""

import argparse
import json

import torch

from sk_e2cm.inspection import report

from .deploy_subjects import MAKERS, make
from .tables import read_table, write_table

TABLE = "pays"
# The largest take half an hour.
NAMES = [name for name in MAKERS if name not in ("vit", "swin")]
BATCH_SIZES = (1, 32)
PER_STAGE = "ms per stage"


def lines_of(name: str) -> list[dict[str, str]]:
    subject = make(name)
    fitted = subject.fitted.set_params(batch_size=64)
    found = report(fitted, subject.plain, subject.X, batch_sizes=BATCH_SIZES)
    n_stages = len(found.stage_names)
    return [
        {
            "network": subject.name,
            "stages": str(n_stages),
            "predicted": str(time) if time.n_batches == 1 else "many in one call",
            PER_STAGE: f"{1000 * time.plain / n_stages:.3f}",
            "MACs": f"{found.cost:.2f}",
            "time": f"{time.ratio:.2f} ({time.low:.2f}-{time.high:.2f})",
        }
        for time in found.times
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", default=NAMES)
    torch.set_num_threads(1)
    for name in parser.parse_args().names:
        new = lines_of(name)
        print(json.dumps(new), flush=True)
        kept = [
            line for line in read_table(TABLE) if line["network"] != new[0]["network"]
        ]
        lines = sorted([*kept, *new], key=lambda line: float(line[PER_STAGE]))
        header = list(new[0])
        write_table(TABLE, [header, *([line[h] for h in header] for line in lines)])


if __name__ == "__main__":
    main()
