"""Words and numbers as people read them: labels, units, folded names, tagged warnings."""
