"""The shared trace context: ids, one clock."""
