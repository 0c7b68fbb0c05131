"""Pure functions from the columns of a profile to tables; nothing here measures."""
