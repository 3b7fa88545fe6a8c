"""A web service that predicts one picture for each request. It needs no torch.

``POST /predict`` takes the bytes of a .npy file with one picture, as ``numpy.save``
writes them, and answers with its label, the probabilities, the exit at which it left
and what that has cost. ``GET /exits`` tells where all have left so far.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from anyio import CapacityLimiter, to_thread
from numpy.typing import NDArray
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

# More than the header of a .npy file takes.
HEADER_BYTES = 1024


class Predictions(NamedTuple):
    """What a model says of each picture; `predict_all` of an estimator returns it."""

    label: NDArray[Any]
    proba: NDArray[Any]
    exit: NDArray[Any]
    cost: NDArray[Any]


class Model(NamedTuple):
    """What is served: how it predicts, the shape of a picture, and the stages."""

    predict: Callable[[NDArray[Any]], Predictions]
    input_shape: tuple[int, ...]
    stage_names: Sequence[str]


def model_of_onnx(path: str) -> Model:
    """Load a file that `sk_e2cm.to_onnx` has written."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # As many requests run at once as there are cores: see serving.py.
    options.intra_op_num_threads = 1
    options.log_severity_level = 3  # it warns that thresholds may be given
    session = onnxruntime.InferenceSession(path, options)
    about = session.get_modelmeta().custom_metadata_map
    costs = np.array(json.loads(about["costs"]))

    def predict(X: NDArray[Any]) -> Predictions:
        outputs = ["label", "probabilities", "exit"]
        label, proba, stage = session.run(outputs, {"X": X})
        return Predictions(label, proba, stage, costs[stage])

    (given,) = session.get_inputs()
    return Model(predict, tuple(given.shape[1:]), json.loads(about["stages"]))


class Service:
    """Answers requests, and counts where the pictures have left.

    At most `n_threads` predictions run at once, the others wait for their turn. The
    server itself has one thread, which they do not hold up: it goes on reading.
    """

    def __init__(self, model: Model, n_threads: int) -> None:
        self._model = model
        self._limiter = CapacityLimiter(n_threads)
        self._most_bytes = HEADER_BYTES + 8 * math.prod(model.input_shape)
        self._counts = [0] * len(model.stage_names)
        self._cost = 0.0

    async def predict(self, request: Request) -> JSONResponse:
        """Predict the picture of a request."""
        body = await read_body(request, self._most_bytes)
        try:
            picture = picture_of(body, self._model.input_shape)
        except ValueError as error:
            raise HTTPException(400, str(error)) from error
        try:
            label, proba, stage, cost = await to_thread.run_sync(
                self._model.predict, picture[None], limiter=self._limiter
            )
        except ValueError as error:
            raise HTTPException(400, str(error)) from error
        if not np.isfinite(proba).all():
            raise HTTPException(400, "The numbers of the picture are too large.")
        answer = {
            # A string is no NumPy scalar.
            "label": label.tolist()[0],
            "proba": proba[0].tolist(),
            "exit": int(stage[0]),
            "cost": float(cost[0]),
        }
        # Only the server's thread counts, so that nothing needs a lock.
        self._counts[stage[0]] += 1
        self._cost += float(cost[0])
        return JSONResponse(answer)

    async def exits(self, request: Request) -> JSONResponse:
        """Tell where pictures have left so far, and at what cost on average."""
        total = sum(self._counts)
        names = self._model.stage_names
        answer = {
            "n_requests": total,
            "exits": dict(zip(names, self._counts, strict=True)),
            "mean_cost": self._cost / total if total else None,
        }
        return JSONResponse(answer)


def make_app(model: Model, n_threads: int = 1) -> Starlette:
    """Return the service as an application that every ASGI server runs."""
    service = Service(model, n_threads)
    return Starlette(
        routes=[
            Route("/predict", service.predict, methods=["POST"]),
            Route("/exits", service.exits),
        ]
    )


async def read_body(request: Request, most: int) -> bytes:
    """Return the body of a request, and read no more than is allowed."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > most:
            raise HTTPException(413, f"The body has more than {most} bytes.")
    return bytes(body)


def picture_of(body: bytes, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return the picture in the bytes of a .npy file.

    Raises
    ------
    ValueError
        If there is none, or not one of this shape and of finite numbers.
    """
    try:
        picture = np.lib.format.read_array(io.BytesIO(body), allow_pickle=False)
    except (ValueError, MemoryError) as error:
        # Memory is what an array takes that the header only claims to be there.
        raise ValueError(f"The body is no .npy file: {error}") from error
    if picture.dtype.kind not in "buif":
        raise ValueError(f"The picture must hold numbers, got {picture.dtype}.")
    if picture.shape != shape:
        raise ValueError(f"The picture must have shape {shape}, got {picture.shape}.")
    with np.errstate(over="ignore"):  # becomes infinite, and is refused
        picture = picture.astype(np.float32)
    if not np.isfinite(picture).all():
        raise ValueError("The picture has NaN, or numbers that are too large.")
    return picture
