"""Check what an image is built from: hadolint passes every Dockerfile, and every requirement is pinned with a hash."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HADOLINT = Path(sys.executable).parent / "hadolint"


def dockerfile_problems(dockerfile: Path) -> list[str]:
    """Return what hadolint says of a Dockerfile, one finding a line."""
    finished = subprocess.run([HADOLINT, dockerfile], capture_output=True, text=True, check=False)
    problems = (finished.stdout + finished.stderr).splitlines()
    return problems or [f"{dockerfile}: hadolint ended with {finished.returncode}"] * (finished.returncode != 0)


def requirement_problems(requirements: Path) -> list[str]:
    """Return each requirement of a file that pip could resolve to something else than what was tested."""
    logical_lines = requirements.read_text().replace("\\\n", " ").splitlines()
    lines = [line for line in logical_lines if line.strip() and not line.lstrip().startswith("#")]
    problems = [] if lines else ["names no requirement"]
    for line in lines:
        if line.startswith("-"):
            problems += [f"{line} names a package index"] if "http" in line else []
        elif "==" not in line or "--hash=sha256:" not in line:
            problems.append(f"{line.split()[0]} is not pinned with == and a hash; run `make lock`")
    return [f"{requirements}: {problem}" for problem in problems]


def main() -> None:
    """Print every problem, and end with 1 if there is one."""
    dockerfiles = sorted((ROOT / "deploy" / "docker").glob("*.Dockerfile"))
    requirements = sorted((ROOT / "requirements").glob("*.txt"))
    if not dockerfiles or not requirements:
        sys.exit("deploy/docker or requirements/ holds no file to check")
    problems = [problem for dockerfile in dockerfiles for problem in dockerfile_problems(dockerfile)]
    problems += [problem for file in requirements for problem in requirement_problems(file)]
    if problems:
        sys.exit("\n".join(problems))


if __name__ == "__main__":
    main()
