"""The command `mmfuse`, also as `python -m mmfuse`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command; too little memory for its libraries ends in one message, as any other lack of memory."""
    from mmfuse.cli.limits import outer_limit

    try:
        from mmfuse.cli import app
    except (ImportError, MemoryError, OSError) as error:
        known = outer_limit(error)
        if known is None:
            raise
        print(f"error: {known}", file=sys.stderr)
        sys.exit(known.exit_code)
    app.main()


if __name__ == "__main__":
    main()
