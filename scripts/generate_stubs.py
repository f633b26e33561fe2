"""Generate the stubs in gen/ from proto/, or with --check say whether the committed ones are fresh.

buf has no plugin for grpc_python, so protoc from grpcio-tools writes all stubs; mypy-protobuf writes their types.
"""

import filecmp
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTO = ROOT / "proto"
GENERATED = ROOT / "gen"


def google_protos() -> list[str]:
    """Return include paths of the google/* protos that installed packages carry."""
    import google.rpc
    import grpc_tools

    common = Path(next(iter(google.rpc.__path__))).parent.parent
    return [str(common), str(Path(grpc_tools.__file__).parent / "_proto")]


def longrunning_include(folder: Path) -> str:
    """Give operations.proto the name its importers use: the package installs it as operations_proto.proto."""
    import google.longrunning

    source = Path(next(iter(google.longrunning.__path__))) / "operations_proto.proto"
    target = folder / "google" / "longrunning" / "operations.proto"
    target.parent.mkdir(parents=True)
    target.write_bytes(source.read_bytes())
    return str(folder)


def run_protoc(*options: str) -> None:
    """Run protoc over every proto of the project; exits with its errors."""
    with tempfile.TemporaryDirectory() as scratch:
        includes = [str(PROTO), longrunning_include(Path(scratch)), *google_protos()]
        protos = sorted(str(path) for path in PROTO.rglob("*.proto"))
        plugins = Path(sys.executable).parent
        named = [f"--plugin={name}={plugins / name}" for name in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")]
        arguments = ["protoc", *named, *(f"-I{path}" for path in includes), *options, *protos]
        if protoc.main(arguments) != 0:
            sys.exit("protoc failed; its messages are above")


def generate(target: Path) -> None:
    """Write all stubs below target."""
    target.mkdir(exist_ok=True)
    run_protoc(
        f"--python_out={target}",
        f"--grpc_python_out={target}",
        f"--mypy_out={target}",
        f"--mypy_grpc_out={target}",
    )


def stubs(folder: Path) -> dict[str, Path]:
    """Return every generated file by its path relative to the folder."""
    return {
        str(path.relative_to(folder)): path for path in folder.rglob("*_pb2*.py*") if path.suffix in {".py", ".pyi"}
    }


def stale_files() -> list[str]:
    """Return the names of stubs that differ from what the protos give now."""
    with tempfile.TemporaryDirectory() as scratch:
        fresh_folder = Path(scratch) / "gen"
        generate(fresh_folder)
        fresh, committed = stubs(fresh_folder), stubs(GENERATED)
        return sorted(
            name
            for name in fresh.keys() | committed.keys()
            if name not in fresh
            or name not in committed
            or not filecmp.cmp(fresh[name], committed[name], shallow=False)
        )


def main() -> None:
    """Generate, or check when asked to."""
    if "--check" not in sys.argv[1:]:
        for path in stubs(GENERATED).values():
            path.unlink()
        generate(GENERATED)
    elif stale := stale_files():
        sys.exit("stubs differ from proto/, run `make generate`: " + ", ".join(stale))


if __name__ == "__main__":
    main()
