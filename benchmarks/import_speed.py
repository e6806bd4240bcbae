"""Start-up time: ``import pwm`` and ``pwm --help``, each in a fresh interpreter.

Run with ``python benchmarks/import_speed.py``.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

REPEATS = 5
SOURCES = Path(__file__).resolve().parents[1] / "src"
IMPORT = "import time; t = time.perf_counter(); import pwm; print(time.perf_counter() - t)"
HELP = "import sys; from pwm.launch.cli import main; sys.exit(main(['--help']))"
TARGET_SECONDS = {"import_seconds": 0.3, "help_seconds": 1.0}


def _run(code: str) -> tuple[str, float]:
    """Output of ``code`` in a new interpreter, and the seconds from its start to its end."""
    # Running in the source folder finds these sources before any installed copy.
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=SOURCES, capture_output=True, text=True, check=True
    )
    return done.stdout, time.perf_counter() - start


def measure() -> dict[str, float]:
    """Return the best seconds of ``import pwm`` (inside Python) and of ``pwm --help`` (whole process)."""
    return {
        "import_seconds": min(float(_run(IMPORT)[0]) for _ in range(REPEATS)),
        "help_seconds": min(_run(HELP)[1] for _ in range(REPEATS)),
    }


def main() -> None:
    """Print the measured times next to their targets."""
    for key, seconds in measure().items():
        print(f"{key:<16}{seconds:8.3f} s   target {TARGET_SECONDS[key]:.1f} s")


if __name__ == "__main__":
    main()
