"""Classification by two towers: pictures are compared with texts that name the classes."""
