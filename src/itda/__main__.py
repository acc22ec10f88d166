"""`python -m itda` is the command line."""

from itda.cli import main

if __name__ == "__main__":
    main()
