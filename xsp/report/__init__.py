"""How a profile is shown to people: terminal, notebook and the HTML report."""
