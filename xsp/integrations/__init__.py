"""xsp in other libraries' loops and loggers. A module for each, which imports that library."""
