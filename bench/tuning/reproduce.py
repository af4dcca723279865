"""After the search: the chosen setting as ordinary runs under seeds that no trial used."""

from __future__ import annotations

from bench import registry
from bench.hyperparameters import values_under
from bench.plan import Plan
from bench.record import RunSpec
from bench.store import Store
from bench.tuning.study import REPRODUCTION_SEED, Reproduction, Study, Winner, save, spec_of


def choose(plan: Plan, study: Study) -> Study:
    """The searched study with its winner and the runs that reproduce it, written; unchanged if every trial failed.

    The trial that won was chosen for its luck too: it is not among the reproductions, unless the protocol repeats an
    original that counted it (`search.winner_counts`).
    """
    best = study.best()
    if study.trials_wanted and best is None:
        return study
    if best is None:
        method = registry.get(study.method, plan.setting.include).cls
        winner = Winner(trial=None, score=None, hyperparameters=values_under(plan.protocol, method))
    else:
        winner = Winner(trial=best.number, score=best.score, hyperparameters=best.hyperparameters)
    chosen = study.model_copy(update={"winner": winner})
    found = [
        Reproduction(seed=spec.seed, fold=spec.fold, run_id=spec.run_id)
        for spec in reproductions(plan, chosen)
        if spec.fold is not None
    ]
    chosen = chosen.model_copy(update={"reproductions": tuple(found)})
    save(chosen, plan.setting.results)
    return chosen


def reproductions(plan: Plan, study: Study) -> list[RunSpec]:
    """The runs of a study's winner: every seed on every fold."""
    search, winner = plan.protocol.search, study.winner
    if search is None or winner is None:
        return []
    seeds = list(range(REPRODUCTION_SEED, REPRODUCTION_SEED + search.reproductions))
    if study.winner_counts and winner.trial is not None:
        seeds.insert(0, study.tuning_seed)
    values = winner.hyperparameters
    return [spec_of(plan, study, values, fold, seed, False) for seed in seeds for fold in study.folds]


def close(plan: Plan, study: Study) -> Study:
    """The study marked complete, and written, if all its reproductions have a finished record."""
    store, runs = Store(plan.setting.results), reproductions(plan, study)
    complete = bool(runs) and all(store.is_done(run) for run in runs)
    if complete != study.complete:
        study = study.model_copy(update={"complete": complete})
        save(study, plan.setting.results)
    return study
