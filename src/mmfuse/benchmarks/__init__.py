"""Speed and memory measurements on this machine, for `mmfuse benchmark`."""
