"""Methods declared in YAML: another method at other values, or a loss of pytorch-metric-learning."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pytorch_metric_learning import distances, losses, miners
from torch.nn.functional import normalize

from bench import registry
from bench.errors import UsageError
from bench.registry import MethodInfo
from tests.methods import toy

SCALED = """
from bench.method import Method, hyper

class Mine(Method):
    name = "mine"
    k: float = hyper(1.0, help="factor")

    def loss(self, batch):
        return batch.embeddings.sum() * self.k
"""

OUTER = """
from bench import compose
from bench.method import Method, hyper

class Outer(Method):
    name = "outer"
    base: str = hyper("contrastive", method=True, help="inner")

    def build(self, context):
        self.inner = compose.create(self.base)

    def loss(self, batch):
        return self.inner.loss(batch)
"""


def declared(tmp_path: Path, text: str, *names: str) -> list[MethodInfo]:
    path = tmp_path / "own.yaml"
    path.write_text(text)
    found = registry.methods([path])
    return [found[name] for name in names]


def built(info: MethodInfo, classes: int = 4, size: int = 8) -> torch.nn.Module:
    torch.manual_seed(0)
    method = info.cls()
    method.build(toy.context(classes, size))
    return method


def points() -> tuple[torch.Tensor, torch.Tensor]:
    rows = torch.randn(16, 8, generator=torch.Generator().manual_seed(3))
    return normalize(rows), torch.arange(4).repeat_interleave(4)


def test_other_values_of_a_method(tmp_path: Path) -> None:
    (info,) = declared(tmp_path, "soft: { method: multi_similarity, hyperparameters: { beta: 10, base: 0.3 } }", "soft")
    base = registry.get("multi_similarity")
    x, y = points()
    expected = base.cls(beta=10.0, base=0.3).loss(toy.batch(x, y))
    assert torch.equal(built(info).loss(toy.batch(x, y)), expected)
    assert info.cls().values() == base.cls(beta=10.0, base=0.3).values()
    assert base.cls().beta == 40
    assert info.cls.name == "soft"
    assert info.cls.variant_of == "multi_similarity"
    assert info.cls.paper == base.cls.paper
    assert info.cls.hyperparameters["beta"].low == base.cls.hyperparameters["beta"].low


def test_the_hash_covers_values_and_base_but_not_words(tmp_path: Path) -> None:
    line = "v: {{ method: multi_similarity, hyperparameters: {{ beta: {} }}, summary: {} }}"
    hashes = [
        declared(tmp_path, line.format(beta, word), "v")[0].hash for beta, word in ((10, "a"), (20, "a"), (10, "b"))
    ]
    assert hashes[0] != hashes[1]
    assert hashes[0] == hashes[2] != registry.get("multi_similarity").hash


def test_a_variant_may_build_on_a_file_of_the_user(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(SCALED)
    text = "twice: { method: mine, hyperparameters: { k: 2.0 } }"
    (tmp_path / "own.yaml").write_text(text)
    first = registry.get("twice", [tmp_path])
    assert first.cls().k == 2
    assert registry.get("twice", [tmp_path]).cls is first.cls
    (tmp_path / "mine.py").write_text(SCALED.replace("sum()", "mean()"))
    assert registry.get("twice", [tmp_path]).hash != first.hash


def test_identity_covers_the_method_built_upon(tmp_path: Path) -> None:
    (tmp_path / "outer.py").write_text(OUTER)
    (tmp_path / "inner.yaml").write_text("wide: { method: contrastive, hyperparameters: { margin: 0.2 } }")
    include = [tmp_path]
    own = registry.get("outer", include).hash
    ids = [registry.identity("outer", {"base": base}, include) for base in ("contrastive", "multi_similarity", "wide")]
    assert len({own, *ids}) == 4
    registry.use(include)
    try:
        method = registry.get("outer", include).cls(base="wide")
        method.build(toy.context(4, 8))
        assert method.inner.margin == 0.2
        with pytest.raises(UsageError, match="Did you mean 'contrastive'"):
            registry.get("outer", include).cls(base="contrastiv").build(toy.context(4, 8))
    finally:
        registry.use(())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: { method: multi_similarty }", r"own\.yaml: method 'a'.*Did you mean 'multi_similarity'"),
        ("a: { method: triplet, hyperparameters: { margn: 1 } }", r"method 'a'.*unknown hyper-parameter 'margn'"),
        ("a: { method: triplet, hyperparameters: { margin: 7.0 } }", r"method 'a'.*'margin' must lie in"),
        ("a: { methd: triplet }", r"own\.yaml, method 'a'.*'methd'.*Did you mean 'method'"),
        ("a: {}", r"own\.yaml, method 'a'.*needs either 'method'"),
        ("a: { method: triplet, pml: { loss: CircleLoss } }", r"method 'a'.*needs either 'method'"),
        ("A b: { method: triplet }", r"'A b' is no method name"),
        ("all: { method: triplet }", r"'all' cannot name a method"),
        ("a: { pml: { loss: CircelLoss } }", r"method 'a'.*unknown loss of pytorch-metric-learning.*'CircleLoss'"),
        ("a: { pml: { loss: CircleLoss, miner: NoMiner } }", r"method 'a'.*unknown miner"),
        ("a: { pml: { loss: { name: CircleLoss, q: 1 } } }", r"method 'a': CircleLoss refuses its arguments.*'q'"),
        ("a: { pml: { loss: { name: CircleLoss, distance: { name: Nope } } } }", r"no distance, reducer.*'Nope'"),
    ],
)
def test_faults_name_file_entry_and_cause(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=f"(?s){message}"):
        declared(tmp_path, text)


def test_one_source_may_not_declare_a_name_twice(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("same: { method: triplet }")
    (tmp_path / "b.yaml").write_text("same: { method: margin }")
    with pytest.raises(UsageError, match=r"'same' is defined twice: in .*a\.yaml and in .*b\.yaml"):
        registry.methods([tmp_path])


def test_library_losses_equal_the_library(tmp_path: Path) -> None:
    text = """
plain: { pml: { loss: CircleLoss } }
mined:
  pml:
    loss: { name: TripletMarginLoss, margin: 0.2, distance: { name: LpDistance, power: 2 } }
    miner: BatchHardMiner
"""
    plain, mined = declared(tmp_path, text, "plain", "mined")
    x, y = points()
    assert torch.equal(built(plain).loss(toy.batch(x, y)), losses.CircleLoss()(x, y))
    triplet = losses.TripletMarginLoss(0.2, distance=distances.LpDistance(power=2))
    assert torch.equal(built(mined).loss(toy.batch(x, y)), triplet(x, y, miners.BatchHardMiner()(x, y)))


def test_library_losses_with_parameters_train_them(tmp_path: Path) -> None:
    (info,) = declared(tmp_path, "p: { pml: { loss: { name: ArcFaceLoss, scale: 10 } } }", "p")
    method = built(info)
    (weights,) = method.parameters()
    assert sorted(weights.shape) == [4, 8]
    x, y = points()
    method.loss(toy.batch(x, y)).backward()
    assert weights.grad is not None
    assert weights.grad.any()
