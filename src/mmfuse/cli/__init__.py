"""The command `mmfuse`."""
