"""The full pass over all batches, and its cache."""

import sys
import textwrap
import types

import joblib
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from sk_e2cm import Extractor
from sk_e2cm._extractors import RawFeatures
from sk_e2cm._multi_exit._full_pass import FullPass
from sk_e2cm.testing import CountingExtractor, ToyExtractor

from ..outputs import average_by_loops, make_output


class ReusesItsBuffer(Extractor):
    """Two stages that write into the same array."""

    stage_names = ("first", "second")

    def begin(self, X):
        return X, np.empty_like(X)

    def advance(self, state, stage):
        X, buffer = state
        buffer[:] = X * (stage + 1)
        return state, buffer

    def keep(self, state, rows):
        return state[0][rows], state[1][rows]

    def macs(self, input_shape):
        return [1.0, 2.0]


class Maps(ToyExtractor):
    """Two stages: tokens, and rows."""

    def __init__(self):
        super().__init__(n_stages=2)

    def advance(self, state, stage):
        outputs = np.ones((len(state), 5, 4)), state
        return state, outputs[stage]


def run_full(extractor, X, *, pooling="auto", batch_size=32, memory=None):
    """Return the features of every stage."""
    memory = joblib.Memory(memory, verbose=0)
    full_pass = FullPass(
        extractor, pooling=pooling, batch_size=batch_size, memory=memory
    )
    batches = [batch.features for batch in full_pass(X)]
    return [np.concatenate(stage) for stage in zip(*batches, strict=True)]


def test_the_full_pass_is_every_stage_over_all_rows():
    X = make_output(70, 2, 3)
    features = run_full(ToyExtractor(n_stages=3), X)
    flat = X.reshape(70, 6)
    for found, width in zip(features, (2, 4, 6), strict=True):
        assert_array_equal(found, flat[:, :width])


def test_the_batches_of_a_full_pass_cover_the_rows_in_order():
    full_pass = FullPass(
        ToyExtractor(), pooling="auto", batch_size=4, memory=joblib.Memory(None)
    )
    rows = [batch.rows for batch in full_pass(make_output(10, 3))]
    assert rows == [slice(0, 4), slice(4, 8), slice(8, 10)]


def test_the_full_pass_pools_every_stage():
    X = make_output(6, 5, 4, 6)
    (features,) = run_full(RawFeatures(), X, pooling=2)
    assert_allclose(features, average_by_loops(X, 2), atol=1e-6)


@pytest.mark.parametrize("pooling", ["auto", "none", lambda x: x[:, :, 0]])
def test_shapes_are_those_of_the_outputs_before_they_are_pooled(tmp_path, pooling):
    memory = joblib.Memory(tmp_path, verbose=0)
    full_pass = FullPass(Maps(), pooling=pooling, batch_size=4, memory=memory)
    for _ in range(2):  # the second time from the cache
        for batch in full_pass(make_output(10, 3)):
            assert batch.shapes == [(5, 4), (3,)]


@pytest.mark.parametrize("as_given", [np.asarray, np.float16, np.int32, np.bool_])
def test_features_are_floats_of_the_precision_that_holds_the_outputs(as_given):
    X = as_given(10 * make_output(10, 6))
    expected = np.result_type(X.dtype, np.float32)
    for features in run_full(ToyExtractor(), X):
        assert features.dtype == expected


@pytest.mark.parametrize("batch_size", [1, 7, 69, 70, 1000])
@pytest.mark.parametrize("as_memory", [lambda _: None, lambda path: path])
def test_features_do_not_depend_on_the_batch_size(tmp_path, batch_size, as_memory):
    X = make_output(70, 6)
    expected = run_full(ToyExtractor(), X, batch_size=32)
    memory = as_memory(tmp_path)
    found = run_full(ToyExtractor(), X, batch_size=batch_size, memory=memory)
    for a, b in zip(found, expected, strict=True):
        assert_array_equal(a, b)


def test_an_extractor_may_overwrite_the_output_of_the_stage_before():
    X = make_output(10, 3)
    first, second = run_full(ReusesItsBuffer(), X)
    assert_array_equal(first, X)
    assert_array_equal(second, 2 * X)


def test_the_full_pass_names_the_stage_that_failed():
    X = make_output(10, 3)
    X[8, 2] = np.nan
    with pytest.raises(ValueError, match=r"'part3'.*1 of 2 samples"):
        run_full(ToyExtractor(n_stages=3), X, batch_size=4)


def test_a_second_pass_computes_nothing(tmp_path):
    X = make_output(70, 6)
    extractor = CountingExtractor(ToyExtractor())
    first = run_full(extractor, X, memory=tmp_path)
    assert_array_equal(extractor.rows, [70, 70, 70])
    second = run_full(extractor, X, memory=tmp_path)
    assert_array_equal(extractor.rows, [70, 70, 70])
    for a, b in zip(first, second, strict=True):
        assert_array_equal(a, b)


def test_without_a_cache_every_pass_computes_everything():
    extractor = CountingExtractor(ToyExtractor())
    for _ in range(2):
        run_full(extractor, make_output(70, 6))
    assert_array_equal(extractor.rows, [140, 140, 140])


def test_batches_that_were_seen_before_are_not_computed_again(tmp_path):
    X = make_output(70, 6)
    extractor = CountingExtractor(ToyExtractor())
    run_full(extractor, X[:64], memory=tmp_path)
    extractor.rows[:] = 0
    run_full(extractor, X, memory=tmp_path)
    assert_array_equal(extractor.rows, [6, 6, 6])


@pytest.mark.parametrize("change", ["value", "order", "dtype"])
def test_the_cache_tells_data_apart(tmp_path, change):
    X = make_output(20, 6)
    run_full(ToyExtractor(), X, memory=tmp_path)
    other = X.copy()
    if change == "value":
        other[3, 2] += 1e-6
    elif change == "order":
        other = X[::-1]
    else:
        other = X.astype(np.float64)
    found = run_full(ToyExtractor(), other, memory=tmp_path)[-1]
    assert_array_equal(found, other)
    assert found.dtype == other.dtype


def take_the_corner(output):
    return output[:, :, 0, 0]


def test_the_cache_tells_poolings_apart(tmp_path):
    X = make_output(4, 3, 5, 5)
    for pooling in ("auto", "none", 1, 2, take_the_corner):
        (cached,) = run_full(RawFeatures(), X, pooling=pooling, memory=tmp_path)
        (fresh,) = run_full(RawFeatures(), X, pooling=pooling)
        assert_array_equal(cached, fresh)


def test_the_cache_tells_functions_of_one_name_apart(tmp_path, monkeypatch):
    # As in a notebook, where a cell is changed and run again.
    notebook = types.ModuleType("notebook_of_a_user")
    monkeypatch.setitem(sys.modules, notebook.__name__, notebook)
    X = make_output(4, 3, 5, 5)
    for source in ("x.mean(axis=(2, 3))", "x.max(axis=(2, 3))"):
        exec(f"def pooling(x): return {source}", notebook.__dict__)
        cached = run_full(RawFeatures(), X, pooling=notebook.pooling, memory=tmp_path)
        fresh = run_full(RawFeatures(), X, pooling=notebook.pooling)
        assert_array_equal(cached, fresh)


def test_the_cache_tells_extractors_apart(tmp_path):
    X = make_output(20, 6)
    widths = [
        [f.shape[1] for f in run_full(ToyExtractor(n), X, memory=tmp_path)]
        for n in (2, 3)
    ]
    assert widths == [[3, 6], [2, 4, 6]]


def test_extractors_of_equal_content_share_the_cache(tmp_path):
    X = make_output(20, 6)
    run_full(ToyExtractor(3), X, memory=tmp_path)
    extractor = CountingExtractor(ToyExtractor(3))
    run_full(extractor, X, memory=tmp_path)
    assert_array_equal(extractor.rows, [0, 0, 0])


def test_a_cache_in_the_current_folder_tells_extractors_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    X = make_output(20, 6)
    for n_stages in (2, 3):
        cached = run_full(ToyExtractor(n_stages), X, memory="")
        assert len(cached) == n_stages
        fresh = run_full(ToyExtractor(n_stages), X)
        for a, b in zip(cached, fresh, strict=True):
            assert_array_equal(a, b)
    assert list(tmp_path.iterdir())


EDITED = {
    "extractor": """
        class Mine(ToyExtractor):
            def begin(self, X): return {} * super().begin(X)
        """,
    "base": """
        class Base(ToyExtractor):
            def begin(self, X): return {} * super().begin(X)
        class Mine(Base): pass
        """,
    "helper": """
        def scaled(X): return {} * X
        class Mine(ToyExtractor):
            def begin(self, X): return scaled(super().begin(X))
        """,
    "global": """
        SCALE = {}
        class Mine(ToyExtractor):
            def begin(self, X): return SCALE * super().begin(X)
        """,
    "inner class": """
        class Mine(ToyExtractor):
            class Scaled:
                def __call__(self, X): return {} * X
            def begin(self, X): return self.Scaled()(super().begin(X))
        """,
    "attribute": """
        class Scaled:
            def __call__(self, X): return {} * X
        class Mine(ToyExtractor):
            def __init__(self):
                super().__init__()
                self.scaled = Scaled()
            def begin(self, X): return self.scaled(super().begin(X))
        """,
}


def run_again(source, number, X, memory):
    """Return the last features by code that was edited, as in a notebook."""
    notebook = vars(types.ModuleType("__main__")) | {"ToyExtractor": ToyExtractor}
    exec(textwrap.dedent(source).format(number), notebook)
    return run_full(notebook["Mine"](), X, memory=memory)[-1]


@pytest.mark.parametrize("source", EDITED.values(), ids=EDITED)
def test_features_of_code_that_was_edited_are_computed_anew(tmp_path, source):
    X = make_output(20, 6)
    for number in (1, 2, 1):
        assert_array_equal(run_again(source, number, X, tmp_path), number * X)


def test_the_cache_tells_poolings_apart_by_what_they_call(tmp_path):
    X = make_output(4, 3, 5, 5)
    for name in ("mean", "max"):
        notebook = vars(types.ModuleType("__main__"))
        helper = f"def helper(x): return x.{name}((2, 3))"
        exec(f"{helper}\ndef pooling(x): return helper(x)", notebook)
        pooling = notebook["pooling"]
        cached = run_full(RawFeatures(), X, pooling=pooling, memory=tmp_path)
        assert_array_equal(cached, run_full(RawFeatures(), X, pooling=pooling))


class Small(ToyExtractor):
    """Has memory for so many samples."""

    def __init__(self, n_samples):
        super().__init__(3)
        self.n_samples, self.refused = n_samples, []

    def advance(self, state, stage):
        if len(state) > self.n_samples:
            self.refused.append(len(state))
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return super().advance(state, stage)


def test_a_batch_too_large_for_the_memory_is_halved():
    X, extractor = make_output(50, 6), Small(6)
    full_pass = FullPass(
        extractor, pooling="auto", batch_size=32, memory=joblib.Memory(None)
    )
    with pytest.warns(UserWarning, match="smaller batch_size") as warned:
        batches = list(full_pass(X))
    assert len(warned) == 1
    assert extractor.refused == [32, 16, 8]
    assert [batch.rows.stop for batch in batches] == [*range(4, 50, 4), 50]
    found = np.concatenate([batch.features[-1] for batch in batches])
    assert_array_equal(found, X)


def test_a_sample_that_the_memory_does_not_hold_is_an_error():
    full_pass = FullPass(
        Small(0), pooling="auto", batch_size=2, memory=joblib.Memory(None)
    )
    with (
        pytest.warns(UserWarning, match="smaller batch_size"),
        pytest.raises(torch.OutOfMemoryError),
    ):
        list(full_pass(make_output(4, 6)))
