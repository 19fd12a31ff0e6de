"""What can be seen of a series by its header: plain or contrast, thick or thin, soft or sharp, which sequence.

Where the facts come from (DICOM PS3.3): Modality C.7.3.1.1.1; Image Type C.7.6.1.1.2, for CT C.8.2.1.1.1 (value 3 is
AXIAL or LOCALIZER); Slice Thickness C.7.6.2; Convolution Kernel C.8.2.1; Contrast/Bolus Agent C.7.6.4; Series
Description and Body Part Examined C.7.3.1. Kernels and descriptions are free text: the words below are those of
Siemens, GE, Philips and Canon scanners in German and English. Nothing here decides on more than the order of sending.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto

THICK_MIN_MM = 2.0
"""A plain CT from here on is read slice by slice; thinner ones are for reconstructions."""

THICKNESS_MAX_MM = 100.0
"""What claims to be thicker, or not to be positive, says nothing about its thickness."""

DESCRIPTION_LENGTH_MAX = 256
"""So much of a text is looked at; VR LO has 64 characters (PS3.5, 6.2)."""


@dataclass(frozen=True, slots=True)
class ReadingFacts:
    """What the order depends on; '' and None mean that the header does not say.

    Attributes:
        image_type: Of the instance, its values joined by backslashes.
        slice_thickness_mm: Of the series, as are kernel, agent, description and body part.
    """

    modality: str
    sop_class_uid: str = ""
    image_type: str = ""
    series_description: str = ""
    body_part: str = ""
    slice_thickness_mm: float | None = None
    convolution_kernel: str = ""
    contrast_agent: str = ""
    instance_number: int | None = None


class Sign(Enum):
    """One thing that a header says or lets guess."""

    LOCALIZER = auto()
    DOCUMENT = auto()
    CAPTURE = auto()
    PAGE = auto()
    BOLUS_CONTROL = auto()
    ORIGINAL = auto()
    SECONDARY = auto()
    MAP = auto()
    PERFUSION = auto()
    PLAIN = auto()
    CONTRAST = auto()
    VESSELS = auto()
    PROJECTION = auto()
    OTHER_VIEW = auto()
    SHARP = auto()
    THICK = auto()
    THIN = auto()
    DIFFUSION = auto()
    BLOOD = auto()
    ELSEWHERE = auto()


WORDS: tuple[tuple[Sign, str], ...] = (
    # Regular expressions for whole words of the series description, in lower case and without umlauts: Schädel is
    # schadel; "_" and "^" are spaces.
    (Sign.LOCALIZER, r"\w*topogram\w*|topo|\w*scouts?|surviews?|scano\w*|lo[ck]ali[sz]\w*|loc|(?:3|drei)[ -]?plane\w*"),
    (Sign.PAGE, r"dose (?:report|info\w*|record|sheet|summary|page)|dosis ?(?:bericht|protokoll|info\w*|report|blatt)"),
    (Sign.PAGE, r"(?:patient\w*|exam|untersuchungs?) ?proto[ck]oll?|screen ?(?:save\w*|shots?)"),
    (Sign.BOLUS_CONTROL, r"(?:pre ?)?monitoring|(?:test|timing) ?bolus|bolus ?(?:track\w*|timing)|locator|tracker"),
    (Sign.BOLUS_CONTROL, r"smart ?prep\w*|sure ?start\w*"),
    (Sign.MAP, r"r?(?:el)?(?:cbf|cbv|mtt|ttp|t ?max|ttd|pbv)|rapid|penumbra|mismatch|perfusions?(?:karte\w*| maps?)"),
    (Sign.PERFUSION, r"\w*perf(?:us\w*)?|v?pct|ct-?p|cbp|pwi|dsc|dynami\w*|4d\w*|shuttle"),
    (Sign.VESSELS, r"\w*angio\w*|(?:ct|mr)-?[av]|cta\w+|\w*tof|\w*ven[oe]gra\w*|[ck]aroti[sd]\w*|willis\w*|cow"),
    (Sign.VESSELS, r"supra-?aortal\w*"),
    (Sign.PROJECTION, r"(?:min|t|thin|thick)?[ -]?mips?|vrt?|pjn|col(?=:)|(?<!multi[ -])slab|3d ?lab"),
    (Sign.OTHER_VIEW, r"[ck]or|[ck]oronar?\w*|coronal\w*|sag|sagit\w*|frontal|oblique|curved"),
    (Sign.OTHER_VIEW, r"[ab] (?:sn)?\d{2,3} ?kv|mono\w* ?\+?|\d+ ?kev|vnc"),
    (Sign.SHARP, r"knochen(?! ?(?:entf|subtr))\w*|bone(?! ?(?:rem|subtr|less|free))\w*|ossar\w*|hrct"),
    (Sign.SHARP, r"lungen?\w*|lungs?|felsenbein\w*|innenohr|temporal bones?|inner ear|petrous\w*"),
    (Sign.THIN, r"thins?|dunn\w*|duenn\w*|mprage|space|cube|vista|bravo"),
    (Sign.THICK, r"thick|dicke?"),
    (Sign.DIFFUSION, r"dwi\w*|diff\w*|e?adc|trace\w*|b ?\d{3,4}|resolve"),
    (Sign.BLOOD, r"\w*flair\w*|dark[ -]?fluid|tirm|swi\w*|swan|t2 ?\*|t2 ?star|ha?emo\w*|gre|ffe"),
)

PLAIN = (
    r"nativ\w*|plain|unenhanced|nc?ct|nect|ncect|non?[ -]?con(?:trast)?|without(?: (?:iv )?contrast)?"
    r"|w/?o(?: (?:iv )?(?:contrast|con|c))?|ohne (?:iv )?(?:km|kontrast\w*)|o\.? ?km|pre[ -]?contrast"
)
"""Words for "no contrast agent"; they are taken out before the next ones are looked for."""

CONTRAST = r"km|kontrast\w*|(?<!optimum )contrast|ce|iv|i\.v\.|con|art(?:eri\w*)?|ven(?:os\w*|ous)?|portal\w*"
"""Words for "with contrast agent"; Siemens calls a mixture of two energies Optimum Contrast."""

_MINUS_C = re.compile(r"(?:(?<=\s)|^)-(?:c|km)(?![\w-])|(?<!\w)c-(?!\w)")
_PLUS_C = re.compile(r"\+ ?(?:c|km|kontrast|contrast)(?!\w)|(?<!\w)c\+|(?<!\w)w/(?!o)")

NO_AGENT = r"none|no\b.*|nein|ohne.*|kein.*|nativ.*|without.*|w/?o.*|n/?a|0|-|unknown|oral\w*|per os|re[ck]tal"
"""What people write into Contrast/Bolus Agent when nothing was injected."""

HEAD = r"head\w*|brain\w*|skull\w*|kopf\w*|schae?del\w*|n?cct|crani\w*|neuro\w*|hirn\w*|cerebr\w*|stroke\w*"

SHARP_KERNELS: tuple[tuple[str, str], ...] = (
    ("GE, Canon AiCE, Philips IMR, United", r".*(?:bone|lung|edge|ultra|sharp|inner ?ear|knochen).*"),
    ("Canon: bone, lung, high resolution; FC2x, FC4x and FC6x are for the brain", r"fc[358][0-9]\w*"),
    ("Siemens: the number is the sharpness; Hv, Bv for vessels, T topogram", r"(?!fc)[a-su-z][a-uw-z]?[5-9][0-9]\w*"),
    ("Philips: detail, lung, Y-sharp; UA, UB, UC are for the brain", r"[del]|y[c-f]"),
)

IMAGE_TYPES: Mapping[str, Sign] = {
    "LOCALIZER": Sign.LOCALIZER,
    "ORIGINAL": Sign.ORIGINAL,
    "SECONDARY": Sign.SECONDARY,
    "SCREEN SAVE": Sign.CAPTURE,
    "MIP": Sign.PROJECTION,
    "MIN IP": Sign.PROJECTION,
    "PROJECTION IMAGE": Sign.PROJECTION,
    "VOLUME RENDERING": Sign.PROJECTION,
    "PERFUSION": Sign.PERFUSION,
    "DYNAMIC": Sign.PERFUSION,
    "DIFFUSION": Sign.DIFFUSION,
    "ADC": Sign.DIFFUSION,
    "TRACEW": Sign.DIFFUSION,
    "TOF": Sign.VESSELS,
}
"""Values of Image Type, of the standard and of the manufacturers."""

_STORAGE = "1.2.840.10008.5.1.4.1.1."
SOP_CLASSES: tuple[tuple[Sign, str], ...] = (
    # The beginnings of SOP Class UIDs (PS3.4, B.5): secondary capture; waveforms, presentation states, raw data,
    # segmentations and the like, SR and key objects, encapsulated documents, protocols, RT; Siemens' non-images.
    (Sign.CAPTURE, _STORAGE + "7"),
    *((Sign.DOCUMENT, f"{_STORAGE}{branch}") for branch in (9, 11, 66, 67, 68, 88, 104, 200, 481)),
    (Sign.DOCUMENT, "1.3.12.2.1107.5.9.1"),
)
DOCUMENT_MODALITIES = frozenset(("SR", "PR", "KO", "DOC", "AU", "ECG", "REG", "SEG", "FID", "PLAN", "RWV"))


def _words(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![a-z0-9])(?:{pattern})(?![a-z0-9])")


_SIGN_WORDS = tuple((sign, _words(pattern)) for sign, pattern in WORDS)
_PLAIN_WORDS, _CONTRAST_WORDS, _HEAD_WORDS = _words(PLAIN), _words(CONTRAST), _words(HEAD)
_NO_AGENT = re.compile(NO_AGENT)
_SHARP_KERNELS = tuple(re.compile(pattern) for _, pattern in SHARP_KERNELS)
_IN_MM = re.compile(r"(?<![0-9.,])([0-9]{1,2}(?:[.,][0-9]{1,3})?) ?mm(?![a-z])")


def signs_of(facts: ReadingFacts) -> frozenset[Sign]:
    """Return all that can be seen of an instance and its series; the instance number says nothing here."""
    text = folded(facts.series_description)
    found = {sign for sign, words in _SIGN_WORDS if words.search(text)}
    found |= {IMAGE_TYPES[value] for value in image_type_values(facts.image_type) if value in IMAGE_TYPES}
    for sign, root in SOP_CLASSES:
        if facts.sop_class_uid == root or facts.sop_class_uid.startswith(root + "."):
            found.add(sign)
    if facts.modality in DOCUMENT_MODALITIES:
        found.add(Sign.DOCUMENT)
    kernel = folded(facts.convolution_kernel.split("\\")[0])
    if any(pattern.fullmatch(kernel) for pattern in _SHARP_KERNELS):
        found.add(Sign.SHARP)
    if facts.body_part and not _HEAD_WORDS.search(f"{folded(facts.body_part)} {text}"):
        found.add(Sign.ELSEWHERE)
    _settle_thickness(found, facts.slice_thickness_mm, text)
    _settle_contrast(found, folded(facts.contrast_agent), text)
    return frozenset(found)


def _settle_thickness(found: set[Sign], thickness_mm: float | None, text: str) -> None:
    """Believe the attribute before a number in the description, and that before the words."""
    if thickness_mm is None or not 0 < thickness_mm <= THICKNESS_MAX_MM:
        said = _IN_MM.search(text)
        thickness_mm = float(said[1].replace(",", ".")) if said else None
    if thickness_mm:
        found -= {Sign.THICK, Sign.THIN}
        found.add(Sign.THICK if thickness_mm >= THICK_MIN_MM else Sign.THIN)


def _settle_contrast(found: set[Sign], agent: str, text: str) -> None:
    """Believe the description before the agent, which scanners carry over from one scan of the protocol to the next."""
    rest = _MINUS_C.sub(" ", _PLAIN_WORDS.sub(" ", text))
    is_plain_said = rest != text
    is_contrast_said = bool(_CONTRAST_WORDS.search(rest) or _PLUS_C.search(rest))
    is_agent_named = bool(agent) and not _NO_AGENT.fullmatch(agent)
    if is_contrast_said or (not is_plain_said and (is_agent_named or Sign.VESSELS in found)):
        found.add(Sign.CONTRAST)
    elif is_plain_said:
        found.add(Sign.PLAIN)


def image_type_values(image_type: str) -> frozenset[str]:
    """Return the values of Image Type (0008,0008), and the words of those that have several."""
    values = [value.strip().upper() for value in image_type[:DESCRIPTION_LENGTH_MAX].split("\\")]
    return frozenset((*values, *(word for value in values for word in value.split())))


def folded(text: str) -> str:
    """Return a text in lower case without accents and umlauts, its words with one space between them."""
    plain = unicodedata.normalize("NFKD", text[:DESCRIPTION_LENGTH_MAX].casefold())
    kept = "".join(character for character in plain if not unicodedata.combining(character))
    return re.sub(r"[\s_^]+", " ", kept).strip()
