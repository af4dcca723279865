"""Trunk, embedder and method put together as the protocol says, and how they embed images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.errors import Diverged, MethodError
from bench.method import Context, Method
from bench.protocol import Embedding, Protocol
from bench.training.inputs import Inputs, Positions
from bench.training.parts import Part
from bench.training.streams import Streams

EVALUATION_BATCH = 128


@dataclass
class Learner:
    """What is trained. `trunk` is None where the protocol freezes it: inputs are its features then."""

    protocol: Protocol
    trunk: nn.Module | None
    embedder: nn.Module
    method: Method
    trunk_dim: int
    device: torch.device

    def features(self, inputs: Tensor) -> Tensor:
        """Trunk features float32 (B, F) of a batch of inputs."""
        inputs = inputs.to(self.device, non_blocking=True)
        if self.trunk is None:
            return inputs
        low = self.protocol.precision == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=low):
            features: Tensor = self.trunk(inputs)
        return features.float()

    def normalized(self, raw: Tensor) -> Tensor:
        """Embeddings (B, D) from raw embeddings, L2-normalised if the protocol says so."""
        return functional.normalize(raw, dim=1) if self.protocol.embedding.normalize else raw

    def modules(self) -> list[nn.Module]:
        """All parts that have a training mode."""
        return [m for m in (self.trunk, self.embedder, self.method) if m is not None]

    def train(self, mode: bool) -> None:
        """Switch all parts between training and evaluation."""
        for module in self.modules():
            module.train(mode)

    def own_parameters(self) -> list[nn.Parameter]:
        """Parameters that the method brings: neither the trunk's nor the embedder's."""
        shared = [m for m in (self.trunk, self.embedder) if m is not None]
        fixed = {id(p) for module in shared for p in module.parameters()}
        return [p for p in self.method.parameters() if id(p) not in fixed]

    def weights(self) -> dict[str, Tensor]:
        """What is needed to embed images later: trunk (unless frozen), embedder, and the method if it embeds."""
        parts: dict[str, nn.Module] = {"embedder": self.embedder}
        if self.trunk is not None:
            parts["trunk"] = self.trunk
        if type(self.method).embed is not Method.embed:
            parts["method"] = self.method
        return {f"{part}.{name}": t for part, module in parts.items() for name, t in module.state_dict().items()}

    def load_weights(self, tensors: dict[str, Tensor]) -> None:
        """Undo `weights()`."""
        parts = {"embedder": self.embedder, "trunk": self.trunk, "method": self.method}
        for part, module in parts.items():
            own = {name.removeprefix(f"{part}."): t for name, t in tensors.items() if name.startswith(f"{part}.")}
            if own and module is not None:
                module.load_state_dict(own)

    def embed(
        self, inputs: Inputs, count: int, tick: Callable[[int], None] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Features float32 (count, F) and embeddings float32 (count, D) of a whole side, evaluation transform.

        Raises:
            MethodError: embeddings of a wrong shape.
            Diverged: an embedding is NaN or infinite.
        """
        modes = [module.training for module in self.modules()]
        self.train(False)
        features, embeddings = [], []
        with torch.inference_mode():
            for start in range(0, count, EVALUATION_BATCH):
                positions: Positions = np.arange(start, min(start + EVALUATION_BATCH, count))
                trunk_features = self.features(inputs.evaluation(positions))
                raw = self.method.embed(trunk_features, self.embedder).float()
                self.check_shape(raw, len(positions))
                features.append(trunk_features.cpu())
                embeddings.append(self.normalized(raw).cpu())
                if tick is not None:
                    tick(len(positions))
        for module, mode in zip(self.modules(), modes, strict=True):
            module.train(mode)
        result = torch.cat(embeddings)
        if not torch.isfinite(result).all():
            raise Diverged(f"method '{self.method.name}': embeddings are NaN or infinite")
        return torch.cat(features).numpy(), result.numpy()

    def check_shape(self, raw: Tensor, rows: int) -> None:
        """The protocol's embedding size holds for every method that trains; references may differ, visibly."""
        size = self.protocol.embedding.size
        if raw.ndim != 2 or len(raw) != rows or (self.method.trains and raw.shape[1] != size):
            raise MethodError(
                f"method '{self.method.name}': its embedder returned shape {tuple(raw.shape)}, "
                f"the protocol asks for ({rows}, {size})."
            )


def start_layers(embedder: nn.Module, settings: Embedding) -> None:
    """Draw the linear layers of an embedder anew, as the protocol says; left as they are under 'pytorch'."""
    if settings.init == "pytorch":
        return
    for layer in embedder.modules():
        if isinstance(layer, nn.Linear):
            if settings.init == "kaiming_normal":
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            else:
                nn.init.xavier_uniform_(layer.weight, gain=settings.gain)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def build_learner(
    protocol: Protocol,
    method: Method,
    make_trunk: Callable[[], nn.Module] | None,
    trunk_dim: int,
    part: Part,
    streams: Streams,
    device: torch.device,
) -> Learner:
    """Same seed, same initial trunk and embedder for every method: both are drawn from the 'init' stream."""
    with streams.world("init"):
        trunk = None if make_trunk is None else make_trunk()
        embedder = method.embedder(trunk_dim, protocol.embedding.size)
        start_layers(embedder, protocol.embedding)
    labels, _, targets = part.tensors(device)
    context = Context(
        num_classes=part.classes,
        labels=labels,
        trunk_dim=trunk_dim,
        embedding_size=protocol.embedding.size,
        iterations=protocol.budget.iterations,
        device=device,
        targets=targets,
    )
    with streams.world("method"):
        method.build(context)
    if trunk is not None:
        trunk = trunk.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Learner(protocol, trunk, embedder.to(device), method.to(device), trunk_dim, device)
