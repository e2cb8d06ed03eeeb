"""Generate sidecar/v1 from protos/sidecar/v1, or with `--check` see that it would not change."""

import filecmp
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

_PROTOS = Path(__file__).resolve().parent
_ROOT = _PROTOS.parent


def main(arguments: list[str]) -> int:
    """Write the generated code, or compare; 1 if protoc fails or the code has drifted."""
    if arguments != ["--check"]:
        return _generate(_ROOT)
    with tempfile.TemporaryDirectory() as fresh:
        code = _generate(Path(fresh))
        drifted = code == 0 and _differences(Path(fresh) / "sidecar/v1", _ROOT / "sidecar/v1")
    if drifted:
        print(f"protos: sidecar/v1 has drifted ({', '.join(drifted)}): run `make protos`")
    return 1 if drifted else code


def _generate(into: Path) -> int:
    sources = sorted(str(path.relative_to(_PROTOS)) for path in _PROTOS.rglob("*.proto"))
    well_known = files("grpc_tools") / "_proto"
    return int(
        protoc.main(
            [
                "protoc",
                f"--proto_path={_PROTOS}",
                f"--proto_path={well_known}",
                f"--python_out={into}",
                f"--pyi_out={into}",
                f"--grpc_python_out={into}",
                *sources,
            ]
        )
    )


def _differences(fresh: Path, kept: Path) -> list[str]:
    """Names that are generated and differ, or are kept and no longer generated."""
    generated = {path.name for path in fresh.iterdir()}
    present = {path.name for path in kept.glob("*_pb2*.py*")}
    same, _, _ = filecmp.cmpfiles(fresh, kept, sorted(generated), shallow=False)
    return sorted((generated | present) - set(same))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
