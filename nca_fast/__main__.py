"""The program: `python -m nca_fast` and `nca-fast`."""

import sys


def main() -> int:
    """Runs the command line of this process; returns its exit status. Ctrl-C is heard while it is being imported."""
    try:
        from nca_fast import cli
    except KeyboardInterrupt:
        print("nca-fast: interrupted", file=sys.stderr)
        return 130
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
