"""The released weights of Detectron2 and MMDetection that are loaded, by the names of configs.

A name has its family before it: ``detectron2:mask_rcnn_R_50_FPN_3x`` or
``mmdet:mask-rcnn_r50_fpn_1x_coco``.
"""

import re
from pathlib import PurePosixPath

from maskrcnn_jax.weights.download import Release

# The first digits of the md5 of a file stand in its name.
DETECTRON2_URL = "https://dl.fbaipublicfiles.com/detectron2/"
DETECTRON2 = {
    "mask_rcnn_R_50_FPN_1x": "COCO-InstanceSegmentation/{}/137260431/model_final_a54504.pkl",
    "mask_rcnn_R_50_FPN_3x": "COCO-InstanceSegmentation/{}/137849600/model_final_f10217.pkl",
    "mask_rcnn_R_101_FPN_3x": "COCO-InstanceSegmentation/{}/138205316/model_final_a3ec72.pkl",
    "mask_rcnn_X_101_32x8d_FPN_3x": "COCO-InstanceSegmentation/{}/139653917/model_final_2d9806.pkl",
    "mask_rcnn_R_50_FPN_3x_gn": "Misc/{}/138602888/model_final_dc5d9e.pkl",
    "mask_rcnn_R_50_FPN_3x_syncbn": "Misc/{}/169527823/model_final_3b3c51.pkl",
    "mask_rcnn_R_50_C4_1x": "COCO-InstanceSegmentation/{}/137259246/model_final_9243eb.pkl",
    "mask_rcnn_R_50_C4_3x": "COCO-InstanceSegmentation/{}/137849525/model_final_4ce675.pkl",
    "mask_rcnn_R_101_C4_3x": "COCO-InstanceSegmentation/{}/138363239/model_final_a2914c.pkl",
    "mask_rcnn_R_50_DC5_1x": "COCO-InstanceSegmentation/{}/137260150/model_final_4f86c3.pkl",
    "mask_rcnn_R_50_DC5_3x": "COCO-InstanceSegmentation/{}/137849551/model_final_84107b.pkl",
    "mask_rcnn_R_101_DC5_3x": "COCO-InstanceSegmentation/{}/138363294/model_final_0464b7.pkl",
    "cascade_mask_rcnn_R_50_FPN_1x": "Misc/{}/138602847/model_final_e9d89b.pkl",
    "cascade_mask_rcnn_R_50_FPN_3x": "Misc/{}/144998488/model_final_480dd8.pkl",
    "scratch_mask_rcnn_R_50_FPN_3x_gn": "Misc/{}/138602908/model_final_01ca85.pkl",
    "mask_rcnn_R_50_FPN_100ep_LSJ": "new_baselines/{}/42047764/model_final_bb69de.pkl",
    "mask_rcnn_R_50_FPN_200ep_LSJ": "new_baselines/{}/42047638/model_final_89a8d3.pkl",
    "mask_rcnn_R_50_FPN_400ep_LSJ": "new_baselines/{}/42019571/model_final_14d201.pkl",
    "mask_rcnn_R_101_FPN_100ep_LSJ": "new_baselines/{}/42025812/model_final_4f7b58.pkl",
    "mask_rcnn_R_101_FPN_200ep_LSJ": "new_baselines/{}/42131867/model_final_0bb7ae.pkl",
    "mask_rcnn_R_101_FPN_400ep_LSJ": "new_baselines/{}/42073830/model_final_f96b26.pkl",
}

# The first digits of the sha256 of a file stand in its name. {} is the folder.
MMDET_URL = "https://download.openmmlab.com/mmdetection/v2.0/"
MMDET = {
    "mask-rcnn_r50_fpn_1x_coco": (
        "mask_rcnn/mask_rcnn_r50_fpn_1x_coco",
        "20200205-d4b0c5d6",
    ),
    "mask-rcnn_r50_fpn_2x_coco": (
        "mask_rcnn/mask_rcnn_r50_fpn_2x_coco",
        "bbox_mAP-0.392__segm_mAP-0.354_20200505_003907-3e542a40",
    ),
    "mask-rcnn_r50_fpn_mstrain-poly_3x_coco": (
        "mask_rcnn/mask_rcnn_r50_fpn_mstrain-poly_3x_coco",
        "20210524_201154-21b550bb",
    ),
    "mask-rcnn_r101_fpn_1x_coco": (
        "mask_rcnn/mask_rcnn_r101_fpn_1x_coco",
        "20200204-1efe0ed5",
    ),
    "mask-rcnn_r101_fpn_2x_coco": (
        "mask_rcnn/mask_rcnn_r101_fpn_2x_coco",
        "bbox_mAP-0.408__segm_mAP-0.366_20200505_071027-14b391c7",
    ),
    "mask-rcnn_r101_fpn_ms-poly-3x_coco": (
        "mask_rcnn/mask_rcnn_r101_fpn_mstrain-poly_3x_coco",
        "20210524_200244-5675c317",
    ),
    "mask-rcnn_r50-caffe_fpn_1x_coco": (
        "mask_rcnn/mask_rcnn_r50_caffe_fpn_1x_coco",
        "bbox_mAP-0.38__segm_mAP-0.344_20200504_231812-0ebd1859",
    ),
    "mask-rcnn_r50-caffe_fpn_ms-poly-2x_coco": (
        "mask_rcnn/mask_rcnn_r50_caffe_fpn_mstrain-poly_2x_coco",
        "bbox_mAP-0.403__segm_mAP-0.365_20200504_231822-a75c98ce",
    ),
    "mask-rcnn_r50-caffe_fpn_ms-poly-3x_coco": (
        "mask_rcnn/mask_rcnn_r50_caffe_fpn_mstrain-poly_3x_coco",
        "bbox_mAP-0.408__segm_mAP-0.37_20200504_163245-42aa3d00",
    ),
    "mask-rcnn_r101-caffe_fpn_1x_coco": (
        "mask_rcnn/mask_rcnn_r101_caffe_fpn_1x_coco",
        "20200601_095758-805e06c1",
    ),
    "mask-rcnn_r101-caffe_fpn_ms-poly-3x_coco": (
        "mask_rcnn/mask_rcnn_r101_caffe_fpn_mstrain-poly_3x_coco",
        "20210526_132339-3c33ce02",
    ),
    "mask-rcnn_x101-32x4d_fpn_1x_coco": (
        "mask_rcnn/mask_rcnn_x101_32x4d_fpn_1x_coco",
        "20200205-478d0b67",
    ),
    "mask-rcnn_x101-32x4d_fpn_2x_coco": (
        "mask_rcnn/mask_rcnn_x101_32x4d_fpn_2x_coco",
        "bbox_mAP-0.422__segm_mAP-0.378_20200506_004702-faef898c",
    ),
    "mask-rcnn_x101-64x4d_fpn_1x_coco": (
        "mask_rcnn/mask_rcnn_x101_64x4d_fpn_1x_coco",
        "20200201-9352eb0d",
    ),
    "mask-rcnn_x101-64x4d_fpn_2x_coco": (
        "mask_rcnn/mask_rcnn_x101_64x4d_fpn_2x_coco",
        "20200509_224208-39d6f70c",
    ),
    "mask-rcnn_x101-32x8d_fpn_1x_coco": (
        "mask_rcnn/mask_rcnn_x101_32x8d_fpn_1x_coco",
        "20220630_173841-0aaf329e",
    ),
    "mask-rcnn_x101-32x4d_fpn_ms-poly-3x_coco": (
        "mask_rcnn/mask_rcnn_x101_32x4d_fpn_mstrain-poly_3x_coco",
        "20210524_201410-abcd7859",
    ),
    "mask-rcnn_x101-32x8d_fpn_ms-poly-1x_coco": (
        "mask_rcnn/mask_rcnn_x101_32x8d_fpn_mstrain-poly_1x_coco",
        "20220630_170346-b4637974",
    ),
    "mask-rcnn_x101-32x8d_fpn_ms-poly-3x_coco": (
        "mask_rcnn/mask_rcnn_x101_32x8d_fpn_mstrain-poly_3x_coco",
        "20210607_161042-8bd2c639",
    ),
    "mask-rcnn_x101-64x4d_fpn_ms-poly_3x_coco": (
        "mask_rcnn/mask_rcnn_x101_64x4d_fpn_mstrain-poly_3x_coco",
        "20210526_120447-c376f129",
    ),
    "mask-rcnn_r50_fpn_gn-all_2x_coco": (
        "gn/mask_rcnn_r50_fpn_gn-all_2x_coco",
        "20200206-8eee02a6",
    ),
    "mask-rcnn_r50_fpn_gn-all_3x_coco": (
        "gn/mask_rcnn_r50_fpn_gn-all_3x_coco",
        "20200214-8b23b1e5",
    ),
    "mask-rcnn_r101_fpn_gn-all_2x_coco": (
        "gn/mask_rcnn_r101_fpn_gn-all_2x_coco",
        "20200205-d96b1b50",
    ),
    "mask-rcnn_r101_fpn_gn-all_3x_coco": (
        "gn/mask_rcnn_r101_fpn_gn-all_3x_coco",
        "20200513_181609-0df864f4",
    ),
}
PREFIXES = {"detectron2:": DETECTRON2, "mmdet:": MMDET}
# Words in the names of networks of other kinds.
KINDS = (
    (r"_C4|caffe[-_]c4", "a C4 network"),
    (r"_DC5|caffe[-_]dc5", "a DC5 network"),
    (r"(?i)cascade", "a Cascade R-CNN"),
    (r"(?i)dconv", "a network with deformable convolutions"),
    (r"regnet", "a RegNet"),
)


def is_name(name: str) -> bool:
    """Whether a name has the form of a released one: a family, a colon and more."""
    return name.startswith(tuple(PREFIXES))


def release(name: str) -> Release:
    """Returns the released file of a name.

    Raises:
        ValueError: The name is unknown, or its network is of a kind that is not loaded. The message
            lists the names of the family.
    """
    prefix, table = next((x, y) for x, y in PREFIXES.items() if name.startswith(x))
    config = name.removeprefix(prefix)
    if config not in table:
        kind = next((words for pattern, words in KINDS if re.search(pattern, config)), None)
        found = f"is {kind}, which is not loaded" if kind else "is not known"
        known = ", ".join(prefix + each for each in table)
        raise ValueError(f"{name} {found}; the names are {known}")
    return _of_detectron2(config) if table is DETECTRON2 else _of_mmdetection(config)


def _of_detectron2(config: str) -> Release:
    path = DETECTRON2[config].format(config)
    digits = PurePosixPath(path).stem.rpartition("_")[2]
    return Release(DETECTRON2_URL, path, f"detectron2-{config}-{digits}.pkl", "md5", digits)


def _of_mmdetection(config: str) -> Release:
    folder, end = MMDET[config]
    file_name = f"{PurePosixPath(folder).name}_{end}.pth"
    digits = end.rpartition("-")[2]
    return Release(MMDET_URL, f"{folder}/{file_name}", file_name, "sha256", digits)
