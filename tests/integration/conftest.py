"""The mesh that the tests of a file share; its logs are shown when a test fails."""

from tests.support.mesh.plugin import mesh as mesh
from tests.support.mesh.plugin import pytest_runtest_makereport as pytest_runtest_makereport
