"""The clients of huggingface_hub and datasets, in this process or another one, pointed at a fake Hub."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

from fakes.hub import FakeHub


@contextlib.contextmanager
def at_home(hub: FakeHub, home: Any, monkeypatch: Any, token: str | None) -> Iterator[None]:
    """The clients of this process talk to `hub`, keep their cache in `home` and wait for nothing."""
    import datasets.config
    from huggingface_hub import constants
    from huggingface_hub.utils import _http

    class Clock:
        def __getattr__(self, name: str) -> Any:
            return getattr(time, name)

        sleep = staticmethod(lambda seconds: None)

    for name, value in client_environment(hub, home, token).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", hub.url)
    monkeypatch.setattr(_http, "time", Clock())
    if token is None:
        monkeypatch.delenv("HF_TOKEN", raising=False)
    yield
    _http.close_session()


def client_environment(hub: FakeHub, home: Any, token: str | None) -> dict[str, str]:
    """The variables for a process of its own that talks to `hub`."""
    said = {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home),
        "HF_DATASETS_CACHE": str(home / "datasets"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_UPDATE_DOWNLOAD_COUNTS": "0",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    return {**said, "HF_TOKEN": token} if token else said
