"""A training that is spread over processes by Ray Train: to whoever calls it, a training like any other.

Every process of the group carries out the whole training function on the same stores; what they share in it is the
updates (see ``distributed``), and what it returns and writes is process 0's. If one of them dies, Ray Train starts all
of them again, and they go on from the newest checkpoint.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch

from digiq_ray.core.errors import DigiQError, WorkerLostError, error_chain
from digiq_ray.core.settings import LearnerSettings
from digiq_ray.learner.actor import CONTROL, Training
from digiq_ray.learner.paths import RunPaths

_RESTARTS = 3


@dataclass(frozen=True, slots=True)
class WorkerGroup:
    """Carries out ``training`` in ``settings.workers`` processes; to be called in a ``Learner``.

    Attributes:
        training: Called with a run's directory, more arguments, and a function for progress.
        settings: How many processes, and on what.
    """

    training: Training
    settings: LearnerSettings

    def __call__(self, root: Path, *arguments: Any) -> dict[str, Any]:
        """What ``training`` returns in process 0.

        Raises:
            DigiQError: what ``training`` raised on purpose, in any process.
            WorkerLostError: processes died more often than they may be started again.
        """
        from ray import train
        from ray.train.torch import TorchTrainer

        from digiq_ray.learner.process_group import Ungrouped, process_group

        settings, training, given = self.settings, self.training, arguments[:-1]
        learner = ray.get_runtime_context().current_actor

        def work() -> dict[str, Any]:
            first = train.get_context().get_world_rank() == 0

            def on_step(done: int, total: int) -> None:
                if first:
                    learner.note.options(concurrency_group=CONTROL).remote(done, total)

            torch.set_num_threads(1)
            with process_group(on_gpu=settings.use_gpu, seconds=settings.stall_seconds):
                return training(root, *given, on_step)

        trainer = TorchTrainer(
            work,
            torch_config=Ungrouped(),
            scaling_config=train.ScalingConfig(num_workers=settings.workers, use_gpu=settings.use_gpu),
            run_config=train.RunConfig(
                name=uuid.uuid4().hex,
                storage_path=str(RunPaths(root).checkpoints("ray_train")),
                failure_config=train.FailureConfig(max_failures=_RESTARTS),
                callbacks=[stops_at_errors_on_purpose()],
            ),
        )
        try:
            return dict(trainer.fit().return_value)
        except train.TrainingFailedError as error:
            raise meaning(error) from error


def meaning(error: Exception) -> Exception:
    """What a training that Ray Train gave up has died of: an error on purpose, lost processes, or something else."""
    from ray import train

    if isinstance(error, train.ControllerError):
        return _on_purpose(error.controller_failure) or error
    failures = getattr(error, "worker_failures", {}).values()
    if any(isinstance(failure, ray.exceptions.RayError) for failure in failures):
        return WorkerLostError(
            "processes of a training died more often than they may be started again; look at the memory of the "
            "machines that they ran on"
        )
    return error


def _on_purpose(error: BaseException) -> DigiQError | None:
    return next((one for one in error_chain(error) if isinstance(one, DigiQError)), None)


def stops_at_errors_on_purpose() -> Any:
    """Ray Train would start a training again that has found its input wrong."""
    from ray import train

    class Stop(train.UserCallback):
        def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
            for error in worker_exceptions.values():
                found = _on_purpose(error)
                if found is not None:
                    raise found

    return Stop()
