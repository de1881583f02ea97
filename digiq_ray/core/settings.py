"""Every setting of a run, one documented line each. The values here are the defaults; presets change a few of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from digiq_ray.core.config import Section
from digiq_ray.core.presets import with_preset


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


Metric = Literal["mse", "mae"]
Box = Annotated[list[Annotated[float, Field(ge=0, le=1)]], Field(min_length=4, max_length=4)]


class FinetuneSettings(Section):
    """Stage 1: does this action change the screen?"""

    steps: int = Field(240, ge=0, description="updates; 0 leaves the model as it is")
    batch: int = Field(32, ge=1, description="steps of episodes per update")
    learning_rate: float = Field(5e-4, gt=0, description="peak learning rate (AdamW)")
    weight_decay: float = Field(0.01, ge=0, description="weight decay")
    rehearsal: float = Field(0.5, ge=0, description="weight of predicting the behaviour action beside the answer")
    metric: Metric = Field("mse", description="how two screens are compared: mean squared or mean absolute difference")
    threshold: float = Field(30.0, gt=0, description="mean pixel difference (0 to 255, or its square) that is a change")
    ignore_top: float = Field(0.0625, ge=0, lt=1, description="share of the screen's height left out: the status bar")
    ignore_boxes: list[Box] = Field(
        [], description="other regions left out: [x0, y0, x1, y1] as shares of width and height, from the top left"
    )
    held_out: float = Field(0.1, gt=0, lt=1, description="share of episodes kept for measuring accuracy")
    patience: int = Field(
        0, ge=0, description="stop after so many evaluations without a better held-out accuracy; 0 is never"
    )
    evaluate_every: int = Field(20, ge=1, description="patience: updates between evaluations")

    @model_validator(mode="after")
    def _label_makes_sense(self) -> FinetuneSettings:
        if self.metric == "mae" and "threshold" not in self.model_fields_set:
            raise ValueError("metric=mae needs a threshold of its own (the default 30 is a square): set threshold to 5")
        for left, top, right, bottom in self.ignore_boxes:
            if left >= right or top >= bottom:
                raise ValueError(f"ignore_boxes: [{left:g}, {top:g}, {right:g}, {bottom:g}] is no box [x0, y0, x1, y1]")
        return self


Precision = Literal["float32", "bfloat16"]


class TuningSettings(Section):
    """How the weights of a VLM are trained, in stage 1 and in policies."""

    method: Literal["full", "lora"] = Field("full", description="all weights, or low-rank adapters beside frozen ones")
    rank: int = Field(16, ge=1, description="lora: rank of an adapter")
    alpha: float = Field(32.0, gt=0, description="lora: an adapter counts alpha / rank times")
    dropout: float = Field(0.0, ge=0, lt=1, description="lora: share of an adapter's input that an update leaves out")
    targets: list[str] = Field(
        [], description="lora: names of the layers that get adapters, as q_proj; empty is every linear layer"
    )
    vision: bool = Field(False, description="lora: the vision tower gets adapters too, not the language model alone")
    checkpointing: bool = Field(
        False, description="compute activations again in the backward pass instead of keeping them: less memory"
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="of the arithmetic (trained weights are float32); auto: bfloat16 on a GPU, else float32"
    )
    packing: bool = Field(
        True, description="texts that follow one screen and prompt share a row, where the model's attention allows it"
    )

    @model_validator(mode="after")
    def _fit_together(self) -> TuningSettings:
        if self.method == "full":
            for name in ("rank", "alpha", "dropout", "targets", "vision"):
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f"{name} is of adapters, and method=full has none: set method=lora, or leave it")
        return self

    def arithmetic(self, device: str) -> Precision:
        """The precision on a device (``cpu`` or ``cuda``)."""
        if self.precision != "auto":
            return self.precision
        return "bfloat16" if device == "cuda" else "float32"


class FeatureSettings(Section):
    """Frozen intermediate-layer features."""

    layer: int = Field(-2, description="layer k; negative counts from the end")
    pooling: Literal["last", "last_and_action"] = Field("last_and_action", description="which hidden states are used")


Aggregate = Literal["min", "mean", "max", "pessimistic"]
Loss = Literal["mse", "huber", "logistic", "hl_gauss"]
Normalise = Literal["standardise", "whiten", "none"]
Schedule = Literal["constant", "linear", "cosine"]


_BACKUP_RULES = {"backup_support": 1, "backup_probability": 0.0}  # with the values that leave nothing out


class CriticSettings(Section):
    """Learning of Q and V on frozen features."""

    objective: Literal["td", "mc"] = Field("td", description="temporal differences, or the returns as they came out")
    loss: Loss = Field("mse", description="how values are learned; logistic and hl_gauss classify between the bounds")
    bins: int = Field(51, ge=2, description="hl_gauss: bins of the histogram")
    low: float = Field(0.0, description="logistic, hl_gauss: least value")
    high: float = Field(1.0, description="logistic, hl_gauss: largest value")
    gamma: float = Field(0.9, gt=0, le=1, description="discount per step")
    n_step: int = Field(1, ge=0, description="steps before the bootstrap; 1 is the paper's, 0 runs to the end")
    backup: Literal["candidates", "best", "executed"] = Field(
        "candidates", description="V follows the mean Q of the candidates, the best of them, or the executed action's Q"
    )
    backup_support: int = Field(1, ge=1, description="V leaves out candidates that were drawn less often, of K")
    backup_probability: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="instead of backup_support: V leaves out candidates less likely than this; 0 is off",
    )
    truncation: Literal["bootstrap", "end"] = Field(
        "bootstrap", description="what lies behind the step limit: the value of the last state, or nothing"
    )
    targets: Literal["shared", "own"] = Field(
        "shared", description="heads share a target (aggregated), or each follows its own target head"
    )
    hard_copy: bool = Field(True, description="the target critic starts equal to the critic, not at random")
    tau: float = Field(0.02, gt=0, le=1, description="share that the target critic moves per update (Polyak)")
    heads: int = Field(2, ge=1, description="heads of each kind; two are the paper's twins, more an ensemble")
    aggregate: Aggregate = Field("mean", description="how heads become one value; pessimistic: mean less deviation")
    q_widths: list[Annotated[int, Field(ge=0)]] = Field([128, 128], description="Q: hidden layers; 0 is the input's")
    v_widths: list[Annotated[int, Field(ge=0)]] = Field([128, 128], description="V: hidden layers; 0 is the input's")
    activation: Literal["gelu", "relu"] = Field("gelu", description="between the layers of a head")
    layer_norm: bool = Field(True, description="LayerNorm after each hidden layer")
    dropout: float = Field(0.3, ge=0, lt=1, description="share of the input features that an update leaves out")
    normalise: Normalise = Field("standardise", description="what becomes of features first")
    conservative: float = Field(
        0.1, ge=0, description="weight of keeping Q of untried candidates below that of executed actions (CQL)"
    )
    conservative_share: float = Field(
        0.25, gt=0, le=1, description="CQL: share of a batch whose candidates are looked at; they cost the most time"
    )
    conservative_temperature: float = Field(0.1, gt=0, description="CQL: of the soft maximum, in units of Q")
    steps: int = Field(1000, ge=0, description="updates; 0 leaves the critic with its first weights, as a control")
    batch: int = Field(256, ge=1, description="transitions per update")
    learning_rate: float = Field(1e-3, gt=0, description="peak learning rate (AdamW)")
    weight_decay: float = Field(0.01, ge=0, description="weight decay")
    schedule: Schedule = Field("linear", description="from the peak to a tenth of it, or constant")
    warmup: int = Field(0, ge=0, description="updates over which the rate rises")
    clip: float = Field(0.0, ge=0, description="largest norm of the gradient; 0 is none")
    precision: Precision = Field("float32", description="of the heads' arithmetic in training")

    @model_validator(mode="after")
    def _fit_together(self) -> CriticSettings:
        if self.low >= self.high:
            raise ValueError(f"low={self.low:g} must lie below high={self.high:g}")
        if self.aggregate == "pessimistic" and self.heads == 1:
            raise ValueError("aggregate=pessimistic takes the deviation over the heads: set heads to 2 or more")
        supported = [name for name, off in _BACKUP_RULES.items() if getattr(self, name) > off]
        for name in supported:
            off = _BACKUP_RULES[name]
            if self.objective == "mc":
                raise ValueError(f"objective=mc has no backups: leave {name} at {off:g}")
            if self.backup == "executed":
                raise ValueError(f"backup=executed uses no candidates: leave {name} at {off:g}")
        if len(supported) > 1:
            raise ValueError("backup_support and backup_probability are two forms of one rule: give one of them")
        return self


Control = Literal["random_candidate", "filtered_bc", "awr", "reinforce", "digirl", "mc", "q_rerank"]


class PolicySettings(Section):
    """Best-of-N extraction and imitation."""

    n: int = Field(0, ge=0, description="candidates that best-of-N chooses from, drawn from the K; 0 is all")
    keep_executed: bool = Field(False, description="the executed action is always among the N")
    margin: float = Field(0.0, description="least Q - V of what is imitated")
    min_support: int = Field(3, ge=1, description="a candidate must be drawn so often of K")
    min_probability: float = Field(
        0.0, ge=0, lt=1, description="instead of min_support (then 1): a candidate must be so likely; 0 is off"
    )
    support_radius: float = Field(0.05, ge=0, description="touches within this distance count as one action")
    max_novelty: float = Field(
        1.0,
        gt=0,
        le=1,
        description="leaves out states that lie farther from the critic's training states than this share of those do",
    )
    steps: int = Field(70, ge=1, description="updates, the same for every policy of a run")
    batch: int = Field(128, ge=1, description="items per update")
    learning_rate: float = Field(5e-4, gt=0, description="peak learning rate (AdamW)")
    weight_decay: float = Field(0.01, ge=0, description="weight decay")
    schedule: Schedule = Field("linear", description="from the peak to a tenth of it, or constant")
    warmup: int = Field(10, ge=0, description="updates over which the rate rises")
    clip: float = Field(1.0, gt=0, description="largest norm of the gradient")
    awr_temperature: float = Field(0.05, gt=0, description="awr: beta of the weights exp((Q - V) / beta)")
    awr_max_weight: float = Field(20.0, ge=1, description="awr: largest weight, where the mean is 1")
    digirl_gamma: float = Field(0.5, gt=0, le=1, description="digirl: discount of the returns in a step's advantage")
    digirl_cost: float = Field(0.05, description="digirl: what a step must be worth to be imitated")
    digirl_share: float = Field(
        0.1, gt=0, le=1, description="digirl: share of episodes kept, by return less the value of the instruction"
    )
    controls: list[Control] = Field(
        ["random_candidate", "filtered_bc"],
        description="what is compared with Digi-Q: also awr, reinforce, digirl, mc, q_rerank",
    )

    @model_validator(mode="after")
    def _one_form_of_support(self) -> PolicySettings:
        if self.min_probability and self.min_support > 1:
            raise ValueError(
                f"min_probability={self.min_probability:g} and min_support={self.min_support} are two forms of one "
                "rule: set min_support to 1 to go by probability, or leave min_probability at 0"
            )
        return self

    @property
    def trained(self) -> list[str]:
        """Digi-Q and the controls that are trained: all but re-ranking, which is a way to act."""
        return ["digi_q", *(name for name in self.controls if name != "q_rerank")]


class EvaluateSettings(Section):
    """Scoring on held-out tasks."""

    episodes: int = Field(400, ge=1, description="test tasks, one episode each for every policy")
    temperature: float = Field(1.0, gt=0, description="sampling temperature of the main figure")
    greedy: bool = Field(True, description="score the likeliest action too")
    ranking_states: int = Field(300, ge=1, description="held-out states on which the critic's ranking is checked")


class LearnerSettings(Section):
    """The central learner."""

    processes: int = Field(2, ge=1, description="learner actors; several policies train at once")
    workers: int = Field(
        1, ge=1, description="processes that each training is spread over by Ray Train; the result is the same"
    )
    use_gpu: bool = Field(False, description="each of these workers has a GPU of its own; else they compute on CPUs")
    stall_seconds: float = Field(
        1800.0, gt=0, description="a training or bulk stage that moves nothing for so long fails"
    )
    checkpoint_every: int = Field(50, ge=1, description="updates between checkpoints")
    checkpoints: str = Field(
        "", description="where checkpoints lie, a directory or s3://BUCKET/PREFIX; empty is the run's own directory"
    )
    checkpoint_seconds: float = Field(
        600.0, gt=0, description="a checkpoint that is not written after so long fails the training"
    )

    @property
    def spread(self) -> bool:
        """Whether Ray Train carries out the trainings."""
        return self.workers > 1 or self.use_gpu


class RunSettings(Section):
    """A whole run of the recipe."""

    preset: Literal["default", "long", "paper", "legacy"] = Field(
        "default",
        description="values that are not given: ours (long: for long horizons, as webshop), the paper's, its code's",
    )
    seed: int = Field(0, ge=0, description="decides tasks, samples and initial weights")
    tasks: TaskSettings = Field(default_factory=TaskSettings)
    devices: DeviceSettings = Field(default_factory=DeviceSettings)
    vlm: VlmSettings = Field(default_factory=VlmSettings)
    collect: CollectSettings = Field(default_factory=CollectSettings)
    candidates: CandidateSettings = Field(default_factory=CandidateSettings)
    finetune: FinetuneSettings = Field(default_factory=FinetuneSettings)
    tuning: TuningSettings = Field(default_factory=TuningSettings)
    features: FeatureSettings = Field(default_factory=FeatureSettings)
    critic: CriticSettings = Field(default_factory=CriticSettings)
    policy: PolicySettings = Field(default_factory=PolicySettings)
    evaluate: EvaluateSettings = Field(default_factory=EvaluateSettings)
    learner: LearnerSettings = Field(default_factory=LearnerSettings)

    @model_validator(mode="before")
    @classmethod
    def _preset_is_below(cls, data: Any) -> Any:
        return with_preset(data) if isinstance(data, Mapping) else data

    @model_validator(mode="after")
    def _batches_can_be_shared(self) -> RunSettings:
        for name in ("finetune", "critic", "policy"):
            batch = getattr(self, name).batch
            if self.learner.workers > batch:
                raise ValueError(f"{name}.batch={batch} cannot be shared among learner.workers={self.learner.workers}")
        return self

    @model_validator(mode="after")
    def _support_fits(self) -> RunSettings:
        k, n = self.candidates.k, self.policy.n
        if n > k:
            raise ValueError(f"policy.n={n} candidates cannot be drawn from candidates.k={k}")
        for name, least, most in (
            ("policy.min_support", self.policy.min_support, n or k),
            ("critic.backup_support", self.critic.backup_support, k),
        ):
            if least > most:
                raise ValueError(f"{name}={least} can never be reached with {most} samples of a state")
        return self
