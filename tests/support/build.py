"""What a test needs of the build under test (``make test BUILD=compiled``)."""

from __future__ import annotations

import pytest

from tidegate.runtime.process.build import current_build

#: Of tests that replace a constant, which compiled code has inlined, or leave out an argument of
#: which compiled code checks the type.
sources_only = pytest.mark.skipif(
    current_build() == "compiled",
    reason="compiled code has it inlined, or checks it",
)
