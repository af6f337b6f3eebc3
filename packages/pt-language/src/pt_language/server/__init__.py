"""Many tuned prompts over one frozen language model: in Python (`PromptServer`) and over HTTP (`pt-language serve`)."""
