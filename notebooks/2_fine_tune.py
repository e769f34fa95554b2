# ---
# jupyter:
#   jupytext:
#     text_representation:
#       format_name: percent
# ---

# %% [markdown]
# # Fine-tune on 18 photographs
#
# `PHOTOS` is a folder of photographs, and `ANNOTATIONS` their outlines in COCO's format. A model
# that knows COCO learns their classes. This page is the loop in the open; `docs/your_data.sh` does
# the same with evaluation, checkpoints and reports.

# %%
import os

import jax
from PIL import Image

from configs import your_data
from maskrcnn_jax import Detector, maskrcnn_resnet50_fpn, training
from maskrcnn_jax.data.coco import CocoDataset
from maskrcnn_jax.data.pipeline import train_batches
from maskrcnn_jax.drawing import gallery
from maskrcnn_jax.visualize import contact_sheet, draw

PHOTOS, ANNOTATIONS, WEIGHTS = "photos", "annotations.json", "COCO_V1"
STEPS = int(os.environ.get("STEPS", "200"))

# %%
dataset = CocoDataset(PHOTOS, ANNOTATIONS, keep_empty=False)
names = dataset.categories.names
shown = [gallery.annotated(dataset[i], [], dataset.categories) for i in range(4)]
Image.fromarray(contact_sheet(shown, columns=2))

# %% [markdown]
# ## The model
#
# With another number of classes, the layers with an output for each class start from random
# weights. All others keep what they know. The backbone stays as it is: `frozen_stages` is 4.

# %%
config = your_data.get_config()
config.num_steps = STEPS
detector = maskrcnn_resnet50_fpn(weights=WEIGHTS, num_classes=len(names) + 1)
config.model = detector.model.config
optimizer = training.make_optimizer(config, detector.variables["params"])
state = training.create_state(detector.variables, optimizer)
frozen = training.frozen_mask(detector.variables["params"], config.model.backbone)
f"{sum(jax.tree.leaves(frozen))} of {len(jax.tree.leaves(frozen))} arrays are frozen"

# %% [markdown]
# ## The loop

# %%
step = training.compile_step(detector.model, optimizer, config)
batches = train_batches(dataset, config.data, batch_size=config.batch_size, seed=config.seed)
key = jax.random.key(config.seed)
losses = []
for number, batch in zip(range(STEPS), batches, strict=False):
    state, metrics = step(state, jax.tree.map(jax.numpy.asarray, batch), key)
    losses.append(float(metrics["loss"]))
    if number % 20 == 0:
        print(number, {name: round(float(metrics[name]), 3) for name in ("loss", "loss_mask")})

# %% [markdown]
# ## Detect with it

# %%
tuned = Detector(detector.model, state.variables, dataset.categories, config.data)
image = dataset[0].image
prediction = tuned(image, 0.5)[0]
Image.fromarray(draw(image, **prediction, names=names))
