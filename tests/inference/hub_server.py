"""A stand-in for the Hugging Face Hub: what huggingface_hub asks of it over HTTP, on this machine."""

import base64
import hashlib
import json
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote, urlsplit

TOKEN = "hf_of_the_tests"


class Hub:
    """`repos`: name → {"private": …, "commits": {revision: {file: content}}}, the last commit being main."""

    def __init__(self):
        self.repos: dict[str, dict] = {}
        self.large: dict[str, bytes] = {}  # what was uploaded as LFS, by its SHA-256
        self.asked: list[str] = []
        self.closed = False
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """From then on nobody answers."""
        self.closed = True
        self._server.shutdown()
        self._server.server_close()

    def commit(self, name: str, files: dict[str, bytes]) -> str:
        """A commit that adds files or gives them other content; its revision."""
        commits = self.repos.setdefault(name, {"private": False, "commits": {}})["commits"]
        tree = {**(list(commits.values())[-1] if commits else {}), **files}
        revision = hashlib.sha1(json.dumps([name, len(commits)]).encode()).hexdigest()
        commits[revision] = tree
        return revision

    def files(self, name: str) -> dict[str, bytes]:
        """What lies there now."""
        return list(self.repos[name]["commits"].values())[-1]


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_) -> None:
        pass

    def parse_request(self) -> bool:
        self.close_connection = self.hub.closed  # one that was kept open
        return not self.hub.closed and super().parse_request()

    def _send(self, status: int, content: bytes | dict, **headers: str) -> None:
        content = json.dumps(content).encode() if isinstance(content, dict) else content
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _refuse(self, status: int, code: str) -> None:
        self._send(status, {"error": code}, X_Error_Code=code)

    def _may(self, name: str) -> bool:
        known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        return name in self.hub.repos and (known or not self.hub.repos[name]["private"])

    def _tree(self, name: str, revision: str) -> tuple[str, dict] | None:
        commits = self.hub.repos[name]["commits"]
        revision = list(commits)[-1] if revision == "main" else revision
        return (revision, commits[revision]) if revision in commits else None

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(f"{self.command} {path}")
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            name, revision = found[1], found[2] or "main"
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            name, revision = found[1], found[2]
        else:
            return self._refuse(404, "NotFound")
        if not self._may(name):
            return self._refuse(401, "RepoNotFound")  # as the Hub answers for what is private, too
        if not (tree := self._tree(name, revision)):
            return self._refuse(404, "RevisionNotFound")
        commit, files = tree
        if path.startswith("/api/"):
            siblings = [{"rfilename": file} for file in files]
            return self._send(200, {"id": name, "modelId": name, "sha": commit, "siblings": siblings})
        if found[3] not in files:
            return self._send(404, b"", X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
        content = files[found[3]]
        tag = f'"{hashlib.sha256(content).hexdigest()}"'
        return self._send(200, content, ETag=tag, X_Repo_Commit=commit)

    def do_POST(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(f"POST {path}")
        body = self._body()
        if path == "/api/validate-yaml":
            return self._send(200, {"errors": [], "warnings": []})
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._refuse(401, "Unauthorized")
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            if asked["organization"] != "owner":
                return self._refuse(403, "Forbidden")
            private = asked.get("private", asked.get("visibility") == "private")
            self.hub.repos.setdefault(name, {"private": bool(private), "commits": {"0" * 40: {}}})
            return self._send(200, {"url": f"{self.hub.url}/{name}", "name": name})
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/main", path):
            files = json.loads(body)["files"]
            modes = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith((".h5", ".keras", ".png")) else "regular",
                    "shouldIgnore": False,
                }
                for file in files
            ]
            return self._send(200, {"files": modes})
        if re.fullmatch(r"/[^/]+/[^/]+\.git/info/lfs/objects/batch", path):
            objects = [
                {**each, "actions": {"upload": {"href": f"{self.hub.url}/lfs/{each['oid']}", "header": {}}}}
                for each in json.loads(body)["objects"]
            ]
            return self._send(200, {"transfer": "basic", "objects": objects})
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", path):
            files = {}
            for each in map(json.loads, body.splitlines()):
                value = each["value"]
                if each["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif each["key"] == "lfsFile":
                    files[value["path"]] = self.hub.large[value["oid"]]
            revision = self.hub.commit(found[1], files)
            address = f"{self.hub.url}/{found[1]}/commit/{revision}"
            return self._send(200, {"success": True, "commitUrl": address, "commitOid": revision})
        return self._refuse(404, "NotFound")

    def do_PUT(self) -> None:
        content = self._body()
        named = urlsplit(self.path).path.rpartition("/")[2]
        if hashlib.sha256(content).hexdigest() != named:
            return self._refuse(400, "BadRequest")
        self.hub.large[named] = content
        return self._send(200, b"")

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        content = b""
        while size := int(self.rfile.readline(), 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content
