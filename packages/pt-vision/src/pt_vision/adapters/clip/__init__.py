"""Image and text towers of CLIP-type networks behind the Backbone contract."""
