"""Nearest images: hits and misses, each image once, damaged files, the size of the page."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bench.report import examples
from bench.report.examples import ImageBank, build_gallery
from bench.report.sections import build_sections
from bench.store import Store
from tests.report import builders as b
from tests.report import page

QUICK, GLYPHS = b.protocol(), b.facts()


def filled(tmp_path: Path, **right: int) -> Store:
    store = Store(tmp_path / "results")
    for method, hits in right.items():
        made = b.record(b.spec(method, 0, QUICK, GLYPHS), QUICK, GLYPHS, hits / 10)
        b.write(store, made, b.example_images(hits), tmp_path / method)
    return store


def test_hits_and_misses_follow_the_labels(tmp_path: Path) -> None:
    root = page.parsed(page.written(filled(tmp_path, margin=7, triplet=2)))
    panels = [div for div in root.iter("div") if div.get("class") == "panel"]
    assert len(panels) == 3
    for number, panel in enumerate(panels):
        lines = [div for div in panel if div.get("class") == "ranked"]
        ranked = {(line[0].text or "").strip(): line for line in lines}
        assert list(ranked) == ["margin", "triplet"]
        for method, hits in (("margin", 7), ("triplet", 2)):
            thumbs = [span for span in ranked[method].iter("span") if "thumb" in (span.get("class") or "")]
            marks = [(span.get("class") or "").split()[-1] for span in thumbs]
            assert marks == ["hit"] * hits + ["miss"] * (8 - hits)
            assert [span.get("title") for span in thumbs[:hits]] == [f"class {number}"] * hits
            assert [page.words(span) for span in thumbs] == ["✓"] * hits + ["✗"] * (8 - hits)
            assert f"{hits} of 8" in page.words(ranked[method])
    checked = [element for element in root.iter("input") if element.get("checked")]
    assert len(checked) == 1  # the first query shows without any script


def test_each_distinct_image_is_stored_once_and_decodes_to_its_pixels(tmp_path: Path) -> None:
    text = page.written(filled(tmp_path, margin=7, triplet=2))
    rules = dict(re.findall(r"\.(i\d+)\{background-image:url\((data:image/[^)]+)\)\}", text))
    shown = set(re.findall(r'class="thumb (i\d+)', text))
    assert shown == set(rules)
    assert len(set(rules.values())) == len(rules)
    arrays = b.example_images(7)
    used = {int(row) for row in [*arrays["query"], *arrays["neighbours"].ravel()]}
    used |= {int(row) for row in b.example_images(2)["neighbours"].ravel()}
    assert len(rules) == len(used)


def test_small_drawings_are_stored_without_loss() -> None:
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[4:12, 6:9] = 255
    bank = ImageBank()
    name = bank.add(pixels)
    assert bank.add(pixels.copy()) == name
    kind, _, payload = bank.uris[name].partition(",")
    image = Image.open(io.BytesIO(base64.b64decode(payload)))
    assert kind == "data:image/png;base64"
    assert np.array_equal(np.asarray(image.convert("RGB")), pixels)


def test_large_images_are_reduced() -> None:
    bank = ImageBank()
    name = bank.add(np.random.default_rng(0).integers(0, 255, (300, 300, 3), dtype=np.uint8))
    image = Image.open(io.BytesIO(base64.b64decode(bank.uris[name].partition(",")[2])))
    assert image.size == (64, 64)


def gallery(store: Store, budget: int = examples.PAGE_BUDGET) -> tuple[examples.Gallery | None, list[str]]:
    problems: list[str] = []
    (section,) = build_sections(store.records())
    return build_gallery(section, store, ImageBank(), budget, problems), problems


def test_the_budget_ends_the_list_of_queries_and_says_so(tmp_path: Path) -> None:
    found, _ = gallery(filled(tmp_path, margin=7), budget=1)
    assert found is not None
    assert len(found.queries) == 1
    assert "The first 1 of 3 queries" in found.note


def test_no_examples_no_gallery(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write(b.record(b.spec("margin", 0, QUICK, GLYPHS), QUICK, GLYPHS, 0.3))
    assert gallery(store) == (None, [])
    assert "Nearest images" not in page.written(store)


def damaged(tmp_path: Path, change: dict[str, Any]) -> Store:
    store = filled(tmp_path, margin=7)
    made = b.record(b.spec("triplet", 0, QUICK, GLYPHS), QUICK, GLYPHS, 0.1)
    b.write(store, made, b.example_images(3) | change, tmp_path / "triplet")
    return store


def test_files_that_do_not_fit_are_left_out_and_named(tmp_path: Path) -> None:
    changes: list[dict[str, Any]] = [
        {"names": ["too few"]},
        {"neighbours": np.full((3, 8), 99, np.int64)},
        {"query": np.array([-1, 0, 9], np.int64)},
        {"images": np.zeros((36, 16, 16), np.uint8)},
        {"query": np.array([1, 10, 19], np.int64)},  # other queries than the first method's
    ]
    for number, change in enumerate(changes):
        found, problems = gallery(damaged(tmp_path / str(number), change))
        assert found is not None
        assert [ranked.label for ranked in found.queries[0].methods] == ["margin"], change
        assert len(problems) == 1
        assert "left out" in problems[0]


def test_a_truncated_file_is_named_on_the_page(tmp_path: Path) -> None:
    store = filled(tmp_path, margin=7)
    (file,) = store.root.rglob("examples.safetensors")
    file.write_bytes(file.read_bytes()[:100])
    warnings = [page.words(p) for p in page.parsed(page.written(store)).iter("p") if p.get("class") == "warning"]
    assert len(warnings) == 1
    assert "examples.safetensors: unreadable examples" in warnings[0]


def test_missing_neighbours_are_skipped(tmp_path: Path) -> None:
    arrays = b.example_images(7)
    arrays["neighbours"][:, 5:] = -1
    store = Store(tmp_path / "results")
    b.write(store, b.record(b.spec("margin", 0, QUICK, GLYPHS), QUICK, GLYPHS, 0.1), arrays, tmp_path / "files")
    found, problems = gallery(store)
    assert problems == []
    assert found is not None
    assert [len(query.methods[0].neighbours) for query in found.queries] == [5, 5, 5]
