"""Every shipped recipe trains: with its own trunk, batches, optimiser and method, on small images for a few steps."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from bench import yaml_file
from bench.plan import Setting, make_plan
from bench.protocol import load_protocol, protocol_files
from bench.record import Record
from bench.run import run

OWN = {
    "papers/cgd": "cgd",
    "papers/divide-and-conquer": "divide_and_conquer",
    "papers/embedding-expansion": "embedding_expansion",
    "papers/log-ratio": "log_ratio",
    "papers/loop": "loop",
    "papers/mic": "mic",
    "papers/multi-similarity": "multi_similarity",
    "papers/proxy-anchor": "proxy_anchor",
    "papers/xbm": "xbm",
    "legacy": "multi_similarity",
    "reality-check": "arcface",
    "reality-check-as-released": "contrastive_distance",
    "roth2020": "margin",
    "trainval-two-stage": "proxy_nca_pp",
}
SIDE, STEPS = 64, 2


def small(name: str, folder: Path) -> str:
    """A copy of a protocol with small images, random weights and few steps; what else it says stays."""
    content = yaml_file.read(protocol_files()[name])
    images, rules = content["images"], load_protocol(name)
    share = SIDE / rules.images.crop
    images |= {"resize": round(rules.images.resize * share), "crop": SIDE}
    images["train"]["size"] = SIDE
    content["trunk"]["weights"] = "none"
    content["budget"] |= {"iterations": STEPS, "evaluate_every": STEPS // 2, "epoch": STEPS // 2}
    if name != "papers/log-ratio":
        content["subset"] = {"train_classes": 130, "test_classes": 10}
    path = folder / f"{name.rpartition('/')[2]}.yaml"
    path.write_text(yaml.safe_dump(content | {"name": path.stem}))
    return str(path)


def quiet(phase: str, done: int, total: int) -> None:
    pass


def trained(name: str, folder: Path) -> Record:
    dataset = "posed_glyphs" if name == "papers/log-ratio" else "glyphs"
    plan = make_plan(dataset, Setting(small(name, folder), folder / "data", folder / "results"), [OWN[name]], [0])
    return run(plan.specs[0], plan.protocol, plan.setting, quiet, lambda: False)


@pytest.mark.long
@pytest.mark.parametrize("name", OWN)
def test_a_recipe_trains_its_method(name: str, tmp_path: Path) -> None:
    record = trained(name, tmp_path)
    assert record.state == "done", record.traceback
    rules, given = load_protocol(name), record.spec.hyperparameters
    assert record.method.trained_parameters > 1_000_000
    assert all(given[key] == value for key, value in rules.hyperparameters.get(OWN[name], {}).items())
    losses = [point.loss for point in record.curves if point.loss is not None]
    assert len(set(losses)) == len(losses) > 0
    assert record.counts["steps"] >= STEPS


def test_no_recipe_is_left_out() -> None:
    own = ("quick", "ci", "finetune-cpu", "few-classes", "frozen-trunk", "graded")
    ours = {*own, "reality-check-small", "reality-check-glyphs"}
    assert set(protocol_files()) == ours | set(OWN)
