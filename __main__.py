"""Lets `python -m iobench` be the command `iobench`."""

from .cli import main

if __name__ == "__main__":
    main()
