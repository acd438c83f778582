"""A worker may do what it likes: the caller gets an answer or an error in time, and others notice nothing."""

from __future__ import annotations

import asyncio
import os
import socket
import time

import pytest

from ssd_pipeline.errors import RowError
from ssd_pipeline.isolated import Workers

CALLS = "fakes.isolated_calls:"


@pytest.fixture(scope="module")
def workers():
    pool = Workers(2)
    yield pool
    pool.close()


def call(workers: Workers, name: str, *args, timeout_s: float = 20):
    return asyncio.run(workers.call(CALLS + name, *args, timeout_s=timeout_s))


def test_results_come_back_in_any_event_loop(workers):
    async def many():
        return await asyncio.gather(*(workers.call(CALLS + "add", i, 1, timeout_s=20) for i in range(50)))

    assert asyncio.run(many()) == [i + 1 for i in range(50)]
    assert call(workers, "add", "ä\n", "\u2028") == "ä\n\u2028"


@pytest.mark.parametrize(("name", "timeout_s"), [("spin", 1), ("swallow_everything", 0.2)])
def test_the_deadline_is_a_kill_and_others_are_unharmed(workers, name, timeout_s):
    async def both():
        hung = asyncio.create_task(workers.call(CALLS + name, timeout_s=timeout_s))
        await asyncio.sleep(0.1)
        other = await workers.call(CALLS + "add", 1, 2, timeout_s=20)
        with pytest.raises(TimeoutError, match=f"no result within {timeout_s} s"):
            await hung
        return other

    call(workers, "add", 0, 0)
    asyncio.run(_warm(workers))
    assert asyncio.run(both()) == 3
    assert call(workers, "add", 2, 2) == 4


async def _warm(workers: Workers) -> None:
    await asyncio.gather(*(workers.call("time:sleep", 0.2, timeout_s=20) for _ in range(2)))


def test_calls_that_take_long_step_aside_and_do_not_hold_up_those_behind_them():
    pool = Workers(1)

    async def crowd():
        slow = [asyncio.create_task(pool.call(CALLS + "spin", timeout_s=600)) for _ in range(3)]
        await asyncio.sleep(0)
        said = await asyncio.gather(*(pool.call(CALLS + "add", i, 1, timeout_s=60) for i in range(5)))
        waiting = sum(not task.done() for task in slow)
        await asyncio.to_thread(pool.close)
        await asyncio.gather(*slow, return_exceptions=True)
        return said, waiting

    assert asyncio.run(crowd()) == ([1, 2, 3, 4, 5], 3)


def test_an_error_inside_is_the_rows_error(workers):
    with pytest.raises(RowError, match=r"fakes.isolated_calls:add: TypeError") as caught:
        call(workers, "add", 1, "a")
    assert not caught.value.curable
    with pytest.raises(RowError, match="MemoryError"):
        call(workers, "eat_memory")
    with pytest.raises(RowError, match="not JSON serializable"):
        call(workers, "no_json")
    with pytest.raises(RowError, match="ModuleNotFoundError"):
        asyncio.run(workers.call("nowhere:f", timeout_s=20))


def test_a_death_is_told_apart_from_a_kill_from_outside(workers):
    with pytest.raises(RowError, match="died with status 3") as caught:
        call(workers, "die", 3)
    assert not caught.value.curable
    with pytest.raises(RowError, match="died with status -9") as caught:
        call(workers, "be_killed")
    assert caught.value.curable
    assert call(workers, "add", 1, 1) == 2


def test_nothing_of_the_parent_or_the_outside_is_reachable(workers, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", "hf_planted")
    pool = Workers(1)
    try:
        assert set(call(pool, "environment")) <= {"PYTHONHASHSEED", "LC_CTYPE"}
        with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(RowError, match="PermissionError"):
            call(pool, "connect", server.getsockname()[1])
        with pytest.raises(RowError, match="PermissionError"):
            call(pool, "start_program")
        with pytest.raises(RowError, match="PermissionError"):
            call(pool, "write", str(tmp_path / "written"))
        victim = tmp_path / "victim"
        victim.write_text("x")
        with pytest.raises(RowError, match="PermissionError"):
            call(pool, "remove", str(victim))
        with pytest.raises(RowError, match="PermissionError"):
            asyncio.run(pool.call("os:system", "true", timeout_s=20))
    finally:
        pool.close()
    assert [p.name for p in tmp_path.iterdir()] == ["victim"]


def test_what_a_call_prints_cannot_forge_its_result(workers):
    assert call(workers, "print_noise") == "real"


def test_torch_threads_and_open_files_in_the_parent_do_no_harm(workers):
    import torch

    torch.mm(torch.ones(256, 256), torch.ones(256, 256))
    pool = Workers(1)
    try:
        assert call(pool, "add", 1, 1) == 2
    finally:
        pool.close()


def test_close_ends_calls_in_flight_and_every_process():
    pool = Workers(1)

    async def stopped():
        pid = await pool.call("os:getpid", timeout_s=20)
        hung = asyncio.create_task(pool.call(CALLS + "spin", timeout_s=60))
        await asyncio.sleep(0.3)
        await asyncio.to_thread(pool.close)
        with pytest.raises(RowError) as caught:
            await hung
        return pid, caught.value.curable

    began = time.monotonic()
    pid, curable = asyncio.run(stopped())
    assert curable
    assert time.monotonic() - began < 20
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with pytest.raises(RuntimeError):
        call(pool, "add", 1, 1)
