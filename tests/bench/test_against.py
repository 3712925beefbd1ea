"""`python -m bench --against`: two checkouts in turns, each running its own code, and what their figures say."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from shutil import copytree, ignore_patterns, which
from tempfile import TemporaryDirectory

import pytest

from bench import against
from bench.__main__ import run
from bench.bench import Bench, Size
from bench.report import Row
from bench.tools import find_tools
from tests.support import ROOT

CPU, RATE = Row("ack", "cpu_us", ""), Row("ack", "delivered", "")


@pytest.mark.skipif(which("cc") is None, reason="no C compiler (cc) on this machine: the load generator is in C")
def test_each_side_runs_its_own_code(tmp_path: Path) -> None:
    copytree(ROOT / "tornado_chat", tmp_path / "tornado_chat", ignore=ignore_patterns("__pycache__"))
    main = tmp_path / "tornado_chat/__main__.py"
    main.write_text(f"open({str(tmp_path / 'ran')!r}, 'a').write('before ')\n" + main.read_text())
    cores = sorted(os.sched_getaffinity(0))
    with TemporaryDirectory(prefix="bench-") as directory:
        size = Size(seconds=0.2, warm=0.1, senders=5)
        bench = Bench(find_tools(make_venv=False), Path(directory), cores[0], cores[1:] or cores, size)
        results, fine = run(bench, ["ack"], 2, against.both(tmp_path))
    assert fine, bench.notes
    assert (tmp_path / "ran").read_text() == "before before "
    assert [len(results["ack", "cpu_us", side]) for side in ("before", "after")] == [2, 2]
    lines = against.comparison(results, "70a4f8a").splitlines()
    assert lines[0] == "| | 70a4f8a | now | now / 70a4f8a | in the rounds | |"
    assert lines[2].startswith("| ack: the server's CPU for one, µs | ")
    assert len({line.count("|") for line in lines}) == 1


def git(folder: Path, *arguments: str) -> None:
    who = ("-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=false")
    subprocess.run(["git", "-C", str(folder), *who, *arguments], check=True, capture_output=True)


def test_a_commit_is_unpacked_and_leaves_the_repository_as_it_was(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    project = tmp_path / "project"
    for folder in ("tornado_chat", "bench"):
        (project / folder).mkdir(parents=True)
    (project / "bench/echo_server.py").touch()
    (project / "tornado_chat/__init__.py").write_text("version = 1")
    (project / "setup.py").write_text("import sys\nopen('built', 'w').write(' '.join(sys.argv[1:]))")
    git(project, "init")
    git(project, "add", ".")
    git(project, "commit", "--message", "one")
    (project / "tornado_chat/__init__.py").write_text("version = 2")
    monkeypatch.setattr(against, "ROOT", project)
    tree = against.checkout("HEAD", tmp_path)
    assert (tree / "tornado_chat/__init__.py").read_text() == "version = 1"
    assert (tree / "built").read_text() == "--quiet build_ext --inplace"
    assert (project / "tornado_chat/__init__.py").read_text() == "version = 2"
    assert not (project / "built").exists()
    listed = ["git", "-C", str(project), "worktree", "list"]
    assert len(subprocess.run(listed, capture_output=True, check=True).stdout.splitlines()) == 1
    assert against.checkout(str(project), tmp_path) == project


def test_what_is_no_commit_and_no_folder_is_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench", "--against", "no-such-commit"]
    tried = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (tried.returncode, tried.stdout) == (2, "")
    assert tried.stderr.startswith("bench: no-such-commit is no folder with a tornado_chat in it, and no commit: ")
    assert tried.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("row", "before", "after", "cells"),
    [
        (CPU, [10.0, 20.0, 10.0], [10.2, 20.0, 10.1], "1.010 | 1.000 to 1.020 | same"),
        (CPU, [10.0, 20.0, 10.0], [11.0, 23.0, 10.4], "1.100 | 1.040 to 1.150 | **worse**"),
        (CPU, [10.0, 20.0, 10.0], [9.0, 17.0, 9.6], "0.900 | 0.850 to 0.960 | better"),
        (RATE, [10.0, 20.0, 10.0], [9.0, 17.0, 9.6], "0.900 | 0.850 to 0.960 | **worse**"),
        (RATE, [10.0, 20.0, 10.0], [11.0, 23.0, 10.4], "1.100 | 1.040 to 1.150 | better"),
        (CPU, [10.0, 20.0, 10.0], [11.0, 23.0, 9.9], "1.100 | 0.990 to 1.150 | unclear: more rounds"),
        (CPU, [10.0, 20.0], [11.0, 23.0], "1.125 | 1.100 to 1.150 | unclear: more rounds"),
        (CPU, [0.0], [1.0], "| | not measured"),
    ],
)
def test_the_verdict_is_on_the_ratios_of_the_rounds(
    row: Row, before: Sequence[float], after: Sequence[float], cells: str
) -> None:
    assert against.verdict(row, before, after) == cells
