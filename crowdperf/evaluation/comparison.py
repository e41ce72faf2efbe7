"""Compare two models on pictures and clips, or two outcomes of one clip, crossing by crossing.

Models are compared by average precision on labelled pictures, PPE models also by F1 per item. On cameras of a
configuration that play a local file, they are compared by the crossings that they count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from crowdperf.evaluation import accuracy, clip
from crowdperf.evaluation.accuracy import LabelledImage
from crowdperf.evaluation.matching import Passage, pair_crossings
from crowdperf.evaluation.replay import CountedCrossing, ReplayOutcome, ReplayResult
from crowdperf.inference.ppe_items import detect_ppe
from crowdperf.messaging.schema import LineCrossed, PpeColumns
from crowdperf.models.detector import Detector
from crowdperf.models.loader import build_settings, load_detector
from crowdperf.models.postprocess import Detections
from crowdperf.models.preprocess import load_ring_frame
from crowdperf.models.registry import CLASSES_BY_ROLE, ModelError, Role
from crowdperf.settings.camera import Camera
from crowdperf.settings.config import Config, load
from crowdperf.tracking.pipeline import CameraPipeline

MIN_CONFIDENCE = 0.001
"""Average precision needs every detection, even weak ones."""
DEFAULT_WITHIN_S = 1.0
MAX_CROSSING_DISTANCE = 0.3
"""Two crossings of one line that are further apart than this, in picture heights, belong to two people."""
DifferenceKind = Literal["only", "direction", "class"]


class ComparedModel(NamedTuple):
    """One of the two models."""

    title: str
    name: str
    precision: str


def compare_models(
    models: tuple[str, str], role: Role, images: Sequence[Path], config_file: Path | None, cache: Path
) -> Iterator[str]:
    """Compare two models on labelled pictures, on a configuration's clips, or on both.

    Args:
        models: registered names or paths; `NAME:int8` and `NAME:full` choose the precision.
        role: role of both models.
        images: folders of labelled pictures.
        config_file: configuration whose cameras that play a local file are counted.
        cache: folder of compiled models.

    Yields:
        The lines of the report.

    Raises:
        ModelError: a model or a folder of pictures cannot be used.
        ClipError: a clip cannot be used.
        ConfigError: the configuration cannot be used.
    """
    if not images and not config_file:
        raise ModelError("compare needs something to look at. Remedy: give --images FOLDER or --config FILE.")
    sides = [parse_model(text) for text in models]
    yield f"{'':<36} {sides[0].title:>24} {sides[1].title:>24}"
    for folder in images:
        yield from _compare_on_images(folder, sides, role, cache)
    if config_file:
        yield from _compare_on_clips(config_file, sides, cache)


def parse_model(text: str) -> ComparedModel:
    """Parse NAME, NAME:int8 or NAME:full."""
    name, colon, precision = text.rpartition(":")
    if colon and precision in ("int8", "full"):
        return ComparedModel(text, name, precision)
    return ComparedModel(text, text, "full")


def _format_row(title: str, first: object, second: object) -> str:
    texts = [f"{value:.3f}" if isinstance(value, float) else str(value) for value in (first, second)]
    return f"{title:<36} {texts[0]:>24} {texts[1]:>24}"


def _compare_on_images(folder: Path, sides: list[ComparedModel], role: Role, cache: Path) -> Iterator[str]:
    truth = accuracy.load_labelled_images(folder, CLASSES_BY_ROLE[role])
    detectors = [_load_detector(side, role, cache, MIN_CONFIDENCE) for side in sides]
    first, second = (accuracy.measure_accuracy(detector, truth) for detector in detectors)
    yield f"{folder}: {len(truth)} pictures"
    yield _format_row("  mAP50", first.map50, second.map50)
    yield _format_row("  mAP50-95", first.map50_95, second.map50_95)
    for class_id, (_, mean, total) in first.by_class.items():
        yield _format_row(f"  {CLASSES_BY_ROLE[role][class_id]} ({total})", mean, second.by_class[class_id][1])
    if role == "ppe":
        people = load_detector(build_settings("crowdperf-person-vehicle-n", "person", "full"), cache)
        ours, theirs = (
            accuracy.measure_ppe_accuracy(_detect_ppe(_load_detector(side, role, cache, 0.25), people, truth))
            for side in sides
        )
        yield f"  {ours.matched_people} of {ours.people} people found; F1 of what they wear:"
        for name in ours.f1:
            yield _format_row(f"  {name}", ours.f1[name], theirs.f1[name])
        yield _format_row("  mean", ours.mean, theirs.mean)


def _detect_ppe(
    detector: Detector, people: Detector, truth: list[LabelledImage]
) -> Iterator[tuple[LabelledImage, Detections, PpeColumns]]:
    for image in truth:
        frame, spec = load_ring_frame(image.path, accuracy.RING_SIZE)
        (detections,) = people.detect([frame], spec)
        yield image, detections, detect_ppe(detector, frame, spec, detections)


def _compare_on_clips(config_file: Path, sides: list[ComparedModel], cache: Path) -> Iterator[str]:
    config = load(config_file)
    detectors = [_load_detector(side, "person", cache, config.inference.confidence) for side in sides]
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
                yield _format_row(f"  {line.id} {direction}", *(count[line.id, direction] for count in counts))


def _count_crossings(path: Path, config: Config, camera: Camera, detector: Detector) -> Counter[tuple[str, str]]:
    recording = clip.open_clip(path)
    fps = camera.target_fps or config.target_fps
    spec = clip.build_clip_spec(recording, camera.analysis_width or config.analysis_width)
    frame_filter = clip.build_frame_filter(fps, config.frame_skip if camera.frame_skip is None else camera.frame_skip)
    detections = clip.detect_clip(clip.read_frames(recording, spec), spec, detector, frame_filter, camera.id)
    pipeline = CameraPipeline(camera.id, config.tracking, camera.lines, camera.zones, fps)
    events = [event for frame in detections.frames for event in pipeline.step(frame)[1]]
    return Counter((event.line, event.direction) for event in events if isinstance(event, LineCrossed))


def _load_detector(model: ComparedModel, role: Role, cache: Path, confidence: float) -> Detector:
    return load_detector(build_settings(model.name, role, model.precision), cache, role=role, confidence=confidence)


class Difference(NamedTuple):
    """A crossing that only one configuration counts, or that both count differently."""

    kind: DifferenceKind
    """`only` has no counterpart. For `direction` and `class`, `other` is the same object, counted differently."""
    outcome_index: int
    """Configuration of `crossing`: 0 or 1; always 0 unless `kind` is `only`."""
    crossing: CountedCrossing
    other: CountedCrossing | None = None


class Comparison(NamedTuple):
    """Comparison of two outcomes."""

    same_count: int
    differences: list[Difference]
    """Sorted by time."""


def compare_outcomes(replayed: ReplayResult, within_s: float = DEFAULT_WITHIN_S) -> Comparison:
    """Match the crossings of two outcomes; two counts of one crossing differ by at most `within_s`."""
    first, second = replayed.outcomes
    aspect = replayed.clip.width / replayed.clip.height
    ours, theirs = _to_passages(first, aspect), _to_passages(second, aspect)
    pairing = pair_crossings(ours, theirs, within_s, MAX_CROSSING_DISTANCE)
    differences: list[Difference] = []
    same = 0
    for i, j in pairing.pairs:
        if first.crossings[i].event.class_name == second.crossings[j].event.class_name:
            same += 1
        else:
            differences.append(Difference("class", 0, first.crossings[i], second.crossings[j]))
    # Pair the rest again with reversed directions: these are objects that were counted the other way.
    left, right = pairing.unpaired_first, pairing.unpaired_second
    reverse = {"in": "out", "out": "in"}
    reversed_theirs = [theirs[j]._replace(direction=reverse[theirs[j].direction]) for j in right]
    rest = pair_crossings([ours[i] for i in left], reversed_theirs, within_s, MAX_CROSSING_DISTANCE)
    for i, j in rest.pairs:
        differences.append(Difference("direction", 0, first.crossings[left[i]], second.crossings[right[j]]))
    differences += [Difference("only", 0, first.crossings[left[i]]) for i in rest.unpaired_first]
    differences += [Difference("only", 1, second.crossings[right[j]]) for j in rest.unpaired_second]
    differences.sort(key=lambda item: (item.crossing.at_s, item.crossing.event.line, item.outcome_index))
    return Comparison(same, differences)


def find_changed_settings(first: ReplayOutcome, second: ReplayOutcome) -> list[tuple[str, object, object]]:
    """List (path, value, value) of the settings that differ; None stands for a missing setting."""
    ours, theirs = first.setup.collect_settings(), second.setup.collect_settings()
    paths = [*ours, *(path for path in theirs if path not in ours)]
    return [(path, ours.get(path), theirs.get(path)) for path in paths if ours.get(path) != theirs.get(path)]


def _to_passages(outcome: ReplayOutcome, aspect: float) -> list[Passage]:
    centre = {line.id for line in outcome.setup.tracked.lines if line.anchor == "centre"}
    return [crossing.to_passage(aspect, crossing.event.line in centre) for crossing in outcome.crossings]


def make_names_distinct(names: list[str]) -> list[str]:
    """Append letters to two equal names of configurations."""
    return names if len(set(names)) == len(names) else [f"{name} ({letter})" for name, letter in zip(names, "AB")]
