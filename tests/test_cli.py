"""The command line as a user meets it: messages, exit statuses, what is printed where, and what is never imported."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fakes.command import SSD, SSD_RUN, call


def test_a_run_and_a_second_run(home: Path) -> None:
    first = call(home, "recipe.yaml")
    assert first.returncode == 0, first.stderr
    assert first.stdout == ""
    assert "load_problems-" in first.stderr
    second = call(home, "recipe.yaml")
    assert second.returncode == 0
    assert "1 of 1 stages cached" in second.stderr


def test_json_has_one_object_a_line_and_nothing_else(home: Path) -> None:
    done = call(home, "recipe.yaml", "--json")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [e["event"] for e in events if e["event"] != "progress"] == [
        "plan",
        "stage_started",
        "stage_finished",
        "run_finished",
    ]
    assert events[0]["status"] == "miss"
    assert done.stderr == ""


def test_dry_run_shows_the_plan_and_writes_nothing(home: Path) -> None:
    done = call(home, "recipe.yaml", "--dry-run")
    assert done.returncode == 0
    assert "not made yet" in done.stderr
    assert not (home / "store").exists()


MISTAKES = [
    ([], "Usage"),
    (["nowhere.yaml"], "nowhere.yaml"),
    (["."], "directory"),
    (["recipe.yaml", "--set", "stages.problems"], "--set #1"),
    (["recipe.yaml", "--set", "=3"], "--set #1"),
    (["recipe.yaml", "--set", "stages.nope.limit=1"], "problems"),
    (["recipe.yaml", "--set", "stages.problems.limitt=1"], "limit"),
    (["recipe.yaml", "--set", "stages.problems.limit='1'"], "without quotes"),
    (["recipe.yaml", "--set", "stages.problems.limit=[1"], "--set #1"),
    (["recipe.yaml", "--set", "stages.problems.limit=0"], "at least 1"),
    (["recipe.yaml", "--set", "stages.problems.limit=1", "--set", "stages.problems.limit=2"], "--set #2"),
    (["recipe.yaml", "--only", "problem"], "did you mean problems"),
    (["recipe.yaml", "--from", "x"], "stages are: problems"),
    (["recipe.yaml", "--force", "x"], "stages are: problems"),
    (["recipe.yaml", "--limit", "0"], "at least 1"),
    (["recipe.yaml", "--limit", "many"], "integer"),
    (["recipe.yaml", "--wrong"], "No such option"),
    (["recipe.yaml", "more.yaml"], "more.yaml"),
]


@pytest.mark.parametrize(("words", "says"), MISTAKES, ids=[" ".join(w) or "nothing" for w, _ in MISTAKES])
def test_a_mistake_ends_in_one_message_and_status_2(home: Path, words: list[str], says: str) -> None:
    done = call(home, *words)
    assert done.returncode == 2, done.stderr
    assert says in done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    assert not (home / "store").exists()


def test_mistakes_are_events_too(home: Path) -> None:
    (home / "recipe.yaml").write_text("stages:\n  a: {uses: load_problem}\n  b: {uses: compare, inputt: a}\n")
    done = call(home, "recipe.yaml", "--json")
    errors = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 2
    assert {e["event"] for e in errors} == {"error"}
    assert [(e["file"], e["line"]) for e in errors][:2] == [("recipe.yaml", 2), ("recipe.yaml", 3)]


@pytest.mark.parametrize("store", ["a file", "read only"])
def test_a_store_that_cannot_be_written_is_a_failure_that_says_what_to_do(home: Path, store: str) -> None:
    if store == "a file":
        (home / "store").write_text("")
        done = call(home, "recipe.yaml")
    else:
        done = call(home, "recipe.yaml", SSD_HOME="/proc/nothing")
    assert done.returncode == 1
    assert "SSD_HOME" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["with space", "ümlaut", "line\nend"])
def test_a_store_with_a_strange_name_works(home: Path, name: str) -> None:
    assert call(home, "recipe.yaml", SSD_HOME=str(home / name)).returncode == 0


@pytest.mark.parametrize("environ", [{"COLUMNS": "20"}, {"NO_COLOR": "1"}, {"TERM": "dumb"}, {"LC_ALL": "C"}])
def test_any_terminal_will_do(home: Path, environ: dict[str, str]) -> None:
    done = call(home, "recipe.yaml", **environ)
    assert done.returncode == 0, done.stderr


def test_a_reader_that_goes_away_stops_nothing(home: Path) -> None:
    line = f"{SSD_RUN} recipe.yaml --json | head -n 1; exit ${{PIPESTATUS[0]}}"
    environ = {**os.environ, "SSD_HOME": str(home / "store")}
    done = subprocess.run(["bash", "-c", line], cwd=home, env=environ, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert list((home / "store" / "artifacts").iterdir())


def test_nothing_heavy_is_imported_for_help_plans_and_cached_runs(home: Path) -> None:
    call(home, "recipe.yaml")
    for words in (["--help"], ["recipe.yaml", "--dry-run"], ["recipe.yaml"]):
        code = (
            "import sys, runpy; sys.argv = sys.argv[1:]\n"
            "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
            "except SystemExit: pass\n"
            "heavy = {'torch', 'transformers', 'trl', 'peft', 'datasets', 'huggingface_hub'} & set(sys.modules)\n"
            "print('heavy:', sorted(heavy), file=sys.stderr)"
        )
        environ = {**os.environ, "SSD_HOME": str(home / "store")}
        done = subprocess.run(
            [sys.executable, "-c", code, SSD_RUN, *words], cwd=home, env=environ, capture_output=True, text=True
        )
        assert "heavy: []" in done.stderr, (words, done.stderr)


def test_ls_and_show(home: Path) -> None:
    call(home, "recipe.yaml")
    (address,) = os.listdir(home / "store" / "artifacts")
    listed = call(home, "ls", command=SSD)
    assert address in listed.stdout
    shown = json.loads(call(home, "show", address, command=SSD).stdout)
    assert shown["rows"] == 2
    assert json.loads(call(home, "show", address.split("-")[1][:6], command=SSD).stdout) == shown
    assert shown["first_rows"][0]["problem"] == "1+1?"
    assert shown["identity"]["params"].keys() == {"file"}
    assert shown["defaults"]["limit"] is None
    assert shown["defaults"]["columns"] == {"problem": "problem", "answer": "answer"}
    for wrong in ("nope-0123", "../..", "a/b"):
        done = call(home, "show", wrong, command=SSD)
        assert done.returncode == 2
        assert "ssd ls" in done.stderr


def test_what_others_say_cannot_move_the_cursor(home: Path) -> None:
    (home / "recipe.yaml").write_text(
        'stages:\n  problems: {uses: load_problems, file: problems.jsonl, "\\e[2Jx": 1}\n'
    )
    done = call(home, "recipe.yaml")
    assert done.returncode == 2
    assert "\x1b[2J" not in done.stderr
