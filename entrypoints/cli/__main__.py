"""`python -m entrypoints.cli` is the command `smart-chatbot`."""

from entrypoints.cli.main import main

if __name__ == "__main__":
    main()
