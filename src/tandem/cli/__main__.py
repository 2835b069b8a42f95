"""The same command as `python -m tandem.cli`, for processes that start another one of ours."""

from tandem.cli import main

if __name__ == "__main__":
    main()
