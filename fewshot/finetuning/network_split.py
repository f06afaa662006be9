"""A network in two: a frozen trunk, computed once per image, and a top that trains, computed at every step."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, fx, nn

from fewshot.encoders import features, fuse_batch_norms, to_bfloat16
from fewshot.finetuning.lora import Adapter

# Of the largest feature: both halves compute what the network does, so that only the order of sums could differ.
_TOLERANCE = 1e-4


class PooledNetwork(nn.Module):
    """A network with its pooling: from normalised images (n, 3, h, w) to features (n, d)."""

    def __init__(self, network: nn.Module, pool: str | None) -> None:
        super().__init__()
        self.network = network
        self._pool = pool

    def forward(self, x: Tensor) -> Tensor:
        """Return the features."""
        if self._pool is None:  # without a check of the shape, which a traced pass does not have
            out: Tensor = self.network(x)
            return out
        return features(self.network, x, layer=None, pool=self._pool)


class FrozenTrunk(nn.Module):
    """What comes before the split: from images (n, 3, h, w) to a tuple of feature maps (n, ...).

    Parameters
    ----------
    part : nn.Module or None
        None where everything trains: the images themselves are the maps.
    """

    def __init__(self, part: nn.Module | None) -> None:
        super().__init__()
        self.part = part

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the maps."""
        if self.part is None:
            return (x,)
        out: Tensor | tuple[Tensor, ...] = self.part(x)
        return out if isinstance(out, tuple) else (out,)


def split_network(network: nn.Module, pool: str | None, example: Tensor) -> tuple[FrozenTrunk, nn.Module]:
    """Split a network before the first operation that has a parameter with gradients.

    Where that is, is found by tracing the network's own forward pass, so that any architecture whose pass can be traced
    is split. The halves are compared with the network on ``example`` (1, 3, h, w); where they differ, or the pass
    cannot be traced, the top is the whole network. A network without gradients is all trunk.

    Returns
    -------
    trunk : FrozenTrunk
    top : nn.Module
        From the maps, as arguments, to features (n, d). Both share the network's parameters.
    """
    whole = PooledNetwork(network, pool)
    if not any(parameter.requires_grad for parameter in network.parameters()):
        return FrozenTrunk(whole), nn.Identity()
    try:
        trunk, top = _halves(whole)
        with torch.no_grad():
            wanted, two = whole(example), torch.cat([example, 1 - example])
            maps = trunk(two)
            same = _close(top(*trunk(example)), wanted) and all(len(each) == 2 for each in maps)
    except Exception:  # whatever a traced pass may raise: a network is traced or it is not
        same = False
    return (trunk, top) if same else (FrozenTrunk(None), whole)


def inference_trunk(trunk: FrozenTrunk, example: Tensor, device: torch.device, precision: str) -> FrozenTrunk:
    """Return a copy of a trunk, converted as an encoder is: norms folded on a CPU, in bfloat16 where asked for."""
    converted = copy.deepcopy(trunk).requires_grad_(False)
    if converted.part is not None:
        if device.type == "cpu":
            fuse_batch_norms(converted.part, example, lambda x: torch.cat([m.flatten(1) for m in converted(x)], 1))
        converted = to_bfloat16(converted, device) if precision == "bfloat16" else converted.to(device)  # type: ignore[assignment]
    for weight in converted.parameters():
        if weight.ndim == 4:
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)
    return converted


class _Tracer(fx.Tracer):
    """Traces into a module only where some of its parameters train and others do not."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        trained = {parameter.requires_grad for parameter in m.parameters()}
        return len(trained) < 2 or isinstance(m, Adapter) or not any(True for _ in m.children())


def _halves(whole: nn.Module) -> tuple[FrozenTrunk, nn.Module]:
    traced = fx.GraphModule(whole, _Tracer().trace(whole))
    of_image: set[fx.Node] = set()  # depends on the image
    of_trained: set[fx.Node] = set()  # depends on what trains
    for node in traced.graph.nodes:
        if node.op == "placeholder" or any(source in of_image for source in node.all_input_nodes):
            of_image.add(node)
        if any(source in of_trained for source in node.all_input_nodes) or _trains(traced, node):
            of_trained.add(node)
    used = [source for node in traced.graph.nodes if node in of_trained for source in node.all_input_nodes]
    edge = [node for node in traced.graph.nodes if node in of_image and node not in of_trained and node in used]
    if [node.op for node in edge] == ["placeholder"]:
        return FrozenTrunk(None), whole
    (image,) = (node for node in traced.graph.nodes if node.op == "placeholder")
    (output,) = (node for node in traced.graph.nodes if node.op == "output")
    # What depends on neither, such as position embeddings, each half computes for itself.
    return FrozenTrunk(_part(traced, [image], edge)), _part(traced, edge, [output.args[0]])


def _part(traced: fx.GraphModule, given: Sequence[fx.Node], wanted: Sequence[fx.Node]) -> fx.GraphModule:
    """Copy the nodes between the given ones and the wanted ones into a function; it returns a tuple of several."""
    needed, waiting = set(given), list(wanted)
    while waiting:
        node = waiting.pop()
        if node not in needed:
            needed.add(node)
            waiting += node.all_input_nodes
    graph = fx.Graph()
    copies = {node: graph.placeholder(node.name) for node in given}
    for node in traced.graph.nodes:
        if node in needed and node not in copies:
            copies[node] = graph.node_copy(node, copies.__getitem__)
    results = tuple(copies[node] for node in wanted)
    graph.output(results[0] if len(results) == 1 else results)
    return fx.GraphModule(traced, graph)


def _trains(traced: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        return any(parameter.requires_grad for parameter in traced.get_submodule(str(node.target)).parameters())
    if node.op == "get_attr":
        owner, _, name = str(node.target).rpartition(".")
        return bool(getattr(getattr(traced.get_submodule(owner), name), "requires_grad", False))
    return False


def _close(found: Tensor, wanted: Tensor) -> bool:
    return bool((found - wanted).abs().max() <= _TOLERANCE * wanted.abs().max().clamp_min(1e-12))
