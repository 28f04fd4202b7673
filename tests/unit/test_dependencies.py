"""Dependencies of routes."""

import pytest

from entrypoints.http.dependencies import provided


def test_a_dependency_that_the_container_does_not_provide_fails_on_import() -> None:
    with pytest.raises(LookupError, match="no_such_use_case"):
        provided("no_such_use_case")
