"""The training loop: curves, metrics, checkpoints on time, and figures that are not finite."""

import math
from itertools import pairwise

import pytest
import torch
from small_critic import make_trainer, train_in
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from digiq_ray.learner.checkpoints import Checkpoints
from digiq_ray.learner.training import TrainingDivergedError


class CountingTrainer:
    """A training whose figure at each step is the step's number; counts what is asked of it."""

    def __init__(self, steps: int, bad: dict[int, float] | None = None) -> None:
        self.steps, self.bad, self.asked = steps, bad or {}, []
        self.model = torch.nn.Linear(1, 1)
        self.optimizer = torch.optim.SGD(self.model.parameters(), 0.1)
        self.noise: list[float] = []

    def modules(self):
        return {"model": self.model}

    def step(self, index):
        self.asked.append(index)
        self.noise.append(float(torch.rand(1)))
        return {"number": self.bad.get(index, float(index))}


@pytest.fixture
def saved(monkeypatch) -> list[int]:
    """The steps at which a checkpoint was saved."""
    steps = []
    save = Checkpoints.save

    def noting(self, step, *arguments):
        steps.append(step)
        save(self, step, *arguments)

    monkeypatch.setattr(Checkpoints, "save", noting)
    return steps


def test_every_step_is_done_once_in_order_and_told(tmp_path):
    trainer, seen = CountingTrainer(9), []
    train_in(tmp_path, trainer, on_step=lambda done, total: seen.append((done, total)))
    assert trainer.asked == list(range(9))
    assert seen == [(done, 9) for done in range(1, 10)]


@pytest.mark.parametrize(("steps", "every"), [(23, 5), (23, 7), (60, 50), (20, 20), (3, 50), (6, 1)])
def test_checkpoints_come_every_so_many_steps_and_not_at_the_end(tmp_path, saved, steps, every):
    train_in(tmp_path, CountingTrainer(steps), every=every)
    assert saved == list(range(every, steps, every))


@pytest.mark.parametrize(("steps", "points"), [(1, 4), (4, 4), (5, 4), (23, 4), (160, 60), (1500, 60)])
def test_a_curve_has_the_mean_of_each_stretch_and_ends_with_the_training(tmp_path, steps, points):
    curve = train_in(tmp_path, CountingTrainer(steps), every=1000, points=points)["number"]
    assert len(curve) <= points
    ends = [0, *(int(step) for step, _ in curve)]
    assert ends[-1] == steps
    stretches = {end - start for start, end in pairwise(ends[:-1])}
    assert len(stretches) <= 1, "all but the last point stand for the same number of steps"
    for start, (end, mean) in zip(ends, curve, strict=False):
        assert mean == pytest.approx(sum(range(start, int(end))) / (end - start))


def test_a_training_of_no_steps_changes_nothing(tmp_path):
    assert train_in(tmp_path, CountingTrainer(0)) == {}


def test_a_training_that_is_done_up_to_its_last_checkpoint_repeats_only_the_rest(tmp_path):
    train_in(tmp_path, CountingTrainer(12))
    again = CountingTrainer(12)
    train_in(tmp_path, again)
    assert again.asked == [10, 11]


def test_random_numbers_of_a_step_depend_on_its_index_only(tmp_path):
    whole, rest = CountingTrainer(12), CountingTrainer(12)
    torch.manual_seed(1)
    train_in(tmp_path, whole)
    torch.manual_seed(2)
    train_in(tmp_path, rest)
    assert rest.noise == whole.noise[10:]
    assert len(set(whole.noise)) == 12


def test_the_random_numbers_of_others_are_left_alone(tmp_path):
    trainer = CountingTrainer(5)
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    train_in(tmp_path, trainer)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_figure_that_is_not_finite_ends_the_training(tmp_path, bad, saved):
    trainer = CountingTrainer(20, bad={7: bad})
    with pytest.raises(
        TrainingDivergedError, match=r"^critic: number became -?(nan|inf) at step 7; lower the learning"
    ):
        train_in(tmp_path, trainer)
    assert saved == [5], "no checkpoint holds what diverged"


def test_a_critic_that_diverges_is_noticed(tmp_path):
    with pytest.raises(TrainingDivergedError, match=r"critic: \w+ became (nan|inf)"):
        train_in(tmp_path, make_trainer(40, learning_rate=1e30))


def test_metrics_go_to_tensorboard_once_also_when_resumed(tmp_path):
    class Killed(BaseException):
        pass

    def kill(done, total):
        if done == 9:
            raise Killed

    with pytest.raises(Killed):
        train_in(tmp_path, CountingTrainer(12), on_step=kill, points=6)
    curve = train_in(tmp_path, CountingTrainer(12), points=6)["number"]
    events = EventAccumulator(str(tmp_path / "logs" / "critic"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("critic/number")] == [
        (step, pytest.approx(value)) for step, value in curve
    ]
