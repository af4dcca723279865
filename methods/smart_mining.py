"""Smart mining: triplets from the neighbours of each anchor among all training images, as hard as is good for now.

Before every epoch all training images are embedded and each gets a sorted list of neighbours. A negative from
it is admitted if some positive is nearer by a factor, and is paired with the nearest positive beyond it, so that
each mined triplet is violated; a controller moves the factor (Harwood et al. 2017). For anchor i with nearest
positive q, margins m and t, and d+ = d_ip^2 / 4, d- = d_ik^2 / 4 of the batch's triplets with means mu and
variances v:

    d_ik^2 >= kappa d_iq^2,  k after q in i's list                           admitted negatives (eq. 6)
    kappa = alpha e* + beta,  least squares of kappa on past errors e        (eq. 7 and 8)
    J_t = mean [ 1 - d_ik / (d_ip + m) ]_+                                   (eq. 2)
    J_g = v+ + v- + w [ mu+ - mu- + t ]_+                                    (eq. 3)
    L   = J_t + J_g

The j-th triplet of an anchor has its j-th nearest admitted negative, and the nearest admitted positive beyond
that; if its list has none, a random one from outside the list. Anchors without an admitted negative get a
random triplet, as all do during the share `warmup` of the run. e is the share of an epoch's triplets with
J_t > 0, e* its target. Defaults: m = 0.2, t = 0.01, e* = 0.6 (the paper: 50 to 75 %), random triplets for a
tenth of the run (2 of its 20 epochs).

Different: neighbours are exact (the paper searches a graph, FANNG, approximately). The epoch is the protocol's,
seldom one pass over the data, so that each anchor has four triplets ready. A batch holds as many triplets as
fit; up to two images are left over and unused. The model of kappa starts as the line from 2 at no error to
0.5 at full error; its ends stay among the last five epochs' data, and kappa stays between them. A mined batch
is mined throughout (the paper: from 2 % to all of it).

Not read: the original text; equations and algorithm 1 were read in a full translation. It leaves open the
weight w (1 here), how J_t and J_g are added, the length of the lists (64 here), what the controller starts
from and how far back it looks.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench import pairs
from bench.method import Batch, Context, Method, TrainView, hyper
from bench.protocol import Batch as BatchShape

TURNS = 4  # triplets kept ready for each anchor
CHUNK = 512  # anchors whose distances to all images are held at once
KAPPA = (2.0, 0.5)  # at no error, at full error
HISTORY = 5  # epochs that the controller remembers


class SmartMining(Method):
    """Triplet and global loss on triplets mined among all training images."""

    name = "smart_mining"
    paper = "harwood2017smart"
    by_default = False
    order_matters = True
    margin: float = hyper(0.2, low=0.02, high=1.0, scale="log", help="m, Euclidean distance of unit vectors")
    gap: float = hyper(0.01, low=0.0, high=0.5, help="t, between the means of d+ and d-")
    gap_weight: float = hyper(1.0, low=0.0, high=10.0, help="w, weight of the means against the variances")
    target: float = hyper(0.6, low=0.1, high=0.9, help="e*, wanted share of triplets with a loss")
    neighbours: int = hyper(64, low=8, high=512, scale="log", help="length of an anchor's list")
    warmup: float = hyper(0.1, low=0.0, high=0.9, help="share of the run with random triplets")

    partners: Tensor
    kappa: Tensor
    steps: Tensor
    violated: Tensor
    counted: Tensor
    history: Tensor

    def build(self, context: Context) -> None:
        """No triplets mined yet, nothing measured."""
        device = context.device
        self.register_buffer("partners", torch.full((len(context.labels), TURNS, 2), -1, device=device))
        self.register_buffer("kappa", torch.tensor(float("nan"), dtype=torch.float64))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("violated", torch.zeros((), dtype=torch.int64, device=device))
        self.register_buffer("counted", torch.zeros((), dtype=torch.int64, device=device))
        self.register_buffer("history", torch.full((HISTORY, 2), float("nan"), dtype=torch.float64))
        self._first_mining = self.warmup * context.iterations

    def on_epoch(self, view: TrainView) -> None:
        """Set kappa from what the last epoch's triplets gave, then mine for the next one."""
        mined = not bool(self.kappa.isnan())
        if mined and int(self.counted):
            error = float(self.violated) / int(self.counted)
            self.history.copy_(torch.cat([self.history[1:], self.history.new_tensor([[error, float(self.kappa)]])]))
        self.violated.zero_()
        self.counted.zero_()
        if int(self.steps) >= self._first_mining:
            self.kappa.fill_(controlled(self.history.cpu().numpy(), self.target))
            device = self.partners.device
            self.partners.copy_(
                mine(view.embeddings().to(device), view.labels.to(device), float(self.kappa), self.neighbours)
            )

    def batches(
        self, labels: NDArray[np.int64], shape: BatchShape, rng: np.random.Generator
    ) -> Iterator[NDArray[np.int64]]:
        """Endless batches of triplets, anchor, positive, negative, and up to two images at the end."""
        partners = self.partners.cpu().numpy()
        order = np.argsort(labels, kind="stable")
        sizes = np.bincount(labels)
        starts = np.cumsum(sizes) - sizes
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        anchors = np.empty((0, 2), dtype=np.int64)
        turn, count, rest = 0, shape.size // 3, shape.size % 3
        while True:
            while len(anchors) < count:
                passed = rng.permutation(len(labels))
                anchors = np.concatenate([anchors, np.stack([passed, np.full_like(passed, turn % TURNS)], 1)])
                turn += 1
            anchor, anchors = anchors[:count], anchors[count:]
            own = labels[anchor[:, 0]]
            step = rng.integers(1, np.maximum(sizes[own], 2))
            positive = order[starts[own] + (place[anchor[:, 0]] - starts[own] + step) % sizes[own]]
            jump = rng.integers(0, np.maximum(len(labels) - sizes[own], 1))
            negative = order[np.where(jump < starts[own], jump, (jump + sizes[own]) % len(labels))]
            mined = partners[anchor[:, 0], anchor[:, 1]]
            drawn = np.stack([anchor[:, 0], positive, negative], 1)
            drawn[:, 1:] = np.where(mined < 0, drawn[:, 1:], mined)
            yield np.concatenate([drawn.ravel(), rng.integers(0, len(labels), rest)])

    def loss(self, batch: Batch) -> Tensor:
        """Triplet and global loss of the batch's triplets; rows that are no triplet do not count."""
        anchor, positive, negative = torch.arange(len(batch.labels) // 3 * 3).to(batch.labels).view(-1, 3).unbind(1)
        labels, indices = batch.labels, batch.indices
        valid = (labels[anchor] == labels[positive]) & (indices[anchor] != indices[positive])
        valid &= labels[anchor] != labels[negative]
        near = pairs.row_distances(batch.embeddings, anchor, positive)
        far = pairs.row_distances(batch.embeddings, anchor, negative)
        violation = (1 - far / (near + self.margin)).clamp(min=0)
        self.steps.fill_(batch.step + 1)
        self.violated += ((violation > 0) & valid).sum()
        self.counted += valid.sum()
        (mean_near, variance_near), (mean_far, variance_far) = (moments(d.square() / 4, valid) for d in (near, far))
        means = (mean_near - mean_far + self.gap).clamp(min=0)
        return pairs.masked_mean(violation, valid, 0) + variance_near + variance_far + self.gap_weight * means


def moments(values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of the admitted values."""
    mean = pairs.masked_mean(values, mask, 0)
    return mean, pairs.masked_mean((values - mean).square(), mask, 0)


def controlled(history: NDArray[np.float64], target: float) -> float:
    """Kappa for the wanted error from the last epochs' (error, kappa), rows of NaN where there was none."""
    known = history[~np.isnan(history[:, 0])]
    errors = np.concatenate([[0.0, 1.0], known[:, 0]])
    kappas = np.concatenate([KAPPA, known[:, 1]])
    slope, start = np.linalg.lstsq(np.stack([errors, np.ones_like(errors)], 1), kappas, rcond=None)[0]
    return float(np.clip(slope * target + start, min(KAPPA), max(KAPPA)))


@torch.no_grad()
def mine(embeddings: Tensor, labels: Tensor, kappa: float, neighbours: int) -> Tensor:
    """Positive and negative of TURNS triplets of each anchor, int64 (N, TURNS, 2); -1 where none is admitted."""
    return torch.cat(
        [
            _mined(embeddings, labels, rows, kappa, min(neighbours, len(labels) - 1))
            for rows in torch.split(torch.arange(len(labels), device=labels.device), CHUNK)
        ]
    )


def _mined(embeddings: Tensor, labels: Tensor, rows: Tensor, kappa: float, count: int) -> Tensor:
    norms = embeddings.square().sum(1)
    d = (norms[rows][:, None] + norms[None, :] - 2 * embeddings[rows] @ embeddings.T).clamp(min=0)
    d[torch.arange(len(rows)), rows] = torch.inf
    distance, listed = d.topk(count, largest=False)  # ascending
    same = labels[listed] == labels[rows][:, None]
    after = same.cumsum(1) - same.long() > 0  # behind the nearest positive
    first = same.long().argmax(1, keepdim=True)
    beyond = after & (distance >= kappa * distance.gather(1, first))
    negatives = (beyond & ~same).cumsum(1)  # admitted so far
    outside = (labels[rows][:, None] == labels).scatter(1, listed, False).scatter(1, rows[:, None], False)
    result = torch.full((len(rows), TURNS, 2), -1, device=rows.device)
    for turn in range(TURNS):
        enough = negatives > turn
        found = enough[:, -1]
        negative = listed.gather(1, enough.long().argmax(1, keepdim=True))[:, 0]
        fitting = beyond & same & enough
        positive = listed.gather(1, fitting.long().argmax(1, keepdim=True))[:, 0]
        lacking = found & ~fitting.any(1) & outside.any(1)
        if lacking.any():
            positive[lacking] = torch.multinomial(outside[lacking].float(), 1)[:, 0]
        result[found, turn, 1] = negative[found]
        paired = fitting.any(1) & found | lacking
        result[paired, turn, 0] = positive[paired]
    return result
