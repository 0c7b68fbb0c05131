"""How queries arrive: the load that a system is measured under."""
