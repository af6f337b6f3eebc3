"""Windows of several domains from files and generators, and the scenario of a run made of them."""
