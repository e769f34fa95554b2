"""The extra fields of LVIS (Gupta et al., 2019): each image has labels of some categories only."""

from typing import Any

FIELDS = ("neg_category_ids", "not_exhaustive_category_ids")
FREQUENCIES = ("r", "c", "f")  # Rare, common and frequent, by the number of training images.


def is_lvis(annotations: dict[str, Any]) -> bool:
    """Whether annotations have the extra fields of LVIS; then AP follows LVIS's rule.

    ``neg_category_ids`` of an image are the categories that it does not have,
    ``not_exhaustive_category_ids`` those of which objects may lack a label. ``frequency`` of a
    category is "r", "c" or "f".

    Raises:
        ValueError: Some entries have these fields and others do not. The message names one.
    """
    images, categories = annotations["images"], annotations["categories"]
    if not any(name in entry for entry in images for name in FIELDS) and not any(
        category.get("frequency") in FREQUENCIES for category in categories
    ):
        return False
    for image in images:
        for name in FIELDS:
            if not isinstance(image.get(name), list):
                raise ValueError(
                    f"other entries have the fields of LVIS, but image id {image['id']} has no "
                    f"list {name}"
                )
    for category in categories:
        if category.get("frequency") not in FREQUENCIES:
            raise ValueError(
                f"the images have the fields of LVIS, but category id {category['id']} has no "
                'frequency "r", "c" or "f"'
            )
    return True
