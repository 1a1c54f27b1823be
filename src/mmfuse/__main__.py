"""`python -m mmfuse`."""

from mmfuse.cli.app import main

main()
