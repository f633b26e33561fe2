"""Lint the protos and compare them with the released contract, proto/released.binpb; --accept replaces that.

buf builds nothing here: protoc compiles the protos with the google/* files that installed packages carry, and buf works
on the image. So no check needs a network.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from scripts.generate_stubs import ROOT, run_protoc

RELEASED = ROOT / "proto" / "released.binpb"
BUF = Path(sys.executable).parent / "buf"


def build_image(target: Path) -> None:
    """Compile the protos with everything they import and with their comments."""
    run_protoc(f"--descriptor_set_out={target}", "--include_imports", "--include_source_info")


def buf(*arguments: str) -> None:
    """Run buf; ends with its findings."""
    finished = subprocess.run([BUF, *arguments], cwd=ROOT, check=False)
    if finished.returncode != 0:
        sys.exit(f"buf {arguments[0]} failed; its findings are above")


def main() -> None:
    """Check, or accept."""
    if "--accept" in sys.argv[1:]:
        build_image(RELEASED)
        return
    with tempfile.TemporaryDirectory() as scratch:
        image = Path(scratch) / "image.binpb"
        build_image(image)
        buf("lint", str(image), "--path", "moodfood")
        buf("breaking", str(image), "--path", "moodfood", "--against", str(RELEASED))


if __name__ == "__main__":
    main()
