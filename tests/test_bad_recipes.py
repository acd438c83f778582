"""Every way a recipe can be wrong that we know of, one line each: one message per mistake, at the right place.

A case is a recipe in which § stands where the mistake is, and the messages that it must give, each as `key: beginning`.
Nothing more may be said, and nothing secret repeated.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.recipe_kinds import KINDS

from ssd_pipeline.errors import UserErrors
from ssd_pipeline.recipe import load

SECRET = "hf_" + "Abcd1234" * 4
ENVIRON = {"URL": "http://h:1", "EMPTY": "", "HF_TOKEN": SECRET}

MODELS = "models: {t: {repo: a/t}, s: {repo: a/s}}\n"
LOAD = "stages:\n  p: {uses: load}\n"
FULL = MODELS + LOAD


def grow(keys: str) -> str:
    return FULL + f"  g: {{uses: grow, input: p, teacher: t, criterion: random, {keys}}}\n"


def stage(name: str) -> str:
    return f"stages:\n  {name}: {{uses: load}}\n"


def revision(text: str) -> str:
    return f"stages:\n  p: {{uses: load, dataset: a/b, revision: {text}}}\n"


def swept(text: str, more: str = "") -> str:
    return grow("branches: 1") + more + f"sweep: {text}\n"


def runtime(text: str) -> str:
    return f"{LOAD}models: {{t: {{repo: a/t}}}}\nruntime: {text}\n"


BOMB = "a: §&a [x, x]\n" + "".join(f"b{i}: &b{i} [*a, *a, *a, *a, *a, *a, *a, *a, *a]\n" for i in range(9))
QUOTES = "put it in quotes"
NO_NAME = "is no name: a name begins with a letter"

CASES: list[tuple[str, str, list[str]]] = [
    # 1-8: the file as a whole
    ("1 empty", "§", [": has no stages"]),
    ("1 no stages", "§name: x\n", ["stages: has no stages"]),
    ("1 stages: nothing", "name: x\nstages:§\n", ["stages: has no stages"]),
    ("2 comments", "§# only\n\n# comments", [": has no stages"]),
    ("2 list", "§- a\n- b\n", [": a mapping is expected"]),
    ("2 text", "§just text", [": a mapping is expected"]),
    ("2 stages are a list", "stages:\n§- a\n", ["stages: a mapping of names is wanted"]),
    ("2 a stage is text", "stages:\n  §a: load\n", ["stages.a: a mapping is wanted"]),
    ("2 a stage is nothing", "stages:\n  §a:\n", ["stages.a: a mapping is wanted"]),
    ("3 two documents", LOAD + "§---\nname: b\n", [": a second document begins here"]),
    ("4 tab", "stages:\n§\tp: {uses: load}\n", [": a tab stands here; YAML is indented with spaces"]),
    ("5 bracket", "name: x\nstages: §{p: {uses: load}\n", [": this bracket is not closed, or line 3 lacks a comma"]),
    ("5 quote", 'name: §"x\nstages: {}\n', [": this quote is not closed"]),
    ("5 brace in flow", "runtime: {models: {t: {endpoints: §[${URL}]}}}", [": this bracket is not closed"]),
    ("5 colon", "name: a§: b\n", [": text that contains `: ` must stand in quotes"]),
    ("5 indentation", "stages:\n  p: {uses: load}\n §name: x\n", [": the indentation does not fit here"]),
    ("7 stages twice", LOAD + "§stages: {}\n", ["stages: stands here a second time; the first is on line 1"]),
    (
        "7 a stage twice",
        LOAD + "  §p: {uses: load}\n",
        ["stages.p: stands here a second time; the first is on line 2"],
    ),
    ("8 top key", LOAD + "§stage: {}\n", ["stage: unknown key. Did you mean `stages`?"]),
    ("8 far from any", LOAD + "§xyzzy: 1\n", ["xyzzy: unknown key. Known: extends, models, name, prompt, runtime"]),
    # 9-14: kinds and parameters
    (
        "9 uses",
        "stages:\n  p: {uses: §laod}\n",
        ["stages.p.uses: `laod` is no kind of stage. Did you mean `load`? Kinds: check, compare, grow, load"],
    ),
    ("9 no uses", "stages:\n  §p: {limit: 3}\n", ["stages.p.uses: is missing"]),
    (
        "9 uses a number",
        "stages:\n  p: {uses: §3}\n",
        ["stages.p.uses: text is wanted, but YAML reads 3 as a number"],
    ),
    ("10 parameter", grow("§branch: 3"), ["stages.g.branch: unknown key. Did you mean `branches`?"]),
    ("10 common key", grow("§wher: {}"), ["stages.g.wher: unknown key. Did you mean `where`?"]),
    ("10 deep", grow("chunk: {§stops: []}"), ["stages.g.chunk.stops: unknown key. Did you mean `stop`?"]),
    (
        "10 in a union",
        grow("accept: {quantile: 0.5, of: {§stag: p}}"),
        ["stages.g.accept.of.stag: unknown key. Did"],
    ),
    ("10 missing", MODELS + LOAD + "  §g: {uses: grow, input: p}\n", ["stages.g.teacher: is missing"]),
    (
        "10 misspelt and so missing",
        MODELS + LOAD + "  g: {uses: grow, input: p, §techer: t}\n",
        ["stages.g.techer: unknown key. Did you mean `teacher`?"],
    ),
    (
        "12 quoted",
        grow('branches: §"4"'),
        ["stages.g.branches: a whole number is wanted, not text: write 4 without"],
    ),
    ("12 float", grow("branches: §4.0"), ["stages.g.branches: a whole number is wanted, not 4.0"]),
    ("12 exponent", grow("branches: §1e1"), ["stages.g.branches: a whole number is wanted, not 1e1"]),
    ("12 true", grow("branches: §true"), ["stages.g.branches: a whole number is wanted, not true"]),
    ("12 nothing", grow("branches:§ "), ["stages.g.branches: a whole number is wanted, not nothing"]),
    ("12 underscore", grow("branches: §1_0"), ["stages.g.branches: a whole number is wanted, not the text `1_0`"]),
    ("12 list", grow("branches: §[4]"), ["stages.g.branches: a whole number is wanted, not a list"]),
    (
        "12 union",
        "stages:\n  p: {uses: load, part: §1.5}\n",
        ["stages.p.part: a whole number or text is wanted, not 1.5"],
    ),
    (
        "12 yes",
        LOAD[:-2] + ", limit: 1, keep_errors: §yes}\n",
        ["stages.p.keep_errors: true or false is wanted, not the"],
    ),
    ("12 text for a list", grow("chunk: {stop: §x}"), ["stages.g.chunk.stop: a list is wanted, not the text `x`"]),
    ("12 text for a mapping", grow("chunk: §x"), ["stages.g.chunk: a mapping is wanted, not the text `x`"]),
    (
        "12 mapping for text",
        MODELS + "stages:\n  p: {uses: load, file: §{a: 1}}\n",
        ["stages.p.file: text is wanted, not"],
    ),
    ("13 zero", grow("branches: §0"), ["stages.g.branches: must be at least 1, not 0"]),
    ("13 negative", grow("branches: §-1"), ["stages.g.branches: must be at least 1, not -1"]),
    ("13 huge", grow("branches: §1000000"), ["stages.g.branches: must be at most 1024, not 1000000"]),
    (
        "13 open bound",
        grow("accept: {quantile: §1, of: [1]}"),
        ["stages.g.accept.quantile: must be below 1, not 1"],
    ),
    ("13 length", grow("chunk: {stop: §[a, b, c, d, e]}"), ["stages.g.chunk.stop: may have at most 4 entries"]),
    ("13 seed", LOAD + "seed: §-1\n", ["seed: must be at least 0, not -1"]),
    ("14 nan", grow("sampling: {temperature: §.nan}"), ["stages.g.sampling.temperature: must be a finite number"]),
    ("14 inf", grow("sampling: {temperature: §.inf}"), ["stages.g.sampling.temperature: must be a finite number"]),
    (
        "14 1e400",
        grow("sampling: {temperature: §1e400}"),
        ["stages.g.sampling.temperature: must be a finite number"],
    ),
    # 15: a revision that YAML turns into something else
    (
        "15 number",
        revision("§1234567"),
        [f"stages.p.revision: text is wanted, but YAML reads 1234567 as a number: {QUOTES}"],
    ),
    (
        "15 float",
        revision("§1.10"),
        [f"stages.p.revision: text is wanted, but YAML reads 1.10 as a number: {QUOTES}"],
    ),
    (
        "15 exponent",
        revision("§123e4"),
        [f"stages.p.revision: text is wanted, but YAML reads 123e4 as a number: {QUOTES}"],
    ),
    ("15 zero", revision("§0123456"), [f"stages.p.revision: YAML readers disagree on what 0123456 is: {QUOTES}"]),
    (
        "15 date",
        revision("§2024-01-01"),
        [f"stages.p.revision: YAML readers disagree on what 2024-01-01 is: {QUOTES}"],
    ),
    ("15 on", revision("§on"), [f"stages.p.revision: YAML readers disagree on what on is: {QUOTES}"]),
    (
        "15 true",
        revision("§true"),
        [f"stages.p.revision: text is wanted, but YAML reads true as true or false: {QUOTES}"],
    ),
    ("15 a commit of digits", revision("§" + "1" * 40), ["stages.p.revision: YAML readers disagree"]),
    (
        "15 in a mapping",
        LOAD[:-2] + ", columns: {a: §no}}\n",
        ["stages.p.columns.a: YAML readers disagree on what no"],
    ),
    # 16-18: references
    ("16 input", FULL + "  c: {uses: check, input: §q}\n", ["stages.c.input: `q` is not a stage. Stages: c, p."]),
    (
        "16 inputs",
        LOAD + "  c: {uses: compare, input: [p, §pp], baseline: p}\n",
        ["stages.c.input.1: `pp` is not a stage. Did"],
    ),
    ("16 none", LOAD + "  §c: {uses: check}\n", ["stages.c.input: is missing: check reads a stage"]),
    ("16 too many", LOAD + "  q: {uses: load, input: §p}\n", ["stages.q.input: load reads no stage, not 1"]),
    (
        "16 twice",
        LOAD + "  c: {uses: compare, input: [p, §p], baseline: p}\n",
        ["stages.c.input.1: `p` stands here twice"],
    ),
    (
        "16 of an effect",
        LOAD + "  o: {uses: push, input: p, repo: a/b}\n  r: {uses: train, input: §o, model: t}\n" + MODELS,
        ["stages.r.input: rows are wanted, but `o` (push) gives nothing"],
    ),
    ("16 model", grow("student: §ss"), ["stages.g.student: `ss` is not a model. Did you mean `s`? Models: s, t."]),
    (
        "16 model beside another mistake",
        grow("student: §ss, branches: §0"),
        ["stages.g.student:", "stages.g.branches"],
    ),
    (
        "16 stage of a value",
        grow("accept: {quantile: 0.5, of: {stage: §x}}"),
        ["stages.g.accept.of.stage: `x` is not a"],
    ),
    (
        "16 baseline",
        LOAD + "  q: {uses: load}\n  c: {uses: compare, input: [p, q], baseline: §c}\n",
        ["stages.c.baseline: `c` is"],
    ),
    ("16 base", LOAD + "models: {m: {base: §n}}\n", ["models.m.base: `n` is not a model. Models: m."]),
    (
        "16 runtime",
        runtime("{models: {tt: §{device: cpu}}}"),
        ["runtime.models.tt: is not a model. Did you mean `t`?"],
    ),
    (
        "16 weights",
        grow("weights: §[1]"),
        ["stages.g.weights: one weight for each of a list of inputs is wanted: 1"],
    ),
    ("16 weight zero", grow("weights: [§0]"), ["stages.g.weights.0: must be above 0, not 0"]),
    (
        "17 itself",
        "stages:\n  a: {uses: check, input: §a}\n",
        ["stages.a.input: the stages need each other in a circle: a -> a"],
    ),
    (
        "17 three",
        "stages:\n  a: {uses: check, input: c}\n  b: {uses: check, input: §a}\n  c: {uses: check, input: b}\n",
        ["stages.b.input: the stages need each other in a circle: a -> c -> b -> a"],
    ),
    (
        "17 through a model",
        LOAD + "  a: {uses: train, input: g, model: s}\n  g: {uses: grow, input: p, teacher: t, student: §m}\n"
        "models: {t: {repo: a/t}, s: {repo: a/s}, w: {base: s, adapter: {stage: a}}, m: {base: w}}\n",
        ["stages.g.student: the stages need each other in a circle: a -> g -> a"],
    ),
    (
        "17 models",
        LOAD + "models:\n  a: {base: b}\n  b: {base: §a}\n",
        ["models.b.base: models are based on each other in a"],
    ),
    (
        "18 adapter",
        LOAD + "models:\n  s: {repo: a/s}\n  w: {base: s, adapter: {stage: §p}}\n",
        ["models.w.adapter.stage: an adapter is wanted, but `p` (load) gives rows"],
    ),
    (
        "18 trained on a misspelt one",
        LOAD + "  g: {uses: grow, input: p, teacher: s, branches: 1}\n  a: {uses: train, input: g, model: §q}\n"
        "models: {s: {repo: a/s}, w: {base: s, adapter: {stage: a}}}\n",
        ["stages.a.model: `q` is not a model."],
    ),
    (
        "18 stage",
        LOAD + "models: {w: {repo: a/s, adapter: {stage: §q}}}\n",
        ["models.w.adapter.stage: `q` is not a stage."],
    ),
    (
        "18 input of an adapter",
        grow("branches: 1") + "  a: {uses: train, input: g, model: s}\n  c: {uses: check, input: §a}\n",
        ["stages.c.input: rows are wanted, but `a` (train) gives adapter"],
    ),
    (
        "18 model says nothing",
        LOAD + "models:\n  m: §{}\n",
        ["models.m: does not say which it is; give one of repo, path, base"],
    ),
    (
        "18 model says two",
        LOAD + "models: {m: {repo: a/b, base: §m}}\n",
        ["models.m.base: repo and base exclude one another"],
    ),
    (
        "18 revision of a path",
        LOAD + "models: {m: {path: ., revision: §x}}\n",
        ["models.m.revision: belongs to a repo, and"],
    ),
    (
        "18 adapter says nothing",
        LOAD + "models: {m: {repo: a/b, adapter: §{}}}\n",
        ["models.m.adapter: does not say which"],
    ),
    # 19-20: names
    *[
        (f"19 {name[:12]}", stage(f"§{name}"), [f"stages.{key or name}: "])
        for name, key in [
            ("../x", ""),
            ("a/b", ""),
            (".", ""),
            ("'...'", "..."),
            ("'-x'", "-x"),
            ("CON", ""),
            ("lpt1", ""),
            ('"a\\nb"', "a\\nb"),
            ('"a\\0b"', "a\\x00b"),
            ("🙂", "🙂"),
            ("é", "é"),
            ("9a", ""),
            ("a" * 65, "a" * 57 + "..."),
            ("a b", ""),
        ]
    ],
    ("19 empty", 'stages:\n  §"": {uses: load}\n', [f"stages.: `` {NO_NAME}"]),
    (
        "19 endless",
        "stages:\n  ? §" + "a" * 300 + "\n  : {uses: load}\n",
        [f"stages.{'a' * 57}...: `{'a' * 57}...` {NO_NAME}"],
    ),
    ("19 recipe", LOAD + "name: §a/b\n", ["name: `a/b` is no name; letters, digits"]),
    ("19 model", LOAD + "models: {§a.b: {repo: a/b}}\n", [f"models.a.b: `a.b` {NO_NAME}"]),
    (
        "20 case",
        "stages:\n  A: {uses: load}\n  §a: {uses: load}\n",
        ["stages.a: differs from `A` only in upper and lower"],
    ),
    # 21-23: environment and secrets
    (
        "21 outside",
        revision('§"${HF_TOKEN}"'),
        ["stages.p.revision: ${...} stands only under `runtime:`; identity must"],
    ),
    ("21 with default", LOAD + 'prompt: §"{problem} ${A:-b}"\n', ["prompt: ${...} stands only under `runtime:`"]),
    ("21 nested", revision('§"${${A}}"'), ["stages.p.revision: ${...} stands only under `runtime:`"]),
    (
        "22 missing",
        runtime('{hub: {repo: §"${MISSING}"}}'),
        ["runtime.hub.repo: the environment has no variable MISSING"],
    ),
    ("22 empty", runtime('{hub: {repo: §"${X:-}"}}'), ["runtime.hub.repo: ${X:-} is empty here"]),
    ("22 set, but empty", runtime('{hub: {repo: §"${EMPTY}"}}'), ["runtime.hub.repo: ${EMPTY} is empty here"]),
    (
        "22 nested",
        runtime('{hub: {repo: §"${${X}}"}}'),
        ["runtime.hub.repo: `${` is not closed or stands inside another"],
    ),
    ("22 open", runtime('{hub: {repo: §"${X"}}'), ["runtime.hub.repo: `${` is not closed"]),
    (
        "22 wrong type",
        runtime("\n  rows_in_flight: §${URL}"),
        ["runtime.rows_in_flight: a whole number is wanted, not the text `${URL}`"],
    ),
    (
        "22 out of range",
        runtime("\n  rows_in_flight: §${N:-0}"),
        ["runtime.rows_in_flight: must be at least 1, not ${N:-0}"],
    ),
    ("22 not a repo", runtime('{hub: {repo: §"${URL}"}}'), ["runtime.hub.repo: `${URL}` is not a Hub repo"]),
    ("23 token", LOAD + f"name: §{SECRET}\n", [": looks like a secret"]),
    ("23 as a key", LOAD + f"§{SECRET}: 1\n", [": looks like a secret", "x" * 35 + ": unknown key"]),
    ("23 in a comment", f"# §{SECRET}\n" + LOAD, [": looks like a secret"]),
    ("23 sk-", LOAD + "name: §sk-proj-0123456789abcdefXYZ\n", [": looks like a secret"]),
    (
        "23 in runtime",
        runtime(f"{{models: {{t: {{token: §{SECRET}}}}}}}"),
        [": looks like a secret"],
    ),
    (
        "23 token of no known shape",
        runtime("{models: {t: {token: §open-sesame}}}"),
        ["runtime.models.t.token: a token is not"],
    ),
    (
        "23 token that is a number",
        runtime("{models: {t: {token: §424242}}}"),
        ["runtime.models.t.token: a token is not written"],
    ),
    (
        "23 password in a URL",
        runtime('{models: {t: {api: tgi, endpoints: ["http://§me:open-sesame@h"]}}}'),
        [": looks like a secret"],
    ),
    (
        "23 key in a URL",
        runtime('{models: {t: {api: tgi, endpoints: ["http://h/§?api_key=open-sesame"]}}}'),
        [": looks like a secret"],
    ),
    # 24-29: what YAML can do beyond values
    (
        "24 python",
        LOAD + "name: §!!python/object/apply:os.system ['touch pwned']\n",
        ["name: unknown tag `tag:yaml.org,2002:python"],
    ),
    ("25 include", LOAD + "name: §!include x\n", ["name: unknown tag `!include`: tags are not used here"]),
    ("25 env", LOAD + "name: §!ENV x\n", ["name: unknown tag `!ENV`"]),
    ("25 text", LOAD + "name: §!!str 3\n", ["name: unknown tag `tag:yaml.org,2002:str`"]),
    ("25 handle", LOAD + "name: §!e!x y\n", [": unknown tag"]),
    ("26 bomb", BOMB, [": anchors and aliases are not used here"]),
    ("26 alias", LOAD + "name: §*a\n", [": aliases are not used here; put text that begins with `*` in quotes"]),
    ("26 itself", "a: §&a [*a]\n", [": anchors and aliases are not used here"]),
    ("26 merge", LOAD + "  §<<: {uses: load}\n", ["stages.<<: merge keys are not used here; see `extends`"]),
    ("27 brackets", "a: " + "[" * 63 + "§" + "[" * 1937, [": nested deeper than 64"]),
    ("27 many values", "a: [" + "1, " * 10_000 + "§1, 2]", [": more than 10,000 values"]),
    ("27 one line", f"name: {'a' * 1_000_000}\n", [": larger than 1,000,000 bytes"]),
    ("28 number key", LOAD + "§1: x\n", ["1: a key must be text: put it in quotes"]),
    ("28 true key", LOAD + "§true: x\n", ["true: a key must be text"]),
    ("28 null key", LOAD + "§null: x\n", ["null: a key must be text"]),
    ("28 list key", LOAD + "§[a]: x\n", [": a key must be text"]),
    ("28 set", LOAD + "name: §!!set {b}\n", ["name: unknown tag"]),
    ("28 binary", LOAD + "name: §!!binary aGk=\n", ["name: unknown tag `tag:yaml.org,2002:binary`"]),
    ("29 NUL", LOAD + 'name: §"a\\0"\n', ["name: contains a control character, \\x00"]),
    ("29 escape", LOAD + 'name: §"\\e[2J"\n', ["name: contains a control character, \\x1b"]),
    (
        "29 bidi",
        LOAD + "name: §a\u202eb\n",
        ["name: contains a character that turns the direction of writing, \\u202e"],
    ),
    ("29 raw", LOAD + "name: a§\x07\n", [": the character \\x07 may not stand in YAML"]),
    ("29 half a character", LOAD + 'prompt: §"{problem}\\ud83d"\n', ["prompt: half of a character"]),
    ("29 no character", LOAD + '§name: "\\UFFFFFFFF"\n', [": a character here does not exist"]),
    # 30-36: several, columns, types of models, repos
    (
        "30 three in three",
        "stages:\n  a: {uses: load, limit: §0}\n  b: {uses: §lod}\n  c: {uses: check, input: §d}\n",
        [
            "stages.a.limit: must",
            "stages.b.uses: `lod`",
            "stages.c.input: `d` is not a stage. Stages: a, b, c.",
        ],
    ),
    (
        "31 column",
        LOAD + "  c: {uses: check, input: §p}\n",
        ["stages.c.input: `p` gives no `solution`, which check reads; it has answer, problem, uuid"],
    ),
    (
        "31 in one input only",
        grow("branches: 1") + "  c: {uses: grow, input: [p, g], teacher: t, criterion: random}\n"
        "  e: {uses: check, input: §[g, p]}\n"
        "  f: {uses: compare, input: [c, e], baseline: c, where: {verdict: §[correct]}}\n",
        ["stages.e.input: `p` gives no `solution`", "stages.f.where.verdict: `c` gives no such column."],
    ),
    (
        "31 what a kind finds out by itself",
        LOAD[:-2] + ", limit: §13}\n",
        ["stages.p.limit: is unlucky"],
    ),
    (
        "31 where",
        LOAD + "  t: {uses: train, input: g, model: s, where: {verdict: §[correct]}}\n"
        "  g: {uses: grow, input: p, teacher: t, student: s}\n" + MODELS,
        ["stages.t.where.verdict: `g` gives no such column. It has: answer, fate, problem, solution, uuid."],
    ),
    (
        "31 where value",
        FULL + "  g: {uses: grow, input: p, teacher: t, student: s}\n"
        "  c: {uses: check, input: g, where: {fate: [accepted, §givenup]}}\n",
        ["stages.c.where.fate.1: `givenup` does not occur here. Did you mean `given_up`?"],
    ),
    ("31 where without input", LOAD[:-2] + ", where: §{a: [1]}}\n", ["stages.p.where: there is no input"]),
    (
        "31 where not a list",
        grow("where: {problem: §x}"),
        ["stages.g.where.problem: a list is wanted, not the text `x`"],
    ),
    (
        "31 keep_errors",
        LOAD[:-2] + ", keep_errors: §true}\n",
        ["stages.p.keep_errors: load is not computed row by row"],
    ),
    (
        "32 own rule",
        FULL + "  §g: {uses: grow, input: p, teacher: t}\n",
        ["stages.g.student: perplexity needs a student"],
    ),
    (
        "32 nested rule",
        grow("chunk: {min_tokens: §9, max_tokens: 3}"),
        ["stages.g.chunk.min_tokens: 9 is above max_tokens"],
    ),
    (
        "32 judge behind an endpoint",
        grow("student: §s") + "runtime: {models: {s: {api: tgi, endpoints: [http://h]}}}\n",
        ["stages.g.student: `s` runs behind tgi, which does not give log-probabilities"],
    ),
    (
        "32 training behind an endpoint",
        grow("branches: 1") + "  a: {uses: train, input: g, model: §s}\n"
        "runtime: {models: {s: {api: completions, endpoints: [http://h]}}}\n",
        ["stages.a.model: `s` runs behind completions, which does not give weights that can be trained"],
    ),
    (
        "32 adapter behind an endpoint",
        LOAD + "models: {t: {repo: a/t}, m: {base: t, adapter: §{repo: a/l}}}\n"
        "runtime: {models: {t: {api: tgi, endpoints: [http://h]}}}\n",
        ["models.m.adapter: its base runs behind tgi, which serves it without the adapter"],
    ),
    (
        "34 dtype",
        LOAD + "models: {m: {repo: a/b, dtype: §bf16x}}\n",
        ["models.m.dtype: must be one of auto, float32, bfloat16"],
    ),
    (
        "34 device",
        runtime("{models: {t: {device: §gpu}}}"),
        ["runtime.models.t.device: `gpu` does not fit the pattern"],
    ),
    (
        "34 choice",
        grow("criterion: §randm").replace("criterion: random, ", ""),
        ["stages.g.criterion: must be one of perplexity, random, not `randm`. Did"],
    ),
    *[
        (
            f"34 {limit}",
            runtime(f"{{models: {{t: {{{limit}: §0}}}}}}"),
            [f"runtime.models.t.{limit}: must be at least 1"],
        )
        for limit in ("requests_per_minute", "tokens_per_minute")
    ],
    ("34 api", runtime("{models: {t: §{api: tgi}}}"), ["runtime.models.t: api tgi needs `endpoints`"]),
    (
        "34 no api",
        runtime("{models: {t: {endpoints: §[http://h]}}}"),
        ["runtime.models.t.endpoints: api transformers runs here"],
    ),
    ("34 think", LOAD + "models: {m: {repo: a/b, §think: [a]}}\n", ["models.m.think.1: is missing"]),
    ("34 think alike", LOAD + "models: {m: {repo: a/b, think: §[a, a]}}\n", ["models.m.think: two different tags"]),
    ("34 prompt", LOAD + "prompt: §solve it\n", ["prompt: must contain {problem}, where the statement goes"]),
    (
        "34 model's prompt",
        LOAD + "models: {m: {repo: a/b, prompt: §x}}\n",
        ["models.m.prompt: must contain {problem}"],
    ),
    *[
        (
            f"34 endpoint {url}",
            runtime(f'{{models: {{t: {{api: tgi, endpoints: [§"{url}"]}}}}}}'),
            [f"runtime.models.t.endpoints.0: {told}"],
        )
        for url, told in [
            ("file:///etc/passwd", "is not an http"),
            ("unix:/run/x", "is not an http"),
            ("http://", "is not an http"),
            ("h:8080", "is not an http"),
            ("http://h:port", "is not a URL"),
            ("http://169.254.169.254/latest", "is an address of cloud metadata"),
            ("http://0xa9fea9fe", "is an address of cloud metadata"),
            ("http://2852039166:80", "is an address of cloud metadata"),
            ("http://[::ffff:169.254.169.254]", "is an address of cloud metadata"),
            ("http://metadata.google.internal.", "is an address of cloud metadata"),
            ("http://h/#x", "holds more than an address"),
        ]
    ],
    (
        "34 token in the clear",
        runtime('{models: {t: {api: tgi, endpoints: [§http://h, http://127.0.0.1, https://h], token: "${HF_TOKEN}"}}}'),
        ["runtime.models.t.endpoints.0: a token is sent only over https"],
    ),
    *[
        (f"35 repo {repo[:20]}", runtime(f'{{hub: {{repo: §"{repo}"}}}}'), ["runtime.hub.repo: `"])
        for repo in [
            "name",
            "a/b c",
            "https://huggingface.co/a/b",
            "a/" + "b" * 95,
            "a/b--c",
            "a/..",
            "a/b/c",
            "-a/b",
            "a/b.",
        ]
    ],
    ("35 repo of a stage", LOAD[:-2] + ", dataset: §b}\n", ["stages.p.dataset: `b` is not a Hub repo"]),
    ("35 repo of a model", LOAD + "models: {m: {repo: §gpt2}}\n", ["models.m.repo: `gpt2` is not a Hub repo"]),
    (
        "35 repo of an adapter",
        LOAD + "models: {m: {repo: a/b, adapter: {repo: §c}}}\n",
        ["models.m.adapter.repo: `c` is not"],
    ),
    (
        "36 file",
        LOAD[:-2] + ", file: §p.jsonl}\n",
        ["stages.p.file: there is no file or directory p.jsonl (looked"],
    ),
    (
        "36 model",
        LOAD + "models: {m: {path: §nowhere}}\n",
        ["models.m.path: there is no file or directory nowhere"],
    ),
    ("36 extends", LOAD + "extends: §nowhere.yaml\n", ["extends: there is no file "]),
    ("36 extends a directory", LOAD + "extends: §.\n", ["extends: "]),
    (
        "36 extends itself",
        LOAD + "extends: §./r.yaml\n",
        ["extends: recipes extend each other in a circle: r.yaml -> r.yaml"],
    ),
    ("36 extends two", LOAD + "extends: §[a, b]\n", ["extends: the path of one other recipe is expected"]),
    # sweeps
    ("40 no mapping", swept("§3"), ["sweep: a mapping of keys to lists of values is wanted"]),
    ("40 an empty one", swept("§{}"), ["sweep: a mapping of keys to lists of values is wanted"]),
    ("40 a list of anything", swept("§[seed]"), ["sweep: a mapping of keys to lists of values is wanted"]),
    ("40 no list", swept("{seed: §3}"), ["sweep.seed: a list of values is wanted"]),
    ("40 an empty list", swept("{seed: §[]}"), ["sweep.seed: a list of values is wanted"]),
    ("40 twice", swept("{seed: [1, 2, §1]}"), ["sweep.seed.2: stands here twice"]),
    (
        "40 twice as a mapping",
        swept("{stages.g.chunk: [{stop: [a]}, §{stop: [a]}]}"),
        ["sweep.stages.g.chunk.1: stands"],
    ),
    ("40 type", swept("{stages.g.branches: [1, §two]}"), ["stages.g.branches: a whole number is wanted, not the text"]),
    ("40 type of a seed", swept("{seed: [1, §x]}"), ["seed: a whole number is wanted, not the text `x`"]),
    (
        "40 bound",
        swept("[{seed: [1, 2], stages.g.branches: [1, §0]}]"),
        ["stages.g.branches: must be at least 1, not 0"],
    ),
    ("40 key", swept("{§stages.g.branchs: [1, 2]}"), ["stages.g.branchs: unknown key. Did you mean `branches`?"]),
    (
        "40 stage",
        swept("{§stages.gg.branches: [1]}"),
        ["sweep.stages.gg.branches: stages.gg: there is none of this name. Did"],
    ),
    (
        "40 into a value",
        swept("{§stages.g.branches.x: [1]}"),
        ["sweep.stages.g.branches.x: stages.g.branches: has no keys"],
    ),
    ("40 no part", swept("{§stages..x: [1]}"), ["sweep.stages..x: is no key: write stages.NAME.KEY"]),
    ("40 top key", swept("{§sed: [1]}"), ["sweep.sed: cannot be swept. Did you mean `seed`? Also: models.NAME.KEY"]),
    *[
        (f"40 {key}", swept(f"{{§{key}: [1, 2]}}"), ["sweep.{}: cannot be swept. ".format(key.strip('"'))])
        for key in ("runtime", "runtime.rows_in_flight", "name", "extends", "stages", "sweep", '"stages.g.where.a,b"')
    ],
    (
        "40 too many",
        swept(f"§{{seed: {list(range(257))}}}"),
        ["sweep: makes 257 combinations, and 256"],
    ),
    ("40 variant", swept("{arm: [a, §b]}", "variants: {a: {}}\n"), ["sweep.arm.1: `b` is not a variant. Variants: a."]),
    ("40 variants", swept("{seed: [1]}", "variants: §[a]\n"), ["variants: a mapping of names to partial recipes"]),
    ("40 of nothing", swept("{seed: [1]}", "variants: {§a: 3}\n"), ["variants.a: a name with a partial recipe"]),
    (
        "40 variant of runtime",
        swept("{arm: [a]}", "variants: {a: {§runtime: {rows_in_flight: 3}}}\n"),
        ["variants.a.runtime: a variant may change prompt, models, stages, and nothing else"],
    ),
    (
        "40 in a variant",
        swept("{arm: [a], seed: [1, 2]}", "variants: {a: {stages: {g: {branches: §x}}}}\n"),
        ["stages.g.branches: a whole number is wanted, not the text `x`"],
    ),
    (
        "40 an effect several times",
        swept("{seed: [1, 2]}", "  out: §{uses: push, input: g, repo: a/b}\n"),
        ["stages.out: the sweep makes several of it, all for one place"],
    ),
    (
        "40 no such instance",
        swept("{seed: [1, 2]}", "  c: {uses: compare, input: [g, p], baseline: §'g[seed=3]'}\n"),
        ["stages.c.baseline: selects no input. Did you mean `g[seed="],
    ),
    (
        "40 an instance where nothing is swept",
        grow("branches: 1") + "  c: {uses: compare, input: [g, p], baseline: §'g[seed=1]'}\n",
        ["stages.c.baseline: selects no input. Instances: g, p."],
    ),
]


@pytest.mark.parametrize(("text", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_each_mistake_gives_one_message_at_its_place(tmp_path: Path, text: str, expected: list[str]) -> None:
    lines = text.split("\n")
    marks = [(i, j) for i, line in enumerate(lines, 1) for j in places(line)]
    path = tmp_path / "r.yaml"
    path.write_bytes(text.replace("§", "").encode())
    start = time.monotonic()
    with pytest.raises(UserErrors) as caught:
        load(path, KINDS, environ=ENVIRON)
    assert time.monotonic() - start < 5
    found = [f"{m.key}: {m.message}" for m in caught.value.mistakes]
    assert len(found) == len(expected), found
    for said, begins in zip(found, expected, strict=True):
        assert said.startswith(begins)
    at = [m.position for m in caught.value.mistakes]
    assert sorted({(p.line, p.column) for p in at if p.line}) == marks
    assert {p.file for p in at} == {str(path)}
    assert "sesame" not in str(caught.value)
    assert "Abcd1234" not in str(caught.value)
    assert os.listdir(tmp_path) == ["r.yaml"]


def places(line: str) -> list[int]:
    """The columns of the marks in a line, once they are gone."""
    return [i - before + 1 for before, i in enumerate(i for i, c in enumerate(line) if c == "§")]


# --------------------------------------------------------------------------------- 6, 36: files, not texts


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("name: é\n".encode("utf-16"), "r.yaml  is UTF-16; save it as UTF-8"),
        ("name: é\n".encode("utf-16-be"), "r.yaml  is UTF-16; save it as UTF-8"),
        (b"name: x\nprompt: caf\xe9\n", "r.yaml:2:12  byte 0xe9 is not UTF-8 (Latin-1?); save it as UTF-8"),
    ],
)
def test_another_encoding_is_named(tmp_path: Path, data: bytes, said: str) -> None:
    (tmp_path / "r.yaml").write_bytes(data)
    with pytest.raises(UserErrors) as caught:
        load(tmp_path / "r.yaml", KINDS)
    assert str(caught.value) == f"{tmp_path}/{said}"


def test_a_large_file_is_not_read(tmp_path: Path) -> None:
    with open(tmp_path / "r.yaml", "wb") as file:
        file.truncate(100_000_000_000)
    with pytest.raises(UserErrors, match="larger than 1,000,000 bytes"):
        load(tmp_path / "r.yaml", KINDS)


def test_what_is_no_readable_file_is_said(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    for name, said in [
        ("", "is a directory; a recipe is a file"),
        ("missing.yaml", "there is no file "),
        ("fifo", "is not an ordinary file"),
        ("loop", "cannot be read: Too many levels of symbolic links"),
        ("file/r.yaml", "cannot be read: Not a directory"),
        ("x" * 300, "cannot be read: File name too long"),
        ("a\0b", "cannot be read: "),
    ]:
        with pytest.raises(UserErrors) as caught:
            load(tmp_path / name, KINDS)
        (only,) = caught.value.mistakes
        assert said in only.message
        assert "\0" not in str(only)


@pytest.fixture
def nobody() -> Iterator[None]:
    """Root reads everything, so it steps back for a while."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    yield
    os.seteuid(before)


def test_a_file_without_permission_is_said(tmp_path: Path, nobody: None) -> None:
    with contextlib.suppress(PermissionError):
        (tmp_path / "r.yaml").touch(mode=0)
    with pytest.raises(UserErrors, match="cannot be read: Permission denied"):
        load(tmp_path / "r.yaml", KINDS)


def test_recipes_that_extend_each_other_endlessly_are_refused(tmp_path: Path) -> None:
    for i in range(40):
        (tmp_path / f"{i}.yaml").write_text(f"extends: {i + 1}.yaml\n")
    with pytest.raises(UserErrors, match="more than 16 recipes extend one another"):
        load(tmp_path / "0.yaml", KINDS)
    (tmp_path / "3.yaml").write_text("extends: 1.yaml\nstages: {p: {uses: load}}")
    with pytest.raises(UserErrors, match=r"in a circle: 0.yaml -> 1.yaml -> 2.yaml -> 3.yaml -> 1.yaml"):
        load(tmp_path / "0.yaml", KINDS)
