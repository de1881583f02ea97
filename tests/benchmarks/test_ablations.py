"""The ablation benchmark: cells and their settings, results that stay, the table, and a miniature of it all."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from ray.exceptions import RayTaskError

from benchmarks import ablations
from benchmarks._ablation_board import Board, seconds_left
from benchmarks._ablation_cells import BY_NAME, CELLS, Configuration, Place, Result, Results, code_version, in_order
from benchmarks._ablation_runs import READS, same_stages
from benchmarks._ablation_table import markdown, plot, rows_of
from digiq_ray.core.errors import ConfigError, DiskFullError, RunMismatchError, StoreError
from digiq_ray.core.settings import RunSettings
from digiq_ray.evaluation.statistics import wilson
from digiq_ray.store.candidates import CandidateStore
from digiq_ray.store.episodes import EpisodeStore
from digiq_ray.store.features import FeatureStore

DIGI_Q, BEHAVIOUR = BY_NAME["digi_q"], BY_NAME["behaviour"]
USUAL = Configuration(["evaluate.episodes=10"])


def result(
    cell: str = "digi_q", successes: int = 5, n: int = 10, *, seed: int = 0, task_set: str = "general", lost: int = 0
) -> Result:
    part = {"success_rate": successes / n if n else None, "successes": successes, "n": n}
    played = {
        **part,
        "ci95": list(wilson(successes, n)) if n else None,
        "infra_errors": lost,
        "tasks": f"{task_set}/test",
        "by_kind": {"open": part},
        "relearned": {"success_rate": None, "successes": 0, "n": 0},
    }
    trained = {} if cell == "behaviour" else {"items": 100 + 20 * seed, "kl": 0.5}
    place = Place(task_set, seed, BY_NAME[cell])
    return Result(place, played, trained, 30.0, 120.0, f"2026-01-0{1 + seed}T00:00:00+00:00", "a machine")


# Cells, their order and their settings


def test_essential_cells_come_first_for_all_seeds_and_sets() -> None:
    places = in_order(["general", "webshop"], [0, 1], CELLS)
    essential = [cell for cell in CELLS if cell.essential]
    first = places[: 4 * len(essential)]
    assert {cell.name for cell in essential} == {"behaviour", "random_candidate", "filtered_bc", "digi_q"}
    assert {place.cell for place in first} == set(essential)
    assert [(one.task_set, one.seed) for one in first[::4]] == [
        ("general", 0),
        ("webshop", 0),
        ("general", 1),
        ("webshop", 1),
    ]
    assert len(set(places)) == len(places) == 4 * len(CELLS)


def test_the_table_has_the_rows_of_the_paper() -> None:
    assert set(BY_NAME) == {
        *("behaviour", "random_candidate", "filtered_bc", "awr", "reinforce", "digirl", "mc", "digi_q", "q_rerank"),
        *("digi_q_off_the_shelf", "digi_q_n1", "digi_q_n4", "digi_q_n8", "digi_q_quarter", "digi_q_half"),
        *("digi_q_untrained", "q_rerank_untrained"),
    }


def settings_of(cell: str, task_set: str = "general", *overrides: str) -> RunSettings:
    return Configuration(overrides).of(Place(task_set, 0, BY_NAME[cell]))


def test_n_candidates_need_the_same_share_of_draws_as_all() -> None:
    chosen = {n: settings_of(f"digi_q_n{n}").policy for n in (1, 4, 8)}
    assert settings_of("digi_q").policy.min_support == 3
    assert {n: (one.n, one.min_support) for n, one in chosen.items()} == {1: (1, 1), 4: (4, 1), 8: (8, 2)}


def test_cells_differ_from_the_shared_run_in_what_they_are_about_only() -> None:
    shared = Configuration().shared("general", 0)
    assert settings_of("mc") == settings_of("q_rerank") == settings_of("behaviour") == shared
    assert settings_of("digi_q_off_the_shelf").finetune == shared.finetune.model_copy(update={"steps": 0})
    assert settings_of("digi_q_untrained").critic == shared.critic.model_copy(update={"steps": 0})
    assert settings_of("digi_q_untrained") == settings_of("q_rerank_untrained")
    assert settings_of("digi_q_quarter").collect.episodes * 4 == shared.collect.episodes
    assert settings_of("digi_q_half", "general", "collect.episodes=31").collect.episodes == 16


def test_long_tasks_have_their_preset_and_nothing_greedy_is_played() -> None:
    assert settings_of("digi_q", "webshop").preset == "long"
    assert settings_of("digi_q", "webshop").critic.n_step == 5
    assert settings_of("digi_q").preset == "default"
    assert not settings_of("digi_q").evaluate.greedy
    assert settings_of("digi_q", "general", "evaluate.greedy=true").evaluate.greedy


def test_more_candidates_than_were_sampled_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"policy.n=8 candidates cannot be drawn from candidates.k=4"):
        settings_of("digi_q_n8", "general", "candidates.k=4")


def test_every_section_of_the_settings_has_its_stage() -> None:
    afterwards = {"policy", "evaluate", "learner"}
    assert set().union(*READS.values()) | afterwards == set(RunSettings.model_fields)


def test_a_cell_takes_over_the_stages_before_what_differs() -> None:
    shared, stages = Configuration().shared("general", 0), list(READS)
    assert same_stages(shared, settings_of("digi_q_n4")) == stages
    assert same_stages(shared, settings_of("digi_q_off_the_shelf")) == ["collect", "candidates"]
    assert same_stages(shared, settings_of("digi_q_half")) == []
    assert same_stages(shared, settings_of("digi_q", "general", "critic.gamma=0.5")) == stages[:-1]


# Results


def results_in(directory: Path, configuration: Configuration = USUAL, code: str = "one") -> Results:
    return Results(directory, configuration, lambda: code)


def test_a_result_comes_back_as_it_was(tmp_path: Path) -> None:
    results_in(tmp_path).publish(result())
    (found,) = results_in(tmp_path).all()
    assert replace(found, date="", machine="") == replace(result(), date="", machine="")
    assert found.date
    assert found.machine
    kept = json.loads((tmp_path / "cells" / "general-0-digi_q.json").read_text())
    assert set(kept["fingerprint"]) == {"code", "config"}
    assert RunSettings.model_validate(kept["settings"]) == USUAL.of(result().place)


def fill(
    places: Sequence[Place], results: Results, failing: dict[str, Exception] | None = None
) -> tuple[list[Place], list[str]]:
    """Fills the table with made-up results; which cells were measured, and what is said of those without result."""
    measured: list[Place] = []

    def measure(place: Place) -> Result:
        measured.append(place)
        if failing and place.cell.name in failing:
            raise failing[place.cell.name]
        return result(place.cell.name, seed=place.seed, task_set=place.task_set)

    failed = ablations.fill(places, results, measure, Board(len(places)), lambda: None)
    return measured, failed


def test_cells_that_are_there_are_not_measured_again(tmp_path: Path) -> None:
    places = in_order(["general"], [0, 1], CELLS)
    assert fill(places[:3], results_in(tmp_path)) == (places[:3], [])
    assert fill(places, results_in(tmp_path)) == (places[3:], [])
    assert fill(places, results_in(tmp_path)) == ([], [])
    assert len(results_in(tmp_path).all()) == len(places)


def test_a_cell_without_result_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    places = in_order(["general"], [0], CELLS)
    broken = {"awr": StoreError("awr finds nothing\nto imitate")}
    assert fill(places, results_in(tmp_path), broken) == (places, ["general-0-awr: awr finds nothing to imitate"])
    assert fill(places, results_in(tmp_path)) == ([Place("general", 0, BY_NAME["awr"])], [])


def test_a_cell_that_failed_on_ray_is_named_with_the_cause_alone(tmp_path: Path) -> None:
    error = RayTaskError("run", "a traceback of another process", StoreError("awr finds nothing to imitate"))
    _, failed = fill([Place("general", 0, BY_NAME["awr"])], results_in(tmp_path), {"awr": error.as_instanceof_cause()})
    assert failed == ["general-0-awr: awr finds nothing to imitate"]


def test_what_concerns_every_cell_ends_the_benchmark(tmp_path: Path) -> None:
    places = in_order(["general"], [0], CELLS)
    with pytest.raises(DiskFullError):
        fill(places, results_in(tmp_path), {"filtered_bc": DiskFullError("full")})
    assert len(results_in(tmp_path).all()) == 2


def test_results_of_other_code_are_refused(tmp_path: Path) -> None:
    results_in(tmp_path).publish(result())
    with pytest.raises(
        RunMismatchError, match=r"code.json: was made by other code \(one, not two\); give another --out"
    ):
        results_in(tmp_path, code="two")
    (tmp_path / "code.json").unlink()
    with pytest.raises(RunMismatchError, match=r"general-0-digi_q.json: was made by other code"):
        results_in(tmp_path, code="two").all()


def test_results_of_other_settings_are_refused_and_the_setting_is_named(tmp_path: Path) -> None:
    results_in(tmp_path).publish(result())
    other = Configuration(["evaluate.episodes=20"])
    with pytest.raises(RunMismatchError, match=r"was measured with evaluate.episodes=10, not 20; give another --out"):
        results_in(tmp_path, other).all()


def test_a_broken_result_is_named(tmp_path: Path) -> None:
    results = results_in(tmp_path)
    (tmp_path / "cells" / "general-0-digi_q.json").write_text('{"task_set": "general"}')
    with pytest.raises(StoreError, match=r"general-0-digi_q.json: is no result of a cell .*delete it"):
        results.all()


def test_a_result_is_not_kept_if_the_sources_change_meanwhile(tmp_path: Path) -> None:
    versions = iter(["one", "one", "two"])
    results = Results(tmp_path, USUAL, lambda: next(versions))
    results.publish(result("behaviour"))
    with pytest.raises(RunMismatchError, match=r"sources were changed \(one became two\) while general-0-digi_q"):
        results.publish(result())
    assert [one.place.cell for one in results.all()] == [BEHAVIOUR]


def test_the_version_of_the_code_is_the_same_each_time() -> None:
    assert code_version() == code_version()
    assert len(code_version()) == 16


# The table


def test_rows_pool_the_episodes_of_all_seeds() -> None:
    found = rows_of([result(successes=9, seed=1), result(successes=2, n=5), result("behaviour", 1)])
    assert [row.cell for row in found] == [BEHAVIOUR, DIGI_Q]
    row = found[1]
    assert (row.successes, row.n, dict(row.by_seed)) == (11, 15, {0: (2, 5), 1: (9, 10)})
    assert row.interval == wilson(11, 15)
    assert row.items == pytest.approx(110)
    assert row.to_json() == {
        "tasks": "general",
        "cell": "digi_q",
        "success_rate": 11 / 15,
        "successes": 11,
        "n": 15,
        "ci95": list(wilson(11, 15)),
        "seeds": [0, 1],
        "by_seed": [0.4, 0.9],
    }


def test_task_sets_are_not_mixed() -> None:
    found = rows_of([result(task_set="webshop", successes=1), result(successes=9)])
    assert [(row.task_set, row.successes) for row in found] == [("general", 9), ("webshop", 1)]


def table(*results: Result, missing: Sequence[Place] = ()) -> str:
    return markdown(results, command="python -m benchmarks.ablations", missing=missing)


def test_the_table_says_rates_intervals_and_differences() -> None:
    text = table(result(successes=300, n=400), result("behaviour", 100, 400))
    assert "| Behaviour policy | 25.0 [21.0, 29.5] | 400 | 25.0 | +50.0 [+43.7, +55.6] | – | open 25 | – | – |" in text
    assert "| **Digi-Q, N = K** | 75.0 [70.5, 79.0] | 400 | 75.0 | – | – | open 75 | 100 | 0.500 |" in text


def test_the_table_says_when_where_and_how() -> None:
    text = table(result(), result(seed=1), missing=[Place("webshop", 1, BEHAVIOUR)])
    assert "2026-01-01 to 2026-01-02; a machine; 5 min of work." in text
    assert "`python -m benchmarks.ablations`" in text
    assert "Success on general/test, one episode for each task" in text
    assert "Not measured yet: webshop-1-behaviour." in text
    assert "Device errors" not in text


def test_episodes_that_were_lost_are_told_of_and_no_episode_is_no_rate() -> None:
    text = table(result(n=0, successes=0, lost=10), result("behaviour"))
    assert "| **Digi-Q, N = K** | – | 0 | – | – |" in text
    assert "| Behaviour policy | 50.0" in text
    assert "Device errors cut short 10 episodes" in text


def test_the_plot_names_every_cell_and_set_and_is_the_same_each_time() -> None:
    found = [result(), result("behaviour", 1), result(task_set="webshop")]
    text = plot(found)
    words = {element.text for element in ElementTree.fromstring(text).iter() if element.text}
    assert {"Digi-Q, N = K", "Behaviour policy", "general", "webshop"} <= words
    assert plot(found) == text


def test_the_time_left_follows_cells_of_the_same_name_and_counts_what_is_shared() -> None:
    slow = replace(result("mc"), seconds=90.0)
    done = [result(), slow]
    here, there = [Place("general", 1, BY_NAME[name]) for name in ("mc", "awr")]
    assert seconds_left([], [here]) is None
    assert seconds_left(done, []) == 0
    assert seconds_left(done, [Place("general", 0, BY_NAME["mc"])]) == pytest.approx(90)
    assert seconds_left(done, [here, there]) == pytest.approx(90 + 60 + 120)


# A miniature of it all

SMALL = [
    *("collect.episodes=24", "candidates.k=4", "finetune.steps=4", "finetune.batch=16", "critic.steps=20"),
    *("critic.batch=32", "policy.steps=3", "policy.batch=16", "devices.slots=8", "policy.min_support=1"),
]
MINIATURE = [
    "behaviour",
    "digi_q",
    "mc",
    "q_rerank",
    "q_rerank_untrained",
    "digi_q_off_the_shelf",
    "digi_q_n4",
    "digi_q_half",
]


def words_for(directory: Path, cells: Sequence[str]) -> list[str]:
    sets = [word for one in SMALL for word in ("--set", one)]
    where = ["--out", str(directory), "--json", str(directory.parent / "ablations.json")]
    return ["--sets", "general", "--seeds", "0", "--episodes", "6", "--serial", *where, *sets, "--cells", *cells]


@pytest.mark.slow
def test_a_miniature_of_the_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert ablations.run(ablations.parse(words_for(out, ["behaviour"]))) == []
    assert ablations.run(ablations.parse(words_for(out, MINIATURE))) == []
    found = json.loads((tmp_path / "ablations.json").read_text())
    assert [row["cell"] for row in found["rows"]] == [name for name in BY_NAME if name in MINIATURE]
    assert {(row["tasks"], row["n"], tuple(row["seeds"])) for row in found["rows"]} == {("general", 6, (0,))}
    assert "--cells behaviour mc digi_q_off_the_shelf digi_q" in found["command"]
    assert "| Behaviour policy |" in (out / "ablations.md").read_text()
    ElementTree.parse(out / "ablations.svg")

    shared, half, shelf, four = (
        out / "runs" / name
        for name in ("general-0", "general-0-digi_q_half", "general-0-digi_q_off_the_shelf", "general-0-digi_q_n4")
    )
    for store in ("episodes", "candidates", "features/states", "features/actions", "models/critic"):
        linked = {path.name: path.stat().st_ino for path in (four / store).iterdir()}
        assert linked == {path.name: path.stat().st_ino for path in (shared / store).iterdir()}
    assert EpisodeStore(half / "episodes").episode_ids() < EpisodeStore(shared / "episodes").episode_ids()
    assert len(EpisodeStore(half / "episodes").episode_ids()) == 12
    assert candidates_of(half) < candidates_of(shared)
    assert candidates_of(shelf) == candidates_of(shared)
    features = [FeatureStore(root / "features" / "states").open().fingerprint.model for root in (shared, shelf)]
    assert features[0] != features[1]

    # A killed process left everything but the file of the cell: nothing is trained or played again.
    cell = out / "cells" / "general-0-digi_q_half.json"
    before = json.loads(cell.read_text())
    times = {path: path.stat().st_mtime_ns for path in half.rglob("*") if path.is_file()}
    cell.unlink()
    capsys.readouterr()
    assert ablations.run(ablations.parse(words_for(out, MINIATURE))) == []
    assert json.loads(cell.read_text())["played"] == before["played"]
    assert {path: path.stat().st_mtime_ns for path in half.rglob("*") if path.is_file()} == times
    assert capsys.readouterr().err.count("done before") == len(MINIATURE) - 1


def candidates_of(root: Path) -> set[tuple[str, int, str]]:
    rows = CandidateStore(root / "candidates").table(["episode_id", "step", "action"]).to_pylist()
    return {(row["episode_id"], row["step"], row["action"]) for row in rows}
