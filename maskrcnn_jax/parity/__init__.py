"""Compares stages, detections and training with another program, and explains the differences.

The other program is the peer: torchvision, Detectron2 or MMDetection. ``reference``, ``detectron2``
and ``mmdetection`` run them; only these files and the ``training_*`` files need torch.
``recording`` brings a peer's results to our form.

``comparison`` compares detection on images. ``jax_model`` runs our whole model, and ``stages`` runs
our stages one by one. ``pairing`` pairs detections, ``explanation`` traces each unpaired detection
to the decision that differed, ``roi_decisions`` checks the decisions about one RoI, and ``report``
writes the tables. ``training`` compares training steps with torchvision on the same samples.
``recipe`` makes random weights that exercise every stage.
"""
