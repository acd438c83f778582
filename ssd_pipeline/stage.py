"""What a stage is: the contracts between those who write stages, samplers and scorers, and those who run them.

Three kinds of stage, because three things differ: a `RowStage` is a function of one row (the driver gives it
concurrency, order, journal and progress), a `WholeStage` fills a fresh directory (training, loading, comparing), an
`EffectStage` changes the outside and makes no artifact. Parameters are pydantic models; a field that stands for
something else (a model, a stage's output, a file, a Hub repo) says so in its annotation, and the plan replaces it by
the identity of that thing. `Sampler` and `Scorer` are the smallest edges to models: text in, text and numbers out.
This file does not know the disk, the network, torch, or any stage.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol, get_args

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from ssd_pipeline.records import Row, Spend

if TYPE_CHECKING:
    import pyarrow as pa

# --------------------------------------------------------------------------------------------- parameters


class Params(BaseModel):
    """Base of every parameter set: unknown keys refused, no coercion, immutable."""

    # defer_build: a cached run reads few of all kinds' parameters, and should not pay for the others.
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, defer_build=True)

    def mistakes(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Mistakes that involve several keys: (path of the key at fault, message). Types are checked before."""
        return iter(())


@dataclass(frozen=True)
class ModelMark:
    """The field names a model of the recipe; `scores` when it must give log-probabilities (so: a local model)."""

    scores: bool = False
    trains: bool = False


@dataclass(frozen=True)
class FileMark:
    """The field is a local path. In the recipe it is relative to the file that says it; in the params it is absolute.
    It counts by the digest of its content, never by its path."""


@dataclass(frozen=True)
class HubMark:
    """The field is a Hub repo id; `revision` names the sibling field that holds its revision."""

    repo_type: Literal["dataset", "model"]
    revision: str = "revision"


@dataclass(frozen=True)
class InputMark:
    """The field names one of the stage's inputs; it counts by its place among them, so that a rename is a hit. Where
    the kind gathers, it may select instances: `scores[seed=1]`. `columns`: what this input must have, instead of what
    the stage reads of the others."""

    columns: tuple[str, ...] = ()


ModelName = Annotated[str, ModelMark()]
JudgeName = Annotated[str, ModelMark(scores=True)]
TrainedName = Annotated[str, ModelMark(trains=True)]
LocalPath = Annotated[str, FileMark()]
DatasetRepo = Annotated[str, HubMark("dataset")]
InputName = Annotated[str, InputMark()]
DataName = Annotated[str, InputMark(("solution",))]


class StageRef(Params):
    """`{stage: x}`: the output of another stage, used as a value. An edge of the plan like an input."""

    stage: str


def column_of(column: str) -> Any:
    """A `StageRef | None` parameter whose stage must give this column."""
    return Field(None, description=f"a stage with the column {column}", json_schema_extra={"column": column})


Mark = ModelMark | FileMark | HubMark | InputMark
Marked = tuple[tuple[Any, ...], "Mark | None", Any]


def marked(params: Params) -> Iterator[Marked]:
    """Every value below `params` that stands for something else: (path, mark, value); mark None for a StageRef.

    Values that are None are left out.
    """
    for name, marks in _marks_of(type(params)).items():
        value = getattr(params, name)
        if isinstance(value, StageRef):
            yield (name,), None, value
        elif isinstance(value, Params):
            yield from (((name, *path), mark, inner) for path, mark, inner in marked(value))
        elif value is not None:
            for mark in marks:
                several = enumerate(value) if isinstance(value, tuple) else ()
                yield from (((name, i), mark, one) for i, one in several)
                if not isinstance(value, tuple):
                    yield (name,), mark, value


def replaced(params: Any, path: tuple[str | int, ...], value: Any) -> Any:
    """Parameters with another value at a path that `marked` gave."""
    name, *rest = path
    if isinstance(params, tuple):
        return tuple(value if i == name else one for i, one in enumerate(params))
    inner = replaced(getattr(params, str(name)), tuple(rest), value) if rest else value
    return params.model_copy(update={name: inner})


@cache
def _marks_of(cls: type[Params]) -> dict[str, tuple[Mark, ...]]:
    fields = cls.model_fields.items()
    return {name: tuple(dict.fromkeys(_marks((info.annotation, *info.metadata)))) for name, info in fields}


def _marks(annotations: Iterable[Any]) -> Iterator[Mark]:
    for annotation in annotations:
        if isinstance(annotation, Mark):
            yield annotation
        else:
            yield from _marks(get_args(annotation))


class Chunk(Params):
    """Where a chunk ends: at the first `stop` after `min_tokens`, or at `max_tokens`, or with the text.

    Tokens are the teacher's. A stop before `min_tokens` is sampled on from; the stop belongs to the chunk's text.
    """

    min_tokens: int = Field(1, ge=1, le=1_000_000, description="no stop ends a chunk before this many tokens")
    max_tokens: int = Field(512, ge=1, le=1_000_000, description="a chunk is cut here")
    stop: tuple[str, ...] = Field((), max_length=4, description="texts that end a chunk, kept in it")

    def mistakes(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        if self.min_tokens > self.max_tokens:
            yield ("min_tokens",), f"{self.min_tokens} is above max_tokens ({self.max_tokens})"
        for i, text in enumerate(self.stop):
            if not text:
                yield ("stop", i), "an empty text would end every chunk at once"


class Sampling(Params):
    """How a model is sampled. `temperature: 0` is greedy; `top_k: 0` and `top_p: 1` switch those off."""

    temperature: float = Field(1.0, ge=0, le=10, description="0 is greedy")
    top_p: float = Field(1.0, gt=0, le=1, description="nucleus sampling; 1 is off")
    top_k: int = Field(0, ge=0, description="0 is off")


# ------------------------------------------------------------------------------------------------- models


class Price(Params):
    """What tokens of a model cost, per million, in whatever currency; shown and recorded, never identity."""

    prompt: float = Field(0, ge=0, le=1e9, description="per million tokens of the text that is sent")
    sampled: float = Field(0, ge=0, le=1e9, description="per million tokens that come back")

    def of(self, sampled: int, prompt: int = 0) -> float:
        """The cost of so many tokens."""
        return (sampled * self.sampled + prompt * self.prompt) / 1e6


class ModelRuntime(Params):
    """`runtime.models.<name>`: where and how fast a model runs. Never part of an identity."""

    api: Literal["transformers", "tgi", "completions"] = Field("transformers", description="how it is sampled")
    endpoints: tuple[str, ...] = Field((), description="base URLs for tgi and completions")
    token: SecretStr | None = Field(None, description="sent to these endpoints alone")
    served_name: str | None = Field(None, description="the id that the endpoint reports, if not the repo")
    concurrency: int = Field(64, ge=1, le=4096, description="requests in flight per endpoint")
    timeout_s: float = Field(600, gt=0, description="for one request")
    requests_per_minute: int | None = Field(None, ge=1, description="the most that an endpoint is asked in any minute")
    tokens_per_minute: int | None = Field(None, ge=1, description="the most that it reads and writes in any minute")
    patience_s: float = Field(300, ge=0, description="how long a dead endpoint is waited for before the run stops")
    device: str = Field("auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$", description="for local models")
    cache_gb: float = Field(
        8, gt=0, le=1_000_000, description="memory for KV caches of a model that scores, per device"
    )
    batch_tokens: int = Field(
        65_536, ge=1, description="tokens in one forward pass of a local model: with cached ones where it samples"
    )
    price: Price | None = Field(None, description="what its tokens cost: {prompt: 0.2, sampled: 0.6} per million")
    processes: int = Field(1, ge=1, le=64, description="GPUs that it is trained on, one process each")
    checkpoint_s: float = Field(120, ge=0, description="from one checkpoint of its training to the next")
    trackio: str | None = Field(None, min_length=1, description="a trackio project that training curves also go to")


@dataclass(frozen=True)
class PromptFormat:
    """How a model is asked: identity. `prompt` holds `{problem}`; `template` None is the tokenizer's own."""

    prompt: str = "{problem}"
    system: str | None = None
    template: str | None = None
    think: tuple[str, str] | None = None
    reasoning: Literal["keep", "unwrap"] = "keep"


@dataclass(frozen=True)
class Model:
    """A model of the recipe, resolved: what is loaded or asked.

    Exactly one of `repo` (with `revision`, a commit) and `path` is set. `adapters` are LoRA folders, lowest first; all
    but the one that is being trained are merged in float32 before the cast to `dtype`.
    """

    name: str
    repo: str | None = None
    revision: str | None = None
    path: Path | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    adapters: tuple[Path, ...] = ()
    format: PromptFormat = PromptFormat()
    trust_remote_code: bool = False
    runtime: ModelRuntime = field(default_factory=ModelRuntime)


# --------------------------------------------------------------------------- the edges to models: text in


Finish = Literal["stop", "length", "eos"]


@dataclass(frozen=True)
class Sample:
    """Ask for one continuation of `prompt + prefix` per seed. `prompt` is rendered; both are exact text."""

    prompt: str
    prefix: str
    chunk: Chunk
    sampling: Sampling
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Branch:
    """One sampled continuation. `tokens`: the teacher's, the end token not counted. `finish` eos: the text ended."""

    text: str
    tokens: int
    finish: Finish


@dataclass(frozen=True)
class Score:
    """Ask for the log-probabilities of each branch after `prompt + prefix` (all exact text); `ranks`: for ranks too."""

    prompt: str
    prefix: str
    branches: tuple[str, ...]
    ranks: bool = False


@dataclass(frozen=True)
class Scored:
    """What the scorer says of one branch, equal to a full re-encode of prompt + prefix + branch.

    `logprobs`: natural log-probability of each token whose text ends inside the branch (a token that straddles the
    boundary counts to the branch); empty for an empty branch. `retracted`: how many tokens of the prefix alone are no
    longer there when the branch is appended, because the tokeniser joined or split them anew. `replaced`: the
    log-probabilities of the new tokens that stand in their place and end inside the prefix, not the prompt (nearly
    always none: a retracted token usually becomes part of one that ends inside the branch).

    `ranks`, `replaced_ranks`: 1 + the number of tokens that are more probable, for each of `logprobs` and of
    `replaced`; empty if not asked for.
    """

    logprobs: tuple[float, ...]
    retracted: int = 0
    replaced: tuple[float, ...] = ()
    ranks: tuple[int, ...] = ()
    replaced_ranks: tuple[int, ...] = ()


@dataclass(frozen=True)
class Count:
    """Ask how many of the student's tokens of `text` end beyond its first `beyond` characters."""

    text: str
    beyond: int


@dataclass(frozen=True)
class Served:
    """What answers: the model id and commit that an endpoint reports, and whether they could be checked.

    `joins`: replies so far of which the token ids are known; `changed_joins`: those whose tokens are others when the
    text is encoded anew.
    """

    model: str
    revision: str | None
    check: Literal["verified", "unverifiable"]
    joins: int = 0
    changed_joins: int = 0


Keep = Callable[[int, Branch], None]


class Sampler(Protocol):
    """Gives continuations of a prefix.

    `sample` returns one branch per seed, in the order of the seeds. Where they do not come all at once, `keep` is given
    each with its seed as soon as it is there: an error or an interrupt may come before the others do. Raises RowError
    (curable when asking again may help), EndpointError to stop the run.
    """

    async def sample(self, ask: Sample, keep: Keep = ...) -> list[Branch]: ...

    def requests(self, seeds: Sequence[int]) -> int:
        """In how many requests branches of one prefix are asked, each of which sends the whole text; known once it is
        `served`. A chunk asked in pieces and a retry send it again."""
        ...

    async def served(self) -> Served: ...

    async def close(self) -> None: ...


class Scorer(Protocol):
    """Gives log-probabilities of given text. Raises RowError for text beyond the model's context."""

    async def score(self, ask: Score) -> list[Scored]: ...

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """Character span (start, end) of each of the student's tokens of `text`, encoded as it stands, nothing added.

        `score` of (prompt, prefix, branch) gives one log-probability for each span of `prompt + prefix + branch` whose
        end is above len(prompt + prefix).
        """
        ...

    def at_once(self, tokens: int) -> int:
        """How many texts of so many tokens are remembered at once, at least 1; with more, each is read again."""
        ...

    async def close(self) -> None: ...


class Prompts(Protocol):
    """How one model is asked about a problem; see prompts.py. Raises RowError for text it cannot render."""

    def render(self, problem: str) -> str:
        """The exact text after which this model writes."""
        ...

    def opened(self, problem: str) -> str:
        """The think tag (with white space) that the template itself opened at the end of `render`, or ''."""
        ...

    def respond(self, problem: str, text: str) -> str:
        """The response text of what was sampled: opened tag put back, reasoning kept or unwrapped."""
        ...

    def before_response(self, problem: str) -> str:
        """The exact text before a whole response when it is scored or trained on: `render` without what it opened."""
        ...

    def messages(self, problem: str) -> list[dict[str, str]]:
        """The chat messages before the response: system, if any, and user."""
        ...


# ------------------------------------------------------------------------------------------------ contexts


class RowContext(Protocol):
    """What a row function may use. `ordinal`: the row's place among rows of equal statement."""

    seed: int
    take: int
    ordinal: int
    prepared: Any

    async def sampler(self, model: str) -> Sampler: ...

    async def scorer(self, model: str) -> Scorer: ...

    async def prompts(self, model: str) -> Prompts: ...

    def room(self, model: str | None, tokens: int) -> AbstractAsyncContextManager[None]:
        """Inside, the row is one of those whose texts of so many tokens this scorer remembers at once; others wait."""
        ...

    async def isolated(self, function: str, *args: Any, timeout_s: float) -> Any:
        """Call `module:function` with plain arguments in a killable worker. Raises TimeoutError, RowError."""
        ...

    def spent(self, spend: Spend) -> None:
        """Tell the progress line; the row's own column is what counts."""
        ...


@dataclass(frozen=True)
class Input:
    """A finished stage's rows as a stage reads them, `where` applied. `name`: the stage's name in this recipe, for
    messages and for names outside; never to be stored in rows. `columns` None reads all.

    `directory` is the artifact's data directory (for an adapter); verified before it is handed out. `digest` names
    exactly these rows: the artifact's, hashed together with `where` if there is one. An effect's `done` is given it.
    `above`: the records of what it was made from, nearest first. `made_from`: where the kind gathers, the places of
    those other inputs that this one was made from.
    """

    name: str
    kind: str
    address: str
    directory: Path
    record: Mapping[str, Any]
    weight: float
    read: Callable[[Sequence[str] | None], Iterator[Row]]
    digest: str = ""
    above: Sequence[Mapping[str, Any]] = ()
    made_from: tuple[int, ...] = ()

    def rows(self, columns: Sequence[str] | None = None) -> Iterator[Row]:
        """Rows in order, as dicts of plain values; memory stays bounded."""
        return self.read(columns)


class StageContext(Protocol):
    """What a whole stage may use. `out` is a fresh directory that becomes the artifact's data; `work` survives an
    interruption (checkpoints) and goes when the stage is finished."""

    seed: int
    take: int
    inputs: Sequence[Input]
    out: Path
    work: Path

    def stage(self, ref: StageRef) -> Input:
        """The output of a stage that a parameter names."""
        ...

    def model(self, name: str) -> Model: ...

    def revision(self, repo: str) -> str:
        """The commit that a Hub repo parameter was resolved to."""
        ...

    def progress(self, done: int, total: int | None) -> None: ...

    def write_rows(self, schema: pa.Schema, rows: Iterable[Row]) -> int:
        """Write the artifact's rows (parquet, bounded memory) and return how many."""
        ...


# --------------------------------------------------------------------------------------------- stage kinds

Summary = Mapping[str, Any]  # small plain data for the record and the closing table


@dataclass(frozen=True)
class RowStage:
    """A function of one row.

    `reads(params)`: the input columns it uses (they and the identity make the row key). `adds`: a dataclass of the
    columns it adds. `failed(reason)`: the columns of a row that raised RowError. `random`: the recipe's seed is part
    of the identity, and `ordinal` counts rows that are equal in `seeded_by`. `prepare` runs once before the rows and
    its result is `ctx.prepared`. `summarize` folds all finished rows into the record.
    """

    kind: str
    version: int
    params: type[Any]
    reads: Callable[[Any], tuple[str, ...]]
    adds: type
    run: Callable[[Row, Any, RowContext], Awaitable[Any]]
    failed: Callable[[str], Any]
    optional: Callable[[Any], tuple[str, ...]] = lambda params: ()  # those of `reads` that may be missing (null)
    random: bool = False
    seeded_by: tuple[str, ...] = ()
    prepare: Callable[[Any, StageContext], Any] | None = None
    summarize: Callable[[Any, Iterator[Row]], Summary] | None = None
    most_tokens: Callable[[Any], int] | None = None  # an upper bound of bought tokens per row, for the plan
    extra: str | None = None  # the optional extra that it needs, and one module of it
    gives: Literal["rows"] = "rows"


@dataclass(frozen=True)
class WholeStage:
    """Fills a directory. `gives` rows (their columns in `adds`) or an adapter. `inputs`: how many it takes. `random`
    as in a RowStage, or which parameters make it so. `gathers`: of a sweep it receives all instances of its inputs."""

    kind: str
    version: int
    params: type[Any]
    run: Callable[[Any, StageContext], Summary]
    gives: Literal["rows", "adapter"]
    adds: type | None = None
    reads: Callable[[Any], tuple[str, ...]] = lambda params: ()
    optional: Callable[[Any], tuple[str, ...]] = lambda params: ()
    inputs: tuple[int, int | None] = (1, 1)
    random: bool | Callable[[Any], bool] = False
    gathers: bool = False
    extra: str | None = None
    loads: bool = False  # it reads problems: `--limit` caps its `limit` parameter
    check: Callable[[Any], Iterator[tuple[tuple[str | int, ...], str]]] | None = None  # mistakes that local files show


@dataclass(frozen=True)
class EffectStage:
    """Changes the outside. `done(params, inputs' digests)` says whether the outside already holds them; `ready(params)`
    asks it beforehand whether it would let us, and gives its answer in words."""

    kind: str
    version: int
    params: type[Any]
    run: Callable[[Any, StageContext], Summary]
    done: Callable[[Any, Sequence[str]], bool]
    reads: Callable[[Any], tuple[str, ...]] = lambda params: ()
    inputs: tuple[int, int | None] = (1, None)
    extra: str | None = None
    ready: Callable[[Any], str] | None = None
    gives: Literal["nothing"] = "nothing"


Stage = RowStage | WholeStage | EffectStage


def draws(kind: Stage, params: Any) -> bool:
    """Whether a stage with these parameters draws at random: then the recipe's seed is part of its identity."""
    random = False if isinstance(kind, EffectStage) else kind.random
    return random(params) if callable(random) else random
