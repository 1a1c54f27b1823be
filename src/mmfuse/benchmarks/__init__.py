"""How fast this machine does the heavy work: what `mmfuse benchmark` measures."""
