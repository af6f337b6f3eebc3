"""Measurements of pt-vision's segmentation."""
