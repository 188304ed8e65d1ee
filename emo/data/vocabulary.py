"""What the names in datasets mean: splits, numbered classes, parts of a dataset, words for emotions."""

import re
import unicodedata
from collections.abc import Collection

SPLITS = ("train", "val", "test")
SPLIT_NAMES = {
    "train": "train training trn trainset trainingset traindata trainingdata trainimages trainingimages "
    "trainimgs trainfolder обучение обучающая обучающаявыборка тренировка тренировочная",
    "val": "val valid validation validate valset validset validationset valdata validdata validationdata "
    "valimages validationimages valimgs dev devset development publictest валидация валидационная",
    "test": "test testing tst testset testingset testdata testingdata testimages testimgs privatetest "
    "тест тестовая тестирование",
}
SPLIT_OF = {word: split for split, words in SPLIT_NAMES.items() for word in words.split()}

FER2013 = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")  # the competition's own page
AFFECTNET = (
    "neutral",
    "happy",
    "sad",
    "surprise",
    "fear",
    "disgust",
    "anger",
    "contempt",
)  # Mollahosseini 2017
RAF_DB = ("", "surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")  # its readme; from 1
FER_PLUS = (
    "neutral",
    "happiness",
    "surprise",
    "sadness",
    "anger",
    "disgust",
    "fear",
    "contempt",
)  # Barsoum 2016
NUMBERINGS = (  # the dataset, the names that give it away, its classes by number
    ("FER+", r"fer[\W_]?(20)?(13)?[\W_]?(plus|\+)", FER_PLUS),
    ("AffectNet", r"affect[\W_]?net", AFFECTNET),
    ("RAF-DB", r"(?<![a-z])raf(?![a-z])|(train|test)_\d{4,5}_aligned", RAF_DB),
    ("FER2013", r"fer[\W_]?(20)?13|icml_face", FER2013),
)

# Beginnings of words; English with its usual variants, then Russian (also in Latin letters), German, French,
# Spanish, Italian, Portuguese, Polish, Turkish.
BEGINNINGS = """
anger angry happ sad surpr fear disgus neutral contempt contented scare afraid joy smil laugh cry calm
relax anxi bored boring confus excit uncertain amus annoy asham shame concern curio delight depress desir
disappoint disbelie doubt elat embarrass ecsta enthus envy fatigue frustrat furious gloom gratef grati
grie guilt hatred hope horror hurt interest irritat jealous lonel love melanchol nervous pain panic
pensive pleas positiv negativ proud rage regret relief reliev remorse sorrow sleepy stress sulk sympath
tense tension terror thought tired troubled trust unhapp upset worry worri yawn wow emotion feeling
attentiv bewilder engage distract drows focused serious
зло злая гнев серд ярос разд рад счас весел улыб смех сме груст грущ печал тоск плак слез стра испу боязн
удив изум отвр брезг нейт спок през скук скуч уста сомн неув неопр эмоц любов любл боль обид стыд восторг
восх интерес
zlost zloy zlaya gnev rados schast grust pechal strah udivl otvra neytr neitr spokoy prezr skuka
wut wüt zorn ärger aerger freud froh glück glueck lach trau angst furcht überr ueberr ekel veracht ruhig
langwei
colèr coler heureu joie rire trist peur dégoû degou mépr mepr ennui
enojo enfad felic felice alegr miedo temor sorpr asco asque despre rabbi gioia paura disprez disgus raiva
medo nojo
złoś zlosc gniew radoś smutn smute strach zdziw wstręt wstret szczę szcze pogard
kızgın kizgin öfke ofke mutlu üzgün uzgun korku şaşkın saskin iğren igren nötr notr
"""
# as KDEF, JAFFE and others abbreviate
CODES = """an ang ha hap sa su sur fe fea di dis ne neu neut co con cont af afs ans has nes sas sus dis hp sd
sp dg nt cn awe fury hate lust mad pride"""
EMOTIONS, EMOTION_CODES = tuple(BEGINNINGS.split()), frozenset(CODES.split())
EMOTION_SIGNS = (
    "怒喜乐樂哀悲惊驚恐惧懼厌厭恶悪惡嬉楽驚嫌怖軽蔑中性無表情高兴开心開心伤傷心生气愤憤轻蔑행복슬"
    "픔분노화남놀람공포두려움혐오중립경멸"
)

# words for one emotion, as datasets name their classes
SYNONYMS = {
    word: words.split()[0]
    for words in (
        "anger angry mad злость злой злая гнев сердитый",
        "contempt contemptuous презрение",
        "disgust disgusted disgusting отвращение",
        "fear fearful afraid scared страх испуг",
        "happiness happy happily joy joyful smile счастье счастливый радость радостный",
        "neutral neutrality нейтральный нейтральная нейтральное нейтрально",
        "sadness sad unhappy грусть грустный печаль",
        "surprise surprised удивление удивленный удивлённый",
    )
    for word in words.split()
}

PARTS = re.compile(  # names of a dataset's parts, after signs are taken out
    r"(image|img|photo|picture|pic|frame|face|file|video|clip|sample|example|mask|label|annotation|annot|bbox"
    r"|box|landmark|keypoint|crop|cropped|aligned|original|orig|raw|source|processed|preprocessed|resized"
    r"|normali[sz]ed|augmented|aug|grey|gray|grayscale|color|colour|rgb|depth|infrared|thermal|thumb|thumbnail"
    r"|data|dataset|all|new|old|misc|tmp|temp|backup|copy|upload|download|left|right|front|side|high|low|hr|lr"
    r"|фото|фотографии|картинки|изображения|снимки|маски|папка|новаяпапка|разное)(e?s|y)?\d*"
    r"|(part|pt|batch|fold|folder|newfolder|dir|set|chunk|shard|group|session|subject|person|user|actor|camera"
    r"|cam|album|disk|disc|vol|volume|page|split|часть|папка|альбом|dcim|img|dsc|mnt)[a-z]?\d*"
    r"|(19|20)\d\d\d*|[a-z]\d{2,}"
)


def split_of(name: str) -> str | None:
    """ "train", "val" or "test" for a name that means it, in any case and spelling; else None."""
    return SPLIT_OF.get(_plain(name))


def is_emotion(name: str) -> bool:
    """Whether the name holds a word for an emotion in a language above, or a dataset's code for one."""
    name = unicodedata.normalize("NFC", name).casefold()
    words = re.findall(r"[^\W\d_]+", name)
    known = any(word in EMOTION_CODES or word.startswith(EMOTIONS) for word in words)
    return known or "class" in name or "класс" in name or any(sign in EMOTION_SIGNS for sign in name)


def emotion_of(name: str) -> str:
    """One word for all names of an emotion ("happy" and "Happiness"); of another name, the plain name."""
    return SYNONYMS.get(plain := _plain(name), plain)


def is_part(name: str) -> bool:
    """Whether parts of a dataset have such a name rather than classes: images, masks, part2, 2024-05."""
    return bool(PARTS.fullmatch(_plain(name)))


def numbers_of(names: Collection[str]) -> dict[str, int]:
    """The number of each name where all are numbers ("3", "03", "class_3"); else nothing."""
    pattern = r"(?:class|label|emotion|класс)?[ _-]?(\d{1,2})"
    found = {name: re.fullmatch(pattern, name.casefold()) for name in names}
    return {name: int(match[1]) for name, match in found.items() if match} if all(found.values()) else {}


def named_classes(names: Collection[str], hints: str) -> tuple[dict[str, str], str]:
    """What numbered classes mean, and a sentence about it; nothing where the names are not numbers.

    `hints` are the names in and of the source. Where they name no dataset, numbers stay: datasets have them
    in different orders (AffectNet, FER+ and CK+ all use 0–7).
    """
    numbers = numbers_of(names)
    if not numbers or len(set(numbers.values())) < len(numbers):
        return {}, ""
    hints = hints.casefold()
    for dataset, hint, classes in NUMBERINGS:
        meant = {number: word for number, word in enumerate(classes) if word}
        if set(numbers.values()) <= set(meant) and re.search(hint, hints):
            told = ", ".join(f"{name} = {meant[number]}" for name, number in sorted(numbers.items(), key=str))
            note = f"Numbered classes get {dataset}'s names: {told}; rename them if they mean others."
            return {name: meant[number] for name, number in numbers.items()}, note
    shown = ", ".join(sorted(numbers))
    return (
        {},
        f"The classes {shown} keep their numbers, as no dataset is named that would say what they mean: "
        "rename the folders, or give a source named after its dataset, such as affectnet.zip.",
    )


def _plain(name: str) -> str:
    """The name without case, spaces and signs."""
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFC", name).casefold())
