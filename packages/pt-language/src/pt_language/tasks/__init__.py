"""What is predicted from text."""
