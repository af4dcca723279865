"""Log-ratio loss: for continuous labels, ratios of embedding distances shall equal ratios of label distances.

Where similarity is a number and not a class, thresholding it for a triplet loss loses most of it; comparing
ratios uses all of it, needs no margin and no unit length (Kim et al. 2019). Of an anchor a and the m others
of its batch, with embeddings f, labels y and the distances d_i = |f_a - f_i|, g_i = |y_a - y_i|:

    L = mean over pairs i < j of ( log d_i/d_j - log g_i/g_j )^2 = 2/(m-1) sum_i (r_i - mean r)^2
    r_i = log d_i - log g_i

The second form costs O(m). Each batch holds an anchor, its 5 nearest images in label distance and others
drawn uniformly from all the rest ("dense" triplets: every pair i, j counts). Embeddings are taken before
normalisation: in a protocol that normalises them, what is ranked at test time is not what was trained.

Different: the official code takes the distances themselves, the paper (second-hand, its text was not read)
squared ones, on both sides; that is 4 times the loss, and `distances = "squared"` gives it. As in the code,
the embedding size D enters: d_i = sqrt(|f_a - f_i|^2 + 1e-4/D), and logarithms are of d_i + 1e-6, g_i + 1e-6.
Label distances come from the targets; the official ones are a file whose making is not published. A single
pair (m = 1), NaN there, gives 0. Anchors come from a new shuffled pass after each of the protocol's epochs.

Not reproduced, because the protocol fixes it: the mirroring of whole batches, the decaying learning rate.

Against stored numbers: the float64 ones agree to 2.1e-8 only, because the official code weighs pairs in float32
even there.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bench.anchored_method import AnchoredMethod
from bench.method import Batch, hyper


class LogRatio(AnchoredMethod):
    """Log-ratio loss on dense batches around one anchor."""

    name = "log_ratio"
    paper = "kim2019logratio"
    nearest: int = hyper(5, low=1, high=30, help="nearest neighbours that are always in the anchor's batch")
    distances: str = hyper("plain", choices=("plain", "squared"), help="whose ratios are compared, on both sides")

    def neighbourhood(self) -> tuple[int, int]:
        """All of the nearest images."""
        return self.nearest, self.nearest

    def loss(self, batch: Batch) -> Tensor:
        """Mean squared difference of log ratios over all pairs of the anchor's partners."""
        assert batch.targets is not None
        f, y = batch.raw_embeddings, batch.targets
        d = ((f[1:] - f[:1]).square().sum(1) + 1e-4 / f.shape[1]).sqrt()
        g = torch.linalg.vector_norm(y[1:] - y[:1], dim=1)
        if self.distances == "squared":
            d, g = d.square(), g.square()
        r = (d + 1e-6).log() - (g + 1e-6).log()
        spread: Tensor = (r - r.mean()).square().sum()
        return 2 * spread / max(len(r) - 1, 1)
