"""Cross-batch memory (XBM): embeddings of past batches serve as further partners of the current images.

Embeddings drift slowly, so recent ones are nearly as good as fresh ones, and cost no forward pass: any
pair loss can meet far more pairs than a batch has (Wang et al. 2020). X is the batch, M the memory of the
last images with the batch among them, l a pair loss of anchors against references:

    L = l(X, X) + w l(X, M)

Each step first puts its batch into the memory, then computes both terms; gradients flow through the
current batch only. Until the start iteration there is the batch's term alone and nothing is memorised.
Defaults: w = 1, contrastive loss, start at 3 % of the run (the authors' example: 1000 of 35000
iterations), and a memory of a tenth of the training set. The authors' holds nearly the whole set, which
is 2.5 % of their run's images; on a small set the same share is a far greater part of the run. Where
embeddings drift fast the memory turns harmful: all images flee from where all images were. In a short
run from random weights (protocol "quick", seed 0) a share of 0.25 gave a MAP@R of 0.05, 0.1 gave 0.20.
Slow training of pretrained weights is what the authors' share, close to 1, was made for.

Different: the memory is a first-in first-out ring, as the paper has it (second-hand). In their code a batch
that does not fit in before the end overwrites the end, its newest part, and the next one goes to the start
(`queue = "as_released"`). Their memory counts as not full while class 0 lies in its last place; here empty
places are marked. They remove self pairs by s >= 1 - 1e-5; here the pair goes by its place in the memory,
and older copies of an image, however similar, are left to the pair loss. Contrastive terms are sums over
references, so the memory's term grows with the memory, as there.

Not reproduced, because the protocol fixes it: trunk without ReLU after its first layer, max pooling,
learning rate plateaus. Their triplet loss is wrong against a memory (unsigned underflow); base "triplet"
is the semi-hard one. Not read: the paper's text; the above follows its abstract and the official code.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bench import compose
from bench.errors import UsageError
from bench.method import Batch, Context, Method, ParameterGroup, hyper
from bench.pair_method import PairMethod


class CrossBatchMemory(Method):
    """A pair loss against the batch and against a memory of past batches."""

    name = "xbm"
    paper = "wang2020xbm"
    by_default = False
    base: str = hyper("contrastive", method=True, help="pair loss of both terms")
    share: float = hyper(0.1, low=0.02, high=1.0, scale="log", help="size of the memory, a share of the training set")
    images: int = hyper(0, low=0, help="size of the memory in images, instead of a share; 0: as `share` says")
    start: float = hyper(0.03, low=0.0, high=0.5, help="share of the run before the memory is used")
    weight: float = hyper(1.0, low=0.1, high=10.0, scale="log", help="weight of the memory's term")
    queue: str = hyper(
        "fifo", choices=("fifo", "as_released"), help="'as_released' overwrites the newest batch at the end"
    )

    def build(self, context: Context) -> None:
        """The pair loss and an empty memory of K rows."""
        inner = compose.create(self.base)
        if not isinstance(inner, PairMethod):
            raise UsageError(f"method 'xbm': hyper-parameter 'base' must be a pair loss, found '{self.base}'.")
        self.inner = inner
        self.inner.build(context)
        size = self.images or max(1, round(self.share * len(context.labels)))
        self.first_step = round(self.start * context.iterations)
        self.memory: Tensor
        self.memory_labels: Tensor
        self.pointer: Tensor
        self.register_buffer("memory", torch.zeros(size, context.embedding_size, device=context.device))
        self.register_buffer("memory_labels", torch.full((size,), -1, device=context.device))  # -1: still empty
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64, device=context.device))

    def enqueue(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Memorise q <= K rows (q, D); returns their places in the memory, int64 (q,)."""
        count, size = len(labels), len(self.memory)
        rows = torch.arange(count, device=labels.device)
        if self.queue == "fifo":
            places, pointer = (self.pointer + rows) % size, (self.pointer + count) % size
        else:
            fits = self.pointer + count <= size
            places, pointer = torch.where(fits, self.pointer, size - count) + rows, (self.pointer + count) * fits
        self.pointer.copy_(pointer)
        self.memory.index_copy_(0, places, embeddings.detach())
        self.memory_labels.index_copy_(0, places, labels)
        return places

    def loss(self, batch: Batch) -> Tensor:
        """The pair loss of the batch, and from the start iteration on that of the batch against the memory."""
        loss = self.inner.loss(batch)
        if batch.step < self.first_step:
            return loss
        own = torch.arange(len(batch.labels), device=batch.labels.device)[-len(self.memory) :]
        places = self.enqueue(batch.embeddings[own], batch.labels[own])
        positive = batch.labels[:, None] == self.memory_labels
        negative = ~positive & (self.memory_labels >= 0)
        positive[own, places] = False
        return loss + self.weight * self.inner.pair_loss(batch.embeddings @ self.memory.T, positive, negative)

    def parameter_groups(self, default: ParameterGroup) -> list[ParameterGroup]:
        """Those of the pair loss."""
        return compose.parameter_groups([self.inner], default)
