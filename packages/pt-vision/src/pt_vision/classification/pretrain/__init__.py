"""Train a small ViT from scratch, on drawn pictures or on the user's labelled images, and store it as a backbone file.

The built-in backbone `vit_glyphs` is made with nothing but defaults:

    from pt_vision.classification.pretrain.run import PretrainConfig, pretrain
    from pt_vision.networks.files import builtin_path
    pretrain(PretrainConfig(), builtin_path("vit_glyphs"))

With equal versions and an equal number of threads the same configuration gives the same bytes on a CPU.
"""
