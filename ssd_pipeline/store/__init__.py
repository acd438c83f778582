"""Everything that writes to disk."""
