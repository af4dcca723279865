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
REPEATS = 100  # steps of each of the two at most
PATIENCE = 3.0  # seconds for the repetitions of one measurement
LIMIT = 20.0  # seconds: a step of the library that is expected to take longer is not run

Loss = Callable[[Tensor, Tensor], Tensor]


def counterparts(classes: int) -> dict[str, Loss]:
    """The library's loss, with its miner, for each method that it has too."""
    contrastive = losses.ContrastiveLoss(1, 0.5, distance=distances.CosineSimilarity(), reducer=reducers.SumReducer())
    margin, weighted = losses.MarginLoss(learn_beta=True), miners.DistanceWeightedMiner()
    similarity, mined = losses.MultiSimilarityLoss(2, 40, 0.5), miners.MultiSimilarityMiner(0.1)
    triplet, semi_hard = losses.TripletMarginLoss(0.1), miners.TripletMarginMiner(0.1, "semihard")
    hardest, batch_hard = losses.TripletMarginLoss(0.2), miners.BatchHardMiner()
    return {
        "margin": lambda x, y: margin(x, y, weighted(x, y)),
        "triplet": lambda x, y: triplet(x, y, semi_hard(x, y)),
        "triplet_all": losses.TripletMarginLoss(),
        "smooth_ap": losses.SmoothAPLoss(),
        "contrastive": contrastive,
        "contrastive_distance": losses.ContrastiveLoss(),
        "multi_similarity": lambda x, y: similarity(x, y, mined(x, y)),
        "hphn_triplet": lambda x, y: hardest(x, y, batch_hard(x, y)),
        "proxy_nca": losses.ProxyNCALoss(classes, WIDTH, softmax_scale=9),
        "proxy_nca_pp": losses.ProxyNCALoss(classes, WIDTH, softmax_scale=9),
        "proxy_anchor": losses.ProxyAnchorLoss(classes, WIDTH),
        "normalized_softmax": losses.NormalizedSoftmaxLoss(classes, WIDTH),
        "cosface": losses.CosFaceLoss(classes, WIDTH),
        "arcface": losses.ArcFaceLoss(classes, WIDTH),
        "soft_triple": losses.SoftTripleLoss(classes, WIDTH),
        "nca": losses.NCALoss(8),
        "supcon": losses.SupConLoss(),
        "circle": losses.CircleLoss(),
        "snr": losses.SignalToNoiseRatioContrastiveLoss(),
        "n_pair": losses.NPairsLoss(),
        "angular": losses.AngularLoss(45),
        "fastap": losses.FastAPLoss(),
        "generalized_lifted": losses.GeneralizedLiftedStructureLoss(),
        "histogram": losses.HistogramLoss(n_bins=200),
        "nt_xent": losses.NTXentLoss(),
        "lifted": losses.LiftedStructureLoss(),
    }


def milliseconds(embeddings: Tensor, labels: Tensor, *losses: Loss) -> list[float]:
    """The fastest step of each loss, taken in turn so that what else the machine does strikes all alike."""
    taken: list[list[float]] = [[] for _ in losses]
    while len(taken[0]) < REPEATS and sum(map(sum, taken)) < PATIENCE:
        for loss, times in zip(losses, taken, strict=True):
            leaf = embeddings.clone().requires_grad_()
            began = time.perf_counter()
            loss(leaf, labels).backward()
            times.append(time.perf_counter() - began)
    return [1000 * min(times) for times in taken]


def ours(name: str, classes: int) -> Loss:
    """A method's loss; normalising counts, since the library's losses do it too."""
    method = registry.get(name).cls()
    labels = torch.arange(classes).repeat_interleave(4)
    method.build(Context(classes, labels, WIDTH, WIDTH, 1, torch.device("cpu")))

    def loss(raw: Tensor, labels: Tensor) -> Tensor:
        unit = normalize(raw)
        return method.loss(Batch(unit, unit, raw, labels, torch.arange(len(labels)), 0))

    return loss


def main() -> None:
    """Print one row a method: our milliseconds, the library's, and the ratio, for each batch size."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    print("loss, forward + backward, one thread: ms here / ms in pytorch-metric-learning (ratio)")
    print(f"{'method':<20}" + "".join(f"{f'{size} x {WIDTH}':>32}" for size in SIZES))
    for name in counterparts(2):
        cells, expected = [], 0.0
        for size, larger in zip(SIZES, (*SIZES[1:], SIZES[-1]), strict=True):
            torch.manual_seed(0)
            labels = torch.arange(size // 4).repeat_interleave(4)
            centres = torch.randn(size // 4, WIDTH)[labels]
            embeddings = centres + torch.randn(size, WIDTH)
            method = ours(name, size // 4)
            if expected > 1000 * LIMIT:  # some of the library's losses grow with the fourth power of the batch
                (mine,) = milliseconds(embeddings, labels, method)
                cells.append(f"{mine:.2f} / not run, {expected / 1000:.0f} s expected")
                continue
            mine, theirs = milliseconds(embeddings, labels, method, counterparts(size // 4)[name])
            expected = theirs * (larger / size) ** 3
            cells.append(f"{mine:.2f} / {theirs:.2f} ({theirs / mine:.1f} x)")
        print(f"{name:<20}" + "".join(f"{cell:>32}" for cell in cells), flush=True)
    torch.set_num_threads(threads)


if __name__ == "__main__":
    main()
