"""The examples in the docstrings are true."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import harness.metrics

MODULES = [module.name for module in pkgutil.iter_modules(harness.metrics.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    module = importlib.import_module(f"harness.metrics.{name}")
    assert doctest.testmod(module).failed == 0
