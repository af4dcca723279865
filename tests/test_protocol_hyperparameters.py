"""Hyper-parameters that a protocol gives its methods: where they arrive, what is refused, and those of the recipes."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import budget, docs, hyperparameters, registry
from bench.cli import main
from bench.errors import UsageError
from bench.method import Context
from bench.plan import Plan, Setting, make_plan
from bench.protocol import load_protocol, protocol_files
from bench.published import Published
from bench.report.across import across_tables
from bench.report.model import build_report
from bench.report.sections import build_sections
from bench.run import run
from bench.store import Store
from bench.tuning import reproduce
from bench.tuning.space import space_of
from bench.tuning.study import new_study, spec_of
from tests.report import builders as b
from tests.test_tuning import QUICK, plan_for, search, studies_of

SEARCH = {"trials": 2, "reproductions": 1}

load = cache(load_protocol)


def plan_of(protocol: str, results: Path, *methods: str, include: tuple[Path, ...] = ()) -> Plan:
    return make_plan("glyphs", Setting(protocol, results / "data", results, include), methods, [0])


def values_of(plan: Plan) -> dict[str, dict[str, Any]]:
    return {spec.method: spec.hyperparameters for spec in plan.specs}


def refused(protocol: str, results: Path, *methods: str) -> str:
    with pytest.raises(UsageError) as error:
        plan_of(protocol, results, *(methods or ("untrained",)))
    return str(error.value)


# ---------------------------------------------------------------------------------------------------- plans


def test_a_plan_carries_them_and_leaves_other_methods_and_keys_alone(tiny: Any, tmp_path: Path) -> None:
    methods = ("multi_similarity", "contrastive", "untrained")
    plain = values_of(plan_of(tiny(), tmp_path, *methods))
    plan = plan_of(tiny(hyperparameters={"multi_similarity": {"beta": 30, "mined": False}}), tmp_path, *methods)
    found = values_of(plan)
    assert found == {**plain, "multi_similarity": {**plain["multi_similarity"], "beta": 30.0, "mined": False}}
    assert type(found["multi_similarity"]["beta"]) is float
    (note,) = plan.notes
    assert note == "the protocol runs multi_similarity with beta = 30 instead of 40, mined = False instead of True"


def test_a_value_that_is_the_default_is_no_news(tiny: Any, tmp_path: Path) -> None:
    plan = plan_of(tiny(hyperparameters={"contrastive": {"margin": 0.5}}), tmp_path, "contrastive")
    assert plan.notes == ()
    assert values_of(plan) == values_of(plan_of(tiny(), tmp_path, "contrastive"))


def test_protocol_hash_and_run_ids_follow_the_values(tiny: Any, tmp_path: Path) -> None:
    sections: list[dict[str, Any]] = [{}, {"contrastive": {"margin": 0.3}}, {"contrastive": {"margin": 0.4}}]
    hashes = [load_protocol(tiny(hyperparameters=section)).hash for section in sections]
    ids = [plan_of(tiny(hyperparameters=section), tmp_path, "contrastive").specs[0].run_id for section in sections]
    assert len(set(hashes)) == len(set(ids)) == 3
    assert load_protocol(tiny()).hash == hashes[0], "an empty section is none"


def test_the_method_hash_is_that_of_the_base_in_force(tiny: Any, tmp_path: Path) -> None:
    plain = plan_of(tiny(), tmp_path, "xbm", "contrastive").specs
    given = plan_of(tiny(hyperparameters={"xbm": {"base": "triplet"}}), tmp_path, "xbm", "contrastive").specs
    assert given[0].method_hash == registry.identity("xbm", given[0].hyperparameters) != plain[0].method_hash
    assert given[1].method_hash == plain[1].method_hash


def test_a_method_inside_another_keeps_its_own_values(tiny: Any, tmp_path: Path) -> None:
    plan = plan_of(tiny(hyperparameters={"contrastive": {"margin": 0.3}}), tmp_path, "xbm")
    assert plan.specs[0].hyperparameters == plan_of(tiny(), tmp_path, "xbm").specs[0].hyperparameters
    assert plan.notes == ()


def test_a_data_set_changes_single_values(tiny: Any, tmp_path: Path) -> None:
    base = {"multi_similarity": {"alpha": 1.0, "beta": 30.0}, "contrastive": {"margin": 0.3}}
    own = {"multi_similarity": {"beta": 20.0}, "triplet": {"margin": 0.2}}
    protocol = tiny(hyperparameters=base, datasets={"glyphs": {"hyperparameters": own}})
    found = values_of(plan_of(protocol, tmp_path, "multi_similarity", "contrastive", "triplet"))
    assert (found["multi_similarity"]["alpha"], found["multi_similarity"]["beta"]) == (1.0, 20.0)
    assert found["contrastive"]["margin"] == 0.3
    assert found["triplet"]["margin"] == 0.2
    elsewhere = load_protocol(protocol).on("cub200").hyperparameters
    assert elsewhere == base


def test_a_smaller_budget_keeps_them(tiny: Any) -> None:
    protocol = load_protocol(tiny(hyperparameters={"contrastive": {"margin": 0.3}}))
    assert budget.scaled(protocol, 0.5).protocol.hyperparameters == {"contrastive": {"margin": 0.3}}


def test_a_plan_prints_them_as_a_note(tiny: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    protocol = tiny(hyperparameters={"contrastive": {"margin": 0.3}})
    words = ["plan", "--protocol", protocol, "--methods", "contrastive", "--results", str(tmp_path / "r")]
    assert main(words) == 0
    assert "note  the protocol runs contrastive with margin = 0.3 instead of 0.5\n" in capsys.readouterr().out
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"][0]["hyperparameters"] == {"margin": 0.3}


# --------------------------------------------------------------------------------------------------- errors

BAD: list[tuple[dict[str, Any], str]] = [
    ({"contrastiv": {"margin": 0.3}}, r"hyperparameters\.contrastiv: unknown method.*Did you mean 'contrastive'"),
    ({"contrastive": {"slack": 0.3}}, r"hyperparameters\.contrastive: .*unknown hyper-parameter 'slack'.*margin"),
    ({"untrained": {"margin": 0.3}}, r"hyperparameters\.untrained: .*Known: none"),
    ({"contrastive": {"margin": "wide"}}, r"hyperparameters\.contrastive: .*'margin' must be float, found 'wide'"),
    ({"contrastive": {"margin": True}}, r"hyperparameters\.contrastive: .*'margin' must be float, found True"),
    ({"multi_similarity": {"mined": 1}}, r"hyperparameters\.multi_similarity: .*'mined' must be bool, found 1"),
    ({"divide_and_conquer": {"parts": 8.5}}, r"'parts' must be int, found 8\.5"),
    ({"divide_and_conquer": {"parts": 99}}, r"'parts' must lie in \[2.*16.*\], found 99"),
    ({"xbm": {"queue": "lifo"}}, r"hyperparameters\.xbm: .*one of fifo, as_released, found 'lifo'"),
    ({"xbm": {"base": "contrastiv"}}, r"hyperparameters\.xbm: .*Did you mean 'contrastive'"),
]


@pytest.mark.parametrize(("given", "message"), BAD, ids=[str(given) for given, _ in BAD])
def test_impossible_values_are_refused_whichever_methods_run(
    tiny: Any, tmp_path: Path, given: dict[str, Any], message: str
) -> None:
    found = refused(tiny(hyperparameters=given), tmp_path)
    assert found.startswith("protocol 'tiny': ")
    assert re.search(message, found)
    own = tiny(datasets={"glyphs": {"hyperparameters": given}})
    assert re.search(message, refused(own, tmp_path))


@pytest.mark.parametrize("given", [{"contrastive": 0.3}, {"contrastive": {"margin": [0.3]}}, ["contrastive"]], ids=str)
def test_another_shape_is_refused_by_the_schema(tiny: Any, given: Any) -> None:
    with pytest.raises(UsageError, match=r"key 'hyperparameters"):
        load_protocol(tiny(hyperparameters=given))


def plugin(folder: Path) -> tuple[Path, ...]:
    path = folder / "level.py"
    body = '''
        """A loss that is a hyper-parameter."""

        from bench.method import Method, hyper


        class Level(Method):
            """A loss that is a hyper-parameter."""

            name = "level"
            level: float = hyper(1.0, low=0.0, high=2.0, help="the loss")

            def loss(self, batch):
                return 0.0 * batch.embeddings.sum() + self.level
    '''
    path.write_text(textwrap.dedent(body))
    return (path,)


def test_a_method_that_is_not_installed_is_made_known_by_its_file(tiny: Any, tmp_path: Path) -> None:
    protocol = tiny(hyperparameters={"level": {"level": 0.25}})
    assert "--include PATH" in refused(protocol, tmp_path)
    plan = plan_of(protocol, tmp_path, "untrained", include=plugin(tmp_path))
    assert [spec.method for spec in plan.specs] == ["untrained"]


# ------------------------------------------------------------------------------------------- runs and tables


def facts_of(results: Path) -> dict[str, str]:
    return dict(build_report(Store(results), Published((), {})).views[0].facts)


def test_a_run_trains_with_them_and_its_record_says_so(tiny: Any, tmp_path: Path) -> None:
    plan = plan_of(tiny(hyperparameters={"level": {"level": 0.25}}), tmp_path, "level", include=plugin(tmp_path))
    record = run(plan.specs[0], plan.protocol, plan.setting, lambda *_: None, lambda: False)
    assert record.state == "done", record.reason
    assert [point.loss for point in record.curves] == [0.25, 0.25]
    assert record.spec.hyperparameters == {"level": 0.25}
    assert record.protocol["hyperparameters"] == {"level": {"level": 0.25}}
    facts = facts_of(tmp_path)
    assert facts["Hyper-parameters"].endswith("level (level = 0.25)")


def test_a_report_names_only_what_ran(tmp_path: Path) -> None:
    made = b.protocol(hyperparameters={"margin": {"nu": 0.1, "per_class": True}, "triplet": {"margin": 0.2}})
    for method in ("margin", "contrastive"):
        Store(tmp_path).write(b.record(b.spec(method, 0, made, b.facts()), made, b.facts(), 0.3))
    facts = facts_of(tmp_path)
    assert facts["Hyper-parameters"].endswith("margin (nu = 0.1, per_class = True)")


def test_a_report_is_silent_where_the_protocol_is(tmp_path: Path) -> None:
    made = b.protocol()
    Store(tmp_path).write(b.record(b.spec("margin", 0, made, b.facts()), made, b.facts(), 0.3))
    assert "Hyper-parameters" not in facts_of(tmp_path)


@pytest.mark.parametrize("varies", [True, False])
def test_ranks_over_data_sets_say_which_methods_ran_with_several_values(varies: bool) -> None:
    def records() -> Iterator[Any]:
        for place, data in enumerate((b.facts("one"), b.facts("two"), b.facts("three"))):
            made = b.protocol()
            for method, level in (("good", 0.5), ("middle", 0.4), ("bad", 0.3)):
                values = {"margin": 0.1 * (1 + place * varies * (method == "middle"))}
                yield b.record(b.spec(method, 0, made, data, hyperparameters=values), made, data, level)

    (table,) = across_tables(build_sections(records()))
    told = [note for note in table.notes if "Hyper-parameters" in note]
    assert told == (["Hyper-parameters differ from data set to data set: middle."] if varies else [])


def test_the_page_of_protocols_has_a_row_a_method(tiny: Any) -> None:
    given = {"arcface": {"proxy_lr": 5e-4, "scale": 16.0}, "margin": {"per_class": True}}
    own = {"arcface": {"scale": 8.0}}
    one = load_protocol(tiny(hyperparameters=given, datasets={"sop": {"hyperparameters": own}}))
    rows = list(docs._side_by_side([one, load_protocol(tiny())]))
    assert "| hyperparameters.arcface | proxy_lr 0.0005, scale 16 | - |" in rows
    assert "| hyperparameters.margin | per_class yes | - |" in rows
    assert docs._on_datasets(one) == ["sop: hyperparameters.arcface scale 8"]


# -------------------------------------------------------------------------------------------------- searches


def test_a_value_cannot_be_both_given_and_searched(tiny: Any) -> None:
    given = {"contrastive": {"margin": 0.3}}
    searched = {**SEARCH, "spaces": {"contrastive": {"margin": {"low": 0.1, "high": 0.9}}}}
    with pytest.raises(UsageError, match=r"contrastive\.margin; name it in only one"):
        load_protocol(tiny(hyperparameters=given, search=searched))
    later = load_protocol(tiny(search=searched, datasets={"glyphs": {"hyperparameters": given}}))
    with pytest.raises(UsageError, match=r"on glyphs[\s\S]*search\.spaces searches: contrastive\.margin"):
        later.on("glyphs")
    assert later.on("cub200").search is not None


def test_what_is_given_is_not_searched_and_every_run_of_a_search_has_it(tiny: Any, tmp_path: Path) -> None:
    protocol = tiny(**QUICK, search=SEARCH, hyperparameters={"multi_similarity": {"beta": 30.0, "mined": False}})
    plan = plan_for(protocol, tmp_path, ["multi_similarity"])
    space = space_of(registry.get("multi_similarity").cls, plan.protocol)
    assert set(space) == {"alpha", "base", "epsilon"}
    found, trained = search(plan, 2)
    (study,) = found.studies
    assert len(trained) == 4
    assert len({trial.hyperparameters["alpha"] for trial in study.trials}) == 2
    chosen = reproduce.choose(plan, study)
    specs = [*reproduce.reproductions(plan, chosen), spec_of(plan, study, study.trials[0].hyperparameters, 0, 0, True)]
    for values in [*(trial.hyperparameters for trial in study.trials), *(spec.hyperparameters for spec in specs)]:
        assert (values["beta"], values["mined"]) == (30.0, False)


def test_a_space_of_the_protocol_goes_with_given_values_of_other_keys(tiny: Any, tmp_path: Path) -> None:
    spaces = {"xbm": {"base": {"choices": ["contrastive", "triplet"]}}}
    protocol = tiny(search={**SEARCH, "spaces": spaces}, hyperparameters={"xbm": {"share": 0.5}})
    plan = plan_for(protocol, tmp_path, ["xbm"])
    study = new_study(plan, "xbm", 2)
    values = {**plan.specs[0].hyperparameters, "base": "triplet"}
    assert values["share"] == 0.5
    assert registry.identity("xbm", values) in study.method_hash.split("/")


def test_where_everything_is_given_the_protocols_values_win(tiny: Any, tmp_path: Path) -> None:
    protocol = tiny(**QUICK, search=SEARCH, hyperparameters={"contrastive": {"margin": 0.3}})
    plan = plan_for(protocol, tmp_path, ["contrastive"])
    (study,) = studies_of(plan, 2)
    assert study.trials_wanted == 0
    winner = reproduce.choose(plan, study).winner
    assert winner is not None
    assert winner.hyperparameters == {"margin": 0.3}
    assert winner.trial is None


# --------------------------------------------------------------------------------------------------- recipes


@pytest.mark.parametrize("name", sorted(protocol_files()))
def test_methods_take_what_shipped_protocols_give_them(name: str) -> None:
    protocol, known = load(name), registry.methods()
    held = [protocol, *(protocol.on(data) for data in protocol.datasets)]
    told: set[tuple[str, str]] = set()
    for one in held:
        hyperparameters.check(one)
        for method, given in one.hyperparameters.items():
            values, defaults = (
                hyperparameters.values_under(one, known[method].cls),
                registry.defaults(known[method].cls),
            )
            told |= {(method, key) for key in given if values[key] != defaults[key]}
    named = {(method, key) for one in held for method, given in one.hyperparameters.items() for key in given}
    assert named == told, "a value that is the default everywhere need not be named"


def in_force(protocol: str, data: str, method: str) -> dict[str, Any]:
    return hyperparameters.values_under(load(protocol).on(data), registry.get(method).cls)


# The authors' commands: clusters, weight of the adversarial term, share of surrogate steps.
MIC = {
    "cub200": (30, 2500, 0.8), "cars196": (150, 500, 0.8), "sop": (50, 250, 0.5), "inshop": (150, 250, 0.8),
    "vehicleid_small": (50, 250, 0.5), "vehicleid_large": (50, 250, 0.5),
}  # fmt: skip


@pytest.mark.parametrize("data", MIC)
def test_mic_has_the_values_of_its_commands(data: str) -> None:
    for method in ("mic", "mic_alternating", "mic_triplet", "mic_proxy_nca"):
        found = in_force("papers/mic", data, method)
        assert (found["clusters"], found["weight"]) == MIC[data][:2]
        assert found["head_lr"] == load("papers/mic").optimizer.trunk.lr
    assert in_force("papers/mic", data, "mic_alternating")["task_p"] == MIC[data][2]


@pytest.mark.parametrize(
    ("name", "data", "method", "times"),
    [
        ("papers/proxy-anchor", "cub200", "proxy_anchor", 100),
        ("papers/proxy-anchor", "cars196", "proxy_anchor", 100),
        ("papers/proxy-anchor", "sop", "proxy_anchor", 100),
        ("papers/proxy-anchor", "inshop", "proxy_anchor", 100),
        ("trainval-two-stage", "cub200", "proxy_nca_pp", 100_000),
        ("trainval-two-stage", "sop", "proxy_nca_pp", 10_000),
        ("roth2020", "cub200", "proxy_nca", 50),
        ("roth2020", "sop", "normalized_softmax", 200),
        ("roth2020", "cars196", "normalized_softmax", 1),
    ],
)
def test_proxies_learn_so_many_times_faster_than_the_network(name: str, data: str, method: str, times: float) -> None:
    rate = load(name).on(data).optimizer.trunk.lr
    assert in_force(name, data, method)["proxy_lr"] == pytest.approx(times * rate)


def context(images: int, embedding: int, iterations: int) -> Context:
    return Context(10, torch.arange(images) % 10, 64, embedding, iterations, torch.device("cpu"))


@pytest.mark.parametrize(("data", "images", "memory"), [("sop", 59_551, 55_000), ("inshop", 25_882, 23_904)])
def test_the_memory_of_xbm_holds_as_much_and_begins_as_released(data: str, images: int, memory: int) -> None:
    protocol = load("papers/xbm").on(data)
    method: Any = registry.get("xbm").cls(**in_force("papers/xbm", data, "xbm"))
    method.build(context(images, 2, protocol.budget.iterations))
    assert len(method.memory) == memory
    assert method.first_step == 1_000


def test_divide_and_conquer_has_learners_of_sixteen_dimensions() -> None:
    size = load("papers/divide-and-conquer").embedding.size
    for data in ("sop", "inshop", "vehicleid_large"):
        method: Any = registry.get("divide_and_conquer").cls(
            **in_force("papers/divide-and-conquer", data, "divide_and_conquer")
        )
        method.build(context(80, size, 100))
        assert method.embedder(64, size).width == 16
        assert len(method.losses) == 8 + 1
