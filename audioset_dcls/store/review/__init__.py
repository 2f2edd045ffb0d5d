"""A local page to judge candidates of a class."""
