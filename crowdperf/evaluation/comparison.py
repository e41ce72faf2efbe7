"""`crowdperf models compare A B`: what another model, or another precision, changes before it is chosen.

On labelled pictures the average precision of both, for the PPE model also how many people are judged rightly; on the
cameras of a configuration that play a local file, the crossings that both count.

Where two outcomes of one clip differ, crossing by crossing. Pure.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from crowdperf.evaluation.average_precision import (
    DetectionAccuracy,
    LabelledImage,
    load_labelled_images,
    measure_accuracy,
)
from crowdperf.evaluation.clip import (
    ClipError,
    build_clip_spec,
    build_frame_filter,
    detect_clip,
    open_clip,
    read_frames,
)
from crowdperf.evaluation.matching import Passage, pair_crossings
from crowdperf.evaluation.ppe_accuracy import measure_ppe_accuracy
from crowdperf.evaluation.replay import CountedCrossing, ReplayOutcome
from crowdperf.inference.ppe_items import detect_ppe
from crowdperf.messaging.schema import LineCrossed, PpeColumns
from crowdperf.models.detector import Detector
from crowdperf.models.loader import build_settings, load_detector
from crowdperf.models.postprocess import Detections
from crowdperf.models.preprocess import load_ring_frame
from crowdperf.models.registry import CLASSES_BY_ROLE, ModelError, Role
from crowdperf.settings.base import ConfigError
from crowdperf.settings.camera import Camera
from crowdperf.settings.config import Config, load
from crowdperf.tracking.pipeline import CameraPipeline

MIN_CONFIDENCE = 0.001
"""Average precision asks for every detection, however weak."""


class ComparedModel(NamedTuple):
    """One of the two."""

    title: str
    name: str
    precision: str


def main(argv: list[str]) -> int:
    """Compare two models; the exit status is 0, or 1 with one line on stderr."""
    parser = argparse.ArgumentParser(prog="crowdperf models compare", description=__doc__)
    parser.add_argument("command", choices=("compare",))
    parser.add_argument("first", help="a registered name or a path; 'NAME:int8' and 'NAME:full' choose the precision")
    parser.add_argument("second")
    parser.add_argument("--role", choices=("person", "ppe"), default="person")
    parser.add_argument("--images", type=Path, action="append", default=[], metavar="FOLDER", help="labelled pictures")
    parser.add_argument("--config", type=Path, help="count on this configuration's cameras that play a local file")
    parser.add_argument("--cache", type=Path, default=Path("var/cache"))
    arguments = parser.parse_args(argv)
    try:
        for line in compare_models(arguments):
            print(line, flush=True)
    except (ModelError, ClipError, ConfigError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def compare_models(arguments: argparse.Namespace) -> Iterator[str]:
    """The report, line by line.

    Raises:
        ModelError, ClipError, ConfigError: something that was named cannot be used.
    """
    if not arguments.images and not arguments.config:
        raise ModelError("compare needs something to look at. Remedy: give --images FOLDER or --config FILE.")
    sides = [parse_model(text) for text in (arguments.first, arguments.second)]
    yield f"{'':<36} {sides[0].title:>24} {sides[1].title:>24}"
    for folder in arguments.images:
        yield from _compare_on_images(folder, sides, arguments.role, arguments.cache)
    if arguments.config:
        yield from _compare_on_clips(arguments.config, sides, arguments.cache)


def parse_model(text: str) -> ComparedModel:
    """NAME, NAME:int8 or NAME:full."""
    name, colon, precision = text.rpartition(":")
    if colon and precision in ("int8", "full"):
        return ComparedModel(text, name, precision)
    return ComparedModel(text, text, "full")


def format_row(what: str, first: object, second: object) -> str:
    """A line of the report."""
    shown = [f"{value:.3f}" if isinstance(value, float) else str(value) for value in (first, second)]
    return f"{what:<36} {shown[0]:>24} {shown[1]:>24}"


def _compare_on_images(folder: Path, sides: list[ComparedModel], role: Role, cache: Path) -> Iterator[str]:
    truth = load_labelled_images(folder, CLASSES_BY_ROLE[role])
    detectors = [_load_detector(one, role, cache, MIN_CONFIDENCE) for one in sides]
    first, second = (measure_accuracy(detector, truth) for detector in detectors)
    yield f"{folder}: {len(truth)} pictures"
    yield format_row("  mAP50", first.map50, second.map50)
    yield format_row("  mAP50-95", first.map50_95, second.map50_95)
    yield from _compare_by_class(first, second, role)
    if role == "ppe":
        people = load_detector(build_settings("crowdperf-person-vehicle-n", "person", "full"), cache)
        ours, theirs = (
            measure_ppe_accuracy(_detect_ppe(_load_detector(one, role, cache, 0.25), people, truth)) for one in sides
        )
        yield f"  {ours.matched_people} of {ours.people} people found; F1 of what they wear:"
        for name in ours.f1:
            yield format_row(f"  {name}", ours.f1[name], theirs.f1[name])
        yield format_row("  mean", ours.mean, theirs.mean)


def _compare_by_class(first: DetectionAccuracy, second: DetectionAccuracy, role: Role) -> Iterator[str]:
    for class_id, (_, mean, total) in first.by_class.items():
        yield format_row(f"  {CLASSES_BY_ROLE[role][class_id]} ({total})", mean, second.by_class[class_id][1])


def _detect_ppe(
    detector: Detector, people: Detector, truth: list[LabelledImage]
) -> Iterator[tuple[LabelledImage, Detections, PpeColumns]]:
    for one in truth:
        frame, spec = load_ring_frame(one.path, 640, 640)
        (found,) = people.detect([frame], spec)
        yield one, found, detect_ppe(detector, frame, spec, found)


def _compare_on_clips(config_file: Path, sides: list[ComparedModel], cache: Path) -> Iterator[str]:
    config = load(config_file)
    detectors = [_load_detector(one, "person", cache, config.inference.confidence) for one in sides]
    cameras = [camera for camera in config.cameras if "://" not in camera.url and camera.lines]
    if not cameras:
        raise ModelError(
            f"no camera of {str(config_file)!r} plays a local file and has a line. Remedy: give a configuration with "
            "recordings of your own cameras, or the demo site's."
        )
    for camera in cameras:
        yield f"{camera.id}: {camera.url}"
        counts = [_count_crossings(config_file.parent / camera.url, config, camera, detector) for detector in detectors]
        for line in camera.lines:
            for direction in ("in", "out"):
                yield format_row(f"  {line.id} {direction}", *(count[line.id, direction] for count in counts))


def _count_crossings(path: Path, config: Config, camera: Camera, detector: Detector) -> Counter[tuple[str, str]]:
    clip = open_clip(path)
    fps = camera.target_fps or config.target_fps
    spec = build_clip_spec(clip, camera.analysis_width or config.analysis_width, fps)
    skip = config.frame_skip if camera.frame_skip is None else camera.frame_skip
    seen = detect_clip(read_frames(clip, spec), spec, detector, build_frame_filter(fps, skip), camera.id)
    pipeline = CameraPipeline(camera.id, config.tracking, camera.lines, camera.zones, fps)
    events = [event for frame in seen.frames for event in pipeline.step(frame)[1]]
    return Counter((event.line, event.direction) for event in events if isinstance(event, LineCrossed))


def _load_detector(model: ComparedModel, role: Role, cache: Path, confidence: float) -> Detector:
    return load_detector(build_settings(model.name, role, model.precision), cache, role=role, confidence=confidence)


DEFAULT_WITHIN_S = 1.0
MAX_CROSSING_DISTANCE = 0.3
"""Picture heights. Two crossings of one line in the same second, further apart than this, are of two people."""
DifferenceKind = Literal["only", "direction", "class"]


class Difference(NamedTuple):
    """A crossing that one configuration counts, and the other does not or not so."""

    kind: DifferenceKind
    """only: the other counts nothing there; direction, class: `other` is the same object, counted differently."""
    outcome_index: int
    """0 where `crossing` is of the first configuration, 1 of the second; 0 unless `kind` is `only`."""
    crossing: CountedCrossing
    other: CountedCrossing | None = None


class Comparison(NamedTuple):
    """Two outcomes side by side."""

    same_count: int
    """Crossings that both count alike."""
    differences: list[Difference]
    """In order of time."""


def compare_outcomes(
    first: ReplayOutcome, second: ReplayOutcome, aspect: float, within_s: float = DEFAULT_WITHIN_S
) -> Comparison:
    """Match the crossings of two outcomes.

    Args:
        aspect: the source's width divided by its height.
        within_s: how far apart in time two counts of one crossing may be.
    """
    one, two = _to_passages(first, aspect), _to_passages(second, aspect)
    found = pair_crossings(one, two, within_s, MAX_CROSSING_DISTANCE)
    differences: list[Difference] = []
    same = 0
    for i, j in found.pairs:
        if first.crossings[i].event.class_name == second.crossings[j].event.class_name:
            same += 1
        else:
            differences.append(Difference("class", 0, first.crossings[i], second.crossings[j]))
    # What is left of one line, at one time and place, but the other way: one object, counted differently.
    left, right = found.unpaired_first, found.unpaired_second
    turned = [two[j]._replace(direction="out" if two[j].direction == "in" else "in") for j in right]
    other_way = pair_crossings([one[i] for i in left], turned, within_s, MAX_CROSSING_DISTANCE)
    for i, j in other_way.pairs:
        differences.append(Difference("direction", 0, first.crossings[left[i]], second.crossings[right[j]]))
    differences += [Difference("only", 0, first.crossings[left[i]]) for i in other_way.unpaired_first]
    differences += [Difference("only", 1, second.crossings[right[j]]) for j in other_way.unpaired_second]
    differences.sort(key=lambda one: (one.crossing.at_s, one.crossing.event.line, one.outcome_index))
    return Comparison(same, differences)


def find_changed_settings(first: ReplayOutcome, second: ReplayOutcome) -> list[tuple[str, object, object]]:
    """(path, value, value) of each setting in which the two configurations differ; None where one has it not."""
    one, two = first.setup.collect_settings(), second.setup.collect_settings()
    paths = [*one, *(path for path in two if path not in one)]
    return [(path, one.get(path), two.get(path)) for path in paths if one.get(path) != two.get(path)]


def _to_passages(outcome: ReplayOutcome, aspect: float) -> list[Passage]:
    centre = {line.id for line in outcome.setup.tracked.lines if line.anchor == "centre"}
    return [one.to_passage(aspect, one.event.line in centre) for one in outcome.crossings]


def make_names_distinct(names: list[str]) -> list[str]:
    """Two configurations of one name, told apart."""
    return names if len(set(names)) == len(names) else [f"{name} ({letter})" for name, letter in zip(names, "AB")]
