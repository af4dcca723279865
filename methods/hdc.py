"""Hard-aware cascade: heads of growing depth, each trained on the pairs that the one before found hard.

Hard is relative to a model: a simple one should see all pairs, a more complex one only those that the simple
one fails on (Yuan et al. 2017, "HDC"). Three heads of growing depth embed an image into a third of the
dimensions each, normalised by itself; the embedding is their concatenation. With P_k, N_k the positive and
negative pairs of level k and d_k their squared distance in head k:

    L = sum_k 1/A_k [ sum_{P_k} d_k + g sum_{N_k} [M - d_k]_+ ],    A_k the number of terms above 0

P_1, N_1 are all pairs of the batch; P_{k+1} are the pairs of P_k with the largest terms at level k, as many
as h_{k+1} times all positive pairs, and likewise N_{k+1}. Pairs whose term is 0 are not hard and go no
further. Defaults: M = 1, h_2 = 0.5, h_3 = 0.2, levels weigh the same.

Different: the paper's heads sit on inner layers of the trunk, where GoogLeNet has its auxiliary classifiers,
and its third on the last one. A method here sees only the trunk's features, so that level k has k - 1 layers
of its own (linear, ReLU, as wide as the features) between them and its linear map; under every protocol the
deeper heads are more than the linear embedder of other methods. In the released layer each level picks
the hardest pairs of the whole batch by its own distances, not those handed on by the level before
(`selection = "as_released"`); it also multiplies negative terms by 10 (`negative_weight`), and lists a
negative pair twice in the value and in A_k but once in the gradient, where here each pair counts once in all.

Not read: the paper beyond its opening and summaries. M, h and A_k are those of the released layer and of a
training file made from it (1, 0.5 and 0.2 of all pairs, 3 x 128 dimensions); that the hard set is passed on
from level to level is the paper's description.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench import pairs
from bench.method import Batch, Method, hyper

LEVELS = 3


def parts(total: int) -> list[int]:
    """`total` in LEVELS whole parts that differ by at most one, larger ones first."""
    return [(total + LEVELS - 1 - k) // LEVELS for k in range(LEVELS)]


class Cascade(nn.Module):
    """Heads of depth 1, 2, 3 on shared layers; unit outputs, concatenated to length 1."""

    def __init__(self, trunk_dim: int, size: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(trunk_dim, trunk_dim) for _ in range(LEVELS - 1))
        self.heads = nn.ModuleList(nn.Linear(trunk_dim, part) for part in parts(size))

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, F) to unit embeddings (B, size)."""
        outputs = [self.heads[0](features)]
        for layer, head in zip(self.layers, list(self.heads)[1:], strict=True):
            features = functional.relu(layer(features))
            outputs.append(head(features))
        embeddings = torch.cat([functional.normalize(output) for output in outputs], 1)
        return embeddings / math.sqrt(LEVELS)


class HDC(Method):
    """Hard-aware deeply cascaded embedding, on heads instead of inner layers."""

    name = "hdc"
    paper = "yuan2017hdc"
    by_default = False
    margin: float = hyper(1.0, low=0.1, high=2.0, help="M, squared distance below which negatives are pushed apart")
    hard_2: float = hyper(0.5, low=0.05, high=1.0, help="h_2, share of all pairs that level 2 sees")
    hard_3: float = hyper(0.2, low=0.02, high=1.0, help="h_3, share of all pairs that level 3 sees")
    negative_weight: float = hyper(1.0, low=0.1, high=10.0, scale="log", help="g, weight of negative terms")
    selection: str = hyper(
        "cascade", choices=("cascade", "as_released"), help="hard for the level before, or for the level itself"
    )

    def embedder(self, trunk_dim: int, size: int) -> nn.Module:
        """Three heads of growing depth."""
        return Cascade(trunk_dim, size)

    def loss(self, batch: Batch) -> Tensor:
        """Contrastive loss of each level on its own pairs."""
        everything = [mask.triu() for mask in pairs.pair_masks(batch.labels)]  # positive, negative
        counts = [int(mask.sum()) for mask in everything]
        slices = torch.split(batch.embeddings, parts(batch.embeddings.shape[1]), 1)
        kept, ranked = everything, everything
        losses: list[Tensor] = []
        for share, level in zip((1.0, self.hard_2, self.hard_3), slices, strict=True):
            d = pairs.squared_distances(functional.normalize(level))
            terms = [d, self.negative_weight * (self.margin - d).clamp(min=0)]
            if losses:
                pool, by = (everything, terms) if self.selection == "as_released" else (kept, ranked)
                kept = [hardest(t, mask, int(share * n)) for t, mask, n in zip(by, pool, counts, strict=True)]
            chosen = torch.stack([t * mask for t, mask in zip(terms, kept, strict=True)])
            losses.append(chosen.sum() / (chosen > 0).sum().clamp(min=1))
            ranked = terms
        return torch.stack(losses).sum()


@torch.no_grad()
def hardest(terms: Tensor, admitted: Tensor, count: int) -> Tensor:
    """The `count` admitted entries with the largest terms, without those that are 0; bool, as `admitted`."""
    places = admitted.flatten().nonzero().squeeze(1)
    values, index = terms.flatten()[places].topk(min(count, len(places)), sorted=False)
    kept = torch.zeros_like(admitted.flatten())
    kept[places[index]] = values > 0
    return kept.view_as(admitted)
