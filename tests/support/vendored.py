"""What others wrote, from npm: for the page in `static/vendor`, for its tests in `tests/web/vendor`.

`python -m tests.support.vendored` makes both folders anew from their `vendor.json`, which names each package, its
version, its licence, its checksum in the registry, and the files that are taken with their checksums. To change a
version, change it there, empty the checksums of its package (`""`), run this, and look at what came.
"""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from tests.support import ROOT

FOLDERS = (ROOT / "tornado_chat" / "web" / "static" / "vendor", ROOT / "tests" / "web" / "vendor")
PATIENCE = 120.0
"""Seconds that npm has for one package."""


class Changed(Exception):
    """A package or a file is not what `vendor.json` says."""


def manifest(folder: Path) -> dict[str, dict[str, Any]]:
    """What `vendor.json` says: for each folder in it the `package`, `version`, `licence`, `integrity` and `files`."""
    read: dict[str, dict[str, Any]] = json.loads((folder / "vendor.json").read_text(encoding="utf-8"))
    return read


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def packed(package: str, version: str, scratch: Path) -> bytes:
    """The package as the registry has it, by `npm pack`; OSError, CalledProcessError or TimeoutExpired without it."""
    done = subprocess.run(
        ["npm", "pack", "--silent", "--ignore-scripts", f"{package}@{version}"],
        cwd=scratch,
        check=True,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    return (scratch / done.stdout.split()[-1]).read_bytes()


def unpacked(entry: dict[str, Any], scratch: Path) -> dict[str, bytes]:
    """The files of one package, by their path in it. An empty checksum is filled in, another compared."""
    archive = packed(entry["package"], entry["version"], scratch)
    integrity = "sha512-" + base64.b64encode(hashlib.sha512(archive).digest()).decode()
    if (entry["integrity"] or integrity) != integrity:
        raise Changed(f"{entry['package']} {entry['version']} has integrity {integrity}, not {entry['integrity']}")
    entry["integrity"] = integrity
    path = scratch / "package.tgz"
    path.write_bytes(archive)
    files = {}
    with tarfile.open(path) as tar:
        for name, checksum in entry["files"].items():
            member = tar.extractfile(f"package/{name}")
            if member is None:
                raise Changed(f"{entry['package']} {entry['version']} has no file {name}")
            files[name] = member.read()
            if (checksum or sha256(files[name])) != sha256(files[name]):
                raise Changed(f"{name} of {entry['package']} has sha256 {sha256(files[name])}, not {checksum}")
            entry["files"][name] = sha256(files[name])
    return files


def main() -> None:
    for folder in FOLDERS:
        entries = manifest(folder)
        for name, entry in entries.items():
            with tempfile.TemporaryDirectory() as scratch:
                for path, content in unpacked(entry, Path(scratch)).items():
                    (folder / name / path).parent.mkdir(parents=True, exist_ok=True)
                    (folder / name / path).write_bytes(content)
        (folder / "vendor.json").write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
