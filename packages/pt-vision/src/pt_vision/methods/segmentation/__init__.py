"""Methods that predict a class per pixel."""
