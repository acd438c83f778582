"""Every stage kind, in plain sight: what a recipe may `use`. A new kind is one file here and one line below."""

from ssd_pipeline.stage import Stage
from ssd_pipeline.stages import (
    compare,
    evaluate,
    find_overlaps,
    load_problems,
    push_dataset,
    sample_branches,
    score_trajectories,
    train_sft,
    verify_answers,
)

KINDS: dict[str, Stage] = {
    "load_problems": load_problems.STAGE,
    "find_overlaps": find_overlaps.STAGE,
    "sample_branches": sample_branches.STAGE,
    "score_trajectories": score_trajectories.STAGE,
    "verify_answers": verify_answers.STAGE,
    "train_sft": train_sft.STAGE,
    "evaluate": evaluate.STAGE,
    "compare": compare.STAGE,
    "push_dataset": push_dataset.STAGE,
}
