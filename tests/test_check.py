"""`bench check`: what it lets pass and what it does not."""

from __future__ import annotations

import copy

import pytest

from bench import check, machine
from bench.errors import UsageError

HASH = "0" * 12
METRICS = {"map_at_r": 0.25, "recall_at_1": 0.5}


@pytest.fixture
def found():
    return {"margin": {"state": "done", "metrics": dict(METRICS), "first_loss": 0.5}}


@pytest.fixture
def baseline(found):
    return {"protocol_hash": HASH, "fingerprint": machine.fingerprint(), "methods": copy.deepcopy(found)}


def elsewhere(baseline):
    baseline["fingerprint"] = {**baseline["fingerprint"], "cpu": "another"}
    return baseline


def test_equal_numbers_pass(baseline, found):
    assert check.compare(baseline, found, HASH) == []


def test_on_the_same_platform_the_last_bit_counts(baseline, found):
    found["margin"]["metrics"]["map_at_r"] += 1e-16 * 4
    (difference,) = check.compare(baseline, found, HASH)
    assert (difference.method, difference.what) == ("margin", "map_at_r")


@pytest.mark.parametrize(("moved", "passes"), [(0.029, True), (-0.029, True), (0.031, False), (-0.031, False)])
def test_elsewhere_the_band_holds(baseline, found, moved, passes):
    found["margin"]["metrics"]["recall_at_1"] += moved
    assert (check.compare(elsewhere(baseline), found, HASH) == []) == passes


@pytest.mark.parametrize(("factor", "passes"), [(1.019, True), (1.021, False), (-1.0, False)])
def test_the_first_loss_guards_elsewhere_too(baseline, found, factor, passes):
    found["margin"]["first_loss"] *= factor
    assert (check.compare(elsewhere(baseline), found, HASH) == []) == passes


def test_state_metrics_methods_and_protocol_must_agree(baseline, found):
    failed = {"margin": {"state": "diverged", "metrics": {}, "first_loss": None}}
    assert [d.what for d in check.compare(baseline, failed, HASH)] == ["state"]
    del found["margin"]["metrics"]["map_at_r"]
    assert [d.what for d in check.compare(baseline, found, HASH)] == ["map_at_r"]
    assert [d.what for d in check.compare(baseline, {}, HASH)] == ["plug-in"]
    more = {**baseline["methods"], "new": found["margin"]}
    assert [(d.method, d.what) for d in check.compare(baseline, more, HASH)] == [("new", "baseline")]
    assert [d.method for d in check.compare(baseline, baseline["methods"], "1" * 12)] == ["(protocol)"]


def test_an_update_keeps_all_reasons(baseline, found, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("methods", "protocols"):
        (tmp_path / folder).mkdir()
    shipped_reasons = [entry["reason"] for entry in check.load_baseline()["history"]]
    check.save_baseline(found, HASH, "one")
    check.save_baseline(found, HASH, "two")
    saved = check.load_baseline()
    assert [entry["reason"] for entry in saved["history"]] == [*shipped_reasons, "one", "two"]
    assert check.compare(saved, found, HASH) == []


def test_a_broken_baseline_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("methods", "protocols", "results/reference"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "results/reference/ci.json").write_text("{")
    with pytest.raises(UsageError, match=r"ci\.json is not valid JSON"):
        check.load_baseline()


def test_the_committed_baseline_covers_every_method():
    from bench import registry

    on_classes = {name for name, info in registry.methods().items() if not info.cls.needs_targets}
    assert set(check.load_baseline()["methods"]) == on_classes


def test_differences_read_well():
    line = str(check.Difference("margin", "map_at_r", 0.25, 0.2, "band 0.03"))
    assert line.split() == ["margin", "map_at_r", "0.250000", "->", "0.200000", "(-0.05),", "band", "0.03"]
