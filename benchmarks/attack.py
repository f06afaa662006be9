"""A registry and the service under attack: kills, little memory, few descriptors, a folder that goes, slow hosts.

Each scenario serves small registries in a process of its own, sends it requests, and says how many trials there were
(``tried``), how many were survived, how many acknowledged changes were lost, how many answers were errors of the server
other than a 503 that says why (``failures``), and the longest time of an answer, in seconds.
"""

from __future__ import annotations

import http.client
import io
import random
import resource
import shutil
import signal
import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import bit_flips
import power_cut
from crash import ENCODERS, held_by, picture
from PIL import Image
from served import PARTS, Answer, Load, Served

from fewshot import ClassRegistry

_SHORT = 2.0  # seconds that a request may take where requests are to time out
_MB = 2**20
_SLOW = 20.0  # seconds of an answer that waits for nothing, on a busy machine
_CLIENTS = 8
_FLAT_BYTES, _FLAT_DESCRIPTORS = 16 * _MB, 4


class Count:
    """What came of a scenario's trials."""

    def __init__(self) -> None:
        self.tried = self.survived = self.lost = self.failures = self.died = self.requests = self.unavailable = 0
        self.worst = 0.0
        self._where = ""

    def say(self, what: str) -> None:
        """Tell of a problem, with the trial that it came up in."""
        print(f"{self._where}: {what}", file=sys.stderr)

    def answers(self, answers: list[Answer]) -> None:
        """Count answers, and tell of those that should not be."""
        self.requests += len(answers)
        self.unavailable += sum(answer.status == 503 for answer in answers)
        self.worst = max([self.worst, *(answer.seconds for answer in answers if answer.status)])
        for answer in answers:
            if answer.faulty:
                self.failures += 1
                self.say(f"{answer.kind}: {answer.status} {str(answer.body)[:200]}")

    def expect(self, holds: bool, otherwise: str) -> None:
        """Count a failure unless something holds."""
        if not holds:
            self.failures += 1
            self.say(otherwise)

    def kept(self, load: Load) -> None:
        """Compare the registry with what was acknowledged."""
        state, half = held_by(load.served.folder / "parts.fewshot")
        found = {number for numbers in state.classes.values() for number in numbers}
        lost = load.acknowledged - found
        self.lost += len(lost)
        for problem in (*half, *(f"picture {number} is lost" for number in sorted(lost))):
            self.say(problem)
        self.expect(not half, "the registry is not whole")

    @contextmanager
    def trial(self, where: str) -> Iterator[Path]:
        """Count one trial, in a folder of its own with two registries."""
        self._where, before = where, (self.lost, self.failures, self.died)
        self.tried += 1
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / "served"
            folder.mkdir()
            for name in ("parts", "other"):
                with ClassRegistry(folder / f"{name}.fewshot", encoder=ENCODERS[0]) as registry:
                    for number in range(3):
                        registry.add(f"class {number}", [picture(number)])
            yield folder
        self.survived += (self.lost, self.failures, self.died) == before

    def result(self) -> dict[str, Any]:
        """Return the figures."""
        return {
            "tried": self.tried,
            "survived": self.survived,
            "lost": self.lost,
            "failures": self.failures,
            "died": self.died,
            "requests": self.requests,
            "unavailable": self.unavailable,
            "worst_seconds": round(self.worst, 3),
        }


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a registry as another process does that writes to it."""
    with closing(sqlite3.connect(path, timeout=60, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        yield


def ended(number: signal.Signals, trials: int, seed: int) -> dict[str, Any]:
    """End the service by a signal, under load, while another process holds the registry."""
    chance, count = random.Random(seed), Count()
    for trial in range(trials):
        with count.trial(f"{number.name} {trial}") as folder, Served(folder, seconds=_SHORT) as served:
            with Load(served).running() as load:
                time.sleep(chance.uniform(0.2, 0.6))
                with locked(folder / "parts.fewshot"):
                    time.sleep(chance.uniform(0.0, 0.5))
                    served.signal(number)
                    status = served.ended() if trial % 2 else None
                status = served.ended() if status is None else status
            expected = -signal.SIGKILL if number is signal.SIGKILL else 0
            if status != expected:
                count.died += 1
                count.say(f"exit status {status}, not {expected}: {served.log.read_text()[-1000:]}")
            count.answers(load.answers)
            count.kept(load)
    return count.result()


def _large() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (4000, 4000)).save(out, "PNG")
    return out.getvalue()


@contextmanager
def limited(served: Served, kind: int, amount: int) -> Iterator[None]:
    """Let a process have no more than so much of something for a while."""
    before = resource.prlimit(served.pid, kind)  # type: ignore[attr-defined]
    resource.prlimit(served.pid, kind, (amount, before[1]))  # type: ignore[attr-defined]
    try:
        yield
    finally:
        resource.prlimit(served.pid, kind, before)  # type: ignore[attr-defined]


def recovers(served: Served, count: Count) -> None:
    """Expect that a service is alive and well."""
    if not served.process.is_alive():
        count.died += 1
        count.say(f"it died with exit status {served.process.exitcode}: {served.log.read_text()[-1000:]}")
        return
    answers = [served.ask("GET", "/readyz"), served.predict(picture(1)), served.add("class 0", picture(50))]
    count.answers(answers)
    count.expect({answer.status for answer in answers} == {200}, f"not well again: {answers}")


def low_memory(trials: int, seed: int) -> dict[str, Any]:
    """Limit the address space (RLIMIT_AS) to little more than what a service that has just started takes."""
    count, large = Count(), _large()
    for trial in range(trials):
        with count.trial(f"low memory {trial}") as folder, Served(folder, patience=15.0) as served:
            more = (1, 8, 32, 96)[(trial + seed) % 4] * _MB
            with limited(served, resource.RLIMIT_AS, served.reserved() + more):
                with Load(served, threads=3, pause=0.01).running() as load, ThreadPoolExecutor(3) as pool:
                    answers = list(pool.map(served.predict, [large] * 6))
            count.answers([*load.answers, *answers])
            recovers(served, count)
            count.kept(load)
    return count.result()


def few_descriptors(trials: int, seed: int, clients: int = 16) -> dict[str, Any]:
    """Limit the descriptors (RLIMIT_NOFILE) to a few more than are open, with more connections than that."""
    count = Count()
    for trial in range(trials):
        with count.trial(f"few descriptors {trial}") as folder, Served(folder) as served:
            more = (2, 6, 12, 24)[(trial + seed) % 4]
            with limited(served, resource.RLIMIT_NOFILE, served.descriptors() + more):
                with Load(served, threads=clients, pause=0.01).running() as load:
                    time.sleep(1.5)
            count.answers(load.answers)
            recovers(served, count)
            count.kept(load)
    return count.result()


def vanishing(trials: int, seed: int) -> dict[str, Any]:
    """Take the served folder away, under load, and bring it back."""
    chance, count = random.Random(seed), Count()
    for trial in range(trials):
        with count.trial(f"vanished folder {trial}") as folder, Served(folder, seconds=10.0) as served:
            away = folder.with_name("away")
            with Load(served, threads=4, pause=0.01).running() as load:
                time.sleep(chance.uniform(0.1, 0.5))
                shutil.move(folder, away)
                time.sleep(0.2)
                answers = [
                    served.ask("GET", "/readyz"),
                    served.ask("GET", "/v1/registries"),
                    served.ask("POST", "/v1/registries", {"name": "new"}),
                    served.predict(picture(1)),
                    served.add("class 0", picture(60)),
                ]
                alive = served.ask("GET", "/healthz")
                shutil.move(away, folder)
            for answer in answers:
                says = isinstance(answer.body, dict) and (answer.body.get("detail") or "status" in answer.body)
                what = f"{answer.kind} without its folder: {answer.status} {str(answer.body)[:200]}"
                count.expect(answer.status == 503 and bool(says), what)
            count.expect(alive.status == 200, "not alive without its folder")
            count.answers([*load.answers, alive])
            recovers(served, count)
            count.kept(load)
    return count.result()


def dripping(trials: int, seed: int, image_seconds: float = 30.0) -> dict[str, Any]:
    """Let Label Studio send its images byte by byte, and ask for predictions of them among other requests."""
    sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
    import label_studio_fakes as fakes

    count = Count()
    for trial in range(trials):
        studio = fakes.FakeLabelStudio()
        studio.drips = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" if (trial + seed) % 2 else b"HTTP/1.1 200"
        with count.trial(f"dripping {trial}") as folder:
            with Served(folder, label_studio={}, image_seconds=image_seconds) as served:
                try:
                    _drip(served, studio, fakes, count, image_seconds)
                finally:
                    studio.stops.set()
                    studio.shutdown()
                    studio.server_close()
                recovers(served, count)
    return count.result()


def _drip(served: Served, studio: Any, fakes: Any, count: Count, image_seconds: float) -> None:
    count.answers([served.ask("POST", "/setup", fakes.setup(studio))])
    chosen = fakes.annotation(1, 1, fakes.chosen("Red"))
    bodies = [("/webhook", fakes.created(chosen, fakes.task(1, "/data/upload/2/r.png")))]
    for first in range(12):
        tasks = [fakes.task(100 + first + n, f"/data/upload/2/{first}-{n}.png") for n in range(2)]
        bodies.append(("/predict", fakes.predict(*tasks)))
    with ThreadPoolExecutor(len(bodies)) as pool, Load(served, threads=2, pause=0.05).running() as load:
        slow = list(pool.map(lambda body: served.ask("POST", *body), bodies))
    count.answers(load.answers)
    count.expect(all(answer.status for answer in slow), "no answer where an image drips")
    longest = max(answer.seconds for answer in load.answers)
    count.expect(longest < _SLOW, f"another request took {longest:.1f} s")
    longest = max(answer.seconds for answer in slow)
    count.expect(longest < image_seconds + _SLOW, f"a request about dripping images took {longest:.1f} s")
    count.worst = max(count.worst, longest)
    count.kept(load)


def many(requests: int, seed: int) -> dict[str, Any]:
    """Send many requests of all kinds: after the first fifth, memory and descriptors stay as they are."""
    count, lock = Count(), threading.Lock()
    samples: list[tuple[int, int]] = []
    with count.trial("many requests") as folder, Served(folder) as served:

        def work(numbers: range) -> None:
            connection = http.client.HTTPConnection(served.place, timeout=120)
            for number in numbers:
                answers = _one_of_many(served, number, connection)
                with lock:
                    count.answers(answers)
                    at = count.requests
                    if at // (requests // 10) > len(samples) < 10:
                        samples.append((served.resident(), served.descriptors()))
            connection.close()

        with ThreadPoolExecutor(_CLIENTS) as pool:
            list(pool.map(work, [range(start, requests, _CLIENTS) for start in range(_CLIENTS)]))
        memory, descriptors = zip(*samples, strict=True)
        grown, opened = memory[-1] - min(memory[1:3]), descriptors[-1] - min(descriptors[1:3])
        count.expect(grown < _FLAT_BYTES, f"memory grew by {grown / _MB:.0f} MB")
        count.expect(opened < _FLAT_DESCRIPTORS, f"{opened} more descriptors are open")
        recovers(served, count)
    return {**count.result(), "memory_mb": [round(one / _MB) for one in memory], "descriptors": list(descriptors)}


def _one_of_many(served: Served, number: int, connection: http.client.HTTPConnection) -> list[Answer]:
    if number % 100 == 0:  # an example is added and removed, so that the registry stays as large as it is
        added = served.add("class 0", picture(1000 + number), by=connection)
        gone = [
            served.ask("DELETE", f"{PARTS}/examples/{id_}", kind="remove", by=connection)
            for id_ in added.body.get("new_ids", ())
        ]
        return [added, *gone]
    turn = number % 20
    if turn < 10:
        return [served.predict(picture(number), by=connection)]
    paths = ("/v1/registries", PARTS, f"{PARTS}/classes", f"{PARTS}/examples", f"{PARTS}/examples/1/image")
    wrong = (f"{PARTS}/examples/99999999/image", "/v1/registries/none", f"{PARTS}/examples?limit=x", "/metrics", "/")
    return [served.ask("GET", (*paths, *wrong)[turn - 10], by=connection)]


SCENARIOS: dict[str, Callable[[int, int], dict[str, Any]]] = {
    "power_cut": power_cut.run,
    "bit_flips": bit_flips.run,
    "sigterm": lambda trials, seed: ended(signal.SIGTERM, trials, seed),
    "sigkill": lambda trials, seed: ended(signal.SIGKILL, trials, seed),
    "low_memory": low_memory,
    "few_descriptors": few_descriptors,
    "vanishing_folder": vanishing,
    "dripping_hosts": dripping,
    "many_requests": many,
}
TRIALS = {
    "power_cut": 500,
    "bit_flips": 12,
    "sigterm": 8,
    "sigkill": 10,
    "low_memory": 8,
    "few_descriptors": 4,
    "vanishing_folder": 8,
    "dripping_hosts": 2,
    "many_requests": 20_000,
}
"""Of the whole run: cuts, flips of each page, trials, requests."""


def run(only: list[str], share: float, seed: int) -> dict[str, Any]:
    """Run the scenarios, or some, with a share of the trials."""
    found: dict[str, Any] = {}
    for name in only or SCENARIOS:
        begun = time.perf_counter()
        found[name] = SCENARIOS[name](max(1, round(share * TRIALS[name])), seed)
        print(f"{name}: {found[name]}", file=sys.stderr)
        found[name]["seconds"] = round(time.perf_counter() - begun, 1)
    return found
