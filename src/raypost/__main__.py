"""Run `python -m raypost`."""

from raypost.cli import main

if __name__ == "__main__":
    main()
