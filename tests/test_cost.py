"""What tokens cost: bounded by the plan, shown by the progress, kept in the record, and never part of an identity."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes import endpoints
from fakes.command import SSD, call

from ssd_pipeline import planner, runner
from ssd_pipeline.display import Display
from ssd_pipeline.screen import Screen
from ssd_pipeline.stages import KINDS
from ssd_pipeline.store.local import Store

RECIPE = """\
models: {{teacher: {{path: {model}}}}}
stages:
  problems: {{uses: load_problems, file: problems.jsonl, limit: 2}}
  trajectories: {{uses: sample_branches, input: problems, teacher: teacher, branches: 2, max_tokens: 24,
                 chunk: {{max_tokens: 8}}, select: {{criterion: random}}}}
runtime: {{models: {{teacher: {{api: {api}, endpoints: ["{url}"]{price}}}}}}}
"""
PRICE = ", price: {prompt: 100, sampled: 1000}"


class Priced:
    """The recipe over one server, with a store of its own."""

    def __init__(self, home: Path, model: Path, api: str, server: endpoints.Server) -> None:
        self.home, self.server, self.store = home, server, Store(home / "store")
        self._said = {"model": model, "api": api, "url": server.url}

    def plan(self, price: str = PRICE) -> planner.Plan:
        (self.home / "priced.yaml").write_text(RECIPE.format(**self._said, price=price))
        return planner.plan(self.home / "priced.yaml", KINDS, store=self.store)

    def run(self, price: str = PRICE) -> list[dict]:
        events: list[dict] = []
        runner.run(self.plan(price), events.append)
        return events


@pytest.fixture
def priced(home: Path, tiny_model: Callable[..., Path]) -> Iterator[Priced]:
    with endpoints.serve(endpoints.vllm) as server:
        yield Priced(home, tiny_model(), "completions", server)


def finished(events: list[dict]) -> dict[str, Any]:
    return next(e for e in events if e["event"] == "stage_finished" and e["stage"] == "trajectories")


def record(priced: Priced) -> dict[str, Any]:
    found = priced.plan().stages["trajectories"].found
    assert found is not None
    return dict(found.record)


@pytest.mark.parametrize(
    ("api", "kind", "each"),
    [("completions", endpoints.vllm, 1), ("completions", endpoints.sglang, 2), ("tgi", endpoints.tgi, 2)],
    ids=["vllm", "sglang", "tgi"],
)
def test_what_was_bought_is_what_was_asked_and_its_cost_is_in_the_record(
    home: Path, tiny_model: Callable[..., Path], api: str, kind: Callable, each: int
) -> None:
    from transformers import AutoTokenizer

    with endpoints.serve(kind) as server:
        priced = Priced(home, tiny_model(), api, server)
        event = finished(priced.run())
    tokenizer = AutoTokenizer.from_pretrained(tiny_model())
    texts = {post.get("prompt") or post["inputs"] for post in server.posts()}
    once = sum(len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts)
    sent = once * each  # a request for each branch, or one for both
    spend, paid = event["spend"], event["paid"]
    assert paid["bought"] == spend["bought"] > 0
    assert paid["prompt"] == sent
    assert paid["cost"] == pytest.approx((1000 * paid["bought"] + 100 * sent) / 1e6)
    said = record(priced)
    assert said["paid"] == paid
    assert said["cost"] == {k: pytest.approx(spend[k] / 1000) for k in ("bought", "kept", "pruned")}
    assert said["cost"]["bought"] == pytest.approx(said["cost"]["kept"] + said["cost"]["pruned"])
    address = said["address"]
    assert json.loads(call(priced.home, "show", address, command=SSD).stdout)["paid"] == paid


def test_a_price_is_no_identity_and_what_is_cached_costs_nothing(priced: Priced) -> None:
    free = finished(priced.run(price=""))
    assert free["paid"]["cost"] is None
    assert free["paid"]["prompt"] == 0, "nobody counts what has no price"
    assert record(priced)["cost"] is None
    asked = len(priced.server.posts())
    again = finished(priced.run())
    assert again["address"] == free["address"]
    assert again["paid"]["cost"] is None
    assert len(priced.server.posts()) == asked


def test_the_plan_gives_a_bound_and_says_that_it_is_one(priced: Priced) -> None:
    priced.run(price="")  # the problems are there
    priced.store.remove(str(priced.plan().stages["trajectories"].address))
    priced.store.drop_replies()
    planned = priced.plan()
    bound = planner.most_cost(planned, "trajectories")
    assert bound == pytest.approx(2 * 2 * 24 * 1000 / 1e6)
    shown = io.StringIO()
    Display(Screen(shown), planned).show_plan()
    assert "sampled tokens cost at most 0.096 (trajectories 0.096): a bound" in shown.getvalue()
    assert "prompts cost comes on top" in shown.getvalue()
    event = finished(priced.run())
    assert event["spend"]["bought"] * 1000 / 1e6 <= bound


def test_progress_and_closing_line_show_the_cost(priced: Priced) -> None:
    planned, shown = priced.plan(), io.StringIO()
    display = Display(Screen(shown), planned)
    seen: list[dict] = []
    runner.run(planned, lambda event: (seen.append(event), display.listen(event)))
    last = [e for e in seen if e["event"] == "progress" and e["stage"] == "trajectories"][-1]
    assert "cost " in display._progress_text(last)
    assert f"cost {last['paid']['cost']:.3g}" in shown.getvalue().splitlines()[-1]


@pytest.mark.parametrize(
    ("price", "says"),
    [
        ("{prompt: -1}", "at least 0"),
        ("{sampled: '0.6'}", "number"),
        ("{completion: 1}", "price.completion"),
        ("0.6", "a mapping is wanted"),
    ],
)
def test_prices_that_are_none(home: Path, price: str, says: str) -> None:
    more = f"models: {{teacher: {{repo: a/b}}}}\nruntime: {{models: {{teacher: {{price: {price}}}}}}}\n"
    (home / "recipe.yaml").write_text((home / "recipe.yaml").read_text() + more)
    done = call(home, "recipe.yaml", "--dry-run")
    assert done.returncode == 2, done.stderr
    assert says in done.stderr
    assert "recipe.yaml:4:" in done.stderr
