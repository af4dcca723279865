"""Whole runs on a tiny protocol: records, bits, resume, the seal, and what goes wrong."""

from __future__ import annotations

import gc
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from bench.data import seal
from bench.data.dataset import Dataset
from bench.evaluation import evaluate
from bench.plan import Setting, make_plan
from bench.run import run
from bench.store import Store


def never() -> bool:
    return False


def quiet(phase: str, done: int, total: int) -> None:
    pass


def plan_of(protocol: str, results: Path, methods: list[str], include: tuple[Path, ...] = (), dataset: str = "glyphs"):
    return make_plan(dataset, Setting(protocol, results / "data", results, include), methods, [0])


def run_one(
    protocol: str, results: Path, method: str, include: tuple[Path, ...] = (), stop=never, dataset: str = "glyphs"
):
    plan = plan_of(protocol, results, [method], include, dataset)
    return run(plan.specs[0], plan.protocol, plan.setting, quiet, stop)


def plugin(folder: Path, body: str, name: str = "mine") -> Path:
    path = folder / f"{name}.py"
    path.write_text(
        f'"""A test method."""\nimport torch\nfrom bench.method import Method\n\n\nclass Mine(Method):\n'
        f'    """A test method."""\n\n    name = "{name}"\n\n' + textwrap.indent(textwrap.dedent(body), "    ")
    )
    return path


def bits(record) -> tuple:
    points = [(p.step, p.loss, p.validation, p.test) for p in record.curves]
    return record.metrics, points, record.steps


def test_a_run_leaves_a_full_record(tiny, tmp_path):
    record = run_one(tiny(), tmp_path, "margin")
    assert record.reason is None
    assert record.state == "done"
    assert set(record.metrics) == {"last", "best_validation", "best_test"}
    assert [point.step for point in record.curves] == [6, 12]
    for scores in record.metrics.values():
        assert set(scores) >= {"recall_at_1", "recall_at_2", "precision_at_1", "r_precision", "map_at_r", "nmi"}
        assert all(0 <= value <= 1 for value in scores.values())
    assert record.counts["images_seen"] == 12 * 16
    by_test = {p.step: p.test["map_at_r"] for p in record.curves}
    by_validation = {p.step: p.validation["map_at_r"] for p in record.curves}
    assert record.steps["best_test"] == max(by_test, key=by_test.get)
    assert record.steps["best_validation"] == max(by_validation, key=by_validation.get)
    assert record.metrics["last"]["map_at_r"] == by_test[12]
    folder = Store(tmp_path).folder(record)
    assert {f.name for f in folder.iterdir()} == {"record.json", *record.artefacts.values()}
    assert not Store(tmp_path).work(record.spec).exists()


def test_metrics_can_be_recomputed_from_the_stored_embeddings(tiny, tmp_path):
    record = run_one(tiny(), tmp_path, "contrastive")
    stored = load_file(Store(tmp_path).folder(record) / record.artefacts["embeddings"])
    again = evaluate(stored["embeddings"], stored["labels"], ks=(1, 2), clustering=None).metrics
    assert all(record.metrics["best_validation"][name] == value for name, value in again.items())


def test_the_same_spec_gives_the_same_bits_and_other_seeds_do_not(tiny, tmp_path):
    protocol = tiny()
    first, second = (run_one(protocol, tmp_path / name, "margin") for name in ("a", "b"))
    assert bits(first) == bits(second)
    plan = make_plan("glyphs", Setting(protocol, tmp_path, tmp_path / "c"), ["margin"], [1])
    other = run(plan.specs[0], plan.protocol, plan.setting, quiet, never)
    assert bits(other) != bits(first)


@pytest.mark.parametrize("method", ["margin", "proxy_anchor"])
@pytest.mark.parametrize("stops", [(1,), (5,), (6,), (3, 4, 11)])
def test_a_run_stopped_and_started_again_gives_the_same_bits(tiny, tmp_path, method, stops):
    protocol = tiny()
    whole = run_one(protocol, tmp_path / "whole", method)
    for at in stops:
        plan = plan_of(protocol, tmp_path / "cut", [method])
        reached = {"step": 0}

        def report(phase: str, done: int, total: int, reached: dict = reached) -> None:
            reached["step"] = done

        def stop(at: int = at, reached: dict = reached) -> bool:
            return reached["step"] + 1 >= at

        cut = run(plan.specs[0], plan.protocol, plan.setting, report, stop)
        assert cut.state == "interrupted"
    resumed = run_one(protocol, tmp_path / "cut", method)
    assert resumed.state == "done"
    assert bits(resumed) == bits(whole)


def test_two_methods_under_one_seed_start_equal_and_see_the_same_batches_and_crops(tiny, tmp_path):
    seen: dict[str, list] = {}
    body = """
        def build(self, context):
            torch.rand({draws})

        def loss(self, batch):
            torch.rand({draws})
            RECORD.append((batch.indices.tolist(), batch.features.detach().sum().item()))
            return batch.embeddings.sum() * 0.0 + {keep}
    """
    for name, draws in (("one", 1), ("two", 50)):
        path = plugin(tmp_path, body.format(draws=draws, keep="0.0 * batch.raw_embeddings.sum()"), name)
        path.write_text(f"import sys\n{path.read_text()}\n\nRECORD = sys.__dict__.setdefault('seen_{name}', [])\n")
        record = run_one(tiny(), tmp_path / name, name, (path,))
        assert record.state == "done", record.reason
        seen[name] = sys.__dict__.pop(f"seen_{name}")
    assert len(seen["one"]) == 12
    assert seen["one"] == seen["two"]


@pytest.mark.parametrize("where", ["build", "loss", "on_epoch", "embedder", "import"])
def test_a_method_that_reaches_for_test_data_fails(tiny, tmp_path, where):
    reach = "from pathlib import Path\nfrom bench.data import catalog\ncatalog.open_dataset('glyphs', Path('.'))\n"
    loss = "def loss(self, batch):\n    return batch.embeddings.sum()\n"
    if where == "import":
        path = plugin(tmp_path, loss)
        path.write_text(path.read_text().replace("import torch\n", "import torch\n" + reach, 1))
        with pytest.raises(Exception, match="sealed"):
            plan_of(tiny(), tmp_path, ["mine"], (path,))
        return
    arguments = {"build": "context", "loss": "batch", "on_epoch": "view", "embedder": "trunk_dim, size"}[where]
    rest = {"loss": "return batch.embeddings.sum()", "embedder": "return torch.nn.Linear(trunk_dim, size)"}
    body = f"def {where}(self, {arguments}):\n" + textwrap.indent(reach + rest.get(where, "pass") + "\n", "    ")
    record = run_one(tiny(), tmp_path, "mine", (plugin(tmp_path, body if where == "loss" else body + "\n" + loss),))
    assert record.state == "error"
    assert "sealed" in record.reason
    assert "SealedError" in record.traceback


def test_no_live_object_leads_to_the_test_labels_while_training(tiny, tmp_path, monkeypatch):
    body = """
        def loss(self, batch):
            import gc
            import sys
            from bench.data.dataset import Dataset
            known = sys.__dict__["data_sets_of_other_tests"]
            found = [o for o in gc.get_objects() if type(o) is Dataset and id(o) not in known]
            if found:
                raise RuntimeError(f"{len(found)} data sets are reachable")
            return batch.embeddings.sum()
    """
    plan = plan_of(tiny(), tmp_path, ["mine"], (plugin(tmp_path, body),))
    gc.collect()
    others = {id(o) for o in gc.get_objects() if type(o) is Dataset}
    monkeypatch.setitem(sys.__dict__, "data_sets_of_other_tests", others)
    record = run(plan.specs[0], plan.protocol, plan.setting, quiet, never)
    assert record.state == "done", record.reason


def test_the_seal_opens_again_after_a_failed_run(tiny, tmp_path):
    run_one(tiny(), tmp_path, "mine", (plugin(tmp_path, "def loss(self, batch):\n    raise ValueError('no')\n"),))
    seal.check("test images")


@pytest.mark.parametrize(
    ("body", "state", "words"),
    [
        ("def loss(self, batch):\n    raise ValueError('my own mistake')\n", "error", "ValueError: my own mistake"),
        ("def loss(self, batch):\n    return batch.embeddings.sum() * float('nan')\n", "diverged", "NaN or infinite"),
        ("def loss(self, batch):\n    return batch.embeddings\n", "error", "must return one number"),
        ("def loss(self, batch):\n    return torch.tensor(1.0)\n", "error", "connected to the embeddings"),
        (
            "def embedder(self, dim, size):\n    return torch.nn.Linear(dim, size + 1)\n\n"
            "def loss(self, batch):\n    return batch.embeddings.sum()\n",
            "error",
            "the protocol asks for",
        ),
        (
            "def batches(self, labels, shape, rng):\n    while True:\n        yield rng.integers(0, len(labels), 3)\n\n"
            "def loss(self, batch):\n    return batch.embeddings.sum()\n",
            "error",
            "the protocol's batch has 16 images",
        ),
        (
            "def build(self, context):\n    self.w = torch.nn.Parameter(torch.zeros(2))\n\n"
            "def parameter_groups(self, default):\n    return []\n\n"
            "def loss(self, batch):\n    return batch.embeddings.sum()\n",
            "error",
            "parameter_groups() must hold each of its own 1 parameters once",
        ),
    ],
)  # fmt: skip
def test_a_broken_method_is_a_failed_record_that_says_why(tiny, tmp_path, body, state, words):
    record = run_one(tiny(), tmp_path, "mine", (plugin(tmp_path, body),))
    assert record.state == state
    assert words in record.reason
    assert record.traceback
    assert [r.state for r in Store(tmp_path).records()] == [state]


def test_departures_are_found_and_counted(tiny, tmp_path):
    body = """
        def on_epoch(self, view):
            assert view.embeddings().shape == (len(view), 16)

        def batches(self, labels, shape, rng):
            while True:
                yield rng.integers(0, len(labels), shape.size)

        def loss(self, batch):
            return batch.embeddings.sum()
    """
    record = run_one(tiny(), tmp_path, "mine", (plugin(tmp_path, body),))
    assert record.state == "done", record.reason
    assert set(record.method.departures) == {"own batches", "sees training images between epochs"}
    epochs = 3  # 12 iterations, 5 an epoch
    assert record.counts["extra_forward_images"] == epochs * record.dataset.train_images
    assert record.counts["forward_images"] == 12 * 16 + record.counts["extra_forward_images"]


def test_patience_stops_early(tiny, tmp_path):
    body = "def loss(self, batch):\n    return batch.embeddings.sum() * 0.0\n"
    protocol = tiny(
        budget={"iterations": 100, "evaluate_every": 2, "patience": 2},
        optimizer={"trunk": {"lr": 0.0}, "embedder": {"lr": 0.0}},
        trunk={"batch_norm": "frozen"},
    )
    record = run_one(protocol, tmp_path, "mine", (plugin(tmp_path, body),))
    assert record.state == "done", record.reason
    assert record.steps["best_validation"] == 2
    assert record.steps["last"] == 6  # the best, and then two evaluations without a better one


def test_a_baseline_is_evaluated_untrained(tiny, tmp_path):
    record = run_one(tiny(), tmp_path, "raw_trunk")
    assert record.state == "done", record.reason
    assert record.steps == {"last": 0, "best_validation": 0, "best_test": 0}
    assert record.counts["images_seen"] == 0
    assert record.method.trained_parameters == 0


def test_a_full_disk_is_a_message_and_loses_nothing(tiny, tmp_path):
    from bench.training import checkpoint as checkpoint_module

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "results")

    original = checkpoint_module.save
    checkpoint_module.save = full
    try:
        record = run_one(tiny(), tmp_path, "margin")
    finally:
        checkpoint_module.save = original
    assert record.state == "error"
    assert "no space left" in record.reason
    assert run_one(tiny(), tmp_path, "margin").state == "done"


def test_bfloat16_and_cosine_schedule_train(tiny, tmp_path):
    protocol = tiny(precision="bfloat16", optimizer={"schedule": "cosine", "warmup": 3, "clip_norm": 1.0})
    record = run_one(protocol, tmp_path, "multi_similarity")
    assert record.state == "done", record.reason
    assert np.isfinite(record.metrics["last"]["map_at_r"])


def test_torch_is_deterministic_after_a_run(tiny, tmp_path):
    run_one(tiny(budget={"iterations": 6}), tmp_path, "untrained")
    assert torch.are_deterministic_algorithms_enabled()


def test_a_method_that_changed_after_the_plan_is_refused(tiny, tmp_path):
    body = "def loss(self, batch):\n    return batch.embeddings.square().sum() * 1.0\n"
    path = plugin(tmp_path, body)
    plan = plan_of(tiny(), tmp_path, ["mine"], (path,))
    path.write_text(path.read_text().replace("1.0", "2.0"))
    record = run(plan.specs[0], plan.protocol, plan.setting, quiet, never)
    assert record.state == "error"
    assert "'mine', or one that it builds on, changed since this run was planned" in record.reason
    path.write_text(path.read_text().replace("2.0", "1.0"))
    assert run(plan.specs[0], plan.protocol, plan.setting, quiet, never).state == "done"


def test_runs_with_continuous_labels_and_several_descriptors(tiny, tmp_path):
    graded = tiny(evaluation={"graded": {"distance_at": [1], "ndcg_at": [5]}}, embedding={"normalize": False})
    record = run_one(graded, tmp_path, "cgd", dataset="posed_glyphs")
    assert record.reason is None
    assert "mean + max + gem pooled features" in record.method.departures
    assert {"label_distance_at_1", "ndcg_at_5", "map_at_r"} <= set(record.metrics["last"])


def test_retraining_takes_all_training_classes_for_the_length_found(tiny, tmp_path):
    protocol = tiny(
        budget={"iterations": 12, "evaluate_every": 3},
        folds={"use": [0]},
        selection={"metric": "map_at_r", "split": "last", "retrain": True},
    )
    record = run_one(protocol, tmp_path, "contrastive")
    assert record.state == "done", record.reason
    found = record.steps["last"]
    assert 0 < found <= 12
    assert found % 3 == 0
    assert record.counts["steps"] == 12 + found
    assert set(record.metrics) == {"last", "best_test"}
    assert all(point.validation is None for point in record.curves)


def test_a_resting_trunk_keeps_its_weights(tiny, tmp_path):
    def weights(method, **optimizer):
        protocol = tiny(budget={"iterations": 4, "evaluate_every": 4}, optimizer=optimizer)
        record = run_one(protocol, tmp_path, method)
        assert record.state == "done", record.reason
        return load_file(Store(tmp_path).path(record.spec) / "weights.safetensors")

    moving, resting = weights("contrastive"), weights("contrastive", trunk_rests=4)
    fresh = weights("untrained")
    trunk = [name for name in fresh if name.startswith("trunk.") and name.endswith((".weight", ".bias"))]
    assert trunk
    assert all(np.array_equal(resting[name], fresh[name]) for name in trunk)
    assert not any(np.array_equal(moving[name], fresh[name]) for name in trunk)
    assert not np.array_equal(resting["embedder.weight"], fresh["embedder.weight"])


def test_methods_without_pairs_get_batches_of_more_classes(tiny, tmp_path):
    seen = (
        "def loss(self, batch):\n    assert len(set(batch.labels.tolist())) == {}\n    return batch.embeddings.sum()\n"
    )
    protocol = tiny(batch={"classification": {"classes": 8, "per_class": 2}})
    for name, head, classes in (("pairs", "", 4), ("proxies", "needs_pairs = False\n", 8)):
        record = run_one(protocol, tmp_path, name, (plugin(tmp_path, head + seen.format(classes), name),))
        assert record.state == "done", record.reason
