"""One job on many ranks: their captures side by side, and what each waited for the others."""
