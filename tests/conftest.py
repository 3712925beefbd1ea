"""What every test is held to: no unexpected log line, and nothing left behind."""

from __future__ import annotations

import asyncio
import gc
import inspect
import logging
import os
import re
import threading
from collections.abc import Iterator

import hypothesis
import pytest
import uvloop


class _Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


def pytest_configure(config: pytest.Config) -> None:
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())  # what the server runs on
    asyncio.new_event_loop().close()  # libuv opens a pipe for the whole process with its first loop
    slow = [hypothesis.HealthCheck.too_slow]  # a machine may be busy: tests find what is wrong, not what takes long
    hypothesis.settings.register_profile("any machine", deadline=None, suppress_health_check=slow)
    hypothesis.settings.load_profile("any machine")
    config.addinivalue_line("markers", "logs(pattern): warnings and errors that match are expected, and must come")


@pytest.fixture(autouse=True)
def no_unexpected_log_lines(request: pytest.FixtureRequest) -> Iterator[None]:
    """A warning or an error in the log fails the test, unless `@pytest.mark.logs(pattern)` expects it."""
    expected = [marker.args[0] for marker in request.node.iter_markers("logs")]
    handler = _Lines()
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s %(message)s"))
    logging.getLogger().addHandler(handler)
    yield
    logging.getLogger().removeHandler(handler)
    unexpected = [line for line in handler.lines if not any(re.search(pattern, line) for pattern in expected)]
    assert not unexpected, "unexpected log lines:\n" + "\n".join(unexpected)
    missing = [pattern for pattern in expected if not any(re.search(pattern, line) for line in handler.lines)]
    assert not missing, f"expected in the log, but not there: {missing}"


def _open_files() -> dict[str, str]:
    found = {}
    for number in os.listdir("/proc/self/fd"):
        try:
            found[number] = os.readlink(f"/proc/self/fd/{number}")
        except OSError:
            continue  # the listing's own
    return found


@pytest.fixture(autouse=True)
def nothing_left_open(no_unexpected_log_lines: None) -> Iterator[None]:
    """A socket, a file or a thread that a test leaves behind fails it."""
    # What stands now is not looked at again: a collection then costs what the test made, not what was imported.
    gc.freeze()
    before, threads = _open_files(), set(threading.enumerate())
    yield
    # What leaked is closed now, and an exception that nobody retrieved is logged when its future goes.
    gc.collect()
    left = {number: name for number, name in _open_files().items() if before.get(number) != name}
    assert not left, f"left open: {left}"
    new = [thread for thread in threading.enumerate() if thread not in threads]
    for thread in new:
        thread.join(5)  # a loop's own executor ends a moment after the loop
    assert not any(thread.is_alive() for thread in new), f"threads left running: {new}"


@pytest.fixture(autouse=True)
def loop_of_its_own(request: pytest.FixtureRequest, nothing_left_open: None) -> None:
    """Each async test has a loop that is closed after it, whether it names pytest-tornasync's `io_loop` or not."""
    if inspect.iscoroutinefunction(request.function):
        request.getfixturevalue("io_loop")
