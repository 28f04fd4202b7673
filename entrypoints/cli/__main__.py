"""The command `smart-chatbot`, also as `python -m entrypoints.cli`. Handles signals before it imports the rest."""

from entrypoints.signals import exit_on_signals
from entrypoints.standard_streams import replace_closed_streams


def main() -> None:
    """Run the command line and exit."""
    exit_on_signals()
    replace_closed_streams()
    from entrypoints.cli.main import main

    main()


if __name__ == "__main__":
    main()
