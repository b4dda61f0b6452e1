"""``python -m jobs run …`` is the same as the console script ``rmbatch``, for ``ray job submit``."""

from jobs.cli import main

if __name__ == "__main__":
    main()
