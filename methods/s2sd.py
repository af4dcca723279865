"""S2SD: the embedding learns from wider embeddings of the same features, trained beside it and then dropped.

Wider embeddings generalise better but cost more to search. During training, auxiliary heads embed the
trunk's features into more dimensions, each with the same base loss; the embedding is taught to arrange a
batch as they do (Roth et al. 2020, "S2SD"). With S, S_h the cosine matrices of a batch in the embedding
and in head h, and KL the mean over rows of the divergence between their row-wise softmax, m heads:

    L = ( L_base + 1/m sum_h L_base,h ) / 2 + g/m sum_h KL( S_h / T || S / T ) T^2 + g_f KL( S_f / T || S / T ) T^2

S_f is the cosine matrix of the features themselves; its term begins after a while. Teachers get no
gradient from the divergence. Heads are two linear layers with a ReLU between. Defaults: multi-similarity
loss, heads of 512, 1024, 1536 and 2048 dimensions (`width` and its multiples), T = 1, g = g_f = 50.

Different: the released code starts the feature term after 1,000 of some 8,000 iterations (150 epochs of
CUB200-2011 in batches of 112); runs here have other lengths, so that `feature_start` is a share of the
run. The term is off in that code unless asked for, and on in all of its sample runs; here it is on
(`feature_weight = 0` turns it off; the sample runs on SOP have 5). Heads there learn at the network's rate,
1e-5; a method here does not know the protocol's rates for trunk and embedder, and that for its own
parameters suits proxies, so that `head_lr` is a hyper-parameter. The variant whose heads see average- plus
max-pooled features is not reproduced: pooling is the protocol's. A base that brings its own batches,
embedder or test-time embedding keeps only its loss and parameters here.

The defaults were chosen for pretrained trunks. On glyphs (protocol `quick`, seed 0), where all weights
start from random ones, MAP@R was 8.7 with them and 31.4 with g = g_f = 1: most likely because the cosines
of untrained heads hardly differ, and at g = 50 the embedding follows these rather than its own loss.

Not read: the paper beyond its opening; formulas and defaults are those of the released code.
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench import compose, pairs
from bench.method import Batch, Context, Method, ParameterGroup, hyper


class S2SD(Method):
    """Self-distillation from wider embeddings and from features."""

    name = "s2sd"
    paper = "roth2020s2sd"
    by_default = False
    base: str = hyper("multi_similarity", method=True, help="loss of the embedding and of each head")
    heads: int = hyper(4, low=1, high=4, help="auxiliary heads m")
    width: int = hyper(512, low=128, high=1024, scale="log", help="width of the first head; head h has h times as much")
    temperature: float = hyper(1.0, low=0.1, high=10.0, scale="log", help="T of the softmax over a row of cosines")
    gamma: float = hyper(50.0, low=1.0, high=1000.0, scale="log", help="weight of the distillation from heads")
    feature_weight: float = hyper(50.0, low=0.0, high=500.0, help="weight of the distillation from features")
    head_lr: float = hyper(1e-3, low=1e-5, high=1e-2, scale="log", help="learning rate of the heads")
    feature_start: float = hyper(0.1, low=0.0, high=1.0, help="share of the run before features are distilled")

    def build(self, context: Context) -> None:
        """Create the heads, and one instance of the base loss for the embedding and for each of them."""
        widths = [self.width * (h + 1) for h in range(self.heads)]
        self.projections = nn.ModuleList(
            nn.Sequential(nn.Linear(context.trunk_dim, size), nn.ReLU(), nn.Linear(size, size)) for size in widths
        ).to(context.device)
        self.inner = nn.ModuleList(compose.create(self.base) for _ in range(1 + self.heads))
        for method, size in zip(self._methods(), [context.embedding_size, *widths], strict=True):
            method.build(replace(context, embedding_size=size))
        self._first_feature_step = self.feature_start * context.iterations

    def loss(self, batch: Batch) -> Tensor:
        """Base losses of embedding and heads, and what the embedding's cosines differ from theirs."""
        own, *others = self._methods()
        s = _cosines(batch.embeddings)
        losses, divergences = [], []
        for method, project in zip(others, self.projections, strict=True):
            raw = project(batch.features)
            wide = replace(batch, embeddings=functional.normalize(raw), raw_embeddings=raw)
            losses.append(method.loss(wide))
            divergences.append(self._divergence(s, pairs.similarities(wide.embeddings)))
        total = (own.loss(batch) + torch.stack(losses).mean()) / 2 + self.gamma * torch.stack(divergences).mean()
        if batch.step >= self._first_feature_step:
            total = total + self.feature_weight * self._divergence(s, _cosines(batch.features))
        return total

    def parameter_groups(self, default: ParameterGroup) -> list[ParameterGroup]:
        """The base losses' own groups, and the heads with their rate."""
        heads = {id(p) for p in self.projections.parameters()}
        rest = [p for p in default["params"] if id(p) not in heads]
        groups = compose.parameter_groups(self._methods(), {**default, "params": rest})
        return [*groups, {**default, "params": list(self.projections.parameters()), "lr": self.head_lr}]

    def _methods(self) -> list[Method]:
        return cast(list[Method], list(self.inner))

    def _divergence(self, student: Tensor, teacher: Tensor) -> Tensor:
        """KL divergence of the student's rows from the teacher's, mean over rows."""
        target = (teacher.detach() / self.temperature).softmax(1)
        rows = functional.kl_div((student / self.temperature).log_softmax(1), target, reduction="batchmean")
        return rows * self.temperature**2


def _cosines(x: Tensor) -> Tensor:
    return pairs.similarities(functional.normalize(x))
