"""As much of a Kubernetes API as Snakemake's executor talks to; a pod is a process in an empty folder of its own."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlparse

Json = dict[str, Any]
ROOT = Path(__file__).resolve().parent.parent.parent
IMAGE = {
    "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
    "PIP_CONSTRAINT": str(ROOT / "requirements-dev.lock"),
    "PIP_NO_DEPS": "1",
}
"""The environment that workflow/Containerfile makes."""


class Pods:
    """The jobs of a cluster by name, run at most two at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.secrets: dict[str, Json] = {}
        self.jobs: dict[str, Json] = {}
        self.exits: dict[str, int] = {}
        self._slots = threading.Semaphore(2)

    def start(self, job: Json) -> None:
        self.jobs[job["metadata"]["name"]] = job
        threading.Thread(target=self._run, args=(job,), daemon=True).start()

    def _run(self, job: Json) -> None:
        name, pod = job["metadata"]["name"], job["spec"]["template"]["spec"]
        [container] = pod["containers"]
        with self._slots, tempfile.TemporaryDirectory(dir=self.folder) as home:
            work = Path(home) / "work"
            work.mkdir()
            kept = {key: value for key, value in os.environ.items() if key in ("PYTHONPATH", "LANG")}
            environment = kept | IMAGE | {"HOME": home}
            for variable in container["env"]:
                source = variable["valueFrom"]["secretKeyRef"]
                environment[variable["name"]] = base64.b64decode(self.secrets[source["name"]][source["key"]]).decode()
            command = [*container["command"], *container["args"]]
            with self.log(name).open("w") as log:
                done = subprocess.run(command, cwd=work, env=environment, stdout=log, stderr=log, check=False)
        self.exits[name] = done.returncode

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def status(self, name: str) -> Json:
        code = self.exits.get(name)
        return {} if code is None else {"succeeded": int(code == 0), "failed": int(code != 0)}

    def pods(self, name: str) -> list[Json]:
        if name not in self.jobs:
            return []
        code = self.exits.get(name)
        state = {"running": {}} if code is None else {"terminated": {"exitCode": code}}
        container = {
            "name": "snakemake",
            "image": "",
            "imageID": "",
            "ready": True,
            "restartCount": 0,
            "state": state,
        }
        return [{"metadata": {"name": name}, "status": {"containerStatuses": [container]}}]


class Api:
    """The server, on a free port of this machine."""

    def __init__(self, folder: Path) -> None:
        self.pods = pods = Pods(folder)

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

            def _answer(self, content: Json | str, code: int = 200) -> None:
                body = (content if isinstance(content, str) else json.dumps(content)).encode()
                self.send_response(code)
                self.send_header("Content-Type", "text/plain" if isinstance(content, str) else "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def _body(self) -> Json:
                return json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")

            def do_POST(self) -> None:
                body = self._body()
                if self.path.endswith("/secrets"):
                    pods.secrets[body["metadata"]["name"]] = body.get("data", {})
                else:
                    pods.start(body)
                self._answer(body, 201)

            def do_GET(self) -> None:
                url = urlparse(self.path)
                if job := re.search(r"/jobs/([^/]+)/status$", url.path):
                    name = job[1]
                    self._answer({"metadata": {"name": name}, "status": pods.status(name)})
                elif pod := re.search(r"/pods/([^/]+)/log$", url.path):
                    self._answer(pods.log(pod[1]).read_text())
                else:
                    [selector] = parse_qs(url.query)["labelSelector"]
                    self._answer({"items": pods.pods(selector.removeprefix("job-name="))})

            def do_DELETE(self) -> None:
                self._body()
                self._answer({})

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def write_kubeconfig(self, path: Path) -> None:
        cluster = {"name": "here", "cluster": {"server": self.address}}
        context = {"name": "here", "context": {"cluster": "here", "user": "nobody"}}
        users = [{"name": "nobody", "user": {}}]
        config = {"apiVersion": "v1", "kind": "Config", "current-context": "here", "users": users}
        path.write_text(json.dumps(config | {"clusters": [cluster], "contexts": [context]}))

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
