"""The app for `uvicorn entrypoints.asgi:app`."""

import sys

from entrypoints.http.app import create_app
from entrypoints.settings import SettingsError, load_settings, require_model

try:
    settings = load_settings()
    require_model(settings)
except SettingsError as refusal:
    print(refusal, file=sys.stderr)
    sys.exit(3)

app = create_app(settings, chain_signals=True)
