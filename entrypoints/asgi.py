"""The ASGI application, e.g. for `uvicorn entrypoints.asgi:app`."""

import sys

from domain.errors import Unusable
from entrypoints.http.app import create_app
from entrypoints.settings import load_settings
from entrypoints.standard_streams import warn
from entrypoints.startup_warnings import startup_warnings

try:
    settings = load_settings()
    settings.require_model()
    for sentence in startup_warnings(settings):
        warn(sentence)
    app = create_app(settings, chain_signals=True)
except Unusable as unusable:
    print(unusable, file=sys.stderr)
    sys.exit(3)
