"""Which language a query is in, as far as its script and its little words tell; and whether a model knows that one.

A question has little words; a few keywords have none, and then nothing is said.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Collection
from itertools import islice

_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
_LITTLE_WORDS = {
    code: frozenset(words.split())
    for code, words in {
        "da": "af at blev da de den der det di du efter eller en er et for fra ham han har hun hvad hvem hvilken "
        "hvilket hvor hvordan hvornår hvorfor i ikke ind jeg kan kun man med men mod når og også om op over "
        "på se sig sin som skal til ud under var ved vi vil være",
        "de": "aber als also am an auch auf aus bei beim bis da das dass dem den der des die dies diese dieser "
        "durch ein eine einem einen einer eines er es für gab gibt haben hat hatte ich ihr ihre im in ist "
        "kann man mein mich mit nach nicht noch nur ob oder sich sie sind um und uns unter viel viele "
        "vielen vom von vor war waren warum was welche welchem welchen welcher welches wen wem wenn wer "
        "werden wessen wie wieviel wir wird wo wodurch woher wohin womit worauf wurde wurden zu zum zur "
        "zwischen über",
        "en": "a about after all also an and any are as at be because been before between but by can could did do "
        "does during each for from had has have he her his how i if in into is it its many may more most "
        "much my no not of on only or other our out over she should so some such than that the their them "
        "then there these they this those through to under up was we were what when where which while who "
        "whom whose why will with would you your",
        "es": "a al algo algunos ante antes como con contra cual cuáles cuál cuándo cuánto cuántos cuántas cómo "
        "de del desde donde dónde durante e el ella ellos en entre era es esa ese eso esta este esto está "
        "están fue fueron ha han hasta hay la las le les lo los me mi muy más no nos o para pero por porque "
        "que quién qué se ser si sin sobre son su sus también tiene todo tras un una unos y ya yo",
        "fi": "ei että he hän ja joka jos kanssa kuin kuinka kun kuka me mihin mikä millä minkä minä missä mitkä "
        "mitä mutta myös ne niin nyt olen oli olivat on ovat se sekä sen sinä siitä sitä tai tämä vai voi",
        "fr": "a à au aux avec c'est ce ces cette comment combien dans de depuis des donc dont du elle elles en "
        "entre est et eu fut il ils je la le les leur leurs lequel laquelle lui mais me même mon ne nous on "
        "ont ou où par pas pendant plus pour pourquoi qu'est quand que quel quelle quelles quels qui quoi "
        "sa sans se ses si son sont sous sur un une vous y été était",
        "hu": "a az azt be csak de egy el előtt és ez ezt fel ha hanem hány hogy hogyan hol hova ki kik kit le "
        "meg mely melyik mert mi mikor milyen mint mit most már nem nincs on számára szerint után vagy van "
        "volt voltak",
        "it": "a agli ai al alla alle anche che chi ci come con cosa cui da dal dalla dei del della delle di dopo "
        "dove due e ed era erano essere fu gli ha hanno i il in io la le lo ma mi nel nella nelle non o per "
        "perché più prima qual quale quali quando quanti quanto quante quella questo se si sono su sua sul "
        "sulla suo tra un una uno è",
        "nl": "aan al als bij dan dat de den deze die dit door een en er geen had heeft hebben het hij hoe "
        "hoeveel hun ik in is je kan maar me meer met na naar niet nog of om onder ons ook op over te tegen "
        "tot uit van veel voor waar waarom wanneer waren was wat we welk welke werd werden wie wordt worden "
        "ze zich zijn zo",
        "no": "at av ble da de den der det du eller en er et etter for fra han har hun hva hvem hvilken hvilke "
        "hvor hvordan hvorfor i ikke jeg kan med men mot når og også om opp på seg sin skal som til var ved "
        "vi vil være å",
        "pl": "a aby ale bez był była było były co czy czym dla do gdy gdzie go i ich ile im i jak jaka jaki "
        "jakie jako jego jej jest już kiedy kim kto która które który ma na nad nie o od on oraz po pod "
        "przed przez przy się są ta tak tego ten to tym tylko w we więc z za ze że",
        "pt": "a ao aos as até com como da das de depois do dos e ela ele em entre era eram essa esse esta este "
        "eu foi foram há isso já lhe mais mas me mesmo na nas no nos não nós o onde os ou para pela pelas "
        "pelo pelos por porque qual quais quando quanto quantos quantas que quem se sem ser seu seus sua "
        "suas são também te tem um uma à é",
        "ro": "a ai al ale am ar au ca cand când care ce cei cel cele cine cu cum câte câți cât cea dar de decât "
        "despre din după e ea ei el era este eu fost în într la le lor mai nici nu o pe pentru prin s-a sa "
        "sau se sub sunt să un una unde unei unui și",
        "sv": "att av blev de den denna det du efter eller en ett för från han har hon hur i inte jag kan man med "
        "men mot när och också om på sig sin ska som till under upp ur vad var varför vem vid vilka vilken "
        "vilket vi är över",
        "tr": "ama bir biri bu da daha de değil en gibi hangi hangisi her için ile ise kaç kadar ki kim kimin mi "
        "mı mu mü nasıl ne neden nerede nereye niçin o olan olarak sonra ve veya ya yani çok önce şu",
    }.items()
}
"""Words that are in almost any sentence of a language in Latin letters, by its ISO 639-1 code."""
_SCRIPTS = {
    "ARABIC": ("Arabic letters", ("ar", "fa", "ur", "ps", "ug")),
    "ARMENIAN": ("Armenian", ("hy",)),
    "BENGALI": ("Bengali letters", ("bn", "as")),
    "CJK": ("Chinese characters", ("zh", "ja")),
    "CYRILLIC": ("Cyrillic letters", ("ru", "uk", "bg", "sr", "mk", "be", "kk", "ky", "mn", "tg")),
    "DEVANAGARI": ("Devanagari", ("hi", "mr", "ne", "sa")),
    "ETHIOPIC": ("Amharic", ("am",)),
    "GEORGIAN": ("Georgian", ("ka",)),
    "GREEK": ("Greek", ("el",)),
    "GUJARATI": ("Gujarati", ("gu",)),
    "GURMUKHI": ("Punjabi", ("pa",)),
    "HANGUL": ("Korean", ("ko",)),
    "HEBREW": ("Hebrew letters", ("he", "yi")),
    "HIRAGANA": ("Japanese", ("ja",)),
    "KANNADA": ("Kannada", ("kn",)),
    "KATAKANA": ("Japanese", ("ja",)),
    "KHMER": ("Khmer", ("km",)),
    "LAO": ("Lao", ("lo",)),
    "MALAYALAM": ("Malayalam", ("ml",)),
    "MYANMAR": ("Burmese", ("my",)),
    "SINHALA": ("Sinhala", ("si",)),
    "TAMIL": ("Tamil", ("ta",)),
    "TELUGU": ("Telugu", ("te",)),
    "THAI": ("Thai", ("th",)),
}
"""By the first word of its letters' names in Unicode: what people call a script, and the languages written in it. All
others have Latin letters."""
NAMES = {
    "ar": "Arabic", "da": "Danish", "de": "German", "el": "Greek", "en": "English", "es": "Spanish",
    "fi": "Finnish", "fr": "French", "he": "Hebrew", "hu": "Hungarian", "it": "Italian", "ja": "Japanese",
    "ko": "Korean", "nl": "Dutch", "no": "Norwegian", "pl": "Polish", "pt": "Portuguese", "ro": "Romanian",
    "ru": "Russian", "sv": "Swedish", "th": "Thai", "tr": "Turkish", "zh": "Chinese",
}  # fmt: skip
_MOST_WORDS = 200
"""That are looked at: a language shows by then."""


def foreign(text: str, known: Collection[str]) -> str | None:
    """What ``text`` is written in, if that is none of the languages ``known`` (ISO 639-1 codes); None: it is one of
    these, or cannot be told."""
    words = {found[0].lower() for found in islice(_WORD.finditer(text), _MOST_WORDS)}
    scripts = Counter(_script(letter) for word in words for letter in word)
    if not scripts or not known:
        return None
    script, letters = scripts.most_common(1)[0]
    if script in _SCRIPTS:
        name, codes = _SCRIPTS[script]
        return None if 2 * letters <= scripts.total() or set(codes) & set(known) else name
    found = {code: len(words & little) for code, little in _LITTLE_WORDS.items()}
    best = max(found, key=lambda code: found[code])
    of_known = max((count for code, count in found.items() if code in known), default=None)
    # A single little word may be a name; and of a language without a list, nothing can be said for or against.
    if of_known is None or found[best] < 2 or found[best] < 2 * of_known:
        return None
    return None if best in known else NAMES[best]


def named(codes: Collection[str]) -> str:
    """Languages by their names, for people."""
    return ", ".join(NAMES.get(code, code) for code in codes)


def _script(letter: str) -> str:
    return "LATIN" if letter.isascii() else unicodedata.name(letter, "").partition(" ")[0]
