"""`bench data` and the search for damaged images and copies; cutting a subset."""

from __future__ import annotations

import json
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bench import machine
from bench.cli import main
from bench.data import cars196
from bench.data.catalog import benchmark, dataset_names, open_dataset, restrict
from bench.data.decode import DamagedImage, decode
from bench.data.health import look
from bench.data.threads import in_order
from bench.data.verify import verify
from bench.errors import UsageError
from bench.protocol import Subset
from tests.data import photos


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for index, name in enumerate("abcd"):
        for number in range(2):
            photos.write(tmp_path / name / f"{number}.png", 10 * index + number)
    return tmp_path


def verified(data: Path, capsys: pytest.CaptureFixture[str], name: str = "image_folder") -> tuple[int, dict]:
    code = main(["data", "verify", name, "--data", str(data), "--json"])
    return code, json.loads(capsys.readouterr().out)


def cases(found: dict) -> dict[str, list[list[str]]]:
    """Images of each case, by kind."""
    return {kind["kind"]: [case["images"] for case in kind["instances"]] for kind in found["findings"]}


def test_sound(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = verified(images, capsys)
    assert code == 0
    assert found["sound"]
    assert found["error"] is None
    assert found["findings"] == []
    assert (found["classes"], found["train_images"], found["test_images"]) == (4, 4, 4)
    assert found["splits"][1] == {
        "split": "test", "classes": 2, "images": 4, "official_classes": None, "official_images": None,
    }  # fmt: skip


def test_damaged_and_copied_images_are_all_listed(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (images / "a/0.png").write_bytes(b"")
    (images / "b/0.png").write_bytes((images / "b/0.png").read_bytes()[:60])
    (images / "c/0.png").write_bytes(b"<html>404 Not Found</html>")
    shutil.copy(images / "a/1.png", images / "d/1.png")  # across the split
    shutil.copy(images / "c/1.png", images / "d/0.png")  # two classes of one side
    shutil.copy(images / "b/1.png", images / "b/2.png")
    (images / "c/._1.png").write_bytes(b"x")
    code, found = verified(images, capsys)
    assert code == 1
    assert not found["sound"]
    assert cases(found) == {
        "empty": [["a/0.png"]],
        "truncated": [["b/0.png"]],
        "unreadable": [["c/0.png"]],
        "copy across the split": [["a/1.png", "d/1.png"]],
        "copy across classes": [["c/1.png", "d/0.png"]],
        "copy within a class": [["b/1.png", "b/2.png"]],
        "._ files": [["c/._1.png"]],
    }
    problems = [kind["kind"] for kind in found["findings"] if kind["severity"] == "problem"]
    assert problems == ["empty", "truncated", "unreadable", "copy across the split"]
    assert all(kind["advice"].endswith(".") for kind in found["findings"])


def test_report_for_people_shows_the_first_cases_and_what_to_do(
    images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(2, 10):
        photos.write(images / f"a/{number}.png", number + 50).write_bytes(b"")
    assert main(["data", "verify", "image_folder", "--data", str(images)]) == 1
    said = capsys.readouterr().out
    assert "problem: 8 images of zero bytes" in said
    assert "a/6.png: cannot be decoded (it is empty)" in said
    assert "a/7.png" not in said
    assert "and 3 more (--json lists them)" in said
    assert "Get these files again, or leave them out with --leave-out" in said


def test_same_pixels_in_another_file_format_are_a_copy(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos.write(images / "d/2.bmp", 0)  # the picture of a/0.png
    code, found = verified(images, capsys)
    assert code == 1
    assert cases(found) == {"copy across the split": [["a/0.png", "d/2.bmp"]]}


def test_unusual_images_are_counted(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for mode, name in (("L", "grey.png"), ("1", "ink.png"), ("P", "palette.png"), ("CMYK", "print.jpg")):
        photos.write(images / "a" / name, 70 + len(name), mode=mode)
    for orientation in (1, 6):
        exif = Image.Exif()
        exif[0x0112] = orientation
        picture = photos.write(images / f"a/turned{orientation}.jpg", 80 + orientation)
        Image.open(picture).save(picture, exif=exif)
    (images / "a/deep.png").write_bytes(png(width=3, height=2, depth=16, rows=2 * bytes([0, *range(18)])))
    Image.fromarray(np.full((9, 9), 40_000, dtype=np.uint16)).save(images / "a/wide.png")
    code, found = verified(images, capsys)
    assert cases(found) == {
        "more than 8 bits": [["a/wide.png"]],
        "rotated": [["a/turned6.jpg"]],
        "16 bits": [["a/deep.png"]],
        "grey": [["a/grey.png"], ["a/ink.png"]],
        "palette": [["a/palette.png"]],
        "CMYK": [["a/print.jpg"]],
    }
    assert [kind["severity"] for kind in found["findings"]] == ["problem", "warning"] + 4 * ["note"]
    assert code == 1


def png(width: int, height: int, depth: int = 8, rows: bytes = b"") -> bytes:
    """An RGB file by hand: Pillow writes neither 16 bits a channel nor a header that lies."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_image_bomb_is_refused_by_name(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (images / "a/bomb.png").write_bytes(png(60_000, 60_000))
    code, found = verified(images, capsys)
    assert code == 1
    assert cases(found) == {"too large": [["a/bomb.png"]]}
    with pytest.raises(DamagedImage, match=r"a/bomb.png: is refused, it has too many pixels"):
        decode(images / "a/bomb.png", 16, 3)


def test_a_file_that_went_away_is_not_called_damaged(images: Path) -> None:
    dataset = open_dataset("image_folder", images)
    (images / "a/1.png").unlink()
    report = verify(dataset, progress=False)
    assert [(found.kind, found.instances[0].images) for found in report.findings] == [("inaccessible", ("a/1.png",))]
    assert report.damaged is None


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["jpg", "png", "gif", "bmp", "tif", "webp"]), st.data())
def test_whatever_is_in_a_file_it_decodes_or_is_named(tmp_path_factory, suffix: str, data: st.DataObject) -> None:
    path = photos.write(tmp_path_factory.mktemp("fuzz") / f"0.{suffix}", 1)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content[: data.draw(st.integers(0, len(content)))]))
    seen = look(path)
    if seen.fault is None:
        assert decode(path, 8, 3).dtype == np.uint8
    else:
        with pytest.raises(DamagedImage) as caught:
            decode(path, None, 3)
        assert (caught.value.fault, caught.value.reason) == (seen.fault, seen.reason)
        assert str(path) in str(caught.value)


def test_numbers_stand_beside_the_official_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for class_id, name in enumerate(cars196.official_names(), 1):
        photos.write(tmp_path / "images" / name.replace("/", "-") / "1.jpg", class_id)
    code, found = verified(tmp_path, capsys, "cars196")
    assert code == 0
    assert found["layout"] == "class folders"
    assert [tuple(numbers.values()) for numbers in found["splits"]] == [
        ("train", 98, 98, 98, 8_054),
        ("test", 98, 98, 98, 8_131),
    ]
    order = found["class_order"]
    assert order["moved"] == 143
    assert [place["folder"] for place in order["map"]] == sorted(path.name for path in (tmp_path / "images").iterdir())
    for place in order["map"]:
        assert place["folder"] == cars196.official_names()[place["official_id"] - 1].replace("/", "-")
    main(["data", "verify", "cars196", "--data", str(tmp_path)])
    assert "143 of 196 class folders stand elsewhere in alphabetical order" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["cars196", "cub200", "sop", "inshop", "inshop_highres", "vehicleid_medium"])
def test_official_numbers_are_found_by_name(name: str) -> None:
    found = benchmark(name)
    assert found is not None
    assert found.name == name


def test_own_images_have_no_official_numbers() -> None:
    assert benchmark("image_folder") is None


def test_few_results_wait_for_a_slow_taker() -> None:
    begun: list[int] = []
    results = in_order(lambda item: begun.append(item) or -item, range(1000))
    assert [next(results) for _ in range(3)] == [0, -1, -2]
    results.close()
    assert len(begun) < 100 * machine.cores()
    assert list(in_order(lambda item: item * 2, range(500))) == list(range(0, 1000, 2))


def test_exit_codes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "verify", "cars196", "--data", str(tmp_path)]) == 1
    assert "car_ims.tgz" in capsys.readouterr().out
    assert main(["data", "verify", "cars169", "--data", str(tmp_path)]) == 2
    assert "Did you mean 'cars196'?" in capsys.readouterr().err
    assert main(["data", "verify", "digits"]) == 0


@pytest.mark.long
def test_real_half_has_its_known_copy(real_photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = real_photos / "cars196_half"
    if not data.is_dir():
        pytest.skip("BENCH_DATA has no cars196_half")
    assert main(["data", "verify", "cars196", "--data", str(data), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["partial"] == "partial (98 of 196 classes)"
    assert cases(found) == {"copy across classes": [["car_ims/000595.jpg", "car_ims/003516.jpg"]]}


def test_names() -> None:
    assert dataset_names()[0] == "glyphs"
    with pytest.raises(UsageError, match=r"Did you mean 'glyphs'"):
        open_dataset("glyph", Path("unused"))


def test_subset_takes_classes_evenly_with_all_their_images() -> None:
    whole = open_dataset("glyphs", Path("unused"))
    part = restrict(whole, Subset(train_classes=10, test_classes=7))
    assert part.manifest.hash != whole.manifest.hash
    assert part.manifest.hash != restrict(whole, Subset(train_classes=10, test_classes=8)).manifest.hash
    assert len(np.unique(part.labels)) == part.manifest.classes == 17
    train = {part.class_ids[label] for label in part.labels[part.split.train]}
    positions = [sorted({whole.class_ids[x] for x in whole.labels[whole.split.train]}).index(i) for i in sorted(train)]
    assert np.ptp(np.diff(positions)) <= 1
    assert len(train) == 10
    for label, class_id in enumerate(part.class_ids):
        old = whole.labels == whole.class_ids.index(class_id)
        new = part.labels == label
        np.testing.assert_array_equal(part.images[new], whole.images[old])
        np.testing.assert_array_equal(part.nuisance[new], whole.nuisance[old])
        assert part.class_names[label] == whole.class_names[whole.class_ids.index(class_id)]
        assert part.class_groups[label] == whole.class_groups[whole.class_ids.index(class_id)]
    assert len(part.split.train) + len(part.split.test) == len(part.labels) == part.manifest.images


def test_subset_larger_than_a_side_is_refused() -> None:
    with pytest.raises(UsageError, match=r"asks for 6 classes, but the test side of 'digits' has 5"):
        restrict(open_dataset("digits", Path("unused")), Subset(train_classes=5, test_classes=6))
