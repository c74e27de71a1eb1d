"""Every way in which the command can fail, turned into one message and an exit code."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Callable

from backends.errors import BackendError
from harness.errors import EXIT_USAGE, ParityError

EXIT_INTERRUPTED = 130
DEBUG_VARIABLE = "PARITY_DEBUG"


def guarded(action: Callable[[], int]) -> int:
    """The exit code of `action`, or that of its failure, which is then explained on stderr.

    With PARITY_DEBUG=1 in the environment the traceback is shown as well.
    """
    try:
        return action()
    except (ParityError, BackendError) as error:
        return _fail(str(error), error)
    except KeyboardInterrupt:
        print("parity: interrupted; finished renders are in the store", file=sys.stderr)
        return EXIT_INTERRUPTED
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            where = f" that holds {error.filename}" if error.filename else ""
            return _fail(f"no space left on the disk{where}; free some and repeat", error)
        return _fail(
            f"unexpected {type(error).__name__}: {error}\nThis is a defect of parity. Repeat the"
            f" command with {DEBUG_VARIABLE}=1 in the environment for the traceback to report.",
            error,
        )


def _fail(message: str, error: Exception) -> int:
    if os.environ.get(DEBUG_VARIABLE) == "1":
        traceback.print_exception(error)
    print(f"parity: {message}", file=sys.stderr)
    return EXIT_USAGE
