"""Install wheels and sdists into empty environments and try them: ``make package``."""

import subprocess
import sys
import tempfile
import venv
from pathlib import Path

TRY = """
import sys
from pathlib import Path

import numpy as np
import torch

import sk_e2cm
from sk_e2cm import E2CMClassifier, TorchExtractor, TunedExitsCV

assert Path(sk_e2cm.__file__).is_relative_to(sys.prefix), sk_e2cm.__file__
assert (Path(sk_e2cm.__file__).parent / "py.typed").exists()
rng = np.random.default_rng(0)
y = np.arange(300) % 3
X = (rng.normal(size=(300, 8)) + 3 * y[:, None]).astype(np.float32)
network = torch.nn.Sequential(
    torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3)
)
clf = E2CMClassifier(TorchExtractor(network, ["1"]), final="class_means")
search = TunedExitsCV(clf, max_drop=0.01, random_state=0).fit(X, y)
assert search.score(X, y) > 0.9
print(sk_e2cm.__version__, "works")
"""

# With the extras of these features, and without what runs the files.
TRY_EXTRAS = """
from sk_e2cm import load, save, to_onnx

save(search, "search.safetensors")
assert (load("search.safetensors", network).predict(X) == search.predict(X)).all()
to_onnx(search, "early.onnx")
to_onnx(search, "stages", single_file=False)
print("save and to_onnx work")
"""


def main(paths: list[str]) -> None:
    """Try each of these files."""
    for path in map(Path, paths):
        with tempfile.TemporaryDirectory() as folder:
            venv.create(folder, with_pip=True)
            python = Path(folder) / "bin" / "python"
            for extras, code in (("", TRY), ("[onnx,saving]", TRY + TRY_EXTRAS)):
                package = f"{path.resolve()}{extras}"
                install = [python, "-m", "pip", "install", "--quiet", package]
                subprocess.run(install, check=True)
                # Not from here, where the clone itself would be imported.
                subprocess.run([python, "-c", code], check=True, cwd=folder)
            print(f"{path.name}: installed into an empty environment.")


if __name__ == "__main__":
    main(sys.argv[1:])
