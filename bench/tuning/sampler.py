"""Which setting a trial tries: random at first, then Optuna's tree-structured Parzen estimator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench.method import Method
from bench.record import Value
from bench.tuning.space import Space, distributions

STARTUP = 10  # random trials before the first one that learns from others; they may run at once


def propose(
    method: type[Method], space: Space, number: int, seed: int, history: Sequence[tuple[dict[str, Value], float]]
) -> dict[str, Value]:
    """Values of the searched hyper-parameters for trial `number`.

    Depends on nothing but its arguments: no state outlives a call, so that a search which was cut off anywhere asks
    for the same settings again.

    Args:
        method: what is searched.
        space: its ranges.
        number: of the trial, from 0.
        seed: of the study.
        history: searched values and score of the trials 0 ... number - 1 in this order; ignored by random trials.
    """
    import numpy as np
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    ranges = distributions(method, space)
    drawn = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    sampler = optuna.samplers.TPESampler(seed=drawn, n_startup_trials=STARTUP)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for values, score in history if number >= STARTUP else ():
        study.add_trial(optuna.trial.create_trial(params=dict(values), distributions=ranges, value=score))
    found: dict[str, Any] = study.ask(fixed_distributions=ranges).params
    return {key: found[key] for key in space}


def sampler_name() -> str:
    """What proposes, with its version: kept in the study's file."""
    import optuna

    return f"optuna {optuna.__version__} TPESampler, first {STARTUP} trials random"
