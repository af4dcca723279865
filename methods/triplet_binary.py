"""Binary triplets: continuous labels cut into near and far; the near shall embed nearer than the far by a margin.

The thresholding baseline of the log-ratio loss (Kim et al. 2019). A batch is an anchor a, p positives drawn from
its 30 nearest images in label distance, and negatives drawn from all images beyond; s_i = |f_a - f_i|^2:

    L = mean over positives i and negatives j of max(s_i - s_j + margin, 0)

Defaults as in the official code: p = 5, margin 0.2. Embeddings have unit length in training and at test time,
whatever the protocol says: x / sqrt(|x|^2 + 1e-10).

Different: nothing in the loss but terms of 1e-12. The official command for it crashes (it looks for its name
in the wrong case); the loss and its batches were checked apart from it. Not read: the paper's text.
"""

from __future__ import annotations

from torch import Tensor

from bench.anchored_method import UnitAnchoredMethod
from bench.method import Batch, hyper


class TripletBinary(UnitAnchoredMethod):
    """Triplet loss on neighbours against non-neighbours of an anchor."""

    name = "triplet_binary"
    paper = "kim2019logratio"
    margin: float = hyper(0.2, low=0.02, high=1.0, scale="log", help="between squared distances of unit vectors")
    positives: int = hyper(5, low=1, high=15, help="positives in a batch")
    neighbourhood_size: int = hyper(30, low=15, high=60, help="nearest images from which positives are drawn")

    def neighbourhood(self) -> tuple[int, int]:
        """Some of the nearest images."""
        return self.positives, self.neighbourhood_size

    def loss(self, batch: Batch) -> Tensor:
        """Mean violation over all triplets, active or not."""
        f = batch.embeddings
        s = (f[1:] - f[:1]).square().sum(1)
        near, far = s[: self.positives], s[self.positives :]
        return (near[:, None] - far + self.margin).clamp(min=0).sum() / max(len(near) * len(far), 1)
