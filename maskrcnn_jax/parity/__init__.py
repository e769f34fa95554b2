"""Compares stages, detections and training with torchvision, and explains the differences.

``comparison`` compares detection on images. ``reference`` is torchvision's side; only this file and
the ``training_*`` files need torch. ``jax_model`` runs our whole model, and ``stages`` runs our
stages one by one. ``pairing`` pairs detections, ``explanation`` traces each unpaired detection to
the decision that differed, and ``report`` writes the tables. ``training`` compares training steps
on the same samples. ``recipe`` makes random weights that exercise every stage.
"""
