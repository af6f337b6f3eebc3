"""From resolved options to a finished run: prepare (nothing is written), then execute."""
