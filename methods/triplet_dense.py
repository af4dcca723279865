"""Dense triplets: for continuous labels, of any two images the one nearer in label space must embed nearer.

The baseline of the log-ratio loss that keeps the order of label distances and forgets their values (Kim et
al. 2019). The m others of a batch are sorted by label distance to its anchor; s_i = |f_a - f_i|^2:

    L = mean over pairs i < j of max(s_i - s_j + margin, 0)

Defaults as in the official code: margin 0.03, batches of an anchor, its 5 nearest images and others drawn
uniformly from all the rest. Embeddings have unit length in training and at test time, whatever the protocol
says: x / sqrt(|x|^2 + 1e-10).

Different: nothing in the loss but terms of 1e-12 and less. Ties in label distance count as ordered there and
here. A batch of two images, NaN there, gives 0. Not read: the paper's text.

Against stored numbers: the float64 ones agree to 2.1e-8 only, because the official code weighs pairs in float32
even there.
"""

from __future__ import annotations

from torch import Tensor

from bench.anchored_method import UnitAnchoredMethod
from bench.method import Batch, hyper


class TripletDense(UnitAnchoredMethod):
    """Triplet loss on all ordered pairs of an anchor's partners."""

    name = "triplet_dense"
    paper = "kim2019logratio"
    margin: float = hyper(0.03, low=0.003, high=0.3, scale="log", help="between squared distances of unit vectors")
    nearest: int = hyper(5, low=1, high=30, help="nearest neighbours that are always in the anchor's batch")

    def neighbourhood(self) -> tuple[int, int]:
        """All of the nearest images."""
        return self.nearest, self.nearest

    def loss(self, batch: Batch) -> Tensor:
        """Mean violation over all pairs of the anchor's partners, active or not."""
        f = batch.embeddings
        s = (f[1:] - f[:1]).square().sum(1)
        violation = (s[:, None] - s + self.margin).clamp(min=0).triu(1)
        return violation.sum() / max(len(s) * (len(s) - 1) // 2, 1)
