"""The ASGI application, e.g. for `uvicorn entrypoints.asgi:app`."""

import multiprocessing
import sys

from entrypoints.preconditions import explain_import_error, require_preconditions

require_preconditions()
try:
    from domain.errors import Unusable
    from entrypoints.exit_status import UNUSABLE
    from entrypoints.settings import load_settings
    from entrypoints.sharing import require_shareable
    from entrypoints.standard_streams import warn
    from entrypoints.startup_warnings import startup_warnings
except ImportError as error:
    explain_import_error(error)
    raise


def _is_one_of_several() -> bool:
    """Whether the server runs several processes of this application, as far as it can be told.

    Uvicorn and Hypercorn start their workers by `multiprocessing`, with the server's configuration as an argument. With
    `--reload`, uvicorn runs a single one whatever the configuration says.
    """
    config = getattr(multiprocessing.current_process(), "_kwargs", {}).get("config")
    return getattr(config, "workers", 1) > 1 and not getattr(config, "should_reload", False)


try:
    settings = load_settings()
    if _is_one_of_several():
        require_shareable(settings)
    settings.require_model()
    settings.require_authentication()
    for sentence in startup_warnings(settings):
        warn(sentence)
    from entrypoints.http.app import create_app  # here, since it takes long, and the configuration may be refused

    app = create_app(settings, chain_signals=True)
except Unusable as unusable:
    print(unusable, file=sys.stderr)
    sys.exit(UNUSABLE)
