"""The app for `uvicorn entrypoints.asgi:app`."""

import sys

from entrypoints.http.app import create_app
from entrypoints.settings import SettingsError, load_settings, require_memory, require_model, unknown_keys

try:
    settings = load_settings()
    require_model(settings)
    require_memory(settings)
    for sentence in unknown_keys():
        print(f"warning: {sentence}", file=sys.stderr)
except SettingsError as refusal:
    print(refusal, file=sys.stderr)
    sys.exit(3)

app = create_app(settings, chain_signals=True)
