"""Margin loss with distance-weighted sampling: positives inside, negatives outside a learned boundary.

A boundary beta separates the distances of positive from those of negative pairs with a margin a on
either side; negatives are drawn so that their distances spread evenly, which avoids both useless and
noisy ones (Wu et al. 2017, equations 4 to 6, section 4):

    L = ( sum_T [d_ip - beta + a]_+ + sum_T [beta - d_ik + a]_+ + nu sum_T |beta| ) / #active terms

Each positive pair gets one negative drawn with probability ~ 1/q(d), d not below 0.5, and beyond 1.4
(where a term is inactive at the initial beta) only if there is nothing nearer. Distances are
sqrt(|x - y|^2 + 1e-8).

Against public code: active positive and negative terms count separately, as integers; PyTorch ports
that add boolean masks count a triplet with two active terms once on today's PyTorch, and their loss is
larger. Several ports never give beta to the optimiser; here it learns at its own rate. A ported sampler
yields NaN for opposite points and fails on classes with one image; here both are harmless.
"""

from __future__ import annotations

from bench.margin_loss import MarginMethod


class Margin(MarginMethod):
    """Margin loss, learnable boundary, distance-weighted negatives."""

    name = "margin"
    paper = "wu2017sampling"
