"""Which files of a data set on the Hub make up a split: by its card, else by their names, as `datasets` has it.

The rules are those of `datasets`, called with a commit, so that its caches, which may give another revision, are never
asked. Loading scripts are never run. This file does not know how files are read.
"""

from __future__ import annotations

import glob

from ssd_pipeline.errors import HubError
from ssd_pipeline.store import hub
from ssd_pipeline.store.refusals import asking


def split_files(repo: str, commit: str, config: str | None, split: str) -> list[str]:
    """The data files of one split of one config of a data set, by the rules of `datasets`, as paths in the repo.

    Raises HubError when the data set needs a loading script, or has no such config or split (it names those it has).
    """
    from datasets.data_files import get_data_patterns

    script = f"{repo.split('/')[-1]}.py"
    with asking(f"find split {split} of {repo}", repo):
        if hub.api().file_exists(repo, script, repo_type="dataset", revision=commit):
            raise HubError(f"{repo} needs its loading script {script}, which is never run; use a copy as plain files")
        base = f"hf://datasets/{repo}@{commit}"
        said, folder = _config(repo, commit, config)
        base = f"{base}/{folder}" if folder else base
        patterns = said or get_data_patterns(base)
        if split not in patterns:
            raise HubError(f"{repo} has no split {split}; splits are: {', '.join(patterns)}")
        found = [path for pattern in patterns[split] for path in _matching(pattern, base)]
    return list(dict.fromkeys(path.removeprefix(f"hf://datasets/{repo}@{commit}/") for path in found))


def _matching(pattern: str, base: str) -> list[str]:
    """The files of a pattern; one with wildcards may match none, since default patterns come in many spellings."""
    from datasets.data_files import resolve_pattern

    try:
        return resolve_pattern(pattern, base)
    except FileNotFoundError:
        if glob.has_magic(pattern):
            return []
        raise


def _config(repo: str, commit: str, config: str | None) -> tuple[dict[str, list[str]] | None, str | None]:
    """What the card says of a config: patterns by split, if any, and its folder, if any."""
    from datasets.data_files import sanitize_patterns
    from datasets.utils.metadata import MetadataConfigs
    from huggingface_hub import DatasetCard

    card = hub.snapshot(repo, "dataset", commit, ["README.md"]) / "README.md"
    configs = MetadataConfigs()
    if card.is_file():
        configs = MetadataConfigs.from_dataset_card_data(DatasetCard.load(card).data)
    if not configs:
        if config not in (None, "default"):
            raise HubError(f"{repo} has no config {config}: its card names none")
        return None, None
    name = config or configs.get_default_config_name()
    if name not in configs:
        problem = f"has no config {name}" if name else "has several configs: choose one"
        raise HubError(f"{repo} {problem}; configs are: {', '.join(configs)}")
    files = configs[name].get("data_files")
    return sanitize_patterns(files) if files is not None else None, configs[name].get("data_dir")
