import pytest

from digiq_ray.core.errors import InputError
from digiq_ray.core.tasks import Task
from digiq_ray.evaluation.judges import KnowsSuccess, OracleJudge

TASK = Task("t/0", "do it", 5, "test")


class Knowing:
    def __init__(self, done: bool) -> None:
        self.done = done

    def succeeded(self) -> bool:
        return self.done


class Nameless:
    info = None


class Info:
    name = "emulator-5554"


class Named:
    info = Info()


@pytest.mark.parametrize("done", [True, False])
def test_oracle_says_what_the_device_says(done):
    assert OracleJudge().success(TASK, Knowing(done), b"") is done


def test_oracle_judges_the_device_anew_each_time():
    judge, device = OracleJudge(), Knowing(False)
    before = judge.success(TASK, device, b"")
    device.done = True
    assert (before, judge.success(TASK, device, b"")) == (False, True)


def test_oracle_names_the_device_that_does_not_know():
    with pytest.raises(InputError, match="'emulator-5554' cannot tell"):
        OracleJudge().success(TASK, Named(), b"")


def test_oracle_names_the_class_of_a_device_that_was_not_started():
    with pytest.raises(InputError, match="'Nameless' cannot tell"):
        OracleJudge().success(TASK, Nameless(), b"")


def test_knowing_is_structural():
    assert isinstance(Knowing(True), KnowsSuccess)
    assert not isinstance(Named(), KnowsSuccess)
