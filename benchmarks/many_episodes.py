"""Whether gradient steps of several episodes are faster together: stacked parameters and one batched pass, or a loop.

    python benchmarks/many_episodes.py

A step of the network's last blocks, forwards and backwards, on the maps of one episode's pictures at the cut: E such
episodes, each with parameters of its own, one after the other as ``FineTuneClassifier`` takes them, or all in one
``torch.func.vmap`` of the network over stacked parameters. Milliseconds a picture, the least of five, on one core of a
CPU, or on a GPU where there is one.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from common import save, shared_file
from torch import Tensor
from torch.func import functional_call, vmap

from fewshot import TimmEncoder
from fewshot.finetuning.cut import Top, cut
from fewshot.finetuning.folding import norms_folded
from fewshot.finetuning.parts import choose_parts

# (name, folder of weights, side, pictures of a step)
ENCODERS = (("mobilenetv2", ("weights", "mobilenetv2_100.tf_in1k"), 224, 32), ("pocket", (), 64, 25))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, nargs="+", default=[1, 4, 8])
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(1)
    rows = [
        row(name, place, side, pictures, trainable, episodes, device)
        for name, place, side, pictures in ENCODERS
        for trainable in ("last", "last-2")
        for episodes in options.episodes
    ]
    save("many_episodes", {"device": str(device), "rows": rows})
    print("| encoder | trains | episodes | one after the other, ms | together, ms |\n|---|---|---|---|---|")
    for each in rows:
        print(f"| {each['encoder']} | {each['trainable']} | {each['episodes']} | {each['loop']} | {each['together']} |")


def row(
    name: str, place: tuple[str, ...], side: int, pictures: int, trainable: str, episodes: int, device: torch.device
) -> dict[str, Any]:
    torch.manual_seed(0)
    encoder = TimmEncoder(f"local-dir:{shared_file(*place)}" if place else "pocket")
    network = encoder.exact_network()
    choose_parts(network, trainable, 4)
    trunk, top = cut(network, encoder.pool, torch.rand(1, 3, side, side))
    with torch.no_grad():
        maps = [each.to(device) for each in trunk(torch.rand(pictures, 3, side, side))]
    with norms_folded(top, [each[:1].cpu() for each in maps]):
        top.to(device)
        asked = episodes * pictures
        loop = milliseconds(one_after_the_other(top, maps, episodes), device) / asked
    together = milliseconds(stacked(top, maps, episodes), device) / asked
    found = {"encoder": name, "trainable": trainable, "episodes": episodes}
    return found | {"loop": round(loop, 2), "together": round(together, 2)}


def one_after_the_other(top: Top, maps: list[Tensor], episodes: int) -> Callable[[], None]:
    """A step of each episode."""
    some = [each.to(torch.bfloat16).contiguous(memory_format=torch.channels_last) for each in maps]

    def step() -> None:
        for _ in range(episodes):
            with torch.autocast(some[0].device.type, torch.bfloat16, cache_enabled=False):
                out = top(*(each.clone() for each in some))
            out.float().square().sum().backward()

    return step


def stacked(top: Top, maps: list[Tensor], episodes: int) -> Callable[[], None]:
    """One step of all episodes: parameters and maps have the episodes as a first axis."""
    parameters = {
        name: each.detach().repeat(episodes, *(1 for _ in each.shape)).requires_grad_(each.requires_grad)
        for name, each in top.named_parameters()
    }
    buffers = dict(top.named_buffers())
    some = [each.repeat(episodes, *(1 for _ in each.shape)) for each in maps]

    def embed(own: dict[str, Tensor], *given: Tensor) -> Tensor:
        with torch.autocast(given[0].device.type, torch.bfloat16, cache_enabled=False):
            out: Tensor = functional_call(top, (own, buffers), given)
        return out.float()

    def step() -> None:
        vmap(embed)(parameters, *some).square().sum().backward()

    return step


def milliseconds(step: Callable[[], None], device: torch.device) -> float:
    """The least of five, after one that is not counted."""
    taken = []
    for _ in range(6):
        begun = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        taken.append(1000 * (time.perf_counter() - begun))
    return min(taken[1:])


if __name__ == "__main__":
    main()
