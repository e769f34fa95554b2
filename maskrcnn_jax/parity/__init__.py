"""Is it equal to torchvision? Compares stages, detections and training, and explains what differs.

``comparison`` compares detection on images: ``reference`` is torchvision's side, the only one that needs torch besides
``training_reference``, and ``ours`` and ``stages`` are our own; ``pairing`` matches detections, ``explanation`` traces
each one left over to the decision that fell differently, ``report`` writes the tables. ``training`` compares steps of
training on the same samples. ``recipe`` makes random weights that give every stage something to do.
"""
