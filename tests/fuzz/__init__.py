"""Bad input at every public door: the doors are read off the package, so that a new one is tried by being there."""
