"""What requests look like. An unknown or unsupported argument is an error, never ignored."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

MAX_SAMPLES = 64
MAX_TOKENS = 1024
MAX_HISTORY = 64
MAX_ACTIONS = 128
MAX_INPUTS = 64
MAX_TEXT = 8000

# A picture of one pixel, as an example.
_PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
)

Text = Annotated[str, Field(max_length=MAX_TEXT)]
Image = Annotated[
    str,
    Field(description="data URI of a PNG, JPEG, WebP, GIF or BMP image, base64; never a URL", examples=[_PIXEL]),
]
Samples = Annotated[int, Field(ge=1, le=MAX_SAMPLES, description="how many samples")]
Tokens = Annotated[int, Field(ge=1, le=MAX_TOKENS, description="most tokens of a sample")]
Temperature = Annotated[float, Field(ge=0, le=2, description="0 takes the likeliest token")]
Novelty = Annotated[
    float,
    Field(ge=0, le=1, description="the state is farther from the critic's training states than this share of them"),
]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63, description="the same seed gives the same samples")]


class Body(BaseModel):
    """Base of requests and their parts."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class TextPart(Body):
    """A text in a message."""

    type: Literal["text"]
    text: Text


class ImageUrl(Body):
    """The address of an image; only data URIs are taken."""

    url: Image
    detail: Literal["auto", "low", "high"] | None = None


class ImagePart(Body):
    """An image in a message."""

    type: Literal["image_url"]
    image_url: ImageUrl


class Message(Body):
    """A message. Those before the user's are instructions; there is one user's message, the last."""

    role: Literal["system", "developer", "user"]
    content: Text | Annotated[list[Annotated[TextPart | ImagePart, Field(discriminator="type")]], Field(max_length=16)]
    name: Text | None = None


class StreamOptions(Body):
    """How an answer is streamed."""

    include_usage: bool | None = None


class ChatRequest(Body):
    """As OpenAI's ``/v1/chat/completions``, with what this server supports of it."""

    model: Text
    messages: Annotated[list[Message], Field(min_length=1, max_length=16)]
    n: Samples | None = None
    temperature: Temperature | None = None
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    seed: Seed | None = None
    logprobs: bool | None = None
    top_logprobs: Literal[0] | None = None
    top_p: Annotated[float, Field(ge=1, le=1)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: Text | None = None


class Situation(Body):
    """What an agent sees."""

    image: Image
    task: Text
    history: Annotated[
        list[Text], Field(max_length=MAX_HISTORY, description="texts of the actions so far, oldest first")
    ] = []


class EmbeddingInput(Situation):
    """A state, or a state with an action."""

    action: Annotated[Text | None, Field(description="left out: the features of the state alone")] = None


class EmbeddingRequest(Body):
    """As OpenAI's ``/v1/embeddings``; the inputs are screenshots with their task, not texts."""

    model: Text
    input: EmbeddingInput | Annotated[list[EmbeddingInput], Field(min_length=1, max_length=MAX_INPUTS)]
    encoding_format: Literal["float", "base64"] | None = None
    user: Text | None = None


class CandidatesRequest(Situation):
    """Asks for actions that the policy samples in a state."""

    n: Samples = 8
    temperature: Temperature = 1.0
    max_tokens: Tokens = 32
    seed: Seed | None = None


class ActRequest(CandidatesRequest):
    """Asks for one action."""

    n: Samples = 1
    choose: Annotated[
        Literal["sample", "best_of_n"],
        Field(description="the first sample, or of all n the valid action with the highest Q"),
    ] = "sample"


class QRequest(Situation):
    """Asks what actions are worth in a state."""

    actions: Annotated[list[Text], Field(min_length=1, max_length=MAX_ACTIONS)]


class Answer(BaseModel):
    """Base of answers and their parts."""

    model_config = ConfigDict(frozen=True)


class ErrorDetail(Answer):
    """What is wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(Answer):
    """Any error, as OpenAI's."""

    error: ErrorDetail


class ModelCard(Answer):
    """A model that is served."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "digiq-ray"
    policy_version: str


class ModelList(Answer):
    """The models that are served."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class Usage(Answer):
    """Tokens of a request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class TokenLogprob(Answer):
    """A token as it was drawn."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[Any] = []


class Logprobs(Answer):
    """All tokens of an answer."""

    content: list[TokenLogprob]
    refusal: None = None


class AnswerMessage(Answer):
    """What the model says."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class Choice(Answer):
    """One sample."""

    index: int
    message: AnswerMessage
    finish_reason: str
    logprobs: Logprobs | None


class ChatAnswer(Answer):
    """As OpenAI's chat completion; ``policy_version`` says which weights wrote it."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    system_fingerprint: str
    policy_version: str


class Embedding(Answer):
    """One vector: numbers, or base64 of float32, little-endian."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingUsage(Answer):
    """Tokens of a request."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingAnswer(Answer):
    """As OpenAI's list of embeddings."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage
    policy_version: str


class Candidate(Answer):
    """An action that was sampled: how often of ``n``, with which log-probability, and whether it is in the grammar."""

    action: str
    count: int
    logprob: float
    valid: bool


class CandidatesAnswer(Answer):
    """Distinct actions, the most frequent first."""

    candidates: list[Candidate]
    policy_version: str


class ValuedCandidate(Candidate):
    """A candidate with its Q; ``null`` where the server has no critic."""

    q: float | None


class ActAnswer(Answer):
    """The chosen action, and what it was chosen from. V and novelty are ``null`` where the server has no critic."""

    action: str
    valid: bool
    candidates: list[ValuedCandidate]
    value: float | None
    novelty: Novelty | None
    policy_version: str


class QAnswer(Answer):
    """Q of each action, in the order asked, V of the state, and how novel it is to the critic."""

    q: list[float]
    value: float
    novelty: Novelty
    policy_version: str


class Health(Answer):
    """Whether all is well."""

    status: Literal["ok"] = "ok"
    policy_version: str
