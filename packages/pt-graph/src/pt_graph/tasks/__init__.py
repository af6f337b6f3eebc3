"""What is predicted for a graph: yes/no properties, or one of several classes."""
