"""Hyp: pairwise cross-entropy over distances in hyperbolic space, where room grows exponentially outwards.

Embeddings are clipped, mapped into the Poincare ball of curvature c, and each positive pair must be
closer than the pairs with images of other classes (Ermolov et al. 2022), u the raw embedding, |u| <= r:

    x = tanh(sqrt(c) |u|) u / (sqrt(c) |u|)
    d(x, y) = 2 / sqrt(c) artanh( sqrt(c) |(-x) + y| ),   |(-x) + y|^2 = |x - y|^2 / (1 - 2c x.y + c^2 |x|^2 |y|^2)
    L = 1/C sum_{i, p in P_i} -log( e^{-d(x_i, x_p)/T} / ( e^{-d(x_i, x_p)/T} + sum_{k in N_i} e^{-d(x_i, x_k)/T} ) )

+ is the Moebius sum, C the number of classes with a pair in the batch; c = 0.1, r = 2.3, T = 0.2.

At test time the protocol ranks by the cosine of raw embeddings. For a query that is the hyperbolic ranking
exactly where all candidates reach the clipping radius or otherwise share one norm; elsewhere, in the authors'
evaluation a short vector is nearer to everything than a long one of the same direction, and here it is not.

Different: the authors draw K images a class in K columns, and their positive pair sees negatives of its two
columns only, so that the order of images matters; here it sees all negatives of the batch. For K = 2, their
setting, both are the same. Two constants of 1e-5 that guard their divisions are left out; artanh's argument
is clipped at 1 - 1e-5 as theirs. Not reproduced: vision transformers, the embedder's orthogonal start,
gradient clipping. Their c = 0, cosine on the sphere, is the method `nt_xent` and others. Not read: the
paper's equation numbers.
"""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional as F

from bench import pairs
from bench.method import Batch, Method, hyper


def to_ball(raw: Tensor, curvature: float, radius: float) -> Tensor:
    """Clip to `radius`, then the exponential map at the origin: (B, D) -> (B, D)."""
    norm: Tensor = raw.norm(dim=1, keepdim=True).clamp(min=1e-5)
    root = math.sqrt(curvature)
    return raw / norm * (root * norm.clamp(max=radius)).tanh() / root


def ball_distances(points: Tensor, curvature: float) -> Tensor:
    """Hyperbolic distances of all pairs of points of the ball, (B, D) -> (B, B); near duplicates pass no gradient."""
    dot = pairs.similarities(points)
    norms = points.square().sum(1)
    cross = 1 - 2 * curvature * dot + curvature**2 * norms[:, None] * norms[None, :]
    moebius = curvature * pairs.squared_distances(points) / cross
    return 2 / math.sqrt(curvature) * moebius.clamp(1e-8, (1 - 1e-5) ** 2).sqrt().atanh()


class Hyp(Method):
    """Hyperbolic pairwise cross-entropy."""

    name = "hyp"
    paper = "ermolov2022hyp"
    by_default = False
    curvature: float = hyper(0.1, low=0.01, high=1.0, scale="log", help="c; towards 0 space becomes flat")
    radius: float = hyper(2.3, low=0.5, high=5.0, help="r, length at which raw embeddings are clipped")
    temperature: float = hyper(0.2, low=0.02, high=2.0, scale="log", help="T, divides distances: smaller is sharper")

    def loss(self, batch: Batch) -> Tensor:
        """Each positive pair against that pair and the anchor's negatives; the sum over pairs, a class."""
        closeness = -ball_distances(to_ball(batch.raw_embeddings, self.curvature, self.radius), self.curvature)
        logits = closeness / self.temperature
        positive, negative = pairs.pair_masks(batch.labels)
        rivals = pairs.masked_logsumexp(logits, negative, 1)
        anchor, partner = positive.nonzero(as_tuple=True)
        partners = positive.sum(1)
        classes = ((partners > 0).type_as(logits) / (partners + 1)).sum()
        return F.softplus(rivals[anchor] - logits[anchor, partner]).sum() / classes.clamp(min=1)
