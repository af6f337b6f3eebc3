"""Text data: tables and built-in text, rendered by a template into token sequences."""
