"""Networks as they come: built, filled with weights that were checked, and not yet behind the Backbone contract (`adapters`)."""
