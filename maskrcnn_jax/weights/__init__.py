"""Reads and writes weight files, of this package and of others, without torch.

The rest of the package uses ``loading`` and ``saving``, which read a whole detector from any source
and write it to one file. ``backbones`` loads the weights of the backbone only, ``download`` and
``zoo`` fetch released files, and ``keras_resnet50`` converts a backbone of Keras.

A family is a set of names in weight files. Each family has a module: ``own``, ``torchvision``,
``detectron2``, ``mmdetection``, ``detectron1``, and ``torchvision_resnet`` for backbones. The
module maps the names to variables with the tables of ``layout``, and infers the network of a file,
with the help of ``guess``. ``model_metadata`` describes the model in our own files. ``files`` reads
and writes the file formats, each of which has a module, and checks all input.

``translation`` writes a model for another library. ``differences`` finds the rules in which the
model differs from the configs of that library, and ``peer_settings`` says how to set them there.
"""
