"""Images with masks: how masks are read, the data set, the crops that methods train on, and the built-in streets."""
