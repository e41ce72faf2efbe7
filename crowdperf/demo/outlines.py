"""The demo's pictures with hand-made outlines, and its camera. Pure except for reading the pictures.

The people, the bus and the house come from two pictures of the `ultralytics` package: bus.jpg and zidane.jpg. The
outlines are pixel coordinates (x, y), drawn at sixfold magnification about one pixel inside the edge. A figure is a
stack of layers (rear leg, front leg, body), because the legs swing about the hips.

The camera is 960x540 pixels, 3.8 m above flat ground, and looks along it. A metre at row y is `SCALE * (y - HORIZON)`
pixels wide and high.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

Outline = tuple[tuple[float, float], ...]


class Leg(NamedTuple):
    """One leg: outline, hidden parts, hip, and swing in degrees."""

    outline: Outline
    hidden: tuple[Outline, ...]
    hip: tuple[float, float]
    swing: tuple[float, float]
    """Rotation at the two ends of a step; positive turns the foot to the right."""
    shoe_y: float
    """Row where the trousers end."""


class Figure(NamedTuple):
    """A whole pedestrian who faces right."""

    body: Outline
    head: Outline
    chin: tuple[float, float]
    head_scale: float
    """Scale of the head from the other picture."""
    legs: tuple[Leg, Leg]
    """Rear leg first."""
    legs_crop: tuple[int, int, int, int]
    """Corners x0, y0, x1, y1 of the canvas of the legs."""
    legs_move: tuple[float, float, float]
    """Scale and shift of the legs. One pair serves both bodies: the other man has one foot in the air."""
    hip_x: float
    """The vertical axis for placing and mirroring the figure."""
    crop: tuple[int, int, int, int]
    """Corners x0, y0, x1, y1 of the working canvas."""
    light_coat: bool
    height: float
    """Height of the standing figure."""


_SHEEPSKIN_HEAD: Outline = (
    (104, 447), (103, 440), (104, 435), (103, 421), (105, 412), (111, 406), (117, 402), (123, 399.5), (132, 398.5),
    (140, 400), (148, 404), (155, 408), (157.5, 415), (156, 425), (157, 433), (155, 438), (153, 446), (151, 457),
    (150, 465), (146, 470), (139, 472), (129, 472), (120, 466), (112, 456),
)  # fmt: skip
_SHEEPSKIN_BODY: Outline = (
    *_SHEEPSKIN_HEAD[:19], (154, 468), (160, 476), (167, 487), (175, 496), (174.5, 500), (181.5, 507), (181.5, 515),
    (186, 529), (191, 543), (197, 550), (200, 554), (200, 573), (198, 584), (191, 591), (177, 600), (182, 610),
    (186.5, 630), (190, 653), (192.5, 686), (189, 690.5), (183, 688.5), (179, 686), (172.5, 667), (164, 651),
    (163, 694), (153, 697), (140, 701), (120, 701), (92, 697.5), (77, 695), (68, 695), (62, 691), (60, 683), (61, 657),
    (62.5, 633), (63.5, 610), (63.5, 592), (66, 580), (63.5, 572), (61, 565), (61, 555), (64, 550), (64, 540),
    (64, 527), (62.7, 513), (64, 500), (69, 490.5), (81, 481), (96, 471), (98.5, 462), (98.5, 455.5), (102, 451),
)  # fmt: skip
_SHEEPSKIN_REAR: Outline = (
    (75, 690), (74, 703), (75, 716), (74, 734), (72.5, 748), (67, 780), (61.5, 815), (61, 830), (60, 842), (58, 854),
    (55.5, 864), (54, 876), (53.5, 882), (57.5, 888), (69, 895), (85, 898), (99, 898), (105, 895), (106, 890),
    (103, 884), (97, 880), (95, 871), (87, 863), (85, 856), (85.5, 848), (85, 838), (87, 820), (89, 808), (91, 794),
    (97, 776), (104, 767), (108, 754), (112, 736), (116, 718), (118.5, 702), (121, 690), (121, 640), (75, 640),
)  # fmt: skip
_HAND: Outline = ((60, 735), (70, 735), (74, 748), (79, 770), (79, 780), (78.5, 796), (73, 803), (64, 814), (58, 818))
_SHEEPSKIN_FRONT: Outline = (
    (118, 690), (122, 700), (129, 712), (136, 724), (142, 740), (149, 756), (154, 770), (158, 786), (162, 804),
    (168, 824), (173, 842), (177, 854), (178, 866), (177.5, 870), (178, 887), (177.5, 895), (180, 897), (193, 896.5),
    (199, 895), (215, 892.5), (233, 887), (241, 884), (244, 881), (241, 877), (230, 871), (220, 866), (209, 858),
    (200, 851), (199, 839), (196, 826), (193, 808), (191, 794), (188, 778), (185, 764), (185, 752), (182, 734),
    (180, 718), (177, 702), (178, 692), (172, 667), (163, 650), (163, 636), (118, 636),
)  # fmt: skip

SHEEPSKIN = Figure(
    body=_SHEEPSKIN_BODY,
    head=_SHEEPSKIN_HEAD,
    chin=(137, 474),
    head_scale=0.29,
    legs=(
        Leg(_SHEEPSKIN_REAR, (_SHEEPSKIN_BODY, _HAND), (98, 670), (0.0, 7.0), 850),
        Leg(_SHEEPSKIN_FRONT, (_SHEEPSKIN_BODY,), (150, 670), (0.0, -9.0), 858),
    ),
    legs_crop=(30, 385, 275, 915),
    legs_move=(1.0, 0.0, 0.0),
    hip_x=126,
    crop=(30, 385, 275, 915),
    light_coat=True,
    height=500.0,
)

_DARK_HEAD: Outline = (
    (264, 442), (265.5, 430), (265, 417), (269, 413), (275, 409.5), (282, 408), (291, 408.5), (298, 412.5), (302, 418),
    (304, 428), (305.5, 438), (307, 441), (306.5, 444), (305, 448), (304, 457), (301, 464), (300, 472), (288, 474),
    (277, 466), (272, 456), (267, 449),
)  # fmt: skip
_DARK_BODY: Outline = (
    *_DARK_HEAD[:17], (308, 482), (321, 485), (329, 492), (334, 503), (336.5, 518), (338, 532), (341.5, 545),
    (341.5, 553), (340, 555), (336, 562), (330, 566.5), (323, 567), (323, 580), (326, 598), (328, 618), (331, 645),
    (334, 665), (338, 686), (336, 689), (317, 696), (300, 703), (287, 703), (270, 702.5), (248, 702), (240, 701),
    (226, 698.5), (228, 678), (230, 650), (233.5, 630), (240, 607), (240.5, 595), (237.5, 589), (235.5, 582),
    (236.5, 567), (238, 553), (239, 545), (239.5, 536), (238, 531), (237.5, 524), (239, 516), (239, 507), (241, 502),
    (247, 496), (254, 490.5), (265, 481), (272.5, 471), (272, 462), (269, 455), (267, 449),
)  # fmt: skip
DARK = Figure(
    body=_DARK_BODY,
    head=_DARK_HEAD,
    chin=(289, 475),
    head_scale=0.262,
    legs=SHEEPSKIN.legs,
    legs_crop=SHEEPSKIN.crop,
    legs_move=(0.92, 171.0, 56.0),
    hip_x=287,
    crop=(190, 395, 405, 900),
    light_coat=False,
    height=474.0,
)

GREY_HEAD: Outline = (
    (897, 170), (895, 125), (907, 88), (937, 60), (985, 46), (1034, 62), (1060, 96), (1067, 130), (1056, 172),
    (1050, 215), (1034, 258), (1010, 284), (978, 292), (945, 272), (922, 243), (908, 212), (899, 200),
)  # fmt: skip
"""A grey-haired head in zidane.jpg."""
GREY_CHIN = (990.0, 290.0)


BgrImage = NDArray[np.uint8]
"""Shape (height, width, 3), BGR."""


class DemoError(Exception):
    """The demo cannot be rendered; the message names cause and remedy."""


def find_assets_folder() -> Path:
    """Find the pictures of the `ultralytics` package without importing torch, or raise DemoError."""
    spec = importlib.util.find_spec("ultralytics")
    if spec is None or not spec.submodule_search_locations:
        raise DemoError(
            "the demo is cut from pictures of the ultralytics package, which is not installed. "
            "Remedy: pip install ultralytics-opencv-headless, or configure cameras of your own in config.json."
        )
    return Path(next(iter(spec.submodule_search_locations))) / "assets"


def read_asset(name: str, shape: tuple[int, int]) -> BgrImage:
    """Read a picture of the (height, width) that the outlines fit; raise DemoError without one."""
    path = find_assets_folder() / name
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if picture is None or picture.shape[:2] != shape:
        found = "is missing or unreadable" if picture is None else f"is {picture.shape[1]}x{picture.shape[0]}"
        raise DemoError(
            f"the demo needs {path} with {shape[1]}x{shape[0]} pixels, but it {found}. "
            "Remedy: reinstall ultralytics-opencv-headless."
        )
    return np.asarray(picture, dtype=np.uint8)


def read_bus_picture() -> BgrImage:
    """Read the street picture: two whole pedestrians and a bus."""
    return read_asset("bus.jpg", (1080, 810))


def read_touchline_picture() -> BgrImage:
    """Read the football picture, the source of a head."""
    return read_asset("zidane.jpg", (720, 1280))


WIDTH, HEIGHT, FPS = 960, 540, 10
HORIZON = 60.0
SCALE = 0.261
"""Pixels per metre and row below the horizon."""
FOCAL = 900.0
"""Focal length in pixels: how strongly depth is foreshortened."""
PERSON_M, BUS_M = 1.75, 3.1
MARGIN = 12
"""Rows at the lower edge for the frame counter."""


def compute_pixels_per_metre(y: float) -> float:
    """Return the pixels per metre of an object that stands on row `y`."""
    return SCALE * (y - HORIZON)


def compute_depth(y: float) -> float:
    """Return the distance of the ground at row `y` from the camera, metres."""
    return FOCAL / compute_pixels_per_metre(y)


def compute_distance(a: tuple[float, float], b: tuple[float, float]) -> float:
    """Return the metres along the ground between two nearby pixels."""
    across = (b[0] - a[0]) / compute_pixels_per_metre((a[1] + b[1]) / 2)
    along = compute_depth(a[1]) - compute_depth(b[1])
    return float((across**2 + along**2) ** 0.5)
