"""Audio encoders and text models behind the Backbone contract, with the front ends that feed them."""
