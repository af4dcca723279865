"""Recall@k surrogate: how many of an image's positives reach its k nearest, with sigmoids for both steps.

Two steps hide in recall: counting the images that outrank a positive, and asking whether its rank
reaches k. Both become sigmoids g_t(x) = 1 / (1 + exp(-x / t)), a sharp one for similarities and a wide
one for ranks (Patel et al. 2022). For a query q with positives P, over all other images j:

    rank_i = 1 + sum_{j != i} g_{t2}(s_qj - s_qi)
    R_k = min( sum_{i in P} g_{t1}(k - rank_i), k ) / min(|P|, k)
    L = mean over queries that have a positive and over k of (1 - R_k)

Defaults: t1 = 1, t2 = 0.01, k = 1, 2, 4, 8, 16. A positive at rank k counts one half, so the loss of a
perfect ranking is not 0: with t1 = 1 and one positive it is 0.163.

Similarity mixup (`mixup`, off by default) adds a virtual image a x + (1 - a) y for every pair of images
of one class, a uniform in [0, 1]. It is not normalised, so that its similarities are mixtures of theirs;
virtual images are queries, positives and negatives like the others.

Different: any class sizes in any order, where the released code asks for equal classes side by side. Two
of its choices are kept as options. It counts the query, which is most similar to itself, among the
images that outrank a positive: ranks begin at 2 (`query = "as_released"`). And its temperature of
ranks is not 1 for every k but k itself (`rank_temperature = "as_released"`). Its mixup is written for
3, 4 or 6 images a class, here for any. Its batches of up to 4,000 images, built with two forward passes,
are the protocol's matter.

Not read: the paper. Formula, t2, the set of k and the mixup are those of the released code; so is t1 = 1
for k = 1, while that it holds for every k was not read in a source.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bench import pairs
from bench.method import Batch, hyper
from bench.pair_method import PairMethod


class RecallSurrogate(PairMethod):
    """Smooth recall at several k."""

    name = "recall_surrogate"
    paper = "patel2022recall"
    by_default = False
    tau1: float = hyper(1.0, low=0.1, high=10.0, scale="log", help="width of the step at k, in ranks")
    tau2: float = hyper(0.01, low=0.001, high=0.1, scale="log", help="width of a rank's step, cosine")
    largest_k: int = hyper(16, low=1, high=64, help="k goes through the powers of 2 up to this one")
    mixup: bool = hyper(False, help="virtual images between all pairs of a class")
    query: str = hyper("excluded", choices=("excluded", "as_released"), help="whether a query outranks its positives")
    rank_temperature: str = hyper(
        "tau1", choices=("tau1", "as_released"), help="width of the step at k: tau1, or k times tau1"
    )

    def loss(self, batch: Batch) -> Tensor:
        """The recall of the batch, virtual images included, with each image as query."""
        x, labels = self._mixed(batch.embeddings, batch.labels) if self.mixup else (batch.embeddings, batch.labels)
        positive, negative = pairs.pair_masks(labels)
        if self.query == "as_released":
            negative = negative | torch.eye(len(labels), dtype=torch.bool, device=labels.device)
        return self.pair_loss(pairs.similarities(x), positive, negative)

    def pair_loss(self, s: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """One minus the mean recall over k and over the anchors that have a positive."""
        anchor, gap = pairs.gaps_to_positives(s, positive)  # (T,), (T, R): the ranks that matter
        above = (gap / self.tau2).sigmoid()
        # An item counts itself with g(0) = 1/2: one plus the others is one half plus all.
        rank = 0.5 + (above * (positive | negative).index_select(0, anchor)).sum(1)
        k = 2 ** torch.arange(self.largest_k.bit_length(), device=s.device)
        width = self.tau1 * (k if self.rank_temperature == "as_released" else torch.ones_like(k))
        reached = ((k - rank[:, None]) / width).sigmoid()  # (T, K)
        found = s.new_zeros(len(s), len(k)).index_add(0, anchor, reached)
        size = positive.sum(1, keepdim=True)
        recall = found.minimum(k.to(s.dtype)) / size.minimum(k).clamp(min=1)
        return ((1 - recall.mean(1)) * (size > 0).squeeze(1)).sum() / (size > 0).sum().clamp(min=1)

    def _mixed(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The images (B, D) and labels (B,), followed by the virtual ones."""
        first, second = pairs.pair_masks(labels)[0].triu().nonzero(as_tuple=True)
        share = torch.rand(len(first), 1, dtype=x.dtype, device=x.device)
        virtual = share * x.index_select(0, first) + (1 - share) * x.index_select(0, second)
        return torch.cat([x, virtual]), torch.cat([labels, labels[first]])
