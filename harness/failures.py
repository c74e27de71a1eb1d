"""Every way in which the command can fail, turned into one message and an exit code."""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Generator
from contextlib import contextmanager

from backends.errors import BackendError
from harness.errors import EXIT_USAGE, ParityError

EXIT_INTERRUPTED = 128 + signal.SIGINT
EXIT_BROKEN_PIPE = 128 + signal.SIGPIPE
DEBUG_VARIABLE = "PARITY_DEBUG"


def guarded(action: Callable[[], int]) -> int:
    """The exit code of `action`, or that of its failure, which is then explained on stderr.

    With PARITY_DEBUG=1 in the environment the traceback is shown as well.
    """
    try:
        with _termination_as_interrupt():
            exit_code = action()
        sys.stdout.flush()
        return exit_code
    except (ParityError, BackendError) as error:
        return _fail(str(error), error)
    except KeyboardInterrupt:
        print("parity: interrupted; finished renders are in the store", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader went away, as `head` does. Nothing may be written again, not even on exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            where = f" that holds {error.filename}" if error.filename else ""
            return _fail(f"no space left on the disk{where}; free some and repeat", error)
        if isinstance(error, OSError) and error.filename:
            return _fail(
                f"{error.filename}: {error.strerror}; check that it is what it should be and who may"
                " use it",
                error,
            )
        return _fail(
            f"unexpected {type(error).__name__}: {error}\nThis is a defect of parity. Repeat the"
            f" command with {DEBUG_VARIABLE}=1 in the environment for the traceback to report.",
            error,
        )


def usable_streams() -> bool:
    """Whether there is a standard output to print to; says so if not.

    A stream that the caller closed is None here, and its number would go to the next file that is
    opened, so the others are pointed at nothing.
    """
    for number, stream in enumerate((sys.stdin, sys.stdout, sys.stderr)):
        if stream is None:
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123
    if sys.stdout is None:
        print(
            "parity: standard output is closed; send it somewhere, as to /dev/null", file=sys.stderr
        )
        return False
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a locale without our characters
    return True


@contextmanager
def _termination_as_interrupt() -> Generator[None]:
    """End in order on SIGTERM too, which CI and Slurm send: workers must not outlive the command."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may change handlers
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _fail(message: str, error: Exception) -> int:
    if os.environ.get(DEBUG_VARIABLE) == "1":
        traceback.print_exception(error)
    print(f"parity: {message}", file=sys.stderr)
    return EXIT_USAGE
