from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from bench import registry
from bench.cli import list as list_command
from bench.cli import validate as command
from bench.validate import CHECKS, validate

HEADER = """
import random
import numpy as np
import torch
from torch import nn
from bench.method import Batch, Method, hyper
from bench import pairs

def pull(batch):
    return (1 - pairs.similarities(batch.embeddings)).mean()
"""

# Each breaks one rule; the check that must notice, and what it must say.
BROKEN = {
    "wrong_constructor": ("builds", "boom", "def build(self, context): raise ValueError('boom')"),
    "foreign_parameter": (
        "builds",
        "parameter_groups",
        "def build(self, context): self.w = nn.Parameter(torch.ones(1))\n"
        "    def parameter_groups(self, default): return [{**default, 'params': []}]",
    ),
    "wide_embedder": (
        "embedding size",
        "9",
        "def embedder(self, trunk_dim, size): return nn.Linear(trunk_dim, size + 1)",
    ),
    "wide_at_test_time": ("embedding size", "16", "def embed(self, features, embedder): return features"),
    "small_batches": (
        "batches",
        "(31,)",
        "def batches(self, labels, shape, rng):\n        while True: yield np.arange(shape.size - 1)",
    ),
    "int32_batches": (
        "batches",
        "int32",
        "def batches(self, labels, shape, rng):\n        while True: yield np.arange(shape.size, dtype=np.int32)",
    ),
    "outside_batches": (
        "batches",
        "[127, 158]",
        "def batches(self, labels, shape, rng):\n        while True: yield np.arange(shape.size) + len(labels) - 1",
    ),
    "short_batches": ("batches", "StopIteration", "def batches(self, labels, shape, rng): yield np.arange(shape.size)"),
    "vector_loss": ("loss", "(32,)", "def loss(self, batch): return batch.embeddings.sum(1)"),
    "number_loss": ("loss", "float", "def loss(self, batch): return 1.0"),
    "nan_loss": ("loss", "nan", "def loss(self, batch): return pull(batch) * float('nan')"),
    "detached_loss": ("loss", "requires_grad False", "def loss(self, batch): return pull(batch).detach()"),
    "idle_parameter": (
        "gradients",
        "no gradient reaches w",
        "def build(self, context): self.w = nn.Parameter(torch.ones(1))",
    ),
    "cut_trunk": (
        "gradients",
        "trunk.0.weight",
        "def embedder(self, trunk_dim, size):\n"
        "        class Cut(nn.Linear):\n"
        "            def forward(self, x): return super().forward(x.detach())\n"
        "        return Cut(trunk_dim, size)",
    ),
    "ordered": (
        "permutation",
        "shuffled",
        "def loss(self, batch): return (batch.embeddings[0] * batch.embeddings[1]).sum()",
    ),
    "ordered_noise": (
        "permutation",
        "shuffled",
        "def loss(self, batch): return (batch.embeddings[0] * (1 + torch.rand(()))).sum()",
    ),
    "root_of_zero": (
        "nasty batches",
        "not finite",
        "def loss(self, batch):\n"
        "        return (batch.embeddings[::2] - batch.embeddings[1::2]).square().sum(1).sqrt().mean()",
    ),
    "mean_of_nothing": (
        "nasty batches",
        "one class",
        "def loss(self, batch): return pairs.similarities(batch.embeddings)[pairs.pair_masks(batch.labels)[1]].mean()",
    ),
    "unconnected_zero": (
        "nasty batches",
        "not connected",
        "def loss(self, batch):\n"
        "        return pull(batch) if pairs.pair_masks(batch.labels)[1].any() else torch.zeros(())",
    ),
    "forgetful": (
        "resume",
        "neither a parameter nor a buffer",
        "steps = 0\n    def loss(self, batch):\n        self.steps += 1\n        return pull(batch) * self.steps",
    ),
    "own_seed": (
        "resume",
        "neither a parameter nor a buffer",
        "def build(self, context): self.w = torch.rand(())\n    def loss(self, batch): return pull(batch) * self.w",
    ),
    "clock": (
        "deterministic",
        "two runs of one seed",
        "def loss(self, batch):\n        import time\n        return pull(batch) * (time.perf_counter_ns() % 10007)",
    ),
    "own_generator": (
        "deterministic",
        "two runs of one seed",
        "def loss(self, batch): return pull(batch) * float(np.random.default_rng().random())",
    ),
    "bad_range": (
        "ranges",
        "t = 0.0",
        "t: float = hyper(1.0, low=0.0, high=2.0, help='temperature')\n"
        "    def loss(self, batch): return pull(batch) / self.t",
    ),
    "peeks": (
        "loss",
        "SealedError",
        "def loss(self, batch):\n"
        "        from pathlib import Path\n"
        "        from bench.data.catalog import open_dataset\n"
        "        open_dataset('digits', Path('.'))",
    ),
}


def include(folder: Path, name: str, body: str) -> Path:
    loss = "" if "def loss" in body else "\n    def loss(self, batch): return pull(batch)"
    path = folder / f"{name}.py"
    path.write_text(f"{HEADER}\nclass Plugin(Method):\n    name = '{name}'\n    {body}{loss}\n")
    return path


@pytest.mark.parametrize("name", [name for name in registry.methods() if name != "contrastive"])
def test_shipped_methods_pass(name: str) -> None:
    checks = validate(registry.get(name))
    assert [check.check for check in checks] == list(CHECKS)
    assert not [check for check in checks if check.result == "fail"]
    skipped = {check.check for check in checks if check.result == "skip"}
    cls = registry.get(name).cls
    allowed = {"permutation"} if cls.order_matters else set()
    assert skipped == (allowed if cls.trains else set(CHECKS) - {"builds", "embedding size"})


@pytest.mark.parametrize("name", BROKEN)
def test_each_broken_rule_is_noticed(name: str, tmp_path: Path) -> None:
    check, seen, body = BROKEN[name]
    path = include(tmp_path, name, body)
    failed = {c.check: c.seen for c in validate(registry.get(name, [path])) if c.result == "fail"}
    assert seen in failed[check]


def test_state_in_buffers_and_random_losses_pass(tmp_path: Path) -> None:
    body = (
        "def build(self, context):\n"
        "        self.register_buffer('steps', torch.zeros((), dtype=torch.int64))\n"
        "        self.register_buffer('centre', torch.randn(context.embedding_size))\n"
        "    def loss(self, batch):\n"
        "        self.steps += 1\n"
        "        self.centre = 0.9 * self.centre + 0.1 * batch.embeddings.detach().mean(0)\n"
        "        kept = torch.rand(len(batch.labels)) < 0.5\n"
        "        return ((batch.embeddings - self.centre) ** 2)[kept].sum() + np.random.rand() * pull(batch)"
    )
    checks = validate(registry.get("noisy", [include(tmp_path, "noisy", body)]))
    assert not [check for check in checks if check.result == "fail"]
    assert "draws" in next(check.seen for check in checks if check.check == "permutation")


def call(module: object, *words: str) -> int:
    parser = argparse.ArgumentParser()
    module.add_parser(parser.add_subparsers())
    args = parser.parse_args(words)
    return int(args.run(args))


def test_command_prints_a_table_and_names_failures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = include(tmp_path, "vector_loss", BROKEN["vector_loss"][2])
    words = ("validate", "methods", "--methods", "proxy_nca,vector_loss", "--include", str(path))
    assert call(command, *words) == 1
    text = capsys.readouterr().out
    assert "vector_loss.py), check 'loss': shape (32,)" in text
    assert text.splitlines()[1].split()[:3] == ["proxy_nca", "ok", "ok"]
    assert call(command, "validate", "methods", "--methods", "raw_trunk", "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["check"] for row in rows} == set(CHECKS)
    assert all(set(row) == {"method", "check", "result", "seen"} for row in rows)


def test_list_methods(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = include(tmp_path, "plain", "pass")
    assert call(list_command, "list", "methods", "--json", "--include", str(path)) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["margin"]["paper"] == "wu2017sampling"
    assert rows["margin"]["hyperparameters"]["beta_lr"]["scale"] == "log"
    assert rows["raw_trunk"]["trains"] is False
    assert rows["plain"]["source"] == str(path)
    assert all(row["summary"] for name, row in rows.items() if name != "plain")
