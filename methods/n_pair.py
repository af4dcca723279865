"""N-pair loss: an anchor has to pick its positive among one image of each of the N classes in the batch.

A triplet loss with N - 1 negatives at a time, which costs 2N images instead of (N + 1)N because the
positives of the other classes serve as negatives (Sohn 2016). N pairs (a_c, p_c) of different classes, raw
embeddings:

    L = 1/N sum_c log(1 + sum_{z != c} exp(a_c . p_z - a_c . p_c)) + w/N sum_c (|a_c|^2 + |p_c|^2)

The pairs come from the order of the batch, in rounds: in round r the r-th image of each class is the
anchor and the next one of its class (after the last, the first) the positive; L is the mean over rounds.
With K images of each class every image is once the anchor and once a positive, and each round is one batch
of the paper. The sampler shuffles the images of a class, so the pairs are random. A class with fewer images
starts over, one with a single image takes no part.

Inner products need a brake on lengths: w = 0.02 is the value of the public code of Roth and Brattoli (2019),
whose loss of given pairs this is, the sum under the logarithm kept from overflowing. It draws a single pair
of each class of a batch, so that of K images two are used. According to Roth et al. 2020, who take 0.005,
the paper's 0.02 is multiplied by 1/4 in its code. pytorch-metric-learning takes the first pair of each class
and normalises, which makes the loss blind to lengths. The 2021 code of Sanakoyeu et al. means by n-pairs a
softmax over all images with several positives: that is `supcon` at temperature 1.

Not reproduced: the paper's search for hard negative classes, which makes batches. Its text was not read.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bench.method import Batch, Method, hyper


def n_pair_loss(embeddings: Tensor, anchor: Tensor, positive: Tensor, l2: float) -> Tensor:
    """The loss of given pairs, mean over rounds.

    Args:
        embeddings: (B, D), any lengths.
        anchor: int64 (R, N), rows of `embeddings`; the columns are N different classes.
        positive: int64 (R, N), another image of each class.
        l2: weight of the squared lengths.
    """
    a, p = embeddings[anchor], embeddings[positive]  # (R, N, D)
    logits = a @ p.transpose(1, 2)
    terms = logits.logsumexp(2) - logits.diagonal(dim1=1, dim2=2)
    return (terms + l2 * (a.square() + p.square()).sum(2)).sum() / max(anchor.numel(), 1)


def rounds(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Anchors and positives, each (R, N), for N classes with at least two images; see above."""
    order = labels.argsort(stable=True)
    count = labels.bincount()
    start = count.cumsum(0) - count
    start, count = start[count > 1], count[count > 1]
    turn = torch.arange(int(count.max()) if len(count) else 0, device=labels.device)[:, None]
    return order[start + turn % count], order[start + (turn + 1) % count]


class NPair(Method):
    """Multi-class N-pair loss."""

    name = "n_pair"
    paper = "sohn2016npair"
    by_default = False
    order_matters = True
    l2: float = hyper(0.02, low=1e-4, high=0.2, scale="log", help="weight of the squared lengths of raw embeddings")

    def loss(self, batch: Batch) -> Tensor:
        """Pair the images by their order, then classify each anchor's positive."""
        return n_pair_loss(batch.raw_embeddings, *rounds(batch.labels), self.l2)
