"""Potential field: images and proxies as charges, whose attraction and repulsion fade with distance.

Every image and every proxy of the same class attracts, those of other classes repel; as attraction decays,
a far (perhaps mislabelled) image hardly pulls, where most losses let it pull hardest (Bhatnagar and Ahuja
2025, equations 1 to 6), d the distance of unit vectors:

    attraction(d) = -1 / max(d, D)^a,   repulsion(d) = 1 / min(d, D)^a
    U = sum over all points u of [ sum_{same class} attraction(|u - v|) + sum_{other classes} repulsion(|u - v|) ]

The points are the batch's n images and all M proxies of every class; v runs over the other points. Within D
there is no attraction, so classes need not collapse; beyond D there is no repulsion.

Different: the value is (D^a U - const) / n, in units of the potential at D and without the constant that all
distant pairs of classes add, since the raw sum is huge; gradients differ by a factor only. Repulsion, infinite
at d = 0 in the paper, stops growing at `core` x D. Proxies are normalised, which the paper is said not to state.
Not read: the paper beyond its abstract; the equations are taken from two public re-implementations and a
summary that agree. No code by the authors. M = 15 (CUB, Cars) or 2 (SOP) and the ranges of a, up to 6, and D,
0.1 to 0.3, are the paper's as reported there; it chose a and D per data set, and which was not found: the
defaults lie inside. Cost and memory grow with (n + C M)^2: use few proxies a class where C is large.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench import pairs
from bench.method import Batch, Context, Method, ParameterGroup, hyper


class PotentialField(Method):
    """Total potential energy of images and proxies."""

    name = "potential_field"
    paper = "bhatnagar2024potential"
    by_default = False
    proxies_per_class: int = hyper(15, low=1, high=30, help="proxies M of a class")
    decay: float = hyper(4.0, low=1.0, high=6.0, help="a, power of the distance by which potentials decay")
    delta: float = hyper(0.2, low=0.1, high=0.3, help="D, distance where attraction ends and repulsion begins")
    core: float = hyper(0.1, low=0.01, high=0.5, scale="log", help="repulsion grows no more within this share of D")
    proxy_lr: float = hyper(0.01, low=1e-4, high=1.0, scale="log", help="learning rate of the proxies")

    def build(self, context: Context) -> None:
        """M proxies a training class, (C, M, D)."""
        shape = (context.num_classes, self.proxies_per_class, context.embedding_size)
        self.proxies = nn.Parameter(torch.randn(shape, device=context.device) / 8)

    def loss(self, batch: Batch) -> Tensor:
        """Energy of the pairs of images and proxies, an image; pairs that add a constant are left out."""
        points = F.normalize(torch.cat([batch.embeddings, self.proxies.flatten(0, 1)]))
        of_proxies = torch.arange(len(self.proxies), device=batch.labels.device)
        classes = torch.cat([batch.labels, of_proxies.repeat_interleave(self.proxies_per_class)])
        near = pairs.similarities(points.detach()) > 1 - self.delta**2 / 2
        first, second = (near | (classes[:, None] == classes)).triu(1).nonzero(as_tuple=True)
        nearness = self.delta / pairs.row_distances(points, first, second)
        attraction = -(nearness.clamp(max=1) ** self.decay)
        repulsion = nearness.clamp(1, 1 / self.core) ** self.decay - 1
        energy = torch.where(classes[first] == classes[second], attraction, repulsion)
        return 2 * energy.sum() / len(batch.labels)

    def parameter_groups(self, default: ParameterGroup) -> list[ParameterGroup]:
        """Proxies learn at their own rate; their weight decay is the protocol's."""
        return [{**default, "lr": self.proxy_lr}]
