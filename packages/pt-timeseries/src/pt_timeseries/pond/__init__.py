"""The parts of POND: prompts, estimates of information, streams of single domains, the choice of a source."""
