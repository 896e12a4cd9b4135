import hashlib
import json
import logging
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from transformers import PreTrainedModel

from moe_models import build_model
from var_core.config.models import FolderModel, HubModel
from var_core.errors import VarError
from var_core.files import read_json
from var_core.models.fetch import fetch_model
from var_core.models.folder import folder_digest
from var_core.models.loading import load_model

Save = Callable[[PreTrainedModel, Path], Path]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
HUB_MODEL = HubModel(source="hub", repo="someone/tiny-moe", revision=COMMIT)


@pytest.fixture
def folder(save_model: Save, tmp_path: Path) -> Path:
    return save_model(build_model("mixtral"), tmp_path / "model").parent


def test_folder_is_recorded_where_it_lies_and_loads(
    moe_model: PreTrainedModel, save_model: Save, tmp_path: Path
) -> None:
    folder = save_model(moe_model, tmp_path / "model").parent
    before = sorted(path.name for path in folder.iterdir())
    record = tmp_path / "results" / "models" / "mine" / "model.json"
    fetch_model("mine", FolderModel(source="folder", path=str(folder)), record, "c0de")
    assert read_json(record) == {
        "model": "mine",
        "source": "folder",
        "path": str(folder),
        "revision": None,
        "digest": folder_digest(folder),
        "code": "c0de",
    }
    assert sorted(path.name for path in folder.iterdir()) == before
    loaded = load_model(record, head=True, device="cpu")
    for name, weight in moe_model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], weight), name


def test_relative_path_is_taken_from_the_working_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    record = tmp_path / "results" / "model.json"
    fetch_model("mine", FolderModel(source="folder", path=folder.name), record, "code")
    monkeypatch.chdir("/")
    assert load_model(record, head=False, device="cpu").folder.samefile(folder)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("config.json", r"models\.mine: .*no config\.json"),
        ("tokenizer.json", r"models\.mine: .*no tokenizer"),
        ("model.safetensors", r"models\.mine: .*pickled weights"),
        (None, r"models\.mine\.path: .*no such folder"),
    ],
)
def test_incomplete_folder_leaves_no_record(folder: Path, tmp_path: Path, file: str | None, message: str) -> None:
    torch.save({}, folder / "pytorch_model.bin")
    if file is not None:
        (folder / file).unlink()
    path = folder if file is not None else tmp_path / "nowhere"
    record = tmp_path / "results" / "model.json"
    with pytest.raises(VarError, match=message):
        fetch_model("mine", FolderModel(source="folder", path=str(path)), record, "code")
    assert not record.exists()


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's HTTP interface as downloading a snapshot uses, over a folder."""

    files: dict[str, bytes]
    requested: list[str]
    refusal: str | None
    failing: bool = False

    def do_HEAD(self) -> None:
        self.do_GET(body=False)

    def do_GET(self, body: bool = True) -> None:
        parts = self.path.split("?")[0].strip("/").split("/")
        if parts[:3] == ["api", "models", "someone"]:
            self._answer_api(parts[3:])
        elif parts[:4] == ["someone", "tiny-moe", "resolve", COMMIT] and "/".join(parts[4:]) in self.files:
            name = "/".join(parts[4:])
            if body:
                self.requested.append(name)
            self._send(200, self.files[name], body, {"X-Repo-Commit": COMMIT, "ETag": f'"{blob_id(self.files[name])}"'})
        else:
            self._send(404, b"{}", body, {"X-Error-Code": "EntryNotFound"})

    def _answer_api(self, parts: list[str]) -> None:
        if self.failing:
            self._send(400, b"{}", True, {})
        elif self.refusal == "GatedRepo":
            self._send(403, b"{}", True, {"X-Error-Code": "GatedRepo"})
        elif parts[0] != "tiny-moe":
            self._send(404, b"{}", True, {"X-Error-Code": "RepoNotFound"})
        elif parts[2] != COMMIT[: len(parts[2])]:
            self._send(404, b"{}", True, {"X-Error-Code": "RevisionNotFound"})
        elif parts[1] == "tree":
            entries = [
                {"type": "file", "path": name, "size": len(data), "oid": blob_id(data)}
                for name, data in self.files.items()
            ]
            self._send(200, json.dumps(entries).encode(), True, {"Content-Type": "application/json"})
        else:
            about = {"id": "someone/tiny-moe", "sha": COMMIT, "siblings": [{"rfilename": name} for name in self.files]}
            self._send(200, json.dumps(about).encode(), True, {"Content-Type": "application/json"})

    def _send(self, status: int, data: bytes, body: bool, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Stay quiet."""


def blob_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@pytest.fixture
def online(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache, no token, and nothing listening where the hub should be."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
    place_hub(monkeypatch, "http://127.0.0.1:9")


def place_hub(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    """Do what HF_ENDPOINT does, which is read once for a process."""
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture
def hub(online: None, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    """A hub on the loopback interface that serves ``folder`` and files that nobody should fetch."""
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "model.json"}
    unwanted = ("pytorch_model.bin", "onnx/model.safetensors", "consolidated.00.safetensors", "own.py", "picture.png")
    handler = type(
        "HubHere", (Hub,), {"files": {**files, **dict.fromkeys(unwanted, b"x")}, "requested": [], "refusal": None}
    )
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    place_hub(monkeypatch, f"http://127.0.0.1:{server.server_port}")
    yield handler
    server.shutdown()
    server.server_close()
    thread.join()


def test_pinned_revision_is_downloaded_once_and_then_used_offline(
    hub: type[Hub], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = tmp_path / "results" / "model.json"
    fetch_model("mine", HUB_MODEL, record, "code")
    about = read_json(record)
    assert (about["source"], about["repo"], about["revision"]) == ("hub", "someone/tiny-moe", COMMIT)
    assert about["digest"] == folder_digest(folder)
    assert sorted(hub.requested) == sorted(path.name for path in folder.iterdir() if path.name != "model.json")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    hub.requested.clear()
    fetch_model("mine", HUB_MODEL, record, "code")
    assert hub.requested == [] and read_json(record) == about
    assert load_model(record, head=True, device="cpu").revision == COMMIT


def test_code_is_downloaded_only_when_trusted(hub: type[Hub], tmp_path: Path) -> None:
    config = HUB_MODEL.model_copy(update={"trust_remote_code": True})
    fetch_model("mine", config, tmp_path / "results" / "model.json", "code")
    assert "own.py" in hub.requested and "pytorch_model.bin" not in hub.requested


def test_short_revision_is_recorded_in_full(hub: type[Hub], tmp_path: Path) -> None:
    record = tmp_path / "results" / "model.json"
    fetch_model("mine", HUB_MODEL.model_copy(update={"revision": COMMIT[:10]}), record, "code")
    assert read_json(record)["revision"] == COMMIT


def test_repository_with_pickled_weights_only_is_refused(hub: type[Hub], tmp_path: Path) -> None:
    del hub.files["model.safetensors"]
    with pytest.raises(VarError, match=r"models\.mine: .*holds no weights"):
        fetch_model("mine", HUB_MODEL, tmp_path / "results" / "model.json", "code")
    assert "pytorch_model.bin" not in hub.requested


@pytest.mark.parametrize(
    ("changes", "refusal", "message"),
    [
        ({"repo": "someone/other"}, None, r"models\.mine\.repo: the hub has no repository someone/other"),
        ({"repo": "not a name"}, None, r"models\.mine\.repo: 'not a name' is not the name"),
        ({"revision": "f" * 40}, None, r"models\.mine\.revision: someone/tiny-moe has no revision f"),
        ({"revision": "main-branch"}, None, r"models\.mine\.revision: .* no revision main-branch"),
        ({}, "GatedRepo", r"models\.mine\.repo: someone/tiny-moe is gated"),
    ],
)
def test_what_the_hub_refuses_is_one_line(
    hub: type[Hub], tmp_path: Path, changes: dict[str, Any], refusal: str | None, message: str
) -> None:
    hub.refusal = refusal
    record = tmp_path / "results" / "model.json"
    with pytest.raises(VarError, match=message) as error:
        fetch_model("mine", HUB_MODEL.model_copy(update=changes), record, "code")
    assert "\n" not in str(error.value)
    assert not record.exists()


def test_unreachable_hub_is_one_line(online: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the client waits 23 s between its tries
    with pytest.raises(VarError, match=r"models\.mine: .*not in the cache.*check the network") as error:
        fetch_model("mine", HUB_MODEL, tmp_path / "model.json", "code")
    assert "\n" not in str(error.value)
    assert list(tmp_path.glob("*.json")) == []


def test_download_is_tried_again_after_faults_of_the_network_only(
    hub: type[Hub], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if seconds == 5:
            hub.failing = False

    monkeypatch.setattr("var_core.models.fetch.time.sleep", sleep)
    hub.failing = True
    fetch_model("mine", HUB_MODEL, tmp_path / "model.json", "code")
    assert 5 in waits and 20 not in waits
    assert caplog.text.count("trying again") == 1
    hub.refusal = "GatedRepo"
    with pytest.raises(VarError, match="is gated"):
        fetch_model("other", HUB_MODEL.model_copy(update={"revision": "a" * 40}), tmp_path / "other.json", "code")
    assert caplog.text.count("trying again") == 1


def test_lost_download_says_what_to_do(hub: type[Hub], tmp_path: Path) -> None:
    record = tmp_path / "results" / "model.json"
    fetch_model("mine", HUB_MODEL, record, "code")
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(VarError, match=r"models\.mine is no longer there; run `snakemake --forcerun fetch_model`"):
        load_model(record, head=True, device="cpu")


def test_offline_without_a_copy_is_one_line(online: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(VarError, match=r"models\.mine: .*HF_HUB_OFFLINE"):
        fetch_model("mine", HUB_MODEL, tmp_path / "model.json", "code")


def test_model_with_own_code_is_announced(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "own.Model"}}))
    with caplog.at_level(logging.WARNING, "var_core"):
        fetch_model("mine", FolderModel(source="folder", path=str(folder)), tmp_path / "model.json", "code")
    assert "models.mine.trust_remote_code" in caplog.text
