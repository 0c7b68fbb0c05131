"""`python -m xsp` is `xsp`."""

from xsp.cli import main

if __name__ == "__main__":
    main()
