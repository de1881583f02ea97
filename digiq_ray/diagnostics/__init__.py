"""Whether a critic can be trusted: figures that show the known ways of failing."""
