# ---
# jupyter:
#   jupytext:
#     text_representation:
#       format_name: percent
# ---

# %% [markdown]
# # From torchvision, Detectron2 and MMDetection, and back
#
# Weight files of all three libraries are read and written without PyTorch, and nothing in them is
# executed. Here torchvision's released weights become files of the others, and are read again.

# %%
import jax
import numpy as np

from maskrcnn_jax.cli.main import main
from maskrcnn_jax.weights import loading

WEIGHTS = "COCO_V1"

# %%
original = loading.load(WEIGHTS)
print(original.report)

# %% [markdown]
# ## Write for another library
#
# The command says which rules of detection no weight file holds. It is the same as
# `maskrcnn-jax convert COCO_V1 weights.pkl --to detectron2` in a shell.

# %%
files = {"torchvision": "weights.pth", "detectron2": "weights.pkl", "mmdet": "weights_mmdet.pth"}
for program, file in files.items():
    assert main(["convert", WEIGHTS, file, "--to", program, "--force"]) == 0

# %% [markdown]
# ## Read it again
#
# Names, layouts and orders of channels differ between the files. The kernels are the same numbers.


# %%
def kernels(loaded):
    return {
        jax.tree_util.keystr(path): np.asarray(array)
        for path, array in jax.tree_util.tree_leaves_with_path(loaded.variables["params"])
    }


for program, file in files.items():
    loaded = loading.load(file)
    found, expected = kernels(loaded), kernels(original)
    same = [name for name in expected if found[name].shape == expected[name].shape]
    print(program, loaded.report.architecture, len(same), "of", len(expected), "shapes agree")

# %% [markdown]
# torchvision's file has the same arrays, to the bit. The others number the classes in another
# order, with the background last, and their detectors have 80 classes where torchvision's has 90
# ids with gaps; so `loading.load` gives each file its own categories.

# %%
again = kernels(loading.load(files["torchvision"]))
assert all(np.array_equal(again[name], array) for name, array in kernels(original).items())
