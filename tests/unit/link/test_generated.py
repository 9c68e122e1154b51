"""What `make proto` generates is what is committed."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

from support.tools import missing

ROOT = Path(__file__).resolve().parents[3]
PROTO = "tidegate/link/v1/link.proto"
#: Another version generates other bytes.
VERSION = "1.85.1"


def test_the_generated_code_is_that_of_the_proto_file(tmp_path: Path) -> None:
    try:
        found = importlib.metadata.version("grpcio-tools")
    except importlib.metadata.PackageNotFoundError:
        missing("grpcio-tools")
    if found != VERSION:
        missing(f"grpcio-tools {VERSION}")
    from grpc_tools import protoc

    out = str(tmp_path)
    arguments = [
        "protoc",
        f"--proto_path={ROOT / 'proto'}",
        f"--python_out={out}",
        f"--pyi_out={out}",
        f"--grpc_python_out={out}",
        PROTO,
    ]
    assert protoc.main(arguments) == 0
    generated = sorted((tmp_path / PROTO).parent.iterdir())
    assert len(generated) == 3
    for file in generated:
        committed = ROOT / "services" / file.relative_to(tmp_path)
        # Bytes are compared as a verdict: the difference would fill the screen.
        same = committed.read_bytes() == file.read_bytes()
        assert same, f"{committed.name} is not what `make proto` makes of {PROTO}"
