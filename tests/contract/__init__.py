"""One suite per port, to be inherited by the tests of its adapters."""

from pkgutil import iter_modules

import pytest

# Failed assertions of the suites show their values, as those of test modules do.
pytest.register_assert_rewrite(*(f"{__name__}.{module.name}" for module in iter_modules(__path__)))
