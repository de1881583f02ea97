"""What a server serves, within which limits, on how much of a cluster: typed, unknown keys are refused."""

from __future__ import annotations

from pydantic import Field, model_validator

from digiq_ray.core.config import Section
from digiq_ray.core.settings import Backend

TOKENS_VARIABLE = "DIGIQ_API_TOKENS"


class Limits(Section):
    """What a request may cost. How many texts a request may hold, and how long they are, is fixed in ``schemas``."""

    request_bytes: int = Field(16 * 2**20, ge=1, description="largest request body")
    image_bytes: int = Field(8 * 2**20, ge=1, description="largest encoded screenshot")
    image_pixels: int = Field(12_000_000, ge=1, description="most pixels of a screenshot, looked at before decoding")
    image_side: int = Field(4096, ge=1, description="longest side of a screenshot: it is padded to a square")
    in_flight: int = Field(64, ge=1, description="requests that one replica works on; more are refused (429)")
    deadline_seconds: float = Field(60.0, gt=0, description="a request that takes longer ends (504)")


class Scaling(Section):
    """Replicas: each holds the models, batches by itself, and gets every published version."""

    min_replicas: int = Field(1, ge=1, description="replicas kept when nothing is asked")
    max_replicas: int = Field(1, ge=1, description="replicas at the most")
    target_requests: float = Field(16.0, gt=0, description="requests under way per replica that autoscaling aims at")
    cpus: float = Field(1.0, ge=0, description="CPUs that Ray reserves for a replica")
    gpus: float = Field(0.0, ge=0, description="GPUs that Ray reserves for a replica")

    @model_validator(mode="after")
    def _fits(self) -> Scaling:
        if self.max_replicas < self.min_replicas:
            raise ValueError(f"max_replicas={self.max_replicas} is under min_replicas={self.min_replicas}")
        return self


class ServeArguments(Section):
    """Arguments of ``serve.app:build``."""

    model: str = Field(description="a run's directory, or a model: 'tiny', a path or a Hugging Face id")
    policy: str = Field("digi_q", description="which policy of a run: digi_q, behaviour, or another in its models")
    backend: Backend = Field("transformers", description="what runs the models")
    threads: int = Field(1, ge=1, description="torch threads of a replica (Transformers on a CPU)")
    drain_seconds: float = Field(60.0, gt=0, description="how long requests under way have to finish at the end")
    limits: Limits = Field(default_factory=Limits)
    scaling: Scaling = Field(default_factory=Scaling)


class ServeSettings(ServeArguments):
    """Settings of ``digiq serve``: the application's, and where it listens."""

    host: str = Field("127.0.0.1", description=f"address to listen on; another than loopback needs {TOKENS_VARIABLE}")
    port: int = Field(8000, ge=1, le=65535, description="port to listen on")
    metrics_port: int = Field(0, ge=0, le=65535, description="port of Ray's Prometheus metrics; 0 is any free one")
