"""Policies as emulator workers get them: pickled, and light."""

import functools
import subprocess
import sys

from ray import cloudpickle

from digiq_ray.core.settings import RunSettings
from digiq_ray.loops.stages.devices import environment_factory, worker_spec
from emulator_workers.worker import EmulatorWorker
from serve.players import Player, remote_policy

LOAD = """
import sys
from ray import cloudpickle
worker, spec = cloudpickle.loads(sys.stdin.buffer.read())
spec.make_environment().close()
print(worker.__name__, *sorted({"torch", "transformers", "pandas"} & set(sys.modules)))
"""


def test_an_emulator_worker_with_its_devices_and_its_policy_needs_no_torch(tmp_path) -> None:
    settings = RunSettings()
    make_policy = functools.partial(remote_policy, [], Player("tiny", 1.0))
    spec = worker_spec(
        settings, make_environment=environment_factory(settings), make_policy=make_policy, store=str(tmp_path)
    )
    asked = [sys.executable, "-c", LOAD]
    found = subprocess.run(asked, input=cloudpickle.dumps((EmulatorWorker, spec)), capture_output=True, timeout=120)
    assert found.stdout.decode().split() == ["EmulatorWorker"], found.stderr.decode()
