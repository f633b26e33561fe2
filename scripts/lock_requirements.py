"""Pin requirements/*.in with hashes into requirements/*.txt, all of them to the versions of dev.txt.

Needs `uv` (pip install uv); the files it writes name no package index.
"""

import shutil
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "requirements"
OPTIONS = ["--quiet", "--generate-hashes", "--no-emit-index-url", "--no-header", "--universal", "--python-version=3.11"]


def main() -> None:
    """Compile dev first, then the others under its constraints."""
    uv = shutil.which("uv") or sys.exit("uv is missing; install it with: pip install uv")
    for name in ("dev", "run", "inference", "trainer", "gateway"):
        constraint = [] if name == "dev" else ["-c", "requirements/dev.txt"]
        source, target = f"requirements/{name}.in", f"requirements/{name}.txt"
        subprocess.run(
            [uv, "pip", "compile", *OPTIONS, source, *constraint, "-o", target], cwd=FOLDER.parent, check=True
        )


if __name__ == "__main__":
    main()
