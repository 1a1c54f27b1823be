"""`python -m mmfuse`."""

from mmfuse.cli import main

main()
