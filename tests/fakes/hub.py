"""A Hub on 127.0.0.1 that the real clients of huggingface_hub and datasets talk to: the API on one port, the bytes of
large files on a second one, which is another origin and so never sees a token.

Repos live in memory: commits, branches, tags, private repos, tokens with read or write permission. What a client asks
that is not here counts as a failure of the test: `close` raises it. `fault` plays refusals, drops and delays.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

import yaml
from fakes.hub_repos import Blob, Refusal, Repo, entry, is_lfs


@dataclass
class Fault:
    """What goes wrong with matching requests. `after`: the request is carried out first. `body`: what is sent in the
    place of the right bytes; fewer than announced are followed by the end of the connection. `slow`: the seconds before
    each byte of the answer, and before each 64 kB of the request are taken."""

    pattern: str
    times: int
    status: int | None
    headers: Mapping[str, str]
    after: bool
    before: Callable[[], None] | None
    body: Callable[[bytes], bytes] | None
    slow: float
    error: str


@dataclass(frozen=True)
class Seen:
    """A request: which port, method, raw path, and the token that came with it."""

    port: str
    method: str
    path: str
    token: str | None


class FakeHub:
    """Start with `with FakeHub() as hub`; `hub.url` is HF_ENDPOINT. `xet`: large files are said to be kept there too,
    but who asks for it is not answered."""

    def __init__(self, page: int = 1000, *, xet: bool = False) -> None:
        self.page, self.xet = page, xet
        self.repos: dict[tuple[str, str], Repo] = {}
        self.tokens: dict[str, tuple[str, bool]] = {}
        self.store: dict[str, bytes] = {}
        self.seen: list[Seen] = []
        self.unexpected: list[str] = []
        self.faults: list[Fault] = []
        self.lock = threading.RLock()
        self._servers = [self._serve("api"), self._serve("cdn")]
        self.url, self.cdn = (f"http://127.0.0.1:{s.server_address[1]}" for s in self._servers)

    def _serve(self, port: str) -> ThreadingHTTPServer:
        handler = type("Handler", (_Handler,), {"hub": self, "port": port})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return server

    def __enter__(self) -> FakeHub:
        return self

    def __exit__(self, *exc: object) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()
        if self.unexpected and exc[0] is None:
            raise AssertionError(f"the clients asked what this Hub does not know: {self.unexpected}")

    def token(self, user: str, *, write: bool = True) -> str:
        """A token of a user."""
        name = f"hf_testtokenof{user}{'w' if write else 'r'}"
        self.tokens[name] = (user, write)
        return name

    def add(self, repo: str, files: Mapping[str, bytes], *, kind: str = "dataset", private: bool = False) -> str:
        """A commit on main with exactly these files; the repo is made if it is missing."""
        found = self.repos.setdefault((kind, repo), Repo(private))
        return found.commit({p: Blob(d, is_lfs(p, len(d))) for p, d in files.items()}, "added")

    def fault(
        self,
        pattern: str,
        *,
        times: int = 1,
        status: int | None = None,
        headers: Mapping[str, str] | None = None,
        after: bool = False,
        before: Callable[[], None] | None = None,
        body: Callable[[bytes], bytes] | None = None,
        slow: float = 0.0,
        error: str = "played",
    ) -> None:
        """The next `times` requests whose `METHOD path` matches are refused with a status, or dropped without one;
        with `before` alone, something else happens first and the request is answered as ever; with `body`, other bytes
        are sent; with `slow`, the right ones, one by one."""
        self.faults.append(Fault(pattern, times, status, headers or {}, after, before, body, slow, error))

    def asked(self, pattern: str) -> list[Seen]:
        """The requests so far whose `METHOD path` matches."""
        return [s for s in self.seen if re.search(pattern, f"{s.method} {s.path}")]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize, disable_nagle_algorithm = 1 << 16, True
    hub: FakeHub
    port: str

    def log_message(self, *args: object) -> None:
        pass

    def handle_one_request(self) -> None:
        with contextlib.suppress(ConnectionError):
            super().handle_one_request()

    def do_GET(self) -> None:
        self._answer()

    do_POST = do_PUT = do_DELETE = do_HEAD = do_GET

    def _answer(self) -> None:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        self.token = token
        line = f"{self.command} {self.path}"
        with self.hub.lock:
            self.hub.seen.append(Seen(self.port, self.command, self.path, token))
            fault = next((f for f in self.hub.faults if f.times > 0 and re.search(f.pattern, line)), None)
            if fault:
                fault.times -= 1
        self.slow = fault.slow if fault else 0.0
        self.body = self._taken(int(self.headers.get("Content-Length") or 0))
        if fault and fault.before:
            fault.before()
        played = fault is not None and (fault.before or fault.body or fault.slow)
        broken = fault is not None and (fault.status is not None or not played)
        try:
            if fault and broken and not fault.after:
                return self._break(fault)
            with self.hub.lock:
                status, data, headers = self._route()
            if fault and broken:
                return self._break(fault)
        except Refusal as refusal:
            headers = {"X-Error-Message": refusal.message, "X-Error-Code": refusal.code}
            status, data = refusal.status, {"error": refusal.message}
        self._send(status, data, headers, fault.body if fault else None)

    def _pause(self) -> None:
        if self.slow:
            threading.Event().wait(self.slow)  # and not time.sleep, which tests take away from the clients

    def _taken(self, size: int) -> bytes:
        body = b""
        while len(body) < size:
            self._pause()
            body += self.rfile.read(min(1 << 16, size - len(body)))
        return body

    def _break(self, fault: Fault) -> None:
        if fault.status is None:
            self.close_connection = True
            self.connection.close()
        else:
            self._send(fault.status, {"error": fault.error}, fault.headers)

    def _send(
        self, status: int, data: Any, headers: Mapping[str, str], changed: Callable[[bytes], bytes] | None = None
    ) -> None:
        body = data if isinstance(data, bytes) else json.dumps(data).encode()
        first, last = 0, len(body)
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if wanted and status == 200 and self.command == "GET":
            first, last = int(wanted[1]), min(int(wanted[2] or last - 1) + 1, last)
            status, headers = 206, {**headers, "Content-Range": f"bytes {first}-{last - 1}/{len(body)}"}
        self.send_response(status)
        for name, value in headers.items():
            if value:
                self.send_header(name, value)
        self.send_header("Content-Length", str(last - first))
        self.end_headers()
        if self.command != "HEAD":
            sent = changed(body[first:last]) if changed else body[first:last]
            step = 1 if self.slow else max(1, len(sent))
            for start in range(0, len(sent), step):
                self._pause()
                self.wfile.write(sent[start : start + step])
                self.wfile.flush()
            self.close_connection = self.close_connection or len(sent) < last - first

    # ------------------------------------------------------------------------------------------------ routes

    def _route(self) -> tuple[int, Any, dict[str, str]]:
        path = urlsplit(self.path).path
        for method, pattern, action in CDN if self.port == "cdn" else API:
            found = re.fullmatch(pattern, path)
            if found and self.command in method.split():
                parts = {k: unquote(v) for k, v in found.groupdict().items() if v is not None}
                answer = action(self, **parts)
                return answer if isinstance(answer, tuple) else (200, answer, {})
        self.hub.unexpected.append(f"{self.port}: {self.command} {self.path}")
        raise Refusal(404, "", "this Hub has no such route")

    def _user(self) -> tuple[str | None, bool]:
        if self.token is None:
            return None, False
        if self.token not in self.hub.tokens:
            raise Refusal(401, "", "Invalid credentials in Authorization header")
        return self.hub.tokens[self.token]

    def _repo(self, kind: str, repo: str, *, write: bool = False) -> Repo:
        user, may_write = self._user()
        found = self.hub.repos.get((kind.removesuffix("s"), repo))
        owner = user is not None and repo.startswith(f"{user}/")
        if found is None or (found.private and not owner):
            raise Refusal(401 if user is None else 404, "RepoNotFound", "Repository not found")
        if found.gated and not owner:
            raise Refusal(403, "GatedRepo", "Access to this repo is restricted")
        if write and not (owner and may_write):
            raise Refusal(403, "", "you do not have the write permission")
        return found

    def whoami(self) -> Any:
        user, may_write = self._user()
        if user is None:
            raise Refusal(401, "", "Invalid username or password.")
        role = "write" if may_write else "read"
        return {"type": "user", "name": user, "orgs": [], "auth": {"accessToken": {"role": role}}}

    def create(self) -> Any:
        said = json.loads(self.body)
        user, may_write = self._user()
        if user is None:
            raise Refusal(401, "", "Invalid username or password.")
        name = f"{said.get('organization') or user}/{said['name']}"
        if not may_write or not name.startswith(f"{user}/"):
            raise Refusal(403, "", "you do not have the write permission")
        key = (said.get("type") or "model", name)
        prefix = "datasets/" if key[0] == "dataset" else ""
        told = {"url": f"{self.hub.url}/{prefix}{name}", "name": name, "id": name}
        if key in self.hub.repos:
            return 409, {**told, "error": "You already created this repo"}, {}
        self.hub.repos[key] = Repo(said.get("visibility") == "private")
        self.hub.repos[key].commit({".gitattributes": Blob(b"*.parquet filter=lfs\n", False)}, "initial commit")
        return told

    def info(self, kind: str, repo: str, rev: str = "main") -> Any:
        found = self._repo(kind, repo)
        commit = found.find(rev)
        files = [{"rfilename": path} for path in commit.files]
        return {"id": repo, "sha": commit.oid, "private": found.private, "siblings": files, "tags": [], "downloads": 0}

    def tree(self, kind: str, repo: str, rev: str, folder: str = "") -> Any:
        files = self._repo(kind, repo).find(rev).files
        query = parse_qs(urlsplit(self.path).query)
        prefix = f"{folder.strip('/')}/" if folder.strip("/") else ""
        deep = query.get("recursive", ["false"])[0].lower() == "true"
        found: dict[str, Any] = {}
        for path, blob in sorted(files.items()):
            names = path.removeprefix(prefix).split("/")
            if path.startswith(prefix):
                for depth in range(1, len(names) if deep else min(2, len(names))):
                    inner = prefix + "/".join(names[:depth])
                    found[inner] = {"type": "directory", "path": inner, "oid": "0" * 40, "size": 0}
                if deep or len(names) == 1:
                    found[path] = entry(path, blob)
        if prefix and not found:
            raise Refusal(404, "EntryNotFound", f"{folder} does not exist")
        entries = [
            {**one, "xetHash": one["lfs"]["oid"]} if self.hub.xet and "lfs" in one else one for one in found.values()
        ]
        start = int(query.get("cursor", ["0"])[0])
        more = {}
        if start + self.hub.page < len(entries):
            base = f"{self.hub.url}{urlsplit(self.path).path}?recursive={str(deep).lower()}"
            more["Link"] = f'<{base}&cursor={start + self.hub.page}>; rel="next"'
        return 200, entries[start : start + self.hub.page], more

    def paths_info(self, kind: str, repo: str, rev: str) -> Any:
        files = self._repo(kind, repo).find(rev).files
        wanted = parse_qs(self.body.decode())["paths"]
        folders = [p for p in wanted if p not in files and any(f.startswith(f"{p}/") for f in files)]
        told = [{"type": "directory", "path": p, "oid": "0" * 40, "size": 0} for p in folders]
        return told + [entry(path, files[path]) for path in wanted if path in files]

    def refs(self, kind: str, repo: str) -> Any:
        found = self._repo(kind, repo)
        told = {}
        for word, ref, names in (("branches", "heads", found.branches), ("tags", "tags", found.tags)):
            told[word] = [{"name": n, "ref": f"refs/{ref}/{n}", "targetCommit": oid} for n, oid in names.items()]
        return {**told, "converts": []}

    def tag(self, kind: str, repo: str, rev: str) -> Any:
        found = self._repo(kind, repo, write=True)
        name = json.loads(self.body)["tag"]
        if name in found.tags:
            raise Refusal(409, "", "Tag already exists")
        found.tags[name] = found.find(rev).oid
        return {}

    def validate(self) -> Any:
        content = json.loads(self.body)["content"]
        front = re.match(r"---\s*\n(.*?)\n---", content, re.DOTALL)
        try:
            yaml.safe_load(front[1] if front else "")
        except yaml.YAMLError as broken:
            return 400, {"errors": [{"message": str(broken)}], "warnings": []}, {}
        return {"errors": [], "warnings": []}

    def preupload(self, kind: str, repo: str, rev: str) -> Any:
        files = self._repo(kind, repo, write=True).find(rev).files
        told = []
        for said in json.loads(self.body)["files"]:
            mode = "lfs" if is_lfs(said["path"], said["size"]) else "regular"
            oid = files[said["path"]].oid if said["path"] in files else None
            told.append({"path": said["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return {"files": told}

    def batch(self, repo: str, prefix: str = "") -> Any:
        self._repo("datasets" if prefix else "models", repo, write=True)
        objects = []
        for said in json.loads(self.body)["objects"]:
            upload = {"href": f"{self.hub.cdn}/put/{said['oid']}?signature=secret", "header": {}}
            actions = {} if said["oid"] in self.hub.store else {"actions": {"upload": upload}}
            objects.append({"oid": said["oid"], "size": said["size"], **actions})
        return {"transfer": "basic", "objects": objects}

    def put(self, oid: str) -> Any:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise Refusal(400, "", "other bytes than announced")
        self.hub.store[oid] = self.body
        return {}

    def commit(self, kind: str, repo: str, rev: str) -> Any:
        found = self._repo(kind, repo, write=True)
        if rev not in found.branches:
            raise Refusal(404, "RevisionNotFound", f"{rev} is not a branch")
        files, title = dict(found.find(rev).files), ""
        for line in self.body.splitlines():
            said = json.loads(line)
            value = said["value"]
            match said["key"]:
                case "header":
                    title = value["summary"]
                    if value.get("parentCommit") not in (None, found.branches[rev]):
                        raise Refusal(412, "", "A commit has happened since. Please refresh and try again.")
                case "file":
                    files[value["path"]] = Blob(base64.b64decode(value["content"]), False)
                case "lfsFile" if value["oid"] in self.hub.store:
                    files[value["path"]] = Blob(self.hub.store[value["oid"]], True)
                case "deletedFile" if value["path"] in files:
                    del files[value["path"]]
                case key:
                    raise Refusal(400, "", f"cannot commit {key} {value.get('path')}")
        oid = found.commit(files, title, rev)
        return {"commitOid": oid, "commitUrl": f"{self.hub.url}/{repo}/commit/{oid}", "pullRequestUrl": None}

    def resolve(self, repo: str, rev: str, path: str, prefix: str = "") -> Any:
        commit = self._repo("datasets" if prefix else "models", repo).find(rev)
        if path not in commit.files:
            raise Refusal(404, "EntryNotFound", f"{path} does not exist")
        blob = commit.files[path]
        known = {"X-Repo-Commit": commit.oid, "Accept-Ranges": "bytes"}
        if not blob.lfs:
            return 200, blob.data, {**known, "ETag": f'"{blob.sha1}"'}
        self.hub.store[blob.sha256] = blob.data
        place = f"{self.hub.cdn}/get/{blob.sha256}?signature=secret&name={quote(path, safe='')}"
        linked = {"X-Linked-ETag": f'"{blob.sha256}"', "X-Linked-Size": str(len(blob.data)), "Location": place}
        if self.hub.xet:
            token = f"{self.hub.url}/api/{prefix or 'models/'}{repo}/xet-read-token/{commit.oid}"
            linked |= {"X-Xet-Hash": blob.sha256, "Link": f'<{token}>; rel="xet-auth"'}
        return 302, b"", {**known, **linked}

    def get(self, oid: str) -> Any:
        return 200, self.hub.store[oid], {"ETag": f'"{oid}"', "Accept-Ranges": "bytes"}


_REPO = r"(?P<repo>[^/]+/[^/]+)"
_KIND = rf"/api/(?P<kind>models|datasets)/{_REPO}"
_REV = r"(?P<rev>[^/]+)"
_PLAIN = rf"/(?P<prefix>datasets/)?{_REPO}"
API: list[tuple[str, str, Callable[..., Any]]] = [
    ("GET", "/api/whoami-v2", _Handler.whoami),
    ("POST", "/api/repos/create", _Handler.create),
    ("POST", "/api/validate-yaml", _Handler.validate),
    ("GET", rf"{_KIND}(/revision/{_REV})?", _Handler.info),
    ("GET", rf"{_KIND}/tree/{_REV}(/(?P<folder>.*))?", _Handler.tree),
    ("POST", rf"{_KIND}/paths-info/{_REV}", _Handler.paths_info),
    ("GET", rf"{_KIND}/refs", _Handler.refs),
    ("POST", rf"{_KIND}/tag/{_REV}", _Handler.tag),
    ("POST", rf"{_KIND}/preupload/{_REV}", _Handler.preupload),
    ("POST", rf"{_KIND}/commit/{_REV}", _Handler.commit),
    ("POST", rf"{_PLAIN}\.git/info/lfs/objects/batch", _Handler.batch),
    ("GET HEAD", rf"{_PLAIN}/resolve/{_REV}/(?P<path>.+)", _Handler.resolve),
]
CDN: list[tuple[str, str, Callable[..., Any]]] = [
    ("PUT", "/put/(?P<oid>[0-9a-f]{64})", _Handler.put),
    ("GET HEAD", "/get/(?P<oid>[0-9a-f]{64})", _Handler.get),
]
