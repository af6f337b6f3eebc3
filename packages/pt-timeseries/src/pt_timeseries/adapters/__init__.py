"""Encoders behind the Backbone contract, one module per family."""
