"""A real S3 server on loopback, and before it a server of ours that counts requests and lets some of them fail."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

LOOPBACK = "127.0.0.1"
CLOSED = f"http://{LOOPBACK}:9"
"""Nothing listens there, so whatever is not for loopback ends at once."""


@dataclass(frozen=True)
class Request:
    """One request, as it was answered to the client; status 0 where the connection was dropped."""

    method: str
    path: str
    status: int
    received: int
    sent: int


class FrontServer(ThreadingHTTPServer):
    """Passes requests on to the S3 server; every n-th fails, in one of four ways after another."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, behind: int) -> None:
        super().__init__((LOOPBACK, 0), _Handler)
        self.behind = behind
        self.requests: list[Request] = []
        self.fail_every = 0
        self._number = 0
        self._lock = threading.Lock()

    def fault(self) -> str | None:
        """What goes wrong with the next request."""
        with self._lock:
            self._number += 1
            if not self.fail_every or self._number % self.fail_every:
                return None
            return ("500", "503", "lost request", "lost answer")[self._number // self.fail_every % 4]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FrontServer

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.server.fault()
        if fault in ("500", "503"):
            self._answer(int(fault), [], b"", len(body))
        elif fault == "lost request":
            self._drop(len(body))
        else:
            # The headers as they came: Host is part of the signature.
            connection = HTTPConnection(LOOPBACK, self.server.behind, timeout=60)
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name != "Expect":
                    connection.putheader(name, value)
            connection.endheaders(body)
            response = connection.getresponse()
            content = response.read()
            connection.close()
            if fault == "lost answer":
                self._drop(len(body))
            else:
                self._answer(response.status, _kept(response, content), content, len(body))

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass_on  # noqa: N815

    def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes, received: int) -> None:
        self.server.requests.append(Request(self.command, self.path, status, received, len(content)))
        self.send_response_only(status)
        for name, value in headers or [("Content-Length", "0")]:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def _drop(self, received: int) -> None:
        self.server.requests.append(Request(self.command, self.path, 0, received, 0))
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, format: str, *arguments: object) -> None:
        """The list of requests is the log."""


def _kept(response: HTTPResponse, content: bytes) -> list[tuple[str, str]]:
    """Headers of an answer, with a length where it came in chunks; that of HEAD is the object's, not the answer's."""
    headers = [
        (name, value)
        for name, value in response.getheaders()
        if name.lower() not in ("connection", "transfer-encoding")
    ]
    if not any(name.lower() == "content-length" for name, _ in headers):
        headers.append(("Content-Length", str(len(content))))
    return headers


@dataclass(frozen=True)
class S3:
    """The two servers, a bucket in them, and the one user who may use it."""

    front: FrontServer
    logs: Path
    bucket: str
    key: str
    secret: str

    @property
    def endpoint(self) -> str:
        """Where clients find the servers."""
        return f"http://{LOOPBACK}:{self.front.server_port}"

    def environment(self, **more: str) -> dict[str, str]:
        """The environment of every process that may speak S3; none of its requests can leave the machine."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "SNAKEMAKE_"))}
        proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy"), CLOSED)
        endpoints = ("SNAKEMAKE_STORAGE_S3_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
        return {
            **kept,
            **proxies,
            **dict.fromkeys(endpoints, self.endpoint),
            "NO_PROXY": LOOPBACK,
            "no_proxy": LOOPBACK,
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            **more,
        }

    def client(self) -> Any:
        """A client of the S3 server itself, past the one in front of it."""
        return _client("s3", self.front.behind, self.key, self.secret)

    def fetch(self, prefix: str, folder: Path) -> None:
        """Copy every object under a prefix into a folder."""
        client = self.client()
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=f"{prefix}/"):
            for found in page.get("Contents", []):
                path = folder / found["Key"].removeprefix(f"{prefix}/")
                path.parent.mkdir(parents=True, exist_ok=True)
                client.download_file(self.bucket, found["Key"], str(path))


@contextmanager
def s3_servers(folder: Path, bucket: str = "var") -> Iterator[S3]:
    """Start both servers, with a bucket and a user; whoever signs with another key is refused."""
    port = _free_port()
    command = [sys.executable, "-m", "moto.server", "-H", LOOPBACK, "-p", str(port)]
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        _wait_for(server, port)
        front = FrontServer(port)
        threading.Thread(target=front.serve_forever, daemon=True).start()
        try:
            yield S3(front, folder, bucket, *_user_with_bucket(port, bucket))
        finally:
            front.shutdown()
            front.server_close()
    finally:
        server.terminate()
        server.wait(timeout=20)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return probe.getsockname()[1]


def _wait_for(server: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + 60
    while server.poll() is None and time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex((LOOPBACK, port)) == 0:
                return
        time.sleep(0.1)
    raise RuntimeError("the S3 server did not start")


def _client(service: str, port: int, key: str, secret: str) -> Any:
    return boto3.client(
        service,
        endpoint_url=f"http://{LOOPBACK}:{port}",
        region_name="us-east-1",
        aws_access_key_id=key,
        aws_secret_access_key=secret,
        config=Config(proxies={}),
    )


def _user_with_bucket(port: int, bucket: str) -> tuple[str, str]:
    """Make the bucket and a user with a key to it; from then on the server checks signatures."""
    _client("s3", port, "anybody", "nothing").create_bucket(Bucket=bucket)
    users = _client("iam", port, "anybody", "nothing")
    users.create_user(UserName="var")
    key = users.create_access_key(UserName="var")["AccessKey"]
    allowed = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [allowed]})
    users.put_user_policy(UserName="var", PolicyName="storage", PolicyDocument=policy)
    check = urllib.request.Request(
        f"http://{LOOPBACK}:{port}/moto-api/reset-auth", data=b"0", headers={"Content-Type": "text/plain"}
    )
    urllib.request.build_opener(urllib.request.ProxyHandler({})).open(check, timeout=20).close()
    return key["AccessKeyId"], key["SecretAccessKey"]
