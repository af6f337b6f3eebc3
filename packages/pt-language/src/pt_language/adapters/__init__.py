"""Language models of transformers behind the Backbone contract, one file per kind: decoder-only, encoder-decoder, encoder."""
