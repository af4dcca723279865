"""Rho-margin: margin loss in which some negatives are images of the anchor's own class, to keep spread.

Embeddings that spend many directions on the training classes transfer better to new ones (their
spectrum's decay rho is flatter). With probability p a triplet is switched: its negative becomes another
image of the anchor's class, which the loss pushes out to the boundary; the rest is the margin loss with
distance-weighted negatives (Roth et al. 2020, "Revisiting training strategies"; Wu et al. 2017):

    (i, p, k)  ->  (i, i, p)  with probability p_switch
    L = ( sum_T [d_ip - beta + a]_+ + sum_T [beta - d_ik + a]_+ ) / #active terms

A switched triplet's positive is the anchor itself, so that only the pushing term is left: as in the
authors' miner. Default p_switch = 0.2, that of their parser; their run script goes from 0.15 on SOP to 0.4
on CUB200-2011, 0.35 for this loss with beta = 1.2.

Different: the authors draw one triplet an anchor, with a random positive; here every positive pair gives
one, each switched on its own, as in the method `margin`, to which this one is meant to be compared. From
there come also one boundary for all classes (theirs: one a class, `per_class`), the cut of negatives
beyond 1.4 unless there is nothing nearer (theirs is commented out), and active terms counted separately
(theirs, adding boolean masks, counts a triplet with two active terms once on today's PyTorch).

Not read: the paper beyond its opening; the rule is that of the released miner.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bench.margin_loss import MarginMethod
from bench.method import hyper


class RhoMargin(MarginMethod):
    """Margin loss with a share of negatives from the anchor's class."""

    name = "rho_margin"
    paper = "roth2020revisiting"
    by_default = False
    p_switch: float = hyper(0.2, low=0.0, high=0.6, help="probability that a triplet's negative is of its own class")

    def triplets(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Distance-weighted triplets (i, p, k), some turned into (i, i, p)."""
        drawn = super().triplets(embeddings, labels)
        switch = torch.rand(len(drawn), 1, device=drawn.device) < self.p_switch
        return torch.where(switch, drawn[:, [0, 0, 1]], drawn)
