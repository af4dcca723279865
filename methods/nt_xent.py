"""NT-Xent (InfoNCE with labels): each positive has to stand out from all negatives of its anchor.

Every positive pair is a classification of its own, the positive against the negatives, on cosines sharpened
by a temperature t; the anchor's other positives take no part in it:

    L = 1/|P| sum_{(i,p) in P} -log( exp(s_ip / t) / (exp(s_ip / t) + sum_{k in N_i} exp(s_ik / t)) )

P holds all ordered pairs of different images of one class, N_i the images of other classes. The name and
the form with two views of an image are those of SimCLR (Chen et al. 2020); with labels, and over all
positive pairs, this is the form of pytorch-metric-learning and of A Metric Learning Reality Check (Musgrave
et al. 2020). Default t = 0.07, the library's; the latter's search ended between 0.0002 and 0.022.

Different from SimCLR: positives are the other images of the class, not a second crop, and in its two-view
setting there is one positive an anchor; its projection head and large batches are not part of the loss. A
pair whose anchor has no negative counts, with 0. SimCLR's text was not read for this page.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bench import pairs
from bench.method import hyper
from bench.pair_method import PairMethod


class NTXent(PairMethod):
    """Normalised, temperature-scaled cross-entropy over positive pairs."""

    name = "nt_xent"
    paper = "chen2020simclr"
    by_default = False
    temperature: float = hyper(
        0.07, low=0.001, high=1.0, scale="log", accepts=(1e-5, 100.0), help="divides the cosines: smaller is sharper"
    )

    def pair_loss(self, s: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """Mean over positive pairs of log(1 + sum of exp over the negatives, relative to the positive)."""
        logits = s / self.temperature
        anchor, other = positive.nonzero(as_tuple=True)
        lead = pairs.masked_logsumexp(logits, negative, 1)[anchor] - logits[anchor, other]
        return torch.logaddexp(lead, torch.zeros_like(lead)).sum() / max(len(anchor), 1)
