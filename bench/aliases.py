"""Which published (method, variant) names are which of our methods; others match by name or by their paper."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Alias:
    """A published (method, variant) that is one of ours, with what a reader must know about it."""

    method: str
    variant: str = ""
    caveat: str = ""


ALIASES: dict[str, tuple[Alias, ...]] = {
    "contrastive": (
        Alias("contrastive"),
        Alias("contrastive", "distance", "negatives drawn by distance there"),
    ),
    "contrastive_distance": (
        Alias("contrastive", "", "other papers than the reality check may have another form"),
        Alias("contrastive", "distance", "negatives drawn by distance there"),
    ),
    "triplet_all": (Alias("triplet", "", "choice of triplets differs or is not stated there"),),
    "triplet": (
        Alias("semihard_triplet"),
        Alias("semihard_triplet", "reimplementation", "re-implemented by another paper"),
        Alias("triplet", "semihard"),
        Alias("triplet", "", "choice of triplets differs or is not stated there"),
    ),
    "margin": (
        Alias("margin"),
        Alias("margin", "distance"),
        Alias("margin", "distance beta=1.2"),
        Alias("margin", "distance beta=0.6", "boundary starts at 0.6 there"),
        Alias("margin", "reimplementation", "re-implemented by another paper"),
    ),
    "multi_similarity": (
        Alias("multi_similarity_miner"),
        Alias("multi_similarity"),
    ),
    "proxy_nca": (
        Alias("proxy_nca"),
        Alias("proxy_nca", "reimplementation", "re-implemented by another paper"),
        Alias("proxy_nca", "dichotomies reimplementation", "unofficial implementation"),
        Alias("proxy_nca", "suruoxi reimplementation", "unofficial implementation"),
    ),
    "proxy_anchor": (Alias("proxy_anchor"),),
    "normalized_softmax": (
        Alias("normalized_softmax"),
        Alias("normalized_softmax", "raw features"),
    ),
    "raw_trunk": (Alias("pretrained"),),
    "untrained": (),
    "multi_similarity_unmined": (Alias("multi_similarity", "", "with its miner there, in most papers"),),
    "n_pair": (Alias("npair"), Alias("normalized_npair", "", "on unit vectors there")),
    "lifted": (Alias("lifted_structure"),),
    "binomial": (Alias("binomial_deviance"),),
    "a_bier": (Alias("abier"),),
    "snr": (Alias("snr_contrastive"), Alias("snr", "distance", "negatives drawn by distance there"), Alias("snr_dsml")),
    "quadruplet": (Alias("quadruplet", "distance", "negatives drawn by distance there"),),
    "recall_surrogate": (Alias("recall_at_k_surrogate"),),
    "rho_margin": (
        Alias("r_margin", "distance beta=1.2"),
        Alias("r_margin", "distance beta=0.6", "boundary starts at 0.6 there"),
    ),
    "center_contrastive": (Alias("ccl", "", "equation read in re-implementations only"),),
    "fastap": (Alias("fastap"), Alias("fastap", "matlab implementation"), Alias("fastap", "python implementation")),
    "hphn_triplet": (Alias("triplet", "hphn"),),
    "embedding_expansion": (Alias("embedding_expansion", "hphn_triplet"),),
    "embedding_expansion_triplet": (Alias("embedding_expansion", "triplet"),),
    "embedding_expansion_lifted": (Alias("embedding_expansion", "lifted_structure"),),
    "embedding_expansion_n_pair": (Alias("embedding_expansion", "npair"),),
    "embedding_expansion_multi_similarity": (Alias("embedding_expansion", "multi_similarity"),),
    "divide_and_conquer": (Alias("divide_and_conquer"), Alias("divide_and_conquer", "user reproduction")),
    "divide_and_conquer_margin": (Alias("divide_and_conquer", "margin", "negatives drawn by distance there"),),
    "mic": (Alias("mic"), Alias("mic", "margin")),
    "mic_alternating": (Alias("mic"), Alias("mic", "margin")),
    "mic_triplet": (Alias("mic", "semihard_triplet"),),
    "mic_proxy_nca": (Alias("mic", "proxy_nca"),),
    "s2sd": (
        Alias("s2sd", "multi_similarity"),
        Alias("s2sd", "multi_similarity MSDF"),
        Alias("s2sd", "multi_similarity MSDFA", "heads also see max-pooled features there"),
    ),
    "xbm": (Alias("xbm"), Alias("xbm", "user reproduction")),
}
