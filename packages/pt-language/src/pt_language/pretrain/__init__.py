"""`pt-language pretrain`: a tiny causal language model that can learn in context.

It reads the standard library's documentation as plain text, and *episodes*: labelled examples in one sequence, whose label words are
drawn anew for every episode. Since a word means nothing but what its examples show, only reading the context lowers the loss, and the
ability carries over to label sets and topics that were never seen (Min et al., MetaICL, arXiv 2110.15943). Three kinds of episodes, from
easy to hard: repeated texts, texts that share a word, texts that come from one module of the library. In an episode the loss is on every
label whose class has been shown before (the first label of a class cannot be known), and on the token behind it.

Modules of `data.corpus.HELD_OUT` and one label word in eight are held out; the accuracy on them is measured, with texts that are not among
the examples, and stored beside the weights. The folder is written every `keep_every` steps, so that a stopped run can be used.
"""
