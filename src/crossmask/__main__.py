"""``python -m crossmask`` is the command line (what ``accelerate launch -m`` needs)."""

from crossmask.cli import main

if __name__ == "__main__":
    main()
