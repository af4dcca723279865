"""CGD: several poolings of one network's last feature map, each embedded by its own branch, trained as one.

Average, maximum and generalised-mean pooling (SPoC, MAC, GeM) see different things in a map; concatenated,
they act like an ensemble at the price of one network (Jun et al. 2019, "CGD"). With f_i the i-th descriptor,
B_i linear to size / 3 dimensions, n images, d the Euclidean distance:

    e = norm[ norm(B_1 f_1), norm(B_2 f_2), norm(B_3 f_3) ]                       the embedding, norm: to length 1
    L = 1/n sum_i [ max_{p in P_i} d_ip - min_{k in N_i} d_ik + m ]_+             batch-hard triplets
      - 1/n sum_i sum_c q_ic log softmax_c( (W f_1,i + b) / T )                   classification of f_1

q is the one-hot label, smoothed: 1 - r on the own class and r / C on all C. Defaults: m = 0.1, T = 0.5,
r = 0.1. The classifier W is trained beside the embedding and dropped at test time; it reaches only what
lies below the first descriptor, so that under a frozen trunk it changes nothing.

Different: the paper's combinations (SG, MG and others, the first letter being the classified one) differ from
data set to data set; here it is always all three, average pooling first. A size that three does not divide
gives the first branches one dimension more. The trunk without its last down-sampling, the crops by bounding
box and the training schedule belong to the protocol. Summing branches instead of concatenating is not offered.

Not read: the paper beyond its opening. Its authors published a trained model and test code only; the form
of the losses, their unweighted sum and the values above come from summaries of the paper and from a public
re-implementation, which also has batch normalisation in front of W and no bias in B_i; neither is here.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench import pairs
from bench.method import Batch, Context, Method, hyper


def parts(total: int, count: int) -> list[int]:
    """`total` in `count` whole parts that differ by at most one, larger ones first."""
    return [(total + count - 1 - i) // count for i in range(count)]


class Branches(nn.Module):
    """One linear layer a descriptor; outputs normalised, concatenated, normalised again."""

    def __init__(self, trunk_dim: int, size: int, count: int) -> None:
        super().__init__()
        self.inputs = parts(trunk_dim, count)
        outputs = parts(size, count)
        self.branches = nn.ModuleList(nn.Linear(i, o) for i, o in zip(self.inputs, outputs, strict=True))

    def forward(self, features: Tensor) -> Tensor:
        """Concatenated descriptors (B, F) to unit embeddings (B, size)."""
        split = torch.split(features, self.inputs, 1)
        embedded = [functional.normalize(branch(f)) for branch, f in zip(self.branches, split, strict=True)]
        return functional.normalize(torch.cat(embedded, 1))


class CGD(Method):
    """Combined global descriptors: batch-hard triplets, and a classifier on the first descriptor."""

    name = "cgd"
    paper = "jun2019cgd"
    by_default = False
    descriptors = ("mean", "max", "gem")
    margin: float = hyper(0.1, low=0.01, high=1.0, scale="log", help="m, Euclidean distance of unit vectors")
    temperature: float = hyper(0.5, low=0.05, high=2.0, scale="log", help="T that logits are divided by")
    smoothing: float = hyper(0.1, low=0.0, high=0.5, help="r, share of the label spread over all classes")

    def embedder(self, trunk_dim: int, size: int) -> nn.Module:
        """A branch for each descriptor."""
        return Branches(trunk_dim, size, len(self.descriptors))

    def build(self, context: Context) -> None:
        """The classifier on the first descriptor, (C, F / 3)."""
        self.width = parts(context.trunk_dim, len(self.descriptors))[0]
        self.classifier = nn.Linear(self.width, context.num_classes, device=context.device)

    def loss(self, batch: Batch) -> Tensor:
        """Ranking loss of the combined embedding plus classification loss of the first descriptor."""
        logits = self.classifier(batch.features[:, : self.width]) / self.temperature
        classification = functional.cross_entropy(logits, batch.labels, label_smoothing=self.smoothing)
        return batch_hard(pairs.distances(batch.embeddings), batch.labels, self.margin) + classification


def batch_hard(distance: Tensor, labels: Tensor, margin: float) -> Tensor:
    """Farthest positive against nearest negative of each anchor that has both; 0 for the others, mean over all."""
    positive, negative = pairs.pair_masks(labels)
    far = distance.masked_fill(~positive, -math.inf).amax(1)
    near = distance.masked_fill(~negative, math.inf).amin(1)
    valid = positive.any(1) & negative.any(1)
    violation = (far.masked_fill(~valid, 0) - near.masked_fill(~valid, 0) + margin).clamp(min=0)
    return (violation * valid).mean()
