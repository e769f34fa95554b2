"""Weights on disk: other people's and ours, without torch.

``loading`` and ``saving`` are what the rest of the package uses: a whole detector from any source, or into one file.
``backbones`` fills the backbone alone, ``download`` fetches released files, and ``keras_resnet50`` converts one more
backbone. What a file's names mean is in ``torchvision`` and ``architecture``, what our own files say beside the arrays
in ``model_metadata``. ``files`` reads and writes the formats, each in a file of its own, and trusts none.
"""
