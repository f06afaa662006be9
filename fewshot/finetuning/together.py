"""Several paths at once: parameters of each stacked, and one pass of the network over all of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from fewshot.finetuning.folding import Folded
from fewshot.finetuning.gradient_steps import Steps
from fewshot.finetuning.lora import Adapter
from fewshot.finetuning.support import saved_bytes
from fewshot.finetuning.walk import Job, Method, Support, Walk
from fewshot.training import Lens, Workers

# A parameter that trains, its gradient, AdamW's two means, and the copy that is stacked.
_COPIES = 5
# How far features of a batched pass may lie from those of a plain one, of their length: sums in another order, and
# in bfloat16 other roundings.
_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2}


class Together(Steps):
    """Walks several paths in one batched pass; the top itself stays as it is.

    A GPU that waits for each small kernel of one path has as many times more to do in each of several. On a CPU each
    worker takes a share of the paths.

    Parameters
    ----------
    groups, method, at_once
        As of ``Steps``; the groups are of the workers' network.
    lens : Lens
        Says in which precision to compute, and where.
    workers : Workers
        Of the top, entered; each walks a share of the paths.
    shown : int
        Pictures of a path's step, at most.

    References
    ----------
    He & Zou 2021, functorch: JAX-like composable function transforms for PyTorch (``vmap`` of ``functional_call``).
    """

    def __init__(
        self,
        groups: Sequence[Sequence[nn.Parameter]],
        method: Method,
        at_once: int,
        lens: Lens,
        workers: Workers,
        shown: int,
    ) -> None:
        super().__init__(groups, method, at_once)
        self._lens, self._workers, self._shown = lens, workers, shown
        for twin in workers.twins:
            twin.eval()
        top = workers.twins[0]
        names = {id(parameter): name for name, parameter in top.named_parameters()}
        self._names = [names[id(parameter)] for group in groups for parameter in group]
        # Products and folded norms are rounded once, when they are made; autocast does not reach batched convolutions.
        self._exact = {
            f"{where}.{name}"
            for where, module in top.named_modules()
            if isinstance(module, (Folded, Adapter))
            for name, _ in [*module.named_parameters(), *module.named_buffers()]
        }
        self._dtype = torch.bfloat16 if lens.precision == "bfloat16" else torch.float32
        rest = [*top.named_parameters(), *top.named_buffers()]
        self._rest = {name: self._rounded(name, each.detach()) for name, each in rest if name not in set(self._names)}

    def agrees(self, maps: Sequence[Tensor]) -> bool:
        """Whether batched passes run, there and back, and give the features that the top gives for maps (n, ...)."""
        walks = self._two_walks(maps)

        def there_and_back(twin: nn.Module, some: list[int]) -> Tensor:
            features = self._features(twin, [walks[i] for i in some], [maps for _ in some])
            features.square().sum().backward()  # type: ignore[no-untyped-call]
            return features.detach()

        try:
            with torch.no_grad(), self._lens.autocast():
                wanted = self._workers.twins[0](*(each.clone() for each in maps))
            found = torch.stack(self._shared(there_and_back, [maps, maps])) - wanted
        except torch.cuda.OutOfMemoryError:
            raise
        except RuntimeError:  # what cannot be batched, or has numbers of its own in another precision
            return False
        return bool(found.norm(dim=(1, 2)).max() <= _TOLERANCE[self._dtype] * wanted.norm())

    def path_bytes(self, maps: Sequence[Tensor]) -> int:
        """How many bytes a path more takes, its parameters and the graph of a step; ``maps`` are of two pictures."""
        walks = self._two_walks(maps)

        def kept(paths: int, pictures: int) -> int:
            given = [[each[:pictures] for each in maps]] * paths
            with _quietly():
                return saved_bytes(lambda: self._features(self._workers.twins[0], walks[:paths], given))

        one, two = (kept(2, pictures) - kept(1, pictures) for pictures in (1, 2))
        own = _COPIES * sum(each.nbytes for each in walks[0].parameters)
        return own + one + max(0, two - one) * (self._shown - 1)

    def _two_walks(self, maps: Sequence[Tensor]) -> list[Walk]:
        """Two paths at their start, of a support of maps (n, ...)."""
        support = Support(tuple(maps), tuple(each[None] for each in maps), torch.arange(len(maps[0])), len(maps[0]))
        job = Job(support, support.labels, torch.zeros(1, dtype=torch.int64), 0.0, (0,), ())
        return [Walk(job, self._method, groups) for groups in self._starts(2)]

    def _starts(self, n: int) -> list[Sequence[Sequence[Tensor]]]:
        return [
            [[each.detach().clone().requires_grad_() for each in group] for group in self._groups] for _ in range(n)
        ]

    def _embed(self, walks: Sequence[Walk], maps: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        def embed(twin: nn.Module, some: list[int]) -> Tensor:
            own, given = [walks[i] for i in some], [maps[i] for i in some]
            size = self._shown
            rows = range(0, len(given[0][0]), size)
            with torch.no_grad():
                return torch.cat(
                    [self._features(twin, own, [[m[at : at + size] for m in each] for each in given]) for at in rows], 1
                )

        return self._shared(embed, maps)

    def _gradients(self, walks: Sequence[Walk], maps: Sequence[Sequence[Tensor]], labels: Sequence[Tensor]) -> Tensor:
        def backward(twin: nn.Module, some: list[int]) -> Tensor:
            features = self._features(twin, [walks[i] for i in some], [maps[i] for i in some])
            losses = torch.stack([walks[i].loss(own, labels[i]) for i, own in zip(some, features, strict=True)])
            losses.sum().backward()  # type: ignore[no-untyped-call]
            return losses.detach()

        return torch.stack(self._shared(backward, maps))

    def _shared(
        self, function: Callable[[nn.Module, list[int]], Tensor], maps: Sequence[Sequence[Tensor]]
    ) -> list[Tensor]:
        """Call ``function`` for paths whose maps have the same shapes, shared among the workers; one result a path."""
        of_shape: dict[tuple[torch.Size, ...], list[int]] = {}
        for i, each in enumerate(maps):
            of_shape.setdefault(tuple(some.shape for some in each), []).append(i)
        twins = self._workers.twins
        found: dict[int, Tensor] = {}
        with _quietly():
            for alike in of_shape.values():
                parts = [part for worker in range(len(twins)) if (part := alike[worker :: len(twins)])]
                for part, results in zip(parts, self._workers.map(function, twins[: len(parts)], parts), strict=True):
                    found.update(zip(part, results, strict=True))
        return [found[i] for i in range(len(maps))]

    def _features(self, twin: nn.Module, walks: Sequence[Walk], maps: Sequence[Sequence[Tensor]]) -> Tensor:
        """Features (p, n, d), float32, of maps (n, ...) of each of p paths."""
        own = {
            name: self._rounded(name, torch.stack(each))
            for name, each in zip(self._names, zip(*(walk.parameters for walk in walks), strict=True), strict=True)
        }
        stacked = [torch.stack([each.to(self._dtype) for each in of_all]) for of_all in zip(*maps, strict=True)]

        def embed(own: dict[str, Tensor], *given: Tensor) -> Tensor:
            features: Tensor = functional_call(twin, (own, self._rest), given)
            return features.float()

        features: Tensor = vmap(embed)(own, *stacked)
        return features

    def _rounded(self, name: str, each: Tensor) -> Tensor:
        return each.to(self._dtype) if each.is_floating_point() and name not in self._exact else each


@contextmanager
def _quietly() -> Iterator[None]:
    """Leave out what PyTorch says of operations that it computes for one path after the other."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)
        yield
