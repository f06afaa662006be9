"""Send requests made by Schemathesis from the OpenAPI document to a service, for .ci/run.

    python tests/service/fuzz_openapi.py --max-time 60 --seed 1

Arguments are those of ``schemathesis run``; exit status 1 for an answer of 5xx, an answer that the document does not
describe, a valid request refused for another reason than the registry's state, or an invalid one accepted.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from fakes import BLACK, BLUE, GREEN, RED, FakeEncoder, png

from fewshot import ClassRegistry
from fewshot.service import create_app, server_process

CONFIG = Path(__file__).with_name("schemathesis.toml")


def filled(folder: Path, encoder: FakeEncoder) -> None:
    """Make a registry, and an empty one."""
    with ClassRegistry(folder / "parts.fewshot", encoder=encoder) as registry:
        for label, colour in {"red": RED, "green": GREEN, "blue": BLUE}.items():
            registry.add(label, [png(colour, size) for size in range(1, 31)])
        registry.rejection.add_negatives([png(BLACK, size) for size in range(1, 31)])
    ClassRegistry(folder / "empty.fewshot").close()


def main() -> None:
    encoder, statuses = FakeEncoder(name="colours"), []
    with tempfile.TemporaryDirectory() as folder:
        filled(Path(folder), encoder)
        bound = server_process.listen("127.0.0.1", 0)
        document = f"{server_process.url_of(bound)}/openapi.json"
        run = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG), "run", document]

        def fuzz() -> None:
            statuses.append(subprocess.call([*run, "--generation-database", "none", *sys.argv[1:]], cwd=folder))
            os.kill(os.getpid(), signal.SIGTERM)

        server_process.run(create_app(folder, encoder=encoder), bound, threading.Thread(target=fuzz).start)
    sys.exit(statuses[0])


if __name__ == "__main__":
    main()
