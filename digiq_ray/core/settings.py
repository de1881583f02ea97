"""Every setting of a run, one documented line each. The values here are the defaults; presets change a few of them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from digiq_ray.core.config import Section


class TaskSettings(Section):
    """Which goals are practised and scored."""

    set: Literal["general", "webshop"] = Field("general", description="task set of the simulated phone")
    release: Literal["updated", "textbook"] = Field("updated", description="software that the simulated phones run")
    held_out: Literal["test", "validation"] = Field(
        "test", description="what is scored: test tasks, or (to choose settings by) training tasks kept aside"
    )


class DeviceSettings(Section):
    """The farm."""

    kind: Literal["simulated", "android", "chromium", "stub"] = Field(
        "simulated", description="what the devices are; stub is the simulated phone behind the real Android driver"
    )
    workers: int = Field(2, ge=1, description="worker processes; each has one device, or many simulated ones")
    slots: int = Field(64, ge=1, description="simulated phones per worker")
    udids: list[str] = Field([], description="Android: ids of phones or running emulators, as adb devices lists them")
    avd: str = Field("", description="Android: the AVD whose emulators are started, instead of udids")
    adb_port: int = Field(5037, ge=1, le=65535, description="Android: port of the adb server that knows the udids")
    prepared: bool = Field(False, description="Android: Appium's server is installed on the udids already")
    home_url: str = Field("", description="Chromium: the first page; empty is the simulated phone as a web page")
    appium_url: str = Field("", description="an Appium server that runs already; empty starts one per worker")
    settle: bool | None = Field(
        None, description="wait for settled screens; null: on Android and on web pages, not on simulated phones"
    )
    retries: int = Field(2, ge=0, description="how often a task is begun again, on another device if there is one")
    restart_every: int = Field(0, ge=0, description="episodes after which a device is rebooted; 0 is never")
    stall_seconds: float = Field(120.0, gt=0, description="a worker that moves nothing for so long is replaced")
    start_seconds: float = Field(600.0, gt=0, description="how long the farm may be without any worker that is ready")
    max_losses: int = Field(8, ge=0, description="how many workers may be lost before a stage fails")

    @model_validator(mode="after")
    def _android_is_named(self) -> DeviceSettings:
        if self.kind == "android" and bool(self.udids) == bool(self.avd):
            raise ValueError(
                "devices.kind=android needs either devices.udids or devices.avd: "
                "--set devices.udids=[SERIAL] (adb devices lists them), or --set devices.avd=AVD"
            )
        return self


Backend = Literal["transformers", "vllm"]


class VlmSettings(Section):
    """The vision-language model that acts and gives features."""

    model: str = Field("tiny", description="'tiny' (ships with the package), or a path or Hugging Face id")
    max_tokens: int = Field(8, ge=1, description="most tokens of one action")
    backend: Backend = Field("transformers", description="what runs it outside training")
    engines: int | None = Field(
        None, ge=1, description="processes that serve it and that bulk stages ask; by default 2, and 1 with vLLM"
    )
    gpus: float = Field(0.0, ge=0, description="GPUs that Ray reserves for an engine")
    batch: int = Field(64, ge=1, description="states per batch when sampling and embedding")

    @property
    def processes(self) -> int:
        """How many engines there are."""
        return self.engines or (1 if self.backend == "vllm" else 2)


class CollectSettings(Section):
    """Episodes of the behaviour policy."""

    episodes: int = Field(500, ge=1, description="number of episodes, one task each")
    temperature: float = Field(1.0, gt=0, description="sampling temperature")


class CandidateSettings(Section):
    """Actions sampled in each state."""

    k: int = Field(16, ge=1, description="samples per state")
    temperature: float = Field(1.0, gt=0, description="sampling temperature")


class FinetuneSettings(Section):
    """Stage 1: does this action change the screen?"""

    steps: int = Field(240, ge=0, description="updates; 0 leaves the model as it is")
    batch: int = Field(32, ge=1, description="steps of episodes per update")
    learning_rate: float = Field(5e-4, gt=0, description="peak learning rate (AdamW)")
    weight_decay: float = Field(0.01, ge=0, description="weight decay")
    rehearsal: float = Field(0.5, ge=0, description="weight of predicting the behaviour action beside the answer")
    threshold: float = Field(30.0, gt=0, description="mean squared pixel difference (0 to 255) that is a change")
    ignore_top: float = Field(0.0625, ge=0, lt=1, description="share of the screen's height left out: the status bar")
    held_out: float = Field(0.1, gt=0, lt=1, description="share of episodes kept for measuring accuracy")


class FeatureSettings(Section):
    """Frozen intermediate-layer features."""

    layer: int = Field(-2, description="layer k; negative counts from the end")
    pooling: Literal["last", "last_and_action"] = Field("last_and_action", description="which hidden states are used")


class CriticSettings(Section):
    """TD learning of Q and V."""

    steps: int = Field(1000, ge=1, description="updates")
    batch: int = Field(256, ge=1, description="transitions per update")
    learning_rate: float = Field(1e-3, gt=0, description="peak learning rate (AdamW)")
    weight_decay: float = Field(0.01, ge=0, description="weight decay")
    gamma: float = Field(0.9, gt=0, le=1, description="discount per step")
    n_step: int = Field(5, ge=0, description="steps before the bootstrap; 1 is the paper's, 0 runs to the end")
    tau: float = Field(0.02, gt=0, le=1, description="share that the target critic moves per update (Polyak)")
    width: int = Field(128, ge=1, description="width of the heads' hidden layers")
    depth: int = Field(2, ge=1, description="number of hidden layers")
    aggregate: Literal["min", "mean"] = Field("min", description="how the twins become one value")


class PolicySettings(Section):
    """Best-of-N extraction and imitation."""

    margin: float = Field(0.0, description="least Q - V of what is imitated")
    min_support: int = Field(3, ge=1, description="a candidate must be drawn so often of K")
    support_radius: float = Field(0.05, ge=0, description="touches within this distance count as one action")
    steps: int = Field(70, ge=1, description="updates, the same for every policy of a run")
    batch: int = Field(128, ge=1, description="items per update")
    learning_rate: float = Field(5e-4, gt=0, description="peak learning rate (AdamW)")
    weight_decay: float = Field(0.01, ge=0, description="weight decay")
    clip: float = Field(1.0, gt=0, description="largest norm of the gradient")
    controls: list[Literal["random_candidate", "filtered_bc"]] = Field(
        ["random_candidate", "filtered_bc"], description="policies trained beside Digi-Q, for comparison"
    )


class EvaluateSettings(Section):
    """Scoring on held-out tasks."""

    episodes: int = Field(400, ge=1, description="test tasks, one episode each for every policy")
    temperature: float = Field(1.0, gt=0, description="sampling temperature of the main figure")
    greedy: bool = Field(True, description="score the likeliest action too")
    ranking_states: int = Field(300, ge=1, description="held-out states on which the critic's ranking is checked")


class LearnerSettings(Section):
    """The central learner."""

    processes: int = Field(2, ge=1, description="learner actors; several policies train at once")
    stall_seconds: float = Field(
        1800.0, gt=0, description="a training or bulk stage that moves nothing for so long fails"
    )
    checkpoint_every: int = Field(50, ge=1, description="updates between checkpoints")


class RunSettings(Section):
    """A whole run of the recipe."""

    seed: int = Field(0, ge=0, description="decides tasks, samples and initial weights")
    tasks: TaskSettings = Field(default_factory=TaskSettings)
    devices: DeviceSettings = Field(default_factory=DeviceSettings)
    vlm: VlmSettings = Field(default_factory=VlmSettings)
    collect: CollectSettings = Field(default_factory=CollectSettings)
    candidates: CandidateSettings = Field(default_factory=CandidateSettings)
    finetune: FinetuneSettings = Field(default_factory=FinetuneSettings)
    features: FeatureSettings = Field(default_factory=FeatureSettings)
    critic: CriticSettings = Field(default_factory=CriticSettings)
    policy: PolicySettings = Field(default_factory=PolicySettings)
    evaluate: EvaluateSettings = Field(default_factory=EvaluateSettings)
    learner: LearnerSettings = Field(default_factory=LearnerSettings)

    @model_validator(mode="after")
    def _support_fits(self) -> RunSettings:
        if self.policy.min_support > self.candidates.k:
            raise ValueError(
                f"policy.min_support={self.policy.min_support} can never be reached "
                f"with candidates.k={self.candidates.k}"
            )
        return self
