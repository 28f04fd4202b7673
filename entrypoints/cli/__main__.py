"""The command `smart-chatbot`, also as `python -m entrypoints.cli`. Handles signals before it imports the rest."""

from entrypoints.preconditions import explain_import_error, require_preconditions


def main() -> None:
    """Run the command line and exit."""
    require_preconditions()
    try:
        from entrypoints.signals import exit_on_signals
        from entrypoints.standard_streams import replace_closed_streams

        exit_on_signals()
        replace_closed_streams()
        from entrypoints.cli.main import main
    except ImportError as error:
        explain_import_error(error)
        raise
    main()


if __name__ == "__main__":
    main()
