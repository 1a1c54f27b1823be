"""Files: written whole or not at all, checked by checksum, and read as plain data."""
