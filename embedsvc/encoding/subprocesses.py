"""Running one of this package's torch programs outside the serving process, which never loads torch itself."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

from embedsvc.errors import MissingDependency, ModelError


def run_module(module: str, argument: str, task: str) -> str:
    """Run ``python -m module argument`` and return its standard output. ``task`` names the work in the error.

    Raises:
        MissingDependency: what they all need is not installed.
        ModelError: it failed; carries the last lines of its standard error.
    """
    if importlib.util.find_spec("sentence_transformers") is None:
        raise MissingDependency(
            f"{task} needs the package sentence-transformers, which is not installed: pip install "
            "sentence-transformers. The container's image does without: it runs models that were prepared elsewhere "
            "(embedsvc models pack there, embedsvc models unpack here)."
        )
    environment = {
        **os.environ,
        # The child sees the modules that this process sees, and (-P) not those of the user's current folder.
        "PYTHONPATH": os.pathsep.join(str(Path(path).resolve()) for path in sys.path),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    command = [sys.executable, "-P", "-m", module, argument]
    done = subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        tail = "\n".join(done.stderr.strip().splitlines()[-8:]) or "(it wrote nothing to stderr)"
        how = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
        raise ModelError(f"{task} failed ({how}). Its last lines:\n{tail}")
    return done.stdout
