"""Comparisons of pt-language with HF PEFT."""
