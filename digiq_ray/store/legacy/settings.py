"""What a person may choose about an import of a trajectory file."""

from __future__ import annotations

from pydantic import Field

from digiq_ray.core.config import Section


class ImportSettings(Section):
    """Settings of ``digiq import FILE.pt``."""

    horizon: int | None = Field(
        default=None, ge=1, le=10_000, description="Steps after which the original stopped an episode."
    )
    gamma: float = Field(default=0.95, ge=0, le=1, description="Discount that the stored returns are compared with.")
    split: str = Field(default="train", pattern="train|test", description="Split that the tasks belong to.")
    features: bool = Field(default=True, description="Whether the file's features are imported too.")
    frame_stack: bool = Field(default=False, description="Whether a state's feature is that of two frames, as in V.")
