"""Everything that imports torch or speaks to an endpoint, behind four doors.

A stage asks for a sampler, a scorer or the prompts of a model and gets one of the Protocols of stage.py; its run may
ask for a meter of what is sent. Which file answers is decided here, by `runtime.models.<name>.api`. The imports are
inside, so that a plan or a fully cached run loads neither torch nor transformers. This file does not know what is asked
of a model, or why.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ssd_pipeline.models.loading import load_tokenizer, local_extra
from ssd_pipeline.stage import Model, Prompts, Sample, Sampler, Scorer

if TYPE_CHECKING:
    from ssd_pipeline.models.remote import Wire


def open_sampler(model: Model, tell: Callable[[str], None] = lambda text: None) -> Sampler:
    """What gives continuations of this model. `tell` is told what a user should know while it lasts. May block while
    it loads. Raises ModelError, EndpointError."""
    if model.runtime.api == "transformers":
        with local_extra(model.name):
            from ssd_pipeline.models.transformers_sampler import TransformersSampler

        return TransformersSampler(model)
    from ssd_pipeline.models.remote import RemoteSampler
    from ssd_pipeline.models.rendering import added_bos, ends

    tokenizer = load_tokenizer(model)
    wire: Wire
    if model.runtime.api == "tgi":
        from ssd_pipeline.models.tgi import Tgi

        wire = Tgi(model)
    else:
        from ssd_pipeline.models.completions import Completions

        wire = Completions(model, ends(tokenizer, model.format.template))
    return RemoteSampler(model, wire, tokenizer, bos=added_bos(tokenizer), tell=tell)


def open_scorer(model: Model) -> Scorer:
    """What gives log-probabilities under this model, loaded in this process. Raises ModelError."""
    with local_extra(model.name):
        from ssd_pipeline.models.scorer import TransformersScorer

    return TransformersScorer(model)


def open_prompts(model: Model) -> Prompts:
    """How this model is asked; loads its tokeniser alone. Raises ModelError, UserErrors."""
    from ssd_pipeline.models.rendering import prompts

    return prompts(model)


def open_meter(model: Model) -> Callable[[Sample], int]:
    """How many tokens the text of a question has, which a service bills with each request. Raises ModelError."""
    from ssd_pipeline.models.rendering import token_counter

    count = token_counter(model)
    return lambda ask: count(ask.prompt + ask.prefix)
