#!/usr/bin/env bash
# OpenCV's non-maximum suppression takes two boxes without area for the same box, however far apart they are.
#
# Seen on 2026-11-30 with opencv-python-headless 4.14.0.94 and numpy 2.4.6, Python 3.11, x86_64.
#
# A detector's boxes are often clipped to the picture. A box that lay outside keeps a place and a score but no area.
# cv2.dnn.NMSBoxes and cv2.dnn.NMSBoxesBatched keep only the better one of two such boxes, at any threshold below 1: the
# overlap of two empty boxes counts as 1. A box with an area beside an empty one is kept. So an object at one edge of the
# picture can remove one at the other edge. Remove empty boxes before the suppression, or handle them apart.
#
# Output seen:
#   two empty boxes 500 pixels apart: kept [0] of 2
#   the same, batched: kept [0] of 2
#   an empty box and one with an area: kept [0, 1] of 2
#   two boxes with an area, apart: kept [0, 1] of 2
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "opencv-python-headless==4.14.0.94" "numpy==2.4.6"
"$folder/venv/bin/python" - <<'PYTHON'
import cv2
import numpy as np

SCORES = [0.9, 0.8]
EMPTY = [[10, 10, 0, 0], [500, 300, 0, 0]]
MIXED = [[10, 10, 40, 40], [500, 300, 0, 0]]
APART = [[10, 10, 40, 40], [500, 300, 40, 40]]


def show(text, kept, expected):
    kept = np.asarray(kept).ravel().tolist()
    print(f"{text}: kept {kept} of 2")
    assert kept == expected, f"this has changed: {expected} was seen before"


show("two empty boxes 500 pixels apart", cv2.dnn.NMSBoxes(EMPTY, SCORES, 0.0, 0.5), [0])
show("the same, batched", cv2.dnn.NMSBoxesBatched(EMPTY, SCORES, [0, 0], 0.0, 0.5), [0])
show("an empty box and one with an area", cv2.dnn.NMSBoxes(MIXED, SCORES, 0.0, 0.5), [0, 1])
show("two boxes with an area, apart", cv2.dnn.NMSBoxes(APART, SCORES, 0.0, 0.5), [0, 1])
PYTHON
