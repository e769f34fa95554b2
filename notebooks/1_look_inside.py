# ---
# jupyter:
#   jupytext:
#     text_representation:
#       format_name: percent
# ---

# %% [markdown]
# # Detect, and look inside
#
# One photograph goes through all stages of Mask R-CNN: features, proposals, RoIAlign, boxes, masks.
# Each stage is drawn. `WEIGHTS` may be a training run, a weight file, or released weights.

# %%
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageDraw

from maskrcnn_jax import Detector, pasting
from maskrcnn_jax.images import read_image
from maskrcnn_jax.ops.roi_pooling import placement
from maskrcnn_jax.visualize import contact_sheet, draw

WEIGHTS, PHOTO = "COCO_V1", "photo.jpg"

# %%
detector = Detector.from_weights(WEIGHTS)
names = detector.categories.names
photo = read_image(PHOTO)
prediction = detector(photo)[0]
Image.fromarray(draw(photo, **prediction, names=names))

# %% [markdown]
# ## All stages in one program
#
# The photograph is resized and padded to a bucket. `bind` gives the stages of the model as
# functions; this program returns what each of them found.

# %%
model = detector.model


def look(variables, images, sizes, canvas):
    bound = model.bind(variables)
    pyramid = bound.features(images, sizes, canvas)
    scores = bound.rpn(pyramid, canvas)
    proposals = bound.propose(scores, pyramid, sizes, canvas, model.detection)
    pooled = bound.pool(pyramid, proposals.boxes, canvas, model.config.box_head.resolution)
    logits, deltas = bound.box_head(pooled)
    threshold = model.detection.score_threshold
    detections = bound.detect_boxes(pyramid, sizes, canvas, threshold)
    masks = bound.draw_masks(pyramid, detections, canvas)
    return pyramid, proposals, pooled, logits, detections._replace(masks=masks)


size, bucket = detector.place(photo.shape[:2])
inputs = detector.pad([photo], [size], bucket)
found = jax.device_get(model.run.jit(look)(detector.variables, *inputs))
pyramid, proposals, pooled, logits, detections = found
resized = inputs[0][0, : size[0], : size[1]]  # What the network sees: float32 in [0, 1].
resized = np.rint(resized * 255).astype(np.uint8)
{f"P{level}": features.shape for level, features in pyramid.items()}


# %% [markdown]
# ## The pyramid
#
# The mean size of the features of each level, P2 to P6: bright cells have large features.


# %%
def heat(features):
    strength = np.abs(features).mean(-1)
    strength = 255 * strength / max(strength.max(), 1e-9)
    return np.asarray(Image.fromarray(strength.astype(np.uint8)).resize((400, 300)).convert("RGB"))


maps = [heat(features[0].astype(np.float32)) for _, features in sorted(pyramid.items())]
Image.fromarray(contact_sheet(maps, columns=3))

# %% [markdown]
# ## Proposals
#
# The region proposal network scores each anchor and moves it. These are the 30 best proposals.

# %%
best = proposals.boxes[0][proposals.valid[0]][:30]
Image.fromarray(draw(resized, best, np.ones(len(best), int), None, names=["proposal"]))

# %% [markdown]
# ## RoIAlign (figure 3 of the paper)
#
# The best detection is cut into bins. In each bin, the features of its level are interpolated at
# four points, and averaged. No coordinate is rounded.

# %%
box = detections.boxes[0, 0]
levels = tuple(sorted(pyramid)[:-1])  # The coarsest level has anchors only.
level = int(placement.assign_levels(jnp.asarray(box).reshape(1, 4), levels)[0])
bins, samples = model.config.mask_head.resolution, max(model.config.roi.sampling_ratio, 2)


def points(start, end, count):
    return start + (np.arange(count) + 0.5) * (end - start) / count


picture = Image.fromarray(resized)
pen = ImageDraw.Draw(picture)
for x in range(0, resized.shape[1], 2**level):
    pen.line((x, 0, x, resized.shape[0]), fill=(160, 160, 160))
for y in range(0, resized.shape[0], 2**level):
    pen.line((0, y, resized.shape[1], y), fill=(160, 160, 160))
pen.rectangle(box.tolist(), outline=(220, 40, 40), width=3)
for x in points(box[0], box[2], bins * samples):
    for y in points(box[1], box[3], bins * samples):
        pen.ellipse((x - 1, y - 1, x + 1, y + 1), fill=(30, 90, 255))
picture

# %% [markdown]
# ## From boxes to masks (figure 4 of the paper)
#
# The box head gives each proposal a score for each class. The mask head sees 14x14 features of each
# detection and draws 28x28 probabilities of its class. They are enlarged to the box.

# %%
count = int(detections.valid[0].sum())
grids = [np.kron(mask, np.ones((8, 8))) for mask in detections.masks[0, : min(count, 8)]]
grids = [np.repeat(np.rint(255 * grid).astype(np.uint8)[..., None], 3, -1) for grid in grids]
Image.fromarray(contact_sheet(grids, columns=4))

# %%
in_photo = pasting.to_original(
    jax.tree.map(lambda x: x[0], detections), size, photo.shape[:2], model.detection
)
patch, offset = in_photo.patches[0]
f"{patch.shape} probabilities from row and column {offset} on; {(patch > 0.5).sum()} pixels inside"

# %% [markdown]
# The stages end in the same detections as the call above.

# %%
assert np.allclose(in_photo.boxes[: len(prediction["boxes"])], prediction["boxes"], atol=0.01)
