"""How a profile is shown to people: terminal and notebook."""
