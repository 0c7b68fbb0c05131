"""A program run as it is and profiled along the way: `xsp run`."""
