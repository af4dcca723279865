"""The largest data sets at full scale, with tiny generated pictures: seconds and memory of each stage.

`python -m tests.perf.scale` takes some minutes. Each stage is a process of its own, so that its peak of resident memory
is its own; the peak counts the pages of the decoded cache that it maps, and all libraries. What it costs to decode
larger photographs is in `tests.perf.pipeline`.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from bench import machine
from bench.data.catalog import open_dataset, open_whole
from bench.data.dataset import Dataset
from tests.data import replicas

LIMIT = 3e9  # bytes a stage may hold
SIDE = 32
BATCHES, CLASSES, PER_CLASS = 1_000, 32, 4
DIMENSIONS = 128
VEHICLES, VEHICLE_IMAGES = 26_267, 221_763  # all of VehicleID, of which its lists name a part
TRAIN_LIST, TEST_LIST = (113_346, 13_164), (19_777, 2_400)


def main() -> None:
    """Generate both replicas, and print what each stage of each data set takes."""
    worst = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for replica, sets in ((sop, ("sop",)), (vehicleid, ("vehicleid_large", "image_folder"))):
            start = time.perf_counter()
            replica(Path(folder) / replica.__name__)
            print(f"{replica.__name__}: generated in {time.perf_counter() - start:.0f} s", flush=True)
            for name, (stage, work) in itertools.product(sets, STAGES.items()):
                found = measured_apart(stage, name, Path(folder) / replica.__name__)
                each = found["seconds"] / found["images"] * 10_000
                worst = max(worst, found["peak"])
                print(
                    f"  {name:<16} {stage:<9} {found['images']:>9,.0f} images {found['seconds']:8.1f} s "
                    f"{each:7.2f} s per 10,000   peak {found['peak'] / 1e6:6,.0f} MB   {work.__doc__}",
                    flush=True,
                )
    print(f"largest peak {worst / 1e9:.2f} GB, limit {LIMIT / 1e9:.0f} GB: {'met' if worst <= LIMIT else 'EXCEEDED'}")
    sys.exit(worst > LIMIT)


class Pictures:
    """Puts a picture of its own under each path."""

    def __init__(self) -> None:
        self._rng = np.random.default_rng(0)

    def __call__(self, path: Path) -> None:
        content = io.BytesIO()
        small = Image.fromarray(self._rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        small.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(content, "JPEG")
        path.write_bytes(content.getvalue())


def sop(folder: Path) -> None:
    replicas.sop(folder / "Stanford_Online_Products", *replicas.sop_sizes(), Pictures())


def vehicleid(folder: Path) -> None:
    """The lists as released, and `images.csv` over all photographs, so that they make an image folder too."""
    place = Pictures()
    (folder / "image").mkdir(parents=True)
    (folder / "train_test_split").mkdir()
    rest = (VEHICLE_IMAGES - TRAIN_LIST[0] - TEST_LIST[0], VEHICLES - TRAIN_LIST[1] - TEST_LIST[1])
    image, vehicle = 0, 0
    table = ["path,label,split"]
    for (images, vehicles), name in ((TRAIN_LIST, "train_list.txt"), (TEST_LIST, "test_list_2400.txt"), (rest, "")):
        lines = []
        for size in replicas.even(images, vehicles):
            vehicle += 1
            for _ in range(size):
                image += 1
                place(folder / f"image/{image:07}.jpg")
                lines.append(f"{image:07} {vehicle}\n")
                table.append(f"image/{image:07}.jpg,{vehicle},{'test' if name.startswith('test') else 'train'}")
        if name:
            (folder / "train_test_split" / name).write_text("".join(lines))
    (folder / "images.csv").write_text("\n".join(table))


def opening(name: str, folder: Path) -> int:
    """lists read, files looked up, manifest"""
    return len(open_dataset(name, folder).labels)


def verifying(name: str, folder: Path) -> int:
    """every image decoded, copies searched"""
    from bench.data.verify import verify

    dataset = open_whole(name, folder)
    assert verify(dataset, progress=False).findings == ()
    return len(dataset.labels)


def caching(name: str, folder: Path) -> int:
    """decoded to the cache"""
    from bench.data.cache import prepare_images

    dataset = open_dataset(name, folder)
    prepare_images(dataset, SIDE, 3, progress=False)
    return len(dataset.labels)


def sampling(name: str, folder: Path) -> int:
    """batches drawn and copied from the cache"""
    import torch

    from bench.data.cache import open_images
    from bench.data.samplers import classes_times_images
    from bench.protocol import Batch

    dataset = open_dataset(name, folder)
    store = open_images(dataset, "train", SIDE, 3, progress=False)
    labels = dataset.labels[dataset.split.train]
    shape = Batch(classes=CLASSES, per_class=PER_CLASS)
    for batch in itertools.islice(classes_times_images(labels, shape, np.random.default_rng(0)), BATCHES):
        assert len(torch.stack([store.image(position) for position in batch])) == CLASSES * PER_CLASS
    return BATCHES * CLASSES * PER_CLASS


def evaluating(name: str, folder: Path) -> int:
    """random embeddings of the test side ranked and scored"""
    from bench.evaluation import evaluate
    from bench.evaluation.drawn import drawn_metrics

    dataset: Dataset = open_dataset(name, folder)
    rows = dataset.split.test
    embeddings = np.random.default_rng(0).standard_normal((len(rows), DIMENSIONS), dtype=np.float32)
    evaluate(embeddings, dataset.labels[rows], ks=(1, 10, 100, 1000))
    if dataset.draws is not None:
        order = np.argsort(rows)
        drawn_metrics(embeddings, dataset.labels[rows], order[np.searchsorted(rows[order], dataset.draws)])
    return len(rows)


STAGES: dict[str, Callable[[str, Path], int]] = {
    "open": opening,
    "verify": verifying,
    "cache": caching,
    "sample": sampling,
    "evaluate": evaluating,
}


def measured_apart(stage: str, name: str, folder: Path) -> dict[str, float]:
    """Run one stage in a new process; its cache lies beside the replica."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.perf.scale", "--stage", stage, "--set", name, "--folder", str(folder)],
        env={**os.environ, "BENCH_CACHE": str(folder.parent / "cache")},
        stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    return dict(json.loads(done.stdout.splitlines()[-1]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--stage", choices=STAGES)
    parser.add_argument("--set", default="sop")
    parser.add_argument("--folder", type=Path)
    asked = parser.parse_args()
    if asked.stage is None:
        main()
    else:
        start = time.perf_counter()
        images = STAGES[asked.stage](asked.set, asked.folder)
        seconds = time.perf_counter() - start
        print(json.dumps({"images": images, "seconds": seconds, "peak": machine.peak_memory_bytes()}))
