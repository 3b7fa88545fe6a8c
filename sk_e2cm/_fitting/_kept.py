"""Features of the pass that are kept: those that fit into memory, or all."""

from __future__ import annotations

import copy
import errno
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .._multi_exit._full_pass import Batch, Shape
from .._utils._arrays import Features, Floats, affordable

# However small the working memory is.
_FEWEST_KEPT = 100

# So many times what is kept may be in memory before some is dropped: dropping copies.
_SLACK = 1.25

# Samples whose features are joined, or used, at once.
CHUNK = 1024


class Samples(NamedTuple):
    """What is known of samples beside their features.

    Parameters
    ----------
    hashes : ndarray of shape (n_samples,)
        Of their content.

    folds : ndarray of shape (n_samples,)
        That hold them out; -1 for none.

    codes : ndarray of shape (n_samples,)
        Indices of their classes.

    weight : ndarray of shape (n_samples,)
        Of each.
    """

    hashes: NDArray[np.uint64]
    folds: NDArray[np.intp]
    codes: NDArray[np.intp]
    weight: Floats

    def take(self, rows: Any) -> Samples:
        """Select some."""
        return Samples(*(array[rows] for array in self))


class Kept(NamedTuple):
    """Some samples, in the order in which they came, and their features.

    Parameters
    ----------
    features : list of ndarray of shape (n_kept, n_features)
        One per stage.

    shapes : list of tuple of int
        Of the outputs that they were pooled from.

    rounding : list of ndarray of shape (n_features,)
        How far rounding may move each feature, in any batch.

    samples : Samples
        Which these are.

    rows : ndarray of shape (n_kept,)
        Their numbers among all that came.
    """

    features: list[Features]
    shapes: list[Shape]
    rounding: list[Floats]
    samples: Samples
    rows: NDArray[np.intp]

    def by_hash(self) -> Kept:
        """Return the same in the order of the hashes."""
        order = self.samples.hashes.argsort(kind="stable")
        features = [of_stage[order] for of_stage in self.features]
        samples, rows = self.samples.take(order), self.rows[order]
        return self._replace(features=features, samples=samples, rows=rows)


class KeptFeatures:
    """The features of as many samples as fit into scikit-learn's ``working_memory``.

    Those with the smallest hashes, of samples that are held out in some fold before all
    others: a uniform subset that does not depend on the order in which they come, and
    treats a sample of weight 2 and two equal samples alike.

    Parameters
    ----------
    everything : bool, default=False
        Keep those of all samples: in temporary files where they do not fit.
    """

    def __init__(self, *, everything: bool = False) -> None:
        self.everything = everything
        self.n_seen = 0
        self.shapes: list[Shape] = []
        self.rounding: list[Floats] = []
        self._pieces: list[_Piece] = []
        self._most = 0
        self._last: tuple[bool, int] | None = None
        self._files: list[_FeatureFile] = []

    def add(self, batch: Batch, samples: Samples) -> None:
        """Add these samples and their features at every stage, if they are kept."""
        n = len(samples.hashes)
        rows = np.arange(self.n_seen, self.n_seen + n)
        self.n_seen += n
        if not self.shapes:
            self.shapes, self.rounding = batch.shapes, batch.rounding
            n_bytes_each = sum(of_stage[:1].nbytes for of_stage in batch.features)
            self._most = affordable(n_bytes_each, fewest=_FEWEST_KEPT)
        self.rounding = larger_of_each(self.rounding, batch.rounding)
        self._add(_Piece([*batch.features], samples, rows))

    def merge(self, other: KeptFeatures, codes: NDArray[np.intp]) -> None:
        """Add what another has seen, as if it had come after what this one has.

        The other's class k is called ``codes[k]`` here.

        Where the other had less memory, no more is kept here: what it has dropped must
        not be what would be kept.
        """
        if not self.shapes:
            self.shapes, self.rounding = other.shapes, other.rounding
            self._most = other._most
        if other.shapes:
            self.rounding = larger_of_each(self.rounding, other.rounding)
        bounds = [last for last in (self._last, other._last) if last is not None]
        if other._last is not None:
            self._last = min(bounds)
            pieces, self._pieces = self._pieces, []
            for piece in pieces:
                self._add(piece)
        for piece in other._in_memory():
            samples = piece.samples._replace(codes=codes[piece.samples.codes])
            rows = piece.rows + self.n_seen
            self._add(_Piece([*piece.features], samples, rows))
        self.n_seen += other.n_seen

    def copy(self) -> KeptFeatures:
        """Return what keeps the same, and may keep others, too."""
        found = copy.copy(self)
        found._pieces = [*self._pieces]
        return found

    def of_none(self) -> KeptFeatures:
        """Return what knows the shapes of the features, and has seen none."""
        found = KeptFeatures(everything=self.everything)
        found.shapes, found.rounding, found._most = (
            self.shapes,
            self.rounding,
            self._most,
        )
        found._pieces = [piece.take(slice(0)) for piece in self._pieces[:1]]
        return found

    def finish(self) -> Kept:
        """Return what is kept; more may be added afterwards."""
        self._drop(self._most)
        if self._files:
            features = [file.finish() for file in self._files]
            joined = _joined([piece._replace(features=[]) for piece in self._pieces])
            found = joined._replace(features=features)
        else:
            found = _joined(self._pieces)
            self._pieces = [found]
        return Kept(
            found.features,
            self.shapes,
            self.rounding,
            found.samples,
            found.rows,
        )

    def __getstate__(self) -> dict[str, Any]:
        # Files stay where they are.
        return vars(self) | {"_pieces": self._in_memory(), "_files": []}

    def _in_memory(self) -> list[_Piece]:
        if not self._files:
            return self._pieces
        found = self.finish()
        features = [np.array(of_stage) for of_stage in found.features]
        return [_Piece(features, found.samples, found.rows)]

    def _add(self, piece: _Piece) -> None:
        if self.everything:
            self._add_everything(piece)
            return
        if self._last is not None:
            piece = piece.take(_no_later(piece.samples, self._last))
        self._pieces.append(piece)
        self._drop(int(_SLACK * self._most))

    def _add_everything(self, piece: _Piece) -> None:
        if not self._files and self._n_stored() + len(piece.rows) > self._most:
            self._files = [_FeatureFile(of_stage) for of_stage in piece.features]
            pieces, self._pieces = self._pieces, []
            for earlier in pieces:
                self._add_everything(earlier)
        for file, features in zip(self._files, piece.features, strict=False):
            file.add(features)
        self._pieces.append(piece._replace(features=[]) if self._files else piece)

    def _n_stored(self) -> int:
        return sum(len(piece.rows) for piece in self._pieces)

    def _drop(self, allowed: int) -> None:
        """Keep as many as fit, if more than are allowed are stored."""
        if self.everything or self._n_stored() <= allowed:
            return
        arrays = zip(*(piece.samples for piece in self._pieces), strict=True)
        samples = Samples(*map(np.concatenate, arrays))
        order = np.lexsort((samples.hashes, samples.folds < 0))
        place = order[min(self._most, len(order)) - 1]
        # All rows that equal the last one are kept with it, or none if they are many.
        last = bool(samples.folds[place] < 0), int(samples.hashes[place])
        before = last[0], max(last[1] - 1, 0)
        too_many = _no_later(samples, last).sum() > _SLACK * self._most
        if too_many and _no_later(samples, before).sum() >= _FEWEST_KEPT:
            last = before
        pieces = [piece.take(_no_later(piece.samples, last)) for piece in self._pieces]
        self._last, self._pieces = last, pieces


class _Piece(NamedTuple):
    """Some samples, as they came."""

    features: list[Features]
    samples: Samples
    rows: NDArray[np.intp]

    def take(self, rows: Any) -> _Piece:
        features = [of_stage[rows] for of_stage in self.features]
        return _Piece(features, self.samples.take(rows), self.rows[rows])


def _joined(pieces: Sequence[_Piece]) -> _Piece:
    """Join pieces; their own features become parts of these, which may fill the memory.

    Whoever is interrupted leaves the pieces as they were.
    """
    samples = zip(*(piece.samples for piece in pieces), strict=True)
    bounds = np.cumsum([0, *(len(piece.rows) for piece in pieces)]).tolist()
    features = []
    for stage in range(len(pieces[0].features)):
        features.append(np.concatenate([piece.features[stage] for piece in pieces]))
        for piece, (start, stop) in zip(pieces, pairwise(bounds), strict=True):
            piece.features[stage] = features[-1][start:stop]
    return _Piece(
        features,
        Samples(*(np.concatenate(arrays) for arrays in samples)),
        np.concatenate([piece.rows for piece in pieces]),
    )


def _no_later(samples: Samples, last: tuple[bool, int]) -> NDArray[np.bool_]:
    """Tell which samples come no later than the last one that is kept."""
    is_rest, hash_ = last
    rest = samples.folds < 0
    same: NDArray[np.bool_] = samples.hashes <= np.uint64(hash_)
    return np.where(rest == is_rest, same, ~rest)


def larger_of_each(one: Sequence[Floats], other: Sequence[Floats]) -> list[Floats]:
    """Return the larger of each two numbers, stage by stage."""
    return [np.maximum(*each) for each in zip(one, other, strict=True)]


class _FeatureFile:
    """Features in a temporary file, which is gone when nothing refers to it any more.

    Parameters
    ----------
    like : ndarray of shape (n, n_features)
        Some such features.
    """

    def __init__(self, like: Features) -> None:
        self.file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        weakref.finalize(self, self.file.close)
        self.width, self.dtype = like.shape[1], like.dtype
        self.n_rows = 0

    def add(self, features: Features) -> None:
        """Append to them.

        Raises
        ------
        OSError
            If the disk is full.
        """
        try:
            self.file.write(np.ascontiguousarray(features).data)
            # Found out later, a full disk would end the process.
            self.file.flush()
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise OSError(
                error.errno,
                f"The disk of {tempfile.gettempdir()!r} is full, which had to take the "
                "features that do not fit into memory. Name another by the environment "
                "variable TMPDIR, or keep them in memory by "
                "sklearn.set_config(working_memory=...).",
            ) from error
        self.n_rows += len(features)

    def finish(self) -> Features:
        """Return all of them."""
        shape = self.n_rows, self.width
        return np.memmap(self.file, self.dtype, mode="r+", shape=shape)


class JoinedFeatures:
    """Features of several stages side by side, joined where rows are asked for.

    Parameters
    ----------
    parts : sequence of ndarray of shape (n_samples, n_features)
        One for each of the stages.
    """

    def __init__(self, parts: Sequence[Features]) -> None:
        self.parts = parts
        self.shape = len(parts[0]), sum(part.shape[1] for part in parts)
        self.dtype = np.result_type(*parts)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> Features:
        return np.hstack([part[rows] for part in self.parts])


SampleFeatures = Features | JoinedFeatures


def chunks(rows: NDArray[np.intp]) -> Iterator[NDArray[np.intp]]:
    """Split rows, of which there may be none, into as many as are used at once."""
    for start in range(0, len(rows), CHUNK):
        yield rows[start : start + CHUNK]


def moments(features: SampleFeatures, weight: Floats) -> tuple[Floats, Floats]:
    """Return the weighted mean and variance of each feature, some rows at a time."""
    everybody, total = np.arange(len(features)), weight.sum()
    mean, variance = np.zeros((2, features.shape[1]))
    for rows in chunks(everybody):
        mean += weight[rows] @ features[rows] / total
    for rows in chunks(everybody):
        variance += weight[rows] @ np.square(features[rows] - mean) / total
    return mean, variance
