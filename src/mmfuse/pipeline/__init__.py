"""What surrounds every job: its record, its lock and its tracking."""
