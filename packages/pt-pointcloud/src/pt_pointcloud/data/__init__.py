"""Point clouds from files and generators, and the views of them that a backbone reads."""
