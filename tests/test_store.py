import json
import multiprocessing
import os
import signal
import time

import pytest

from bench.draft import Draft
from bench.protocol import load_protocol
from bench.record import RunSpec
from bench.store import Store


@pytest.fixture
def spec():
    return RunSpec(
        dataset="glyphs", dataset_hash="d" * 12, protocol="quick", protocol_hash="p" * 12,
        method="margin", method_hash="m" * 12, hyperparameters={"margin": 0.2}, fold=0, seed=1,
    )  # fmt: skip


@pytest.fixture
def draft(spec):
    return Draft(spec, load_protocol("quick"))


def test_every_field_of_a_spec_is_part_of_its_id(spec):
    changed = {
        "dataset": "x", "dataset_hash": "x", "protocol": "x", "protocol_hash": "x", "weights_hash": "x",
        "method": "x", "method_hash": "x",
        "hyperparameters": {"margin": 0.3}, "fold": None, "seed": 2, "harness": 99, "tuning": True,
    }  # fmt: skip
    assert set(changed) == set(RunSpec.model_fields)
    ids = {spec.model_copy(update={key: value}).run_id for key, value in changed.items()}
    assert len(ids | {spec.run_id}) == len(changed) + 1


def test_a_record_comes_back_as_it_was_written(tmp_path, spec, draft):
    draft.metrics["last"] = {"map_at_r": 0.1 + 0.2}
    record = draft.record("done")
    store = Store(tmp_path)
    store.write(record)
    assert store.records() == [record]
    assert store.load(spec) == record
    assert (store.folder(record) / "record.json").is_file()


def test_failed_attempts_are_kept_and_the_finished_one_counts(tmp_path, spec, draft):
    store = Store(tmp_path)
    first = store.write(draft.record("error", "first"))
    second = store.write(draft.record("diverged", "second"))
    assert first != second
    assert not store.is_done(spec)
    assert len(store.records()) == 1
    store.write(draft.record("done"))
    assert [r.state for r in store.records()] == ["done"]
    assert first.is_dir()
    assert second.is_dir()


def test_a_finished_record_is_never_overwritten(tmp_path, spec, draft):
    store = Store(tmp_path)
    draft.metrics["last"] = {"map_at_r": 0.5}
    store.write(draft.record("done"))
    draft.metrics["last"] = {"map_at_r": 0.9}
    with pytest.raises(OSError, match=spec.run_id):
        store.write(draft.record("done"))
    assert store.load(spec).metrics["last"]["map_at_r"] == 0.5
    assert not list(store.path(spec).parent.glob(".*staging*"))


def test_an_unreadable_record_is_named_and_the_others_are_read(tmp_path, spec, draft):
    store = Store(tmp_path)
    store.write(draft.record("done"))
    bad = store.path(spec).with_name("broken") / "record.json"
    bad.parent.mkdir()
    bad.write_text(json.dumps({"run_id": "half"}))
    assert len(store.records()) == 1
    assert len(store.problems) == 1
    assert str(bad) in store.problems[0]


def test_staging_and_work_folders_are_not_records(tmp_path, spec, draft):
    store = Store(tmp_path)
    folder = store.write(draft.record("done"))
    folder.rename(folder.with_name(f".{folder.name}.staging-1"))
    store.work(spec).mkdir()
    assert store.records() == []
    assert [place.parts for place in store.unfinished()] == [("quick", "glyphs", "margin", spec.run_id)]


def hold(root, spec, ready):
    with Store(root).claim(spec):
        ready.set()
        time.sleep(60)


def test_a_claim_excludes_others_and_ends_with_its_process(tmp_path, spec):
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=hold, args=(tmp_path, spec, ready))
    process.start()
    assert ready.wait(30)
    with Store(tmp_path).claim(spec, timeout=0) as mine:
        assert not mine
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with Store(tmp_path).claim(spec, timeout=5) as mine:
        assert mine
