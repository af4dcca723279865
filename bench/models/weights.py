"""Trunk weights: where they come from, what is missing, their content hash. A run never downloads anything.

'imagenet' means a published file in torch's hub cache (torchvision's, or the Caffe conversion of BN-Inception),
or the one that the EfficientNet package brings; any other value but 'none' is the path of a local file.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from torch import Tensor, nn

from bench.errors import UsageError
from bench.models import efficientnet

# The first published weights of each network: what papers of this field used.
HUB = {
    "resnet18": "https://download.pytorch.org/models/resnet18-f37072fd.pth",
    "resnet34": "https://download.pytorch.org/models/resnet34-b627a593.pth",
    "resnet50": "https://download.pytorch.org/models/resnet50-0676ba61.pth",
    "googlenet": "https://download.pytorch.org/models/googlenet-1378be20.pth",
    "bn_inception": "http://data.lip6.fr/cadene/pretrainedmodels/bn_inception-52deb4733.pth",
}
# Parts of published files that a trunk has no use for: classifiers, auxiliary heads.
CLASSIFIERS = ("fc.", "_fc.", "last_linear.", "aux1.", "aux2.")


@dataclass(frozen=True)
class Needed:
    """What `weights: imagenet` of one trunk needs: the file, where it comes from, whether it is there."""

    trunk: str
    path: Path | None
    present: bool
    source: str
    how: str


def needed(trunk: str) -> Needed:
    """What a trunk's ImageNet weights need and how to get them.

    Raises:
        UsageError: the trunk has no ImageNet weights.
    """
    if trunk in HUB:
        path = hub_folder() / Path(urlparse(HUB[trunk]).path).name
        how = f"bench weights fetch {trunk}   (or put the file there yourself)"
        return Needed(trunk, path, path.is_file(), HUB[trunk], how)
    if trunk == "efficientnet_lite0":
        path_or_none = efficientnet.weights_file()
        return Needed(
            trunk, path_or_none, path_or_none is not None, f"package {efficientnet.WEIGHTS}", efficientnet.INSTALL
        )
    raise UsageError(f"trunk '{trunk}' has no ImageNet weights: use 'none', or the path of a local file.")


def with_imagenet_weights() -> list[str]:
    """Trunks for which `weights: imagenet` means something."""
    return sorted([*HUB, "efficientnet_lite0"])


def hub_folder() -> Path:
    """Where torchvision keeps downloaded weights (`TORCH_HOME` moves it)."""
    from torch import hub

    return Path(hub.get_dir()) / "checkpoints"


def fetch(trunk: str) -> Path:
    """Download a trunk's weights to torch's hub cache, with a progress bar; the file name's hash is checked.

    Raises:
        UsageError: nothing to download for this trunk, or the download failed.
    """
    from torch import hub

    wanted = needed(trunk)
    if wanted.path is None or trunk not in HUB:
        raise UsageError(f"trunk '{trunk}': its weights come with an installation: {wanted.how}")
    if wanted.present:
        return wanted.path
    wanted.path.parent.mkdir(parents=True, exist_ok=True)
    prefix = wanted.path.stem.rpartition("-")[2]
    try:
        hub.download_url_to_file(HUB[trunk], str(wanted.path), hash_prefix=prefix, progress=True)
    except (OSError, RuntimeError) as error:
        raise UsageError(
            f"weights of trunk '{trunk}' could not be fetched from {HUB[trunk]} ({error}). "
            f"Download them elsewhere and put the file at {wanted.path}"
        ) from None
    return wanted.path


def locate(trunk: str, given: str) -> Path | None:
    """The weights file that a protocol's `trunk.weights` means; None for 'none'.

    Raises:
        UsageError: it is not there; the message says how to get it.
    """
    if given == "none":
        return None
    if given == "imagenet":
        wanted = needed(trunk)
        if not wanted.present or wanted.path is None:
            where = "" if wanted.path is None else f" They belong at {wanted.path}"
            raise UsageError(
                f"ImageNet weights of trunk '{trunk}' are not on this machine. Get them: {wanted.how}.{where}"
            )
        return wanted.path
    path = Path(given).expanduser()
    if not path.is_file():
        raise UsageError(f"weights file {path} of trunk '{trunk}' does not exist (protocol key trunk.weights).")
    return path


def content_hash(trunk: str, given: str) -> str:
    """'none', or the SHA-256 of the weights file's bytes, hex."""
    path = locate(trunk, given)
    if path is None:
        return "none"
    stat = path.stat()
    return _file_hash(str(path.resolve()), stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=16)
def _file_hash(path: str, size: int, changed: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load(net: nn.Module, path: Path, trunk: str) -> None:
    """Fill a network from a state dict, classifier parts left out.

    Raises:
        UsageError: the file holds something else than tensors, or tensors of another network.
    """
    tensors = {key: value for key, value in _read(path).items() if not key.startswith(CLASSIFIERS)}
    own = net.state_dict()
    prefix = next((p for p in ("", "backbone.") if any(p + key in own for key in tensors)), "")
    tensors = {prefix + key: _as_vector(value, own.get(prefix + key)) for key, value in tensors.items()}
    faults = [f"missing {key}" for key in own if key not in tensors and not key.endswith("num_batches_tracked")]
    faults += [f"unexpected {key}" for key in tensors if key not in own]
    faults += [
        f"{key} has shape {tuple(tensors[key].shape)} instead of {tuple(own[key].shape)}"
        for key in own
        if key in tensors and tensors[key].shape != own[key].shape
    ]
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise UsageError(f"weights file {path} is not of trunk '{trunk}': {'; '.join(faults[:3])}{more}.")
    net.load_state_dict(tensors, strict=False)


def _as_vector(found: Tensor, wanted: Tensor | None) -> Tensor:
    """The first torch versions stored batch norm's vectors as one row: early files of BN-Inception do."""
    if wanted is not None and wanted.ndim == 1 and found.shape == (1, *wanted.shape):
        return found[0]
    return found


def _read(path: Path) -> Mapping[str, Tensor]:
    import pickle

    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UsageError(
            f"weights file {path} cannot be read ({os.path.getsize(path)} bytes; {reason}). "
            "It must be a state dict saved by torch.save, or a .safetensors file."
        ) from None
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UsageError(f"weights file {path} is no state dict: expected a mapping of names to tensors.")
    return state
