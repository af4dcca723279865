"""Searches on a tiny protocol: spaces, what trials may see, what they score, and going on after a cut."""

from __future__ import annotations

import math
import textwrap
from collections import deque
from pathlib import Path

import pytest

from bench import registry
from bench.data import seal
from bench.errors import UsageError
from bench.method import Method, hyper
from bench.plan import Setting, make_plan
from bench.protocol import Protocol, load_protocol, protocol_files
from bench.record import RunSpec
from bench.run import run
from bench.store import Store
from bench.tuning import reproduce
from bench.tuning.sampler import STARTUP, propose
from bench.tuning.search import Search, trial_plan
from bench.tuning.space import distributions, search_of, space_of
from bench.tuning.study import TUNING_SEED, FoldScore, claimed, judge, load, new_study

QUICK = {
    "budget": {"iterations": 2, "evaluate_every": 1, "epoch": 5},
    "folds": {"count": 4, "use": [0, 2]},
    "evaluation": {"recall_at": [1], "clustering": None},
}
TRIALS = STARTUP + 2  # the last two learn from the others


class Cut(Exception):
    """The end of a process, as far as a search in this one can know."""


def plan_for(protocol: str, results: Path, methods: list[str], include: tuple[Path, ...] = ()):
    return make_plan("glyphs", Setting(protocol, results / "data", results, include), methods, [TUNING_SEED])


def studies_of(plan, trials: int):
    fresh = [new_study(plan, method, trials) for method in dict.fromkeys(spec.method for spec in plan.specs)]
    return [load(study, plan.setting.results) for study in fresh]


def search(plan, trials: int, runs: int | None = None, between=lambda: None) -> tuple[Search, list[str]]:
    """Search in this process; `runs`: how many runs end before everything does. Also the run ids that were run."""
    todo, trained = trial_plan(plan), []

    def runner(queue: deque[RunSpec], ended) -> bool:
        while queue:
            spec = queue.popleft()
            record = run(spec, todo.protocol, todo.setting, lambda *_: None, lambda: False)
            trained.append(spec.run_id)
            if runs is not None and len(trained) > runs:
                raise Cut
            ended(spec, record.state, record.reason)
            between()
        return False

    found = Search(plan, studies_of(plan, trials), lambda study, trial: None)
    try:
        found.run(runner)
    except Cut:
        pass
    return found, trained


def plugin(folder: Path, body: str) -> tuple[Path, ...]:
    path = folder / "mine.py"
    path.write_text(
        "from bench import pairs\nfrom bench.method import Method, hyper\n\n\nclass Mine(Method):\n"
        f'    """A test method."""\n\n    name = "mine"\n\n{textwrap.indent(textwrap.dedent(body), "    ")}'
    )
    return (path,)


def written(study, results: Path) -> bytes:
    return study.path(results).read_bytes()


def test_run_ids_of_ordinary_runs_are_what_they_were_before_there_were_trials():
    spec = RunSpec(
        dataset="glyphs", dataset_hash="aaaa", protocol="tiny", protocol_hash="bbbb", weights_hash="cccc",
        method="contrastive", method_hash="dddd", hyperparameters={"margin": 0.5, "mined": True, "n": 3},
        fold=1, seed=7, harness=2,
    )  # fmt: skip
    assert spec.run_id == "contrastive-f1-s7-ba1dcc039061"
    assert spec.model_copy(update={"tuning": True}).run_id != spec.run_id


def test_a_trial_ends_without_ever_asking_for_the_test_side(tiny, tmp_path, monkeypatch):
    asked: list[str] = []
    check = seal.check
    monkeypatch.setattr(seal, "check", lambda what: (asked.append(what), check(what))[1])
    plan = plan_for(tiny(**QUICK), tmp_path, ["contrastive"])
    spec = plan.specs[0]
    seen = {}
    for tuning in (True, False):
        asked.clear()
        one = spec.model_copy(update={"tuning": tuning})
        seen[tuning] = run(one, plan.protocol, plan.setting, lambda *_: None, lambda: False), list(asked)
    record, looked = seen[True]
    assert record.state == "done"
    assert looked == ["data set 'glyphs'"]  # once, before training
    assert any("test" in what for what in seen[False][1])
    assert set(record.metrics) == {"best_validation"}
    assert record.artefacts == {}
    assert all(point.test is None for point in record.curves)
    best = max(point.validation["map_at_r"] for point in record.curves)
    assert record.metrics["best_validation"]["map_at_r"] == best
    assert [p.validation for p in record.curves] == [p.validation for p in seen[False][0].curves]


def test_every_method_gets_as_many_trials_and_the_best_mean_over_folds_wins(tiny, tmp_path):
    plan = plan_for(tiny(**QUICK, search={"trials": 3, "reproductions": 2}), tmp_path, ["contrastive", "triplet"])
    found, trained = search(plan, 3)
    assert len(set(trained)) == len(trained) == 2 * 3 * 2
    for study in found.studies:
        assert [trial.number for trial in study.trials] == [0, 1, 2]
        for trial in study.trials:
            assert [fold.fold for fold in trial.folds] == [0, 2]
            assert trial.score == sum(fold.score for fold in trial.folds) / 2
        assert len({trial.hyperparameters["margin"] for trial in study.trials}) == 3
        chosen = reproduce.choose(plan, study)
        assert chosen.winner.score == max(trial.score for trial in study.trials)
        runs = reproduce.reproductions(plan, chosen)
        assert [(spec.seed, spec.fold) for spec in runs] == [(1000, 0), (1000, 2), (1001, 0), (1001, 2)]
        assert all(spec.hyperparameters == chosen.winner.hyperparameters and not spec.tuning for spec in runs)
        assert not reproduce.close(plan, chosen).complete
    assert Store(tmp_path).records() == []
    assert len(Store(tmp_path / "tuning").records()) == len(trained)


def test_a_search_cut_off_anywhere_goes_on_to_the_same_file(tiny, tmp_path):
    body = """
        x: float = hyper(0.5, low=0.01, high=1.0, scale="log", help="fails where large")

        def loss(self, batch):
            if self.x > 0.3:
                raise ValueError("too large")
            return self.x * pairs.similarities(batch.embeddings).square().mean()
    """
    protocol, include = tiny(**QUICK, search={"trials": TRIALS, "reproductions": 1}), plugin(tmp_path, body)
    whole, cut = (plan_for(protocol, tmp_path / name, ["mine"], include) for name in ("whole", "cut"))
    expected, _ = search(whole, TRIALS)
    assert {trial.state for trial in expected.studies[0].trials} == {"done", "failed"}
    known: list[str] = []
    for runs in (0, 1, 2 * STARTUP - 3, 2, None):  # first run, inside a trial, among the random ones, among the others
        resumed, trained = search(cut, TRIALS, runs)
        assert not set(known) & set(trained)
        known = [fold.run_id for trial in resumed.studies[0].trials for fold in trial.folds]
    assert written(resumed.studies[0], tmp_path / "cut") == written(expected.studies[0], tmp_path / "whole")
    assert search(cut, TRIALS)[1] == []


def test_more_trials_start_with_the_ones_that_were_run(tiny, tmp_path):
    plan = plan_for(tiny(**QUICK, search={"trials": 2, "reproductions": 1}), tmp_path, ["contrastive"])
    few, _ = search(plan, 2)
    more, trained = search(plan, 4)
    assert more.studies[0].trials[:2] == few.studies[0].trials
    assert len(trained) == 2 * 2
    assert len(list((tmp_path / "studies").rglob("*.json"))) == 2


@pytest.mark.parametrize(
    ("failure", "state", "words"),
    [
        ("raise ValueError('too large')", "error", "ValueError: too large"),
        ("return batch.embeddings.sum() * float('nan')", "diverged", "NaN or infinite"),
    ],
)
def test_a_setting_that_fails_scores_worst_and_the_search_goes_on(tiny, tmp_path, failure, state, words):
    body = f"""
        mode: str = hyper("good", choices=("good", "bad"), help="whether it works")

        def loss(self, batch):
            if self.mode == "bad":
                {failure}
            return pairs.similarities(batch.embeddings).square().mean()
    """
    protocol = tiny(**QUICK, search={"trials": TRIALS, "reproductions": 1})
    plan = plan_for(protocol, tmp_path, ["mine"], plugin(tmp_path, body))
    found, trained = search(plan, TRIALS)
    study = found.studies[0]
    assert len(study.trials) == TRIALS
    assert len(trained) == 2 * 2  # a setting that comes again is not trained again
    for trial in study.trials:
        bad = trial.hyperparameters["mode"] == "bad"
        assert (trial.state, trial.score == 0.0) == (("failed", True) if bad else ("done", False))
        if bad:
            assert {fold.state for fold in trial.folds} == {state}
            assert words in trial.reason
            assert "fold 0" in trial.reason
    assert {trial.state for trial in study.trials} == {"done", "failed"}
    assert reproduce.choose(plan, study).winner.hyperparameters == {"mode": "good"}


def test_a_search_in_which_nothing_works_names_no_winner(tiny, tmp_path):
    body = """
        x: float = hyper(0.5, low=0.0, high=1.0, help="without effect")

        def loss(self, batch):
            raise ValueError("never")
    """
    protocol = tiny(**QUICK, search={"trials": 2, "reproductions": 1})
    plan = plan_for(protocol, tmp_path, ["mine"], plugin(tmp_path, body))
    study = search(plan, 2)[0].studies[0]
    assert study.searched
    study = reproduce.close(plan, reproduce.choose(plan, study))
    assert study.winner is None
    assert not study.complete


def test_what_is_no_fault_of_a_setting_stops_the_search_instead_of_scoring(tiny, tmp_path):
    body = """
        x: float = hyper(0.5, low=0.0, high=1.0, help="without effect")

        def loss(self, batch):
            return batch.embeddings.sum() * 1.0
    """
    include = plugin(tmp_path, body)
    plan = plan_for(tiny(**QUICK, search={"trials": 3, "reproductions": 1}), tmp_path, ["mine", "contrastive"], include)
    edited = include[0].read_text().replace("1.0\n", "2.0\n")
    found, _ = search(plan, 3, between=lambda: include[0].write_text(edited))
    assert "changed since" in found.halted["mine"]
    mine, other = found.studies
    assert not mine.searched
    assert all(trial.state == "done" for trial in mine.trials)
    assert len(other.trials) == 3


class Mixed(Method):
    """One hyper-parameter of each kind."""

    name = "mixed"
    real: float = hyper(0.5, low=0.1, high=1.0, help="real")
    rate: float = hyper(1e-3, low=1e-6, high=1.0, scale="log", help="real, log")
    count: int = hyper(8, low=1, high=512, scale="log", help="whole, log")
    few: int = hyper(2, low=0, high=3, help="whole")
    kind: str = hyper("a", choices=("a", "b"), help="categorical")
    flag: bool = hyper(False, help="no range")
    half: float = hyper(0.5, low=0.0, help="half a range")
    base: str = hyper("contrastive", method=True, help="another method")


def protocol_with(tiny, **spaces) -> Protocol:
    return load_protocol(tiny(search={"trials": 1, "reproductions": 1, "spaces": spaces}))


def test_declared_ranges_are_searched_in_their_own_type_and_scale(tiny):
    space = space_of(Mixed, protocol_with(tiny))
    assert list(space) == ["count", "few", "kind", "rate", "real"]
    found = [propose(Mixed, space, number, 0, []) for number in range(STARTUP)]
    found += [propose(Mixed, space, 50 + number, 0, [(values, 0.1) for values in found]) for number in range(30)]
    for values in found:
        assert {type(values[key]) for key in ("count", "few")} == {int}
        assert type(values["real"]) is float
        assert 0.1 <= values["real"] <= 1.0
        assert 1 <= values["count"] <= 512
        Mixed(**values)
    assert {values["few"] for values in found} == {0, 1, 2, 3}
    assert {values["kind"] for values in found} == {"a", "b"}
    decades = [math.log10(values["rate"]) for values in found]
    assert sum(decade < -3 for decade in decades) > 5  # a linear scale would put one in a thousand there


def test_later_trials_learn_from_the_scores_and_depend_on_nothing_else(tiny):
    space = {"real": space_of(Mixed, protocol_with(tiny))["real"]}
    history = [({"real": 0.1 + 0.06 * step}, 1.0 - abs(0.1 + 0.06 * step - 0.7)) for step in range(15)]
    turned = [(values, -score) for values, score in history]
    settings = [propose(Mixed, space, number, 0, history)["real"] for number in range(20, 40)]
    assert settings == [propose(Mixed, space, number, 0, history)["real"] for number in range(20, 40)]
    away = [propose(Mixed, space, number, 0, turned)["real"] for number in range(20, 40)]
    assert sum(abs(x - 0.7) for x in settings) < 0.5 * sum(abs(x - 0.7) for x in away)
    assert len(set(settings)) == 20
    assert propose(Mixed, space, 3, 0, history) == propose(Mixed, space, 3, 0, [])


def test_a_method_may_accept_more_than_is_searched_unless_a_protocol_asks_for_it(tiny):
    class Wide(Method):
        name = "wide"
        rate: float = hyper(0.1, low=0.01, high=1.0, accepts=(-5.0, 10.0), help="")

    assert [Wide(rate=value).values()["rate"] for value in (-5.0, 10.0)] == [-5.0, 10.0]
    with pytest.raises(UsageError, match=r"'rate' must lie in \[-5, 10\], found 10.5"):
        Wide(rate=10.5)
    declared = space_of(Wide, protocol_with(tiny))["rate"]
    assert (declared.low, declared.high) == (0.01, 1.0)
    asked = space_of(Wide, protocol_with(tiny, wide={"rate": {"low": -5.0, "high": 10.0}}))["rate"]
    assert (asked.low, asked.high) == (-5.0, 10.0)
    with pytest.raises(UsageError, match=r"rate: 11 lies outside \[-5, 10\]"):
        space_of(Wide, protocol_with(tiny, wide={"rate": {"low": 0.1, "high": 11.0}}))


def test_what_makes_a_declared_variant_is_searched_only_where_a_protocol_says_so(tiny):
    base, variant = registry.get("triplet").cls, registry.get("triplet_all").cls
    assert set(space_of(base, protocol_with(tiny))) == {"margin", "negatives"}
    assert set(space_of(variant, protocol_with(tiny))) == {"margin"}
    asked = {"negatives": {"choices": ["all", "semi_hard"]}}
    assert set(space_of(variant, protocol_with(tiny, triplet_all=asked))) == {"negatives"}
    assert variant(negatives="semi_hard").values()["negatives"] == "semi_hard"


def test_the_protocols_space_replaces_the_declared_one(tiny):
    spaces = {"real": {"low": 0.2, "high": 0.3}, "flag": {"choices": [True, False]}, "half": {"choices": [1, 2]}}
    space = space_of(Mixed, protocol_with(tiny, mixed=spaces))
    assert list(space) == ["flag", "half", "real"]
    found = [propose(Mixed, space, number, 0, []) for number in range(STARTUP)]
    assert all(0.2 <= values["real"] <= 0.3 for values in found)
    assert {values["flag"] for values in found} == {True, False}
    assert {type(values["half"]) for values in found} == {float}


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ({"reel": {"low": 0.2, "high": 0.3}}, "unknown hyper-parameter 'reel'. Did you mean 'real'?"),
        ({"real": {"low": 0.2, "high": 3.0}}, "search.spaces.mixed.real: 3 lies outside [0.1, 1]"),
        ({"few": {"low": 0.5, "high": 3}}, "must be whole numbers"),
        ({"few": {"low": 0.5, "high": 3, "scale": "log"}}, "must be whole numbers"),
        ({"kind": {"low": 0, "high": 1}}, "use 'choices'"),
        ({"kind": {"choices": ["a", "c"]}}, "choice 'c' is not allowed"),
        ({"flag": {"choices": [0, 1]}}, "choice 0 is not allowed"),
    ],
)
def test_a_space_where_the_method_cannot_go_is_refused(tiny, space, words):
    with pytest.raises(UsageError) as error:
        space_of(Mixed, protocol_with(tiny, mixed=space))
    assert words in str(error.value)


def test_every_method_has_a_space_under_every_protocol():
    for name in protocol_files():
        protocol = load_protocol(name)
        for info in registry.methods().values():
            assert set(distributions(info.cls, space_of(info.cls, protocol))) <= set(info.cls.hyperparameters)


def test_a_method_with_nothing_to_search_goes_straight_to_its_reproductions(tiny, tmp_path):
    plan = plan_for(tiny(**QUICK, search={"trials": 3, "reproductions": 1}), tmp_path, ["untrained"])
    found, trained = search(plan, 3)
    study = reproduce.choose(plan, found.studies[0])
    assert trained == []
    assert study.trials_wanted == 0
    assert study.winner.trial is None
    assert [run.seed for run in study.reproductions] == [1000, 1000]


def test_the_winner_is_run_too_only_where_the_original_counted_it(tiny, tmp_path):
    rules = {"trials": 1, "reproductions": 2, "winner_counts": True}
    plan = plan_for(tiny(**QUICK, search=rules), tmp_path, ["contrastive"])
    study = reproduce.choose(plan, search(plan, 1)[0].studies[0])
    assert study.winner_counts
    assert [run.seed for run in study.reproductions if run.fold == 0] == [TUNING_SEED, 1000, 1001]


def test_the_first_of_equal_trials_wins_and_a_failed_one_never_does(tiny, tmp_path):
    plan = plan_for(tiny(**QUICK, search={"trials": 4, "reproductions": 1}), tmp_path, ["contrastive"])
    study = new_study(plan, "contrastive", 4)

    def fold(score: float | None) -> FoldScore:
        return FoldScore(fold=0, run_id="any", state="diverged" if score is None else "done", score=score)

    for number, score in ((2, 0.0), (1, 0.0), (0, None)):
        study = study.with_trial(judge(number, {"margin": 0.5}, [fold(score)]))
    assert study.best().number == 1
    assert study.trials[0].score == 0.0


def test_a_study_is_in_one_hand_at_a_time_and_a_damaged_file_is_named(tiny, tmp_path):
    plan = plan_for(tiny(**QUICK, search={"trials": 1, "reproductions": 1}), tmp_path, ["contrastive"])
    study = new_study(plan, "contrastive", 1)
    with claimed([study], tmp_path), pytest.raises(UsageError, match="in hand"), claimed([study], tmp_path):
        pass
    with claimed([study], tmp_path):
        study.path(tmp_path).write_text("{")
    with pytest.raises(UsageError, match=f"{study.path(tmp_path)}.*move it away"):
        load(study, tmp_path)


def test_a_protocol_without_a_search_or_without_folds_says_what_to_do(tiny):
    with pytest.raises(UsageError, match=r"no section 'search'.*YAML"):
        search_of(load_protocol(tiny()))
    rules = {"trials": 1, "reproductions": 1}
    with pytest.raises(UsageError, match="no folds"):
        search_of(load_protocol(tiny(folds=None, selection={"split": "last"}, search=rules)))
