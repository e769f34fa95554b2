"""A stand-in for the parts of the Hugging Face Hub's API that downloads and uploads use."""

import base64
import contextlib
import hashlib
import json
import re
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

TOKEN = "hf_of_the_stand_in"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Repositories in memory.

    Attributes:
        files: The content of each file by the repository and its path.
        private: Repositories that need the token.
        gated: Repositories that even the token does not open.
        requests: The method and path of each request.
        address: Of the server.
    """

    def __init__(self):
        self.files: dict[str, dict[str, bytes]] = {}
        self.private: set[str] = set()
        self.gated: set[str] = set()
        self.requests: list[str] = []
        self.objects: dict[str, bytes] = {}
        self.address = ""


class Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    protocol_version = "HTTP/1.1"

    def __init__(self, hub, *arguments):
        self.hub = hub
        super().__init__(*arguments)

    def log_message(self, *args):
        pass

    def answer(self, status, content=b"", **headers):
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
            headers.setdefault("Content_Type", "application/json")
        self.send_response(status)
        headers.setdefault("Content_Length", len(content))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def route(self):
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        may_write = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if match := re.fullmatch(r"/([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)", path):
            self.resolve(*match.groups())
        elif match := re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)/tree/([^/]+)", path):
            names = self.hub.files[match[1]].items()
            self.answer(
                200, [dict(type="file", path=n, size=len(c), oid="0" * 40) for n, c in names]
            )
        elif path.startswith("/objects/"):  # The address itself is the permission.
            assert hashlib.sha256(body).hexdigest() == path.rpartition("/")[2]
            self.hub.objects[path.rpartition("/")[2]] = body
            self.answer(200)
        elif not may_write:
            self.answer(401, {"error": "Invalid username or password."})
        elif path == "/api/repos/create":
            wanted = json.loads(body)
            name = f"{wanted['organization']}/{wanted['name']}"
            self.hub.files.setdefault(name, {})
            if wanted.get("visibility") == "private":
                self.hub.private.add(name)
            self.answer(200, {"url": f"{self.hub.address}/{name}"})
        elif path == "/api/validate-yaml":
            self.answer(200, {"errors": [], "warnings": []})
        elif path.endswith("/preupload/main"):
            files = json.loads(body)["files"]
            modes = ["regular" if x["path"].endswith(".md") else "lfs" for x in files]
            told = [
                {"path": x["path"], "uploadMode": mode, "shouldIgnore": False}
                for x, mode in zip(files, modes, strict=True)
            ]
            self.answer(200, {"files": told})
        elif path.endswith(".git/info/lfs/objects/batch"):
            wanted = json.loads(body)["objects"]
            objects = [
                x | {"actions": {"upload": {"href": f"{self.hub.address}/objects/{x['oid']}"}}}
                for x in wanted
            ]
            self.answer(200, {"transfer": "basic", "objects": objects})
        elif match := re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)/commit/main", path):
            self.commit(match[1], body)
        else:
            self.answer(404, {"error": f"no {path}"})

    do_GET = do_HEAD = do_POST = do_PUT = route

    def resolve(self, name, revision, path):
        files = self.hub.files.get(name)
        may_read = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if name in self.hub.gated:
            self.answer(403, X_Error_Code="GatedRepo")
        elif files is None or (name in self.hub.private and not may_read):
            self.answer(401, X_Error_Code="RepoNotFound")
        elif revision not in ("main", COMMIT):
            self.answer(404, X_Error_Code="RevisionNotFound")
        elif path not in files:
            self.answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
        else:
            digest = hashlib.sha256(files[path]).hexdigest()
            self.answer(200, files[path], ETag=f'"{digest}"', X_Repo_Commit=COMMIT)

    def commit(self, name, body):
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                self.hub.files[name][value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.hub.files[name][value["path"]] = self.hub.objects[value["oid"]]
        told = {"commitUrl": f"{self.hub.address}/{name}/commit/{COMMIT}", "commitOid": COMMIT}
        self.answer(200, told | {"pullRequestUrl": None})


@contextlib.contextmanager
def serving():
    """Runs a stand-in on this machine."""
    hub = Hub()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, hub)) as server:
        thread = threading.Thread(target=partial(server.serve_forever, poll_interval=0.01))
        thread.start()
        hub.address = f"http://127.0.0.1:{server.server_port}"
        yield hub
        server.shutdown()
        thread.join()
