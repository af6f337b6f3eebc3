"""The parts of RELIEF: its networks, episodes over a batch of graphs, and the policy update."""
