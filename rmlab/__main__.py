"""`python -m rmlab ...`: the command line."""

from rmlab.cli import main

if __name__ == "__main__":
    main()
