"""Replies are bought once: what was answered is never asked again, and what is damaged is asked again."""

import asyncio
import os
from dataclasses import replace
from pathlib import Path

import pytest

from ssd_pipeline.errors import RowError
from ssd_pipeline.recorded import RecordedSampler, RecordedScorer
from ssd_pipeline.records import Spend
from ssd_pipeline.stage import Branch, Chunk, Sample, Sampling, Score, Scored
from ssd_pipeline.store.replies import Replies, reply_key


class Counting:
    """A sampler and scorer that answers from its question alone and remembers every seed and text it was asked."""

    def __init__(self) -> None:
        self.seeds: list[int] = []
        self.texts: list[str] = []

    async def sample(self, ask: Sample) -> list[Branch]:
        self.seeds += ask.seeds
        return [Branch(f"{len(ask.prefix)}:{seed} é", 3, "stop") for seed in ask.seeds]

    async def score(self, ask: Score) -> list[Scored]:
        self.texts += ask.branches
        ranks = ((2, 70_000), (1,)) if ask.ranks else ()
        return [Scored((-0.1, -len(text) / 3), 1, (-0.25,), *ranks) for text in ask.branches]


def ask(seeds: tuple[int, ...], **more: object) -> Sample:
    given = {"prompt": "p", "prefix": "x", "chunk": Chunk(max_tokens=8), "sampling": Sampling(), **more}
    return Sample(seeds=seeds, **given)


def test_eight_branches_after_four_buy_four(tmp_path: Path) -> None:
    paid: list[Spend] = []
    model, replies = Counting(), Replies(tmp_path)
    sampler = RecordedSampler(model, replies, {"repo": "t"}, paid.append)
    four = asyncio.run(sampler.sample(ask((5, 6, 7, 8))))
    replies.close()
    again = RecordedSampler(model, Replies(tmp_path), {"repo": "t"}, paid.append)
    eight = asyncio.run(again.sample(ask(tuple(range(5, 13)))))
    assert model.seeds == list(range(5, 13))
    assert eight[:4] == four
    assert [p.bought for p in paid] == [12, 12]


@pytest.mark.parametrize(
    "other",
    [
        ask((5,), prompt="q"),
        ask((5,), chunk=Chunk(max_tokens=9)),
        ask((5,), chunk=Chunk(max_tokens=8, stop=("\n",))),
        ask((5,), sampling=Sampling(temperature=0.5)),
        ask((6,)),
    ],
)
def test_another_question_is_asked(tmp_path: Path, other: Sample) -> None:
    model = Counting()
    sampler = RecordedSampler(model, Replies(tmp_path), {"repo": "t"}, lambda spend: None)
    asyncio.run(sampler.sample(ask((5,))))
    asyncio.run(sampler.sample(other))
    assert len(model.seeds) == 2


def test_another_teacher_is_asked_and_where_the_prompt_ends_does_not_matter(tmp_path: Path) -> None:
    model, replies = Counting(), Replies(tmp_path)
    for weights, question in (({"repo": "t"}, ask((5,))), ({"repo": "u"}, ask((5,)))):
        asyncio.run(RecordedSampler(model, replies, weights, lambda spend: None).sample(question))
    assert model.seeds == [5, 5]
    same = ask((5,), prompt="px", prefix="")
    asyncio.run(RecordedSampler(model, replies, {"repo": "t"}, lambda spend: None).sample(same))
    assert model.seeds == [5, 5]


def test_scores_are_recorded_to_the_bit(tmp_path: Path) -> None:
    model = Counting()
    first = RecordedScorer(model, Replies(tmp_path), {"repo": "s"}, lambda spend: None)
    question = Score("p", "x", ("a", "bcd"))
    fresh = asyncio.run(first.score(question))
    first.replies.close()
    again = RecordedScorer(model, Replies(tmp_path), {"repo": "s"}, lambda spend: None)
    assert asyncio.run(again.score(question)) == fresh
    assert model.texts == ["a", "bcd"]
    assert fresh[1].logprobs[1] == pytest.approx(-1.0)
    assert (fresh[0].retracted, fresh[0].replaced, fresh[0].ranks) == (1, (-0.25,), ())
    ranked = asyncio.run(again.score(replace(question, ranks=True)))
    assert (ranked[0].ranks, ranked[0].replaced_ranks) == ((2, 70_000), (1,))
    assert model.texts == ["a", "bcd"] * 2, "what was recorded without ranks is asked again"
    assert asyncio.run(again.score(replace(question, ranks=True))) == ranked
    assert len(model.texts) == 4


class Failing:
    async def sample(self, ask: Sample) -> list[Branch]:
        raise RowError("not now", curable=True)


def test_a_failure_is_never_recorded(tmp_path: Path) -> None:
    replies = Replies(tmp_path)
    sampler = RecordedSampler(Failing(), replies, {"repo": "t"}, lambda spend: None)
    with pytest.raises(RowError):
        asyncio.run(sampler.sample(ask((5,))))
    replies.close()
    assert not list(tmp_path.glob("*.log"))


@pytest.mark.parametrize(
    "damage", ["flip", "cut", "log gone", "index gone", "index is no database", "index points wrong"]
)
def test_damage_costs_a_question_and_never_a_wrong_answer(tmp_path: Path, damage: str) -> None:
    keys = [reply_key({"n": n}) for n in range(10)]
    replies = Replies(tmp_path)
    for n, key in enumerate(keys):
        replies.put(key, n)
    replies.close()
    (log,) = tmp_path.glob("*.log")
    index = tmp_path / "index.sqlite"
    match damage:
        case "flip":
            data = bytearray(log.read_bytes())
            data[50] ^= 1
            log.write_bytes(data)
        case "cut":
            log.write_bytes(log.read_bytes()[:-3])
        case "log gone":
            log.unlink()
        case "index gone":
            index.unlink()
        case "index is no database":
            index.write_bytes(b"no database at all, but long enough to be looked at" * 40)
        case "index points wrong":
            import sqlite3

            with sqlite3.connect(index) as database:
                database.execute("UPDATE places SET start = start + 7")
    again = Replies(tmp_path)
    found = [again.get(key) for key in keys]
    assert all(value in (None, n) for n, value in enumerate(found))
    lost = {"flip": 1, "cut": 1, "log gone": 10, "index gone": 0, "index is no database": 0, "index points wrong": 10}
    assert found.count(None) == lost[damage]
    for n, key in enumerate(keys):
        again.put(key, n)
    again.close()
    assert [Replies(tmp_path).get(key) for key in keys] == list(range(10))


def test_a_torn_tail_hides_nothing_that_follows_in_other_logs(tmp_path: Path) -> None:
    first = Replies(tmp_path)
    first.put("a" * 32, 1)
    first.put("b" * 32, 2)
    first.close()
    (log,) = tmp_path.glob("*.log")
    whole = log.read_bytes()
    for cut in range(len(whole)):
        log.write_bytes(whole[:cut])
        (tmp_path / "index.sqlite").unlink()
        again = Replies(tmp_path)
        again.put("c" * 32, 3)
        again.close()
        reread = Replies(tmp_path)
        assert reread.get("c" * 32) == 3
        assert reread.get("a" * 32) in (None, 1)
        reread.close()
        for other in tmp_path.glob("*.log"):
            if other != log:
                other.unlink()


def test_what_another_process_wrote_is_found_without_a_restart(tmp_path: Path) -> None:
    mine = Replies(tmp_path)
    pid = os.fork()
    if pid == 0:
        theirs = Replies(tmp_path)
        theirs.put("d" * 32, 4)
        theirs.close()
        os._exit(0)
    os.waitpid(pid, 0)
    assert mine.get("d" * 32) == 4
