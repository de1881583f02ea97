"""The whole recipe, serially: what it leaves behind, and that it does nothing twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from small_recipe import report_of, small_settings
from transformers import AutoModelForImageTextToText, AutoProcessor

from digiq_ray.core.errors import InputError, RunMismatchError
from digiq_ray.learner.paths import RunPaths
from digiq_ray.learner.versions import PolicyVersions
from digiq_ray.loops.demo import one_stage, whole_run
from digiq_ray.loops.offline import RECIPE
from digiq_ray.loops.run import Run
from digiq_ray.store.episodes import EpisodeStore


class Quiet:
    """Shows nothing, remembers which stages were worked on."""

    def __init__(self) -> None:
        self.worked: list[str] = []

    def watch(self, name: str) -> Callable[[int, int], None]:
        return lambda done, total: None

    def stage(self, name: str, meaning: str, seconds: float, rows: int, skipped: bool) -> None:
        if not skipped:
            self.worked.append(name)

    def alarm(self, stage: str, text: str) -> None:
        pass


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object], list[str]]:
    root, show = tmp_path_factory.mktemp("runs") / "run", Quiet()
    report = whole_run("run", root, small_settings(), serial=True, show=show)
    return root, report, show.worked


def test_every_stage_is_carried_out_in_order(done: tuple[Path, dict[str, object], list[str]]) -> None:
    assert done[2] == [stage.name for stage in RECIPE]


def test_the_report_has_the_promised_shape(done: tuple[Path, dict[str, object], list[str]]) -> None:
    report = done[1]
    policies = report["policies"]
    assert isinstance(policies, dict)
    assert set(policies) == {"behaviour", "digi_q", "random_candidate", "filtered_bc"}
    for policy in policies.values():
        for shape in (policy, policy["greedy"]):
            assert shape["n"] == 12
            assert shape["infra_errors"] == 0
            assert shape["ci95"][0] <= shape["success_rate"] <= shape["ci95"][1]
            assert shape["tasks"] == "general/test"
    critic = report["critic"]
    assert isinstance(critic, dict)
    assert critic["td_error"] >= 0
    assert critic["action_sensitivity"] >= 0
    assert report["seed"] == 0
    assert report["command"] == "run"


def test_the_written_report_is_the_returned_one(done: tuple[Path, dict[str, object], list[str]]) -> None:
    assert report_of(done[0]) == done[1]


def test_the_page_is_self_contained(done: tuple[Path, dict[str, object], list[str]]) -> None:
    page = (done[0] / "report.html").read_text()
    assert "<script" not in page
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_a_finished_run_is_not_done_again(done: tuple[Path, dict[str, object], list[str]]) -> None:
    show = Quiet()
    again = whole_run("run", done[0], small_settings(), serial=True, show=show)
    assert show.worked == []
    assert again == done[1]


def test_a_finished_stage_is_skipped(done: tuple[Path, dict[str, object], list[str]]) -> None:
    result = one_stage("embed", done[0], small_settings(), serial=True, show=Quiet())
    assert result["skipped"] is True


def test_a_stage_asks_for_those_before_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="run digiq collect first"):
        one_stage("embed", tmp_path / "run", small_settings(), serial=True, show=Quiet())


def test_the_policy_loads_with_from_pretrained(done: tuple[Path, dict[str, object], list[str]]) -> None:
    directory = done[0] / "models" / "digi_q"
    model = AutoModelForImageTextToText.from_pretrained(directory)
    assert model.num_parameters() < 2_000_000
    assert AutoProcessor.from_pretrained(directory).tokenizer is not None


def test_episodes_name_the_version_of_the_policy_that_played_them(
    done: tuple[Path, dict[str, object], list[str]],
) -> None:
    paths = RunPaths(done[0])
    for policy in ("digi_q", "random_candidate", "filtered_bc"):
        version = PolicyVersions.of(paths, policy).latest()
        for mode in ("sampled", "greedy"):
            played = EpisodeStore(paths.evaluation(policy, mode)).summary()
            assert played.policy_versions == {str(version): 12}


def test_checkpoints_are_gone_at_the_end(done: tuple[Path, dict[str, object], list[str]]) -> None:
    assert not (done[0] / "checkpoints").exists()


def test_another_configuration_is_refused(done: tuple[Path, dict[str, object], list[str]]) -> None:
    with pytest.raises(RunMismatchError, match=r"seed=0, not 1"):
        Run(done[0], small_settings("seed=1"))


def test_a_directory_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"")
    with pytest.raises(InputError, match="holds no run"):
        Run(tmp_path, small_settings())


def test_two_processes_cannot_work_on_one_run(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", small_settings())
    with run.lock(), pytest.raises(InputError, match="another process"), Run(tmp_path / "run", small_settings()).lock():
        pass
