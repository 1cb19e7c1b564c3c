"""Everything that knows the host: folders, model memory, types, conversions, progress."""
