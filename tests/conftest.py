"""What every test process does once."""

from __future__ import annotations

import gc
import os


def pytest_collection_finish() -> None:
    """Take the libraries out of every later collection.

    Closing a pipeline collects garbage, which cost a tenth of the tests that render in this process.
    """
    if "PYTEST_XDIST_WORKER" in os.environ:  # a single test is not worth the imports
        import transformers.models.t5.modeling_t5  # noqa: F401

        gc.collect()
        gc.freeze()
