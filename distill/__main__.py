"""`python -m distill COMMAND ...` is `audio-distill COMMAND ...`."""

from distill.cli.main import main

if __name__ == "__main__":
    main()
