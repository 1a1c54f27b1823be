"""Files: written completely or not at all, verified by checksum, and read as plain data."""
