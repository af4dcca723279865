"""Time of a training step's loss, forward and backward, beside pytorch-metric-learning in the same run, one thread."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from pytorch_metric_learning import distances, losses, miners, reducers
from torch import Tensor
from torch.nn.functional import normalize

from bench import registry
from bench.method import Batch, Context

SIZES = (112, 256, 512)  # images in a batch, 4 of each class
WIDTH = 128

Loss = Callable[[Tensor, Tensor], Tensor]


def counterparts(classes: int) -> dict[str, Loss]:
    """The library's loss, with its miner, for each method."""
    contrastive = losses.ContrastiveLoss(1, 0.5, distance=distances.CosineSimilarity(), reducer=reducers.SumReducer())
    margin, weighted = losses.MarginLoss(learn_beta=True), miners.DistanceWeightedMiner()
    similarity, mined = losses.MultiSimilarityLoss(2, 40, 0.5), miners.MultiSimilarityMiner(0.1)
    triplet, semi_hard = losses.TripletMarginLoss(0.1), miners.TripletMarginMiner(0.1, "semihard")
    return {
        "contrastive": contrastive,
        "triplet": lambda x, y: triplet(x, y, semi_hard(x, y)),
        "margin": lambda x, y: margin(x, y, weighted(x, y)),
        "multi_similarity": lambda x, y: similarity(x, y, mined(x, y)),
        "proxy_nca": losses.ProxyNCALoss(classes, WIDTH, softmax_scale=9),
        "proxy_anchor": losses.ProxyAnchorLoss(classes, WIDTH),
        "normalized_softmax": losses.NormalizedSoftmaxLoss(classes, WIDTH),
    }


def milliseconds(loss: Loss, embeddings: Tensor, labels: Tensor, repetitions: int = 7) -> float:
    """Fastest of some steps."""
    taken = []
    for _ in range(repetitions):
        leaf = embeddings.clone().requires_grad_()
        began = time.perf_counter()
        loss(leaf, labels).backward()
        taken.append(time.perf_counter() - began)
    return 1000 * min(taken)


def ours(name: str, classes: int) -> Loss:
    """A method's loss; normalising counts, since the library's losses do it too."""
    method = registry.get(name).cls()
    labels = torch.arange(classes).repeat_interleave(4)
    method.build(Context(classes, labels, WIDTH, WIDTH, 1, torch.device("cpu")))

    def loss(raw: Tensor, labels: Tensor) -> Tensor:
        return method.loss(Batch(normalize(raw), raw, raw, labels, torch.arange(len(labels)), 0))

    return loss


def main() -> None:
    """Print one row a method: our milliseconds, the library's, and the ratio, for each batch size."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    print("loss, forward + backward, one thread: ms here / ms in pytorch-metric-learning (ratio)")
    print(f"{'method':<20}" + "".join(f"{f'{size} x {WIDTH}':>28}" for size in SIZES))
    for name in counterparts(2):
        cells = []
        for size in SIZES:
            torch.manual_seed(0)
            labels = torch.arange(size // 4).repeat_interleave(4)
            centres = torch.randn(size // 4, WIDTH)[labels]
            embeddings = centres + torch.randn(size, WIDTH)
            mine = milliseconds(ours(name, size // 4), embeddings, labels)
            theirs = milliseconds(counterparts(size // 4)[name], embeddings, labels)
            cells.append(f"{mine:.2f} / {theirs:.2f} ({theirs / mine:.1f} x)")
        print(f"{name:<20}" + "".join(f"{cell:>28}" for cell in cells))
    torch.set_num_threads(threads)


if __name__ == "__main__":
    main()
