"""Methods that predict a class per image."""
