"""Fuzzing: what others wrote is opened, or refused in a sentence, and then nothing fails."""
