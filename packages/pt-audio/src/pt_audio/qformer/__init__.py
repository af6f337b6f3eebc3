"""From audio vectors and an instruction to soft prompts: the Q-former, the aligner around it, and their training on captions."""
