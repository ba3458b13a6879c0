"""What the image-text model says of the probe: every image and every word, once a study."""

from collections.abc import Iterator

from PIL import Image

from cmon.activations.images import read_image
from cmon.claims import claim, try_claim
from cmon.encoders import Encoder, open_encoder
from cmon.errors import DamagedStoreError, ProbeError
from cmon.h5 import read_header
from cmon.pixels import DECODERS
from cmon.profiling import Profile
from cmon.recipes import Plan
from cmon.recording import pick_device
from cmon.records import Evidence, FloatArray
from cmon.stores import read_evidence, write_evidence
from cmon.threads import map_ahead
from cmon.work import Options, Outcome, Progress, Stopwatch, is_due, making, provenance
from cmon.workspace import Target


def make_evidence(plan: Plan, options: Options, progress: Progress, outcome: Outcome, wait: bool = True) -> bool:
    """Make the evidence where it is not current, and tell whether it is there now.

    Args:
        plan: of the study.
        options: of the command.
        progress: where images are counted.
        outcome: where it is noted.
        wait: for another process that makes it; else False comes back at once.

    Raises:
        CmonError: where it cannot be made.
    """
    state = plan.evidence.state()
    if options.dry_run or (state.current and not options.force):
        is_due("evidence", state, options, progress, outcome)
        return True
    place = plan.workspace.claim("evidence")
    if wait:
        with claim(place, lambda: progress.wait("another process makes the evidence")):
            return _made(plan, options, progress, outcome)
    with try_claim(place) as held:
        return held and _made(plan, options, progress, outcome)


def _made(plan: Plan, options: Options, progress: Progress, outcome: Outcome) -> bool:
    """Make the evidence, unless another process has made it meanwhile."""
    target = plan.evidence
    if not is_due("evidence", target.state(), options, progress, outcome):
        return True
    watch, device = Stopwatch(), pick_device(options.device)
    with options.profile.part("encoding"):
        evidence = _encoded(plan, open_encoder(plan.study.encoder, device, options.trust_pickle), options, progress)
    with options.profile.writing(target.path):
        write_evidence(target.path, target.recipe, provenance(device), evidence)
    plan.workspace.note_making(target.path, making(watch, device))
    progress.kept()
    return True


def _encoded(plan: Plan, encoder: Encoder, options: Options, progress: Progress) -> Evidence:
    """Encode words and, where a detector asks for them, images."""
    words = encoder.text_features(plan.concepts.names, plan.study.concepts.prompt)
    ids: tuple[str, ...] = ()
    features = words[:0]
    if "evidence" in plan.uses:
        known = None if options.force else _known_image_features(plan.evidence)
        ids, features = known or _encode_images(plan, encoder, progress, options.profile)
    return Evidence(ids, plan.concepts, features, words)


def _known_image_features(target: Target) -> tuple[tuple[str, ...], FloatArray] | None:
    """Return the images of the old evidence, where only its words are out of date: a new word costs no image."""
    try:
        header = read_header(target.path, target.kind)
        of_images = ("algorithm", "probe", "on_error", "encoder")
        if header is None or any(header.recipe.get(key) != target.recipe.get(key) for key in of_images):
            return None
        evidence = read_evidence(target.path)
    except DamagedStoreError:
        return None
    return evidence.image_ids, evidence.image_features


def _encode_images(
    plan: Plan, encoder: Encoder, progress: Progress, profile: Profile
) -> tuple[tuple[str, ...], FloatArray]:
    readable = [
        i for i in range(len(plan.probe.ids)) if plan.study.probe.on_error == "stop" or read_image(plan, plan.probe, i)
    ]
    ids = tuple(plan.probe.ids[i] for i in readable)
    if not ids:
        raise ProbeError(plan.probe.path, "none of its images can be read", "look at probe.path")
    progress.begin("evidence", len(ids))

    def images() -> Iterator[Image.Image]:
        decoded = map_ahead(plan.probe.image, readable, DECODERS)
        for image in profile.each("decoding images", decoded):
            yield image
            progress.advance()

    features = encoder.image_features(ids, images())
    progress.end()
    return ids, features
