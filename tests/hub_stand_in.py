"""A stand-in of the Hub's HTTP interface on loopback: repositories that are created, committed to and read.

Models are kept by their id, data sets and Spaces as `datasets/org/name` and `spaces/org/name`. A card whose metadata
the Hub refuses is refused here too, see `tests.hub_metadata`.

    python -m tests.hub_stand_in 8000      # until it is interrupted; what was published is gone with it

Clients then need `HF_ENDPOINT=http://127.0.0.1:8000`, `HF_HUB_DISABLE_XET=1` and a token of any kind.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote

from tests.hub_metadata import check_card, check_eval_results


__all__ = ["HubStandIn"]


class HubStandIn:
    """A Hub that lives as long as a `with` block; clients need `HF_ENDPOINT` and, for uploads, a token of any kind.

    Large files go the way of LFS, as on the Hub with `HF_HUB_DISABLE_XET=1`.

    Args:
        port (`int`, defaults to a free one): Port.

    Attributes:
        url (`str`): Address, for `HF_ENDPOINT`.
        repos (`dict[str, dict[str, bytes]]`): Files of each repository by path.
        user (`dict`): What the Hub says of the token's owner.
        calls (`list[str]`): Method and path of each request.
    """

    def __init__(self, port: int = 0):
        self.port = port

    def __enter__(self):
        self.repos, self.calls, self._blobs = {}, [], {}
        self.user = {"type": "user", "name": "owner", "auth": {"accessToken": {"role": "write"}}}
        self.user["orgs"] = [{"name": "org", "roleInOrg": "admin"}, {"name": "someone", "roleInOrg": "write"}]
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), type("Handler", (_Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error):
        self._server.shutdown()
        self._server.server_close()

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, dict, bytes]:
        """Give status, headers and body of a request."""
        self.calls.append(f"{method} {path}")
        for pattern, reply in _ROUTES:
            if match := re.fullmatch(pattern, f"{method} {unquote(path.partition('?')[0])}"):
                result = reply(self, body, *match.groups())
                if isinstance(result, tuple):
                    return result
                return 200, {"Content-Type": "application/json"}, json.dumps(result).encode()
        return 404, {"X-Error-Code": "EntryNotFound"}, b"{}"

    def _create(self, body):
        facts = json.loads(body)
        kind = {"dataset": "datasets/", "space": "spaces/"}.get(facts.get("type"), "")
        name = kind + "/".join(part for part in (facts.get("organization"), facts["name"]) if part)
        known = name in self.repos
        self.repos.setdefault(name, {})
        reply = {"url": f"{self.url}/{name}", "name": name}
        return (409, {}, json.dumps(reply).encode()) if known else reply

    def _validate(self, body):
        asked = json.loads(body)
        errors = check_card(asked["content"], asked["repoType"])
        return (400, {}, "\n".join(errors).encode()) if errors else {"errors": [], "warnings": []}

    def _choose_ways(self, body, repo):
        def way(path):
            return "lfs" if path.endswith((".safetensors", ".bin", ".faiss", ".parquet", ".png")) else "regular"

        files = [file["path"] for file in json.loads(body)["files"]]
        return {"files": [{"path": path, "uploadMode": way(path), "shouldIgnore": False} for path in files]}

    def _offer_uploads(self, body, repo):
        objects = [
            {**wanted, "actions": {"upload": {"href": f"{self.url}/_blobs/{wanted['oid']}"}}}
            for wanted in json.loads(body)["objects"]
        ]
        return {"transfer": "basic", "objects": objects}

    def _take_blob(self, body, oid):
        assert hashlib.sha256(body).hexdigest() == oid
        self._blobs[oid] = body
        return {}

    def _commit(self, body, repo):
        files = dict(self.repos[repo])
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self._blobs[value["oid"]]
            elif line["key"] == "deletedFile":
                files.pop(value["path"])
        kind = repo.partition("s/")[0] if repo.count("/") == 2 else "model"
        errors = check_card(files["README.md"].decode(), kind) if "README.md" in files else []
        for path in files:
            errors += check_eval_results(files[path].decode()) if path.startswith(".eval_results/") else []
        if errors:
            return 400, {}, json.dumps({"error": "; ".join(errors)}).encode()
        self.repos[repo] = files
        return {"success": True, "commitOid": self._hash(repo), "commitUrl": f"{self.url}/{repo}/commit/main"}

    def _hash(self, repo):
        parts = [path.encode() + data for path, data in sorted(self.repos[repo].items())]
        return hashlib.sha1(b"".join(parts)).hexdigest()

    def _describe(self, body, repo, *revision):
        if repo not in self.repos:
            return 404, {"X-Error-Code": "RepoNotFound"}, b"{}"
        files = self.repos[repo]
        siblings = [{"rfilename": path, "size": len(data)} for path, data in files.items()]
        name = repo.partition("/")[2] if repo.count("/") == 2 else repo
        return {"id": name, "modelId": name, "sha": self._hash(repo), "private": False, "siblings": siblings}

    def _list(self, body, repo, folder=None):
        if repo not in self.repos:
            return 404, {"X-Error-Code": "RepoNotFound"}, b"{}"
        start = f"{folder}/" if folder else ""
        files = {path: data for path, data in self.repos[repo].items() if path.startswith(start)}
        if not files and folder:
            return 404, {"X-Error-Code": "EntryNotFound"}, b"{}"
        return [_describe_file(path, data) for path, data in files.items()]

    def _find_paths(self, body, repo):
        asked = parse_qs(body.decode())["paths"] if body[:1] != b"{" else json.loads(body)["paths"]
        return [_describe_file(path, self.repos[repo][path]) for path in asked if path in self.repos[repo]]

    def _resolve(self, body, repo, path):
        if repo not in self.repos:
            return 404, {"X-Error-Code": "RepoNotFound"}, b""
        if path not in self.repos[repo]:
            return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": self._hash(repo)}, b""
        data = self.repos[repo][path]
        return 200, {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": self._hash(repo)}, data


def _describe_file(path, data):
    return {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}


_KIND = r"(?:models/)?((?:datasets/|spaces/)?[^/]+/[^/]+)"
_ROUTES = [
    (r"POST /api/repos/create", HubStandIn._create),
    (r"POST /api/validate-yaml", HubStandIn._validate),
    (r"GET /api/whoami-v2", lambda hub, body: hub.user),
    (rf"POST /api/{_KIND}/preupload/[^/]+", HubStandIn._choose_ways),
    (r"POST /(.+)\.git/info/lfs/objects/batch", HubStandIn._offer_uploads),
    (r"PUT /_blobs/(\w+)", HubStandIn._take_blob),
    (rf"POST /api/{_KIND}/commit/[^/]+", HubStandIn._commit),
    (rf"POST /api/{_KIND}/paths-info/[^/]+", HubStandIn._find_paths),
    (rf"GET /api/{_KIND}/tree/[^/]+(?:/(.+))?", HubStandIn._list),
    (rf"GET /api/{_KIND}(?:/revision/([^/]+))?", HubStandIn._describe),
    (rf"(?:GET|HEAD) /{_KIND}/resolve/[^/]+/(.+)", HubStandIn._resolve),
]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _reply(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status, headers, data = self.hub.answer(self.command, self.path, body)
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_GET = do_HEAD = do_POST = do_PUT = _reply  # noqa: N815

    def log_message(self, *args):
        pass


if __name__ == "__main__":
    with HubStandIn(int(sys.argv[1])):
        threading.Event().wait()
