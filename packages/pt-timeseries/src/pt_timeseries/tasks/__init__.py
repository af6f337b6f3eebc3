"""What is predicted for a window."""
