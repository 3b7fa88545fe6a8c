"""Code that was changed is told from what it was, wherever the change is."""

import os
import pickle
import subprocess
import sys
import textwrap
import types
from pathlib import Path

import pytest

from sk_e2cm._utils._code import installed_name, is_installed
from sk_e2cm._utils._hashing import content_hash

ROOT = Path(__file__).parents[2]

# Each has a number that is changed. What is hashed is called `thing`.
SOURCES = {
    "helper": """
        def half(x): return x * NUMBER
        def thing(x): return half(x)
        """,
    "helper of a helper": """
        def quarter(x): return x * NUMBER
        def half(x): return quarter(x)
        def thing(x): return half(x)
        """,
    "helpers in a circle": """
        def odd(x): return even(x - NUMBER)
        def even(x): return odd(x - 1) if x else x
        thing = even
        """,
    "global": """
        SCALE = NUMBER
        def thing(x): return x * SCALE
        """,
    "global of an inner function": """
        SCALE = NUMBER
        def thing(x): return [(lambda z: z * SCALE)(y) for y in x]
        """,
    "constant": "def thing(x): return x * NUMBER",
    "default": "def thing(x, scale=NUMBER): return x * scale",
    "keyword default": "def thing(x, *, scale=NUMBER): return x * scale",
    "closure": """
        def scaled(scale): return lambda x: x * scale
        thing = scaled(NUMBER)
        """,
    "decorator's argument": """
        import functools
        def scaled(scale):
            def decorate(function):
                @functools.wraps(function)
                def call(x): return scale * function(x)
                return call
            return decorate
        @scaled(NUMBER)
        def thing(x): return x
        """,
    "decorated by an installed package": """
        import torch
        @torch.no_grad()
        def thing(x): return x * NUMBER
        """,
    "cached": """
        import functools
        @functools.cache
        def thing(x): return x * NUMBER
        """,
    "wrapped for torch.fx": """
        import torch
        @torch.fx.wrap
        def half(x): return x * NUMBER
        def thing(x): return half(x)
        """,
    "scripted": """
        import torch
        def build(scale):
            tree = torch.jit.CompilationUnit(
                f"def half(x):\\n    return x * {scale}\\n")
            return tree.half
        half = build(NUMBER)
        def thing(x): return half(x)
        """,
    "method": """
        class thing:
            def forward(self, x): return x * NUMBER
        """,
    "method of a base": """
        class Base:
            def forward(self, x): return x * NUMBER
        class Between(Base): pass
        class thing(Between): pass
        """,
    "base of an installed class": """
        import torch
        class Base(torch.nn.Linear):
            def forward(self, x): return super().forward(x) * NUMBER
        class thing(Base): pass
        """,
    "metaclass": """
        class Meta(type):
            def __call__(cls, x): return x * NUMBER
        class thing(metaclass=Meta): pass
        """,
    "abstract base": """
        from abc import ABC, abstractmethod
        class Base(ABC):
            @abstractmethod
            def forward(self, x): ...
            def twice(self, x): return x * NUMBER
        class thing(Base):
            def forward(self, x): return x
        """,
    "class attribute": "class thing: scale = NUMBER",
    "property": """
        class thing:
            @property
            def scale(self): return NUMBER
        """,
    "cached property": """
        import functools
        class thing:
            @functools.cached_property
            def scale(self): return NUMBER
        """,
    "static method": """
        class thing:
            @staticmethod
            def forward(x): return x * NUMBER
        """,
    "class method": """
        class thing:
            @classmethod
            def forward(cls, x): return x * NUMBER
        """,
    "slots": """
        class thing:
            __slots__ = ("a", "b")
            def forward(self, x): return x * NUMBER
        """,
    "dataclass": """
        from dataclasses import dataclass, field
        @dataclass(frozen=True)
        class thing:
            scale: float = NUMBER
            others: list = field(default_factory=list)
        """,
    "enum": """
        from enum import Enum
        class thing(Enum):
            SCALE = NUMBER
            OTHER = 0
        """,
    "inner class": """
        class thing:
            class Inner:
                def forward(self, x): return x * NUMBER
        """,
    "class that is used": """
        class Half:
            def __call__(self, x): return x * NUMBER
        def thing(x): return Half()(x)
        """,
    "class of a member": """
        class Half:
            def __call__(self, x): return x * NUMBER
        class Outer: pass
        thing = Outer()
        thing.half = Half()
        """,
    "class in a list": """
        class Half:
            def __call__(self, x): return x * NUMBER
        thing = [{"a": (Half,)}]
        """,
    "partial": """
        from functools import partial
        def half(x, y): return x * NUMBER
        thing = partial(half, y=1)
        """,
    "lambda": "thing = lambda x: x * NUMBER",
    "bound method": """
        class Half:
            def forward(self, x): return x * NUMBER
        thing = Half().forward
        """,
    "what a bound method is bound to": """
        class Half:
            def __init__(self, scale): self.scale = scale
            def forward(self, x): return x * self.scale
        thing = Half(NUMBER).forward
        """,
    "method given to an object": """
        import types
        class Outer: pass
        thing = Outer()
        thing.forward = types.MethodType(lambda self, x: x * NUMBER, thing)
        """,
    "method that a loop defines": """
        class thing: pass
        for name in ("a", "b"):
            setattr(thing, name, lambda self, x: x * NUMBER)
        """,
    "subclass of tensors": """
        import torch
        class Scaled(torch.Tensor):
            def half(self): return self * NUMBER
        thing = torch.ones(3).as_subclass(Scaled)
        """,
    "extractor": """
        from sk_e2cm.testing import ToyExtractor
        def scaled(x): return x * NUMBER
        class Extractor(ToyExtractor):
            def begin(self, X): return scaled(super().begin(X))
        thing = Extractor()
        """,
    "transformer": """
        from sklearn.base import BaseEstimator, TransformerMixin
        class Half(TransformerMixin, BaseEstimator):
            def fit(self, X, y=None): return self
            def transform(self, X): return X * NUMBER
        thing = Half().fit(None)
        """,
    "table of classes": """
        class A:
            def __call__(self, x): return x * NUMBER
        class B(A): pass
        TABLE = {A: B, B: A, None: {A, B}, ("a", 1): frozenset({"a", 1, None})}
        def thing(x): return TABLE[A]
        """,
    "class that knows itself": """
        class thing:
            known = []
            def forward(self, x): return thing, self.known, __class__, NUMBER
        thing.known.append(thing)
        """,
}


def defined(source, number=0.5, **scope):
    """Run `source` in a module that cannot be imported, as a notebook's cells are."""
    module = types.ModuleType("__main__")
    vars(module).update(scope)
    exec(textwrap.dedent(source).replace("NUMBER", str(number)), vars(module))
    return module.thing


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_a_change_is_noticed_and_the_same_code_is_the_same(source):
    before = content_hash(defined(source))
    assert content_hash(defined(source)) == before
    assert content_hash(defined(source, 0.25)) != before


CHILD = """
import pickle, sys
from sk_e2cm._utils._hashing import content_hash
from tests._utils.test_code import SOURCES, defined
sent = pickle.load(sys.stdin.buffer)
sys.stdout.buffer.write(pickle.dumps((
    {name: content_hash(defined(source)) for name, source in SOURCES.items()},
    {name: content_hash(pickle.loads(data)) for name, data in sent.items()},
)))
"""

# What cloudpickle does not send whole, or at all.
NOT_SENT = {"cached", "cached property", "scripted", "subclass of tensors"}


def test_it_is_the_same_in_every_process_defined_there_or_sent():
    cloudpickle = pytest.importorskip("cloudpickle")
    here, sent = {}, {}
    for name, source in SOURCES.items():
        # The module by whose name cloudpickle takes things for importable.
        thing = defined(source, __name__="notebook_of_a_user")
        here[name] = content_hash(defined(source))
        if name not in NOT_SENT:
            sent[name] = cloudpickle.dumps(thing)
    said = subprocess.run(
        [sys.executable, "-c", CHILD],
        input=pickle.dumps(sent),
        env={**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": str(ROOT)},
        check=True,
        capture_output=True,
    ).stdout
    built, loaded = pickle.loads(said)
    assert built == here
    assert loaded == {name: here[name] for name in sent}


def test_neither_place_nor_documentation_of_a_class_matters():
    source = "class thing:\n    def forward(self, x): return x"
    moved = f'\n\n# moved\n{source}\n    __doc__ = "New."'
    assert content_hash(defined(source)) == content_hash(defined(moved))


# Modules


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Return a function that writes a module of a user's project."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)

    def write(**sources):
        for name in set(sys.modules) - before:
            if name.startswith("project_"):
                del sys.modules[name]
        for name, source in sources.items():
            path = tmp_path / f"{name.replace('__', '/')}.py"
            path.parent.mkdir(exist_ok=True)
            path.write_text(textwrap.dedent(source))
            path.with_suffix(".pyc").unlink(missing_ok=True)

    yield write
    write()


WAYS = {
    "import": "import project_a\ndef thing(x): return project_a.half(x)",
    "as": "import project_a as a\ndef thing(x): return a.half(x)",
    "from": "from project_a import half\ndef thing(x): return half(x)",
    "inside": "def thing(x):\n    import project_a\n    return project_a.half(x)",
    "from inside": "def thing(x):\n    from project_a import half\n    return half(x)",
    "submodule": "import project_b.c\ndef thing(x): return project_b.c.half(x)",
    "submodule inside": "def thing(x):\n    from project_b import c\n    c.half(x)",
    "closure": (
        "def make():\n    import project_a\n    return lambda x: project_a.half(x)\n"
        "thing = make()"
    ),
}


@pytest.mark.parametrize("source", WAYS.values(), ids=WAYS)
def test_a_change_in_a_users_module_is_noticed(project, source):
    hashes = []
    for number in (1, 1, 22):
        half = f"def half(x): return x * {number}"
        project(project_a=half, project_b__c=half)
        hashes.append(content_hash(defined(source)))
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_module_that_is_missing_is_left_to_whoever_imports_it():
    source = """
        def thing(x):
            try:
                import project_that_is_missing
            except ImportError:
                return x
        """
    assert content_hash(defined(source)) == content_hash(defined(source))


def test_other_members_of_a_users_module_do_not_matter(project):
    hashes = []
    for number in (1, 22):
        project(project_a=f"def half(x): return x\ndef other(x): return {number}")
        hashes.append(content_hash(defined(WAYS["import"])))
    assert hashes[0] == hashes[1]


@pytest.mark.parametrize(
    "name", ["torch.nn", "torch._C._nn", "sklearn.base", "os", "builtins", "sys"]
)
def test_packages_and_the_standard_library_are_installed(name):
    assert is_installed(name)


@pytest.mark.parametrize("name", ["__main__", "__mp_main__", __name__, "nowhere", ""])
def test_scripts_notebooks_and_projects_are_not_installed(name):
    assert not is_installed(name)


def test_installed_code_is_known_by_its_name_and_version():
    import torch

    from sk_e2cm import Extractor, __version__

    name = ("torch.nn.modules.linear", "Linear", str(torch.__version__))
    assert installed_name(torch.nn.Linear) == name
    own = ("sk_e2cm._extractors._protocol", "Extractor", __version__)
    assert installed_name(Extractor) == own


def test_no_source_is_read_of_what_is_installed(monkeypatch):
    torchvision = pytest.importorskip("torchvision")
    network = torchvision.models.squeezenet1_1(num_classes=5)
    for name in ("class_content", "function_content"):
        monkeypatch.setattr(f"sk_e2cm._utils._hashing.{name}", None)
    assert content_hash(network) == content_hash(network)


# What cannot be told


def test_what_cannot_be_hashed_is_refused_with_a_way_out():
    source = """
        handle = (n for n in range(3))
        def thing(x): return handle
        """
    with pytest.raises(TypeError, match=r"cannot be hashed .*generator.*fingerprint"):
        content_hash(defined(source))


@pytest.mark.parametrize(
    "value",
    [
        "__import__('threading').Lock()",
        "__import__('threading').RLock()",
        "__import__('logging').getLogger('of a module')",
        "torch.finfo(torch.float32)",
        "torch.iinfo(torch.int32)",
        "torch.ops.aten.relu",
        "torch.ops.aten.relu.default",
        "torch.float32",
        "torch.nn.functional.adaptive_max_pool2d",
    ],
)
def test_what_torch_and_python_do_not_pickle_may_be_referred_to(value):
    source = f"import torch\nvalue = {value}\ndef thing(x): return value"
    assert content_hash(defined(source)) == content_hash(defined(source))


def test_a_long_chain_of_helpers_is_no_deep_recursion():
    links = [f"def f{i}(x): return f{i + 1}(x)" for i in range(500)]
    source = "\n".join([*links, "def f500(x): return NUMBER", "thing = f0"])
    assert content_hash(defined(source)) != content_hash(defined(source, 1))
