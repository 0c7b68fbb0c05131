"""The LAYER level: module calls, functional calls and their backward nodes."""
