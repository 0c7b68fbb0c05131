"""The shared trace context: ids, the current span, one clock."""
