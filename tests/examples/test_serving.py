"""Answers of the web service, asked for by many at once."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
import serving
import torch
from serving_app import make_app, model_of_onnx

from sk_e2cm import E2CMClassifier, TorchExtractor, TunedExitsCV

SHAPE = (1, 8, 8)


@pytest.fixture(scope="module")
def search(network, digits):
    X, y = (array[:800] for array in digits)
    extractor = TorchExtractor(network, ["stem", "block", "down"])
    clf = E2CMClassifier(extractor, metric="euclidean")
    return TunedExitsCV(clf, max_drop=0.02, random_state=0).fit(X, y)


@pytest.fixture(scope="module")
def pictures(digits):
    return digits[0][1000:1200]


@pytest.fixture
def url(search, pictures):
    app = make_app(serving.model_of(search, pictures[:1]), n_threads=4)
    with serving.served(app) as url:
        yield url


def post(url, content):
    return httpx.post(f"{url}/predict", content=content)


def check_answers(answers, expected):
    assert [answer["label"] for answer in answers] == expected.label.tolist()
    assert [answer["exit"] for answer in answers] == expected.exit.tolist()
    assert len(set(expected.exit)) > 1
    proba = [answer["proba"] for answer in answers]
    np.testing.assert_allclose(proba, expected.proba, rtol=0, atol=1e-5)
    costs = [answer["cost"] for answer in answers]
    np.testing.assert_allclose(costs, expected.cost, rtol=1e-12)


def check_counts(url, expected, stage_names):
    report = httpx.get(f"{url}/exits").json()
    counts = np.bincount(expected.exit, minlength=len(stage_names)).tolist()
    assert report["exits"] == dict(zip(stage_names, counts, strict=True))
    assert report["n_requests"] == len(expected.exit)
    assert report["mean_cost"] == pytest.approx(expected.cost.mean())


def test_many_at_once_are_answered_as_one_array_is(url, search, pictures):
    expected = search.predict_all(pictures)
    check_answers(serving.ask(url, pictures), expected)
    check_counts(url, expected, search.estimator_.network_.stage_names)


@pytest.mark.skipif(torch.__version__ < "2.10", reason="torch.onnx refuses a head")
def test_an_onnx_file_is_served_as_the_estimator_is(search, pictures, tmp_path):
    pytest.importorskip("onnxruntime")
    from sk_e2cm import to_onnx

    to_onnx(search, str(tmp_path / "digits.onnx"))
    model = model_of_onnx(str(tmp_path / "digits.onnx"))
    assert model.input_shape == SHAPE
    expected = search.predict_all(pictures)
    with serving.served(make_app(model, n_threads=4)) as url:
        check_answers(serving.ask(url, pictures), expected)
        check_counts(url, expected, search.estimator_.network_.stage_names)


def npy(picture):
    return serving.as_bytes(np.asarray(picture))


def claiming(shape):
    """Return a file whose header is that of a larger array than follows."""
    return npy(np.zeros(SHAPE)).replace(b"(1, 8, 8)", f"{shape!s:9}".encode())


BAD = {
    "nothing": (b"", "no .npy file"),
    "text": (b"a digit, please", "no .npy file"),
    "JSON": (json.dumps(np.zeros(SHAPE).tolist()).encode(), "no .npy file"),
    "half a file": (npy(np.zeros(SHAPE))[:-7], "no .npy file"),
    "more than there is": (claiming("(9, 8, 8)"), "no .npy file"),
    "another shape": (npy(np.zeros((8, 8))), "must have shape (1, 8, 8), got (8, 8)"),
    "two pictures": (npy(np.zeros((2, 1, 4, 4))), "got (2, 1, 4, 4)"),
    "words": (npy(np.full(SHAPE, "0")), "must hold numbers, got <U1"),
    "objects": (npy(np.full(SHAPE, None)), "Object arrays cannot be loaded"),
    "complex numbers": (npy(np.zeros(SHAPE, np.complex64)), "must hold numbers"),
    "NaN": (npy(np.full(SHAPE, np.nan)), "has NaN"),
    "too large": (npy(np.full(SHAPE, 1e300)), "numbers that are too large"),
}


@pytest.mark.parametrize(("body", "message"), BAD.values(), ids=BAD)
def test_what_is_no_picture_is_refused_with_words(url, body, message):
    response = post(url, body)
    assert response.status_code == 400
    assert message in response.text


def test_more_bytes_than_a_picture_has_are_not_read(url):
    response = post(url, npy(np.zeros((100, 8, 8))))
    assert response.status_code == 413
    assert response.text == "The body has more than 1536 bytes."


def test_bad_requests_among_others_hold_nobody_up(url, search, pictures):
    expected = search.predict_all(pictures)
    bad = [body for body, _ in BAD.values()] * 5
    with ThreadPoolExecutor(8) as pool:
        refused = pool.map(lambda body: post(url, body).status_code, bad)
        check_answers(serving.ask(url, pictures), expected)
        assert set(refused) == {400}
    # And are not counted.
    check_counts(url, expected, search.estimator_.network_.stage_names)


@pytest.mark.parametrize("dtype", [np.float64, np.uint8, ">f4"])
def test_numbers_may_be_of_any_type(url, search, pictures, dtype):
    picture = (pictures[0] > 0.5).astype(dtype)
    expected = search.predict_all(picture[None].astype(np.float32))
    answer = post(url, npy(picture)).json()
    assert answer["label"] == expected.label[0]
    assert answer["proba"] == pytest.approx(expected.proba[0], abs=1e-6)


def test_before_the_first_request_there_is_no_mean(url):
    report = httpx.get(f"{url}/exits").json()
    assert report["n_requests"] == 0
    assert report["mean_cost"] is None


def test_there_is_nothing_else(url):
    assert httpx.get(f"{url}/predict").status_code == 405
    assert httpx.get(f"{url}/").status_code == 404


def test_the_app_needs_neither_torch_nor_this_package():
    code = "import sys, serving_app; print(*sys.modules)"
    folder = Path(serving.__file__).parent
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True)
    imported = set(done.stdout.decode().split())
    assert "starlette" in imported
    assert not {"torch", "sklearn", "sk_e2cm"} & imported


@pytest.mark.slow
def test_the_example_tells_how_it_went(capsys):
    serving.main(["--epochs", "1"])
    printed = capsys.readouterr().out
    assert "requests per second, 16 at once." in printed
    assert "100.0% of the answers are those of predict_all." in printed
