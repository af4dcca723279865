"""Protocol files: the shipped ones are valid and commented; faults are named with file, key, found and allowed."""

from __future__ import annotations

import datetime
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench import yaml_file
from bench.errors import UsageError
from bench.protocol import load_protocol, protocol_files

SHIPPED = (
    "ci",
    "finetune-cpu",
    "frozen-trunk",
    "quick",
)  # validated on the training side; others: test_protocols_shipped.py
FILES = Path(__file__).parent.parent / "protocols"


def refused(path: str) -> str:
    with pytest.raises(UsageError) as error:
        load_protocol(path)
    assert path in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_protocols_load_under_their_name(name: str) -> None:
    protocol = load_protocol(name)
    assert protocol.name == name
    assert protocol_files()[name].name == f"{name}.yaml"
    assert protocol.selection.split == "validation"
    assert protocol.batch.size >= 32


def leaves(node: yaml.Node, keys: tuple[str, ...] = ()) -> Iterator[tuple[str, yaml.Node]]:
    """Every value of a YAML document with its key; an aliased one where it was written."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from leaves(value, (*keys, key.value))
    else:
        yield ".".join(keys), node


def comments(path: Path) -> dict[str, str]:
    """The comment behind each value of a protocol file, by key; texts for people need none."""
    text = path.read_text("utf-8")
    lines = text.splitlines()
    return {
        key: lines[node.end_mark.line][node.end_mark.column :].partition(" # ")[2]
        for key, node in leaves(yaml.compose(text))
        if key not in ("name", "summary", "corrections", "departures")
    }


@pytest.mark.parametrize("path", sorted(FILES.rglob("*.yaml")), ids=lambda p: p.stem)
def test_every_value_of_a_shipped_protocol_says_why(path: Path) -> None:
    found = comments(path)
    assert found
    assert [key for key, comment in found.items() if len(comment.split()) < 2] == []


@pytest.mark.parametrize("name", sorted(protocol_files()))
def test_shipped_protocols_leave_nothing_to_defaults(name: str) -> None:
    """What fixes a comparison is readable in its file. Sections that a protocol can do without are excepted."""
    given = yaml.safe_load(protocol_files()[name].read_text("utf-8"))
    optional = {
        "subset",
        "optimizer.momentum",
        "optimizer.warmup",
        "optimizer.clip_norm",
        "budget.max_minutes",
        "evaluation.graded",
        "folds.lists",  # by data set
        "search.spaces",  # of methods that are not named, those that they declare
    }

    def missing(model: Any, data: Any, prefix: str) -> list[str]:
        found = []
        for key, value in model.items():
            if key not in data:
                found.append(prefix + key)
            elif isinstance(value, dict) and key != "spaces":
                found += missing(value, data[key], f"{prefix}{key}.")
        return found

    assert set(missing(load_protocol(name).content(), given, "")) <= optional


def test_frozen_trunk_protocols_share_their_trunk_and_evaluation() -> None:
    frozen, tuned = load_protocol("frozen-trunk"), load_protocol("finetune-cpu")
    assert (frozen.trunk.name, frozen.trunk.weights) == (tuned.trunk.name, tuned.trunk.weights)
    assert frozen.folds == tuned.folds
    assert frozen.evaluation == tuned.evaluation
    assert frozen.trunk.frozen
    assert not tuned.trunk.frozen


BAD: list[tuple[dict[str, Any], str]] = [
    ({"trunk": {"name": "resnet81", "weights": "none"}}, r"trunk\.name.*'resnet81'.*'resnet18'.*conv4"),
    ({"trunk": {"weights": "imagenet"}}, r"trunk\.weights.*'conv4' has no ImageNet weights.*'none' or a local file"),
    ({"trunk": {"batch_norm": "thawed"}}, r"trunk\.batch_norm.*'thawed'.*'train' or 'frozen'"),
    ({"embedding": {"size": 0}}, r"embedding\.size.*found 0.*greater than or equal to 1"),
    ({"embedding": {"size": "big"}}, r"embedding\.size.*found 'big'.*integer"),
    ({"embedding": {"size": 12.5}}, r"embedding\.size.*found 12\.5.*integer"),
    ({"embedding": {"normalise": True}}, r"embedding\.normalise.*unknown.*'normalize'.*size"),
    ({"images": {"crop": 64}}, r"images.*crop 64 is larger than resize 32"),
    ({"images": {"train": {"size": 32, "crop_area": [0.9, 0.4]}}}, r"crop_area.*\[0\.9, 0\.4\].*low <= high"),
    ({"images": {"train": {"size": 32, "crop_area": [0.0, 1.0]}}}, r"crop_area.*0 < low"),
    ({"images": {"train": {"size": 32, "crop_area": [0.5, 1.0], "crop_aspect": [-1.0, 1.0]}}}, r"crop_aspect.*0 < low"),
    ({"images": {"train": None}}, r"images\.train is missing"),
    ({"trunk": {"frozen": True}}, r"images\.train is given but trunk\.frozen"),
    ({"batch": {"classes": 1, "per_class": 1}}, r"batch of one image"),
    ({"batch": {"classes": -4}}, r"batch\.classes.*found -4"),
    ({"optimizer": {"name": "adamax"}}, r"optimizer\.name.*'adamax'.*'adamw'"),
    ({"optimizer": {"momentum": 0.9}}, r"optimizer\.momentum.*0\.9.*adamw takes none"),
    ({"optimizer": {"trunk": {"lr": -1e-3}}}, r"optimizer\.trunk\.lr.*found -0\.001.*greater than or equal to 0"),
    ({"optimizer": {"trunk": {"lr": "fast"}}}, r"optimizer\.trunk\.lr.*found 'fast'.*number"),
    ({"optimizer": {"trunk": {"learning_rate": 1e-3}}}, r"optimizer\.trunk\.learning_rate.*unknown"),
    ({"budget": {"evaluate_every": 100}}, r"evaluate_every is larger than budget\.iterations"),
    ({"folds": {"count": 4, "use": [4]}}, r"folds.*0\.\.3.*\[4\]"),
    ({"folds": {"count": 4, "use": [1, 1]}}, r"folds.*distinct"),
    ({"folds": None}, r"selection\.split is 'validation' but folds is null"),
    ({"selection": {"metric": "accuracy"}}, r"selection\.metric is 'accuracy'.*map_at_r.*recall_at_2"),
    ({"selection": {"metric": "recall_at_4"}}, r"recall_at_4.*recall_at_1, recall_at_2"),
    ({"selection": {"split": "dev"}}, r"selection\.split.*'dev'.*'validation'"),
    ({"seeds": [1, 1]}, r"seeds must be distinct"),
    ({"seeds": []}, r"seeds must be distinct and not empty"),
    ({"seeds": [-1]}, r"seeds\.0.*found -1"),
    ({"evaluation": {"recall_at": [1, 1]}}, r"recall_at.*\[1, 1\].*distinct"),
    ({"evaluation": {"recall_at": [0]}}, r"recall_at\.0.*found 0"),
    ({"interval": {"level": 95}}, r"interval\.level.*found 95.*less than 1"),
    ({"precision": "float16"}, r"precision.*'float16'.*'float32' or 'bfloat16'"),
    ({"optimizer": {"trunk": {"lr": float("inf")}}}, r"optimizer\.trunk\.lr.*finite"),
    ({"optimizer": {"trunk": {"lr": float("nan")}}}, r"optimizer\.trunk\.lr.*finite"),
    ({"seeds": [datetime.date(2026, 1, 1)]}, r"seeds\.0.*'2026-01-01'.*integer"),
    ({"threads": 0}, r"threads.*found 0"),
    ({"thread": 1}, r"'thread': unknown. Did you mean 'threads'"),
]


@pytest.mark.parametrize(("changes", "message"), BAD, ids=[str(changes)[:60] for changes, _ in BAD])
def test_impossible_values_name_key_found_and_allowed(tiny: Any, changes: dict[str, Any], message: str) -> None:
    assert re.search(message, refused(tiny(**changes)), re.DOTALL)


def test_all_faults_are_told_at_once(tiny: Any) -> None:
    message = refused(tiny(embedding={"size": 0}, threads=0, precision="half"))
    assert "3 invalid" in message
    assert all(key in message for key in ("embedding.size", "threads", "precision"))


def test_a_missing_key_is_named(tiny: Any) -> None:
    path = Path(tiny())
    content = yaml.safe_load(path.read_text())
    del content["batch"]
    path.write_text(yaml.safe_dump(content))
    assert "key 'batch': missing" in refused(str(path))


def test_name_must_be_the_file_name(tiny: Any) -> None:
    assert "key 'name' is 'other' but the file is called 'tiny'" in refused(tiny(name="other"))


def test_unknown_protocol_suggests_the_nearest() -> None:
    with pytest.raises(UsageError, match="Did you mean 'frozen-trunk'"):
        load_protocol("frozen-trunc")
    with pytest.raises(UsageError, match="does not exist"):
        load_protocol("nowhere/mine.yaml")


def test_hash_is_over_content_not_formatting(tiny: Any) -> None:
    path = Path(tiny())
    first = load_protocol(str(path)).hash
    content = yaml.safe_load(path.read_text())
    reordered = dict(reversed(content.items()))
    path.write_text("# a comment\n" + yaml.safe_dump(reordered, default_flow_style=True, sort_keys=False))
    assert load_protocol(str(path)).hash == first
    assert load_protocol(tiny(summary="said otherwise", seeds=[4, 5])).hash == first


@pytest.mark.parametrize(
    "changes",
    [{"batch": {"per_class": 2}}, {"optimizer": {"trunk": {"lr": 2e-3}}}, {"threads": 2}, {"subset": None}],
    ids=str,
)
def test_hash_follows_every_value(tiny: Any, changes: dict[str, Any]) -> None:
    assert load_protocol(tiny(**changes)).hash != load_protocol(tiny()).hash


def test_a_protocol_cannot_be_changed(tiny: Any) -> None:
    protocol = load_protocol(tiny())
    with pytest.raises(ValueError, match="frozen"):
        protocol.batch.classes = 99  # type: ignore[misc]


def read(tmp_path: Path, text: str) -> dict[str, Any]:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    return yaml_file.read(path)


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 0.001), ("1E5", 1e5), ("-2e+2", -200.0), ("1.5e-4", 1.5e-4), ("3", 3), ("'1e-3'", "1e-3")],
)
def test_numbers_are_read_as_people_write_them(tmp_path: Path, text: str, value: Any) -> None:
    found = read(tmp_path, f"x: {text}")["x"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", r"key 'a' is given twice[\s\S]*line 3"),
        ("a: {b: 1, b: 2}\n", "key 'b' is given twice"),
        ("a: [1, 2\n", r"not valid YAML[\s\S]*line"),
        ("- 1\n- 2\n", "found list"),
        ("", "found NoneType"),
        ("a: !!python/object/apply:os.getcwd []\n", "not valid YAML"),
        ("? [1, 2]\n: 3\n", "not valid YAML"),
        ("? {a: 1}\n: 3\n", "not valid YAML"),
    ],
)
def test_bad_yaml_names_the_file_and_the_place(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        read(tmp_path, text)
    assert "x.yaml" in str(error.value)


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "x.yaml", tmp_path / "none.yaml", tmp_path):
        with pytest.raises(UsageError, match=path.name):
            yaml_file.read(path)


def test_merge_keys_work(tmp_path: Path) -> None:
    found = read(tmp_path, "base: &b {lr: 1e-3}\nx: {<<: *b, weight_decay: 0.0}\n")
    assert found["x"] == {"lr": 0.001, "weight_decay": 0.0}


def test_checking_a_protocol_loads_no_torch() -> None:
    code = (
        "import sys; from bench.protocol import load_protocol; load_protocol('quick'); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=FILES.parent, check=False).returncode == 0
