"""Run the command line as `python -m cmon`."""

from cmon.cli import main

if __name__ == "__main__":
    main()
