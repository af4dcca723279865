"""Nearest images of a few queries, method by method, with hits and misses."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.record import Record
from bench.report.sections import Row, Section
from bench.store import Store

THUMBNAIL = 64
# All images of a page together, bytes of base64: keeps a page of many data sets below 10 MB.
PAGE_BUDGET = 6_000_000


@dataclass(frozen=True)
class Neighbour:
    """An image of the page's bank, its class, and whether that is the query's class."""

    image: str
    name: str
    hit: bool


@dataclass(frozen=True)
class Ranked:
    """What one method puts nearest to a query; `runs` is the anchor of the method's runs."""

    label: str
    runs: str
    neighbours: tuple[Neighbour, ...]

    @property
    def hits(self) -> int:
        """Neighbours of the query's class."""
        return sum(neighbour.hit for neighbour in self.neighbours)


@dataclass(frozen=True)
class Query:
    """A query image with its class and every method's nearest images."""

    image: str
    name: str
    methods: tuple[Ranked, ...]


@dataclass(frozen=True)
class Gallery:
    """All queries shown for a section, and what a reader must know about them."""

    queries: tuple[Query, ...]
    note: str


@dataclass(frozen=True)
class _File:
    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    query: NDArray[np.int64]
    neighbours: NDArray[np.int64]
    names: list[str]


class ImageBank:
    """Every distinct image once, as a data URI under a short name."""

    def __init__(self) -> None:
        self.uris: dict[str, str] = {}
        self._known: dict[bytes, str] = {}
        self.size = 0

    def add(self, pixels: NDArray[np.uint8]) -> str:
        """Name of an image, stored if it is new: uint8 (S, S, 3)."""
        digest = hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).digest()
        if digest not in self._known:
            name = f"i{len(self._known)}"
            self._known[digest] = name
            self.uris[name] = _data_uri(pixels)
            self.size += len(self.uris[name])
        return self._known[digest]


def build_gallery(section: Section, store: Store, bank: ImageBank, budget: int, problems: list[str]) -> Gallery | None:
    """The gallery of a section within a budget of bytes; None if no run kept examples.

    Files that cannot be read, and runs that show other queries than the first method, are left out and
    named in `problems`.
    """
    files: list[tuple[Row, Record, _File]] = []
    for row in (*section.trained, *section.baselines):
        record = next((record for record in row.done if "examples" in record.artefacts), None)
        if record is None:
            continue
        path = store.folder(record) / record.artefacts["examples"]
        try:
            files.append((row, record, _read(path)))
        except (OSError, ValueError, KeyError) as error:
            problems.append(f"{path}: unreadable examples ({error}), left out")
    if not files:
        return None
    same = []
    for row, record, file in files:
        if _same_queries(file, files[0][2]):
            same.append((row, record, file))
        else:
            problems.append(f"{section.dataset_name}: the examples of {row.label} show other queries, left out")
    queries: list[Query] = []
    start, total = bank.size, len(files[0][2].query)
    for place in range(total):
        if bank.size - start > budget:
            break
        queries.append(_query(place, same, bank))
    seeds = sorted({record.spec.seed for _, record, _ in same})
    note = f"Seed {', '.join(map(str, seeds))}, the checkpoint of the results table."
    if len(queries) < total:
        note += f" The first {len(queries)} of {total} queries, to keep the page small."
    return Gallery(tuple(queries), note) if queries else None


def _query(place: int, files: list[tuple[Row, Record, _File]], bank: ImageBank) -> Query:
    first = files[0][2]
    shown = first.query[place]
    ranked = []
    for row, _, file in files:
        own_label = file.labels[file.query[place]]
        neighbours = tuple(
            Neighbour(bank.add(file.images[n]), file.names[n], bool(file.labels[n] == own_label))
            for n in file.neighbours[place]
            if n >= 0
        )
        ranked.append(Ranked(row.label, row.anchor, neighbours))
    return Query(bank.add(first.images[shown]), first.names[shown], tuple(ranked))


def _read(path: Path) -> _File:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            arrays = {key: file.get_tensor(key) for key in ("images", "labels", "query", "neighbours")}
            names = json.loads((file.metadata() or {})["names"])
    except SafetensorError as error:
        raise ValueError(str(error)) from None
    found = _File(arrays["images"], arrays["labels"], arrays["query"], arrays["neighbours"], names)
    count = len(found.images)
    if found.images.ndim != 4 or found.images.dtype != np.uint8 or found.images.shape[-1] != 3:
        raise ValueError(f"images must be uint8 (U, S, S, 3), found {found.images.dtype} {found.images.shape}")
    rows = np.concatenate([found.query, found.neighbours.ravel()])
    if len(found.labels) != count or len(names) != count or rows.max(initial=0) >= count or found.query.min() < 0:
        raise ValueError("labels, names, query and neighbours do not fit the images")
    return found


def _same_queries(one: _File, other: _File) -> bool:
    return one.query.shape == other.query.shape and np.array_equal(one.images[one.query], other.images[other.query])


def _data_uri(pixels: NDArray[np.uint8]) -> str:
    """The smaller of PNG and JPEG, at most 64 pixels wide."""
    from PIL import Image

    image = Image.fromarray(pixels)
    if max(image.size) > THUMBNAIL:
        image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    if np.array_equal(pixels[..., 0], pixels[..., 1]) and np.array_equal(pixels[..., 0], pixels[..., 2]):
        image = image.convert("L")
    best = b""
    for kind, options in (("jpeg", {"quality": 80}), ("png", {"optimize": True})):
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        encoded = f"data:image/{kind};base64,".encode() + base64.b64encode(buffer.getvalue())
        best = encoded if not best or len(encoded) < len(best) else best
    return best.decode()
