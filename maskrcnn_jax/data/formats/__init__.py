"""Annotations of other tools and data sets, as COCO json.

Each format has a file with three functions: ``matches`` tells by content whether files are in this
format, ``image_folder`` says where its images lie, and ``read`` gives images and objects to a
`Collection`. `conversion` chooses among them.
"""
