"""What is predicted from text: classes by label words or by a head, generated answers, running text.

A task asks a method for what language models can do (logits of given answers, scores of choices, generated tokens); it does not know
how the method changes the model.
"""
