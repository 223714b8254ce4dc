"""Character sets of MySQL and MariaDB: which collation belongs to which, and what their bytes mean.

Python's codecs, and where the servers' tables differ from them, the differences; a test asks the servers about every
character. A byte or code that has no character is ``?``, as the servers have it when they convert to UTF-8.
"""

from __future__ import annotations

import codecs
import contextlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from cdc.errors import DecodeError

BINARY: Final = 63
"""The collation of bytes that are no text."""


@dataclass(frozen=True, slots=True)
class Charset:
    """A character set; `width` is the number of bytes that a character has at most."""

    name: str
    width: int
    decode: Callable[[bytes], str]
    """The text of bytes. Raises UnicodeDecodeError where they are not well-formed."""

    def encode(self, text: str) -> bytes | None:
        """The only bytes that mean `text`; None where there may be others, or none."""
        if self.width > 1:
            return text.encode() if self.extends_ascii and _SINGLE.fullmatch(text) else None
        meanings = self.decode(bytes(range(256)))
        return bytes(map(meanings.index, text)) if all(meanings.count(one) == 1 for one in text) else None

    @property
    def extends_ascii(self) -> bool:
        """Whether bytes that are ASCII mean the same here."""
        try:
            return self.decode(_ASCII) == _ASCII.decode()
        except UnicodeDecodeError:
            return False


_ASCII: Final = bytes(range(128))
_SINGLE: Final = re.compile(r"[^?\\~\x80-\U0010ffff]*")
"""ASCII, but for what other codes may be as well: those without a character, and two of the Japanese sets."""


def _codec(name: str) -> Callable[[bytes], str]:
    decode = codecs.lookup(name).decode
    return lambda content: decode(content)[0]


def _single(codec: str, changes: Mapping[int, str] | None = None, upper: str = "") -> Callable[[bytes], str]:
    """One byte for each character: those of a codec, with `changes`; `upper` are the last ones."""
    table = bytes(range(256)).decode(codec, "replace").replace("\ufffd", "?")
    table = table[: 256 - len(upper)] + upper
    for code, character in (changes or {}).items():
        table = table[:code] + character + table[code + 1 :]
    return lambda content: codecs.charmap_decode(content, "strict", table)[0]


def _nothing(_: bytes) -> str | None:
    return None


def _multi(codec: str, pattern: bytes, changes: Callable[[bytes], str | None] = _nothing) -> Callable[[bytes], str]:
    """Characters as `pattern` has them: `changes` says which are not the codec's."""
    character = re.compile(pattern, re.DOTALL)

    def decode(content: bytes) -> str:
        if content.isascii():
            return content.decode("ascii")
        if changes is _nothing:
            with contextlib.suppress(UnicodeDecodeError):
                return content.decode(codec)
        text = []
        place = 0
        while place < len(content):
            found = character.match(content, place)
            if found is None:
                raise UnicodeDecodeError(codec, content, place, place + 1, "no character begins here")
            place = found.end()
            code = found[0]
            changed = changes(code)
            text.append(code.decode(codec, "replace")[:1].replace("\ufffd", "?") if changed is None else changed)
        return "".join(text)

    return decode


def _user_defined(code: bytes) -> str | None:
    """The part of EUC-JP that is left to users, in Unicode's."""
    if len(code) == 2 and code[0] >= 0xF5:
        return chr(0xE000 + (code[0] - 0xF5) * 94 + code[1] - 0xA1)
    if len(code) == 3 and code[1] >= 0xF5:
        return chr(0xE3AC + (code[1] - 0xF5) * 94 + code[2] - 0xA1)
    return None


def _ujis(code: bytes) -> str | None:
    return "\\" if code == b"\xa1\xc0" else _user_defined(code)


_IBM: Final = (
    "ⅰⅱⅲⅳⅴⅵⅶⅷⅸⅹⅠⅡⅢⅣⅤⅥⅦⅧⅨⅩ＇＂㈱№℡炻仼僴凬匇匤﨎咊坙﨏塚增寬峵嵓"
    "﨑德悅愠敎昻晥晴朗栁﨓﨔橫櫢淸淲瀨凞猪甁皂皞益礰礼神祥福竧靖精綠緖羽荢﨟薰蘒﨡蠇"
    "諸譿賴赶﨣﨤逸郞都鄕﨧﨨閒隆﨩霻靍靑飯飼館馞髙魲鶴黑"
)
"""eucjpms from 8FF3F3: the characters that IBM and NEC added."""


def _eucjpms(code: bytes) -> str | None:
    if len(code) == 3 and b"\x8f\xf3\xf3" <= code < b"\x8f\xf5":
        return _IBM[code[2] - 0xF3 if code[1] == 0xF3 else code[2] - 0xA1 + 12]
    if code in (b"\x8f\xa2\xb7", b"\x8f\xa2\xc3"):
        return "～" if code[2] == 0xB7 else "￤"
    if len(code) == 2 and 0xA1 <= code[0] < 0xF5:  # as cp932, which has the same rows in another order
        row, cell = code[0] - 0xA0, code[1] - 0xA0
        first = (row - 1) // 2 + 0x81
        second = (cell + 0x3F + (cell >= 64)) if row % 2 else cell + 0x9E
        return bytes([first + 0x40 * (first > 0x9F), second]).decode("cp932", "replace")[:1].replace("\ufffd", "?")
    return _user_defined(code)


_BIG5: Final = {bytes([0xF9, 0xD6 + i]): character for i, character in enumerate("碁銹裏墻恒粧嫺")}
_BIG5.update(dict.fromkeys((b"\xa1\x5a", b"\xa1\xc3", b"\xa1\xc5", b"\xa1\xfe", b"\xa2\x40"), "\ufffd"))
_BIG5.update(dict.fromkeys((b"\xa2\xcc", b"\xa2\xce"), "\ufffd"))
_EUC: Final = rb"[\x00-\x7f]|\x8e[\xa1-\xdf]|\x8f[\xa1-\xfe]{2}|[\xa1-\xfe]{2}"
_SJIS: Final = rb"[\x00-\x7f\xa1-\xdf]|[\x81-\x9f\xe0-\xfc][\x40-\x7e\x80-\xfc]"
_TWO: Final = rb"[\x00-\x7f]|[\x81-\xfe][\x40-\xfe]"
_GB18030: Final = rb"[\x00-\x7f]|[\x81-\xfe][\x40-\x7e\x80-\xfe]|[\x81-\xfe][0-9][\x81-\xfe][0-9]"


_DEC8: Final = {0xA8: "¤", 0xD7: "Œ", 0xDD: "Ÿ", 0xF7: "œ", 0xFD: "ÿ"}
_DEC8.update(dict.fromkeys([0xA4, 0xA6, *range(0xAC, 0xB0), 0xB4, 0xB8, 0xBE, 0xD0, 0xDE, 0xF0, 0xFE, 0xFF], "?"))
_SWE7: Final = dict(zip(b"@[\\]^`{|}~", "ÉÄÖÅÜéäöåü", strict=True)) | dict.fromkeys(range(127, 256), "?")
_LATIN1: Final = {code: chr(code) for code in (0x81, 0x8D, 0x8F, 0x90, 0x9D)}
_TIS620: Final = dict.fromkeys([0xA0, *range(0xDB, 0xDF), *range(0xFC, 0x100)], "\ufffd")
_ARMSCII8: Final = "\xa0❁§։)(»«—.՝,-՟…՜՛՞ԱաԲբԳգԴդԵեԶզԷէԸըԹթԺժԻիԼլԽխԾծԿկՀհՁձՂղՃճՄմՅյՆնՇշՈոՉչՊպՋջՌռՍսՎվՏտՐրՑցՒւՓփՔքՕօՖֆ’'"
_GEOSTD8: Final = (
    "€?‚?„…†‡?‰?‹?????‘’“”•–—???›????\xa0¡¢£¤¥¦§¨©ª«¬\xad®¯°±²³´µ¶·¸¹º»¼½¾¿"
    "აბგდევზჱთიკლმნჲოპჟრსტჳუფქღყშჩცძწჭხჴჯჰჵ???????????????????????№??"
)
_KEYBCS2: Final = (
    "ČüéďäĎŤčěĚĹÍľĺÄÁÉžŽôöÓůÚýÖÜŠĽÝŘťáíóúňŇŮÔšřŕŔ¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐"
    "└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\xa0"
)

_CHARSETS: Final = {
    name: Charset(name, width, decode)
    for name, width, decode in (
        ("armscii8", 1, _single("latin-1", upper=_ARMSCII8)),
        ("ascii", 1, _single("ascii")),
        ("big5", 2, _multi("big5", _TWO, _BIG5.get)),
        ("binary", 1, _codec("latin-1")),
        ("cp1250", 1, _single("cp1250")),
        ("cp1251", 1, _single("cp1251")),
        ("cp1256", 1, _single("cp1256", dict.fromkeys(b"\x8a\x8f\x98\x9a\x9f\xaa\xc0\xff", "?"))),
        ("cp1257", 1, _single("cp1257")),
        ("cp850", 1, _single("cp850")),
        ("cp852", 1, _single("cp852")),
        ("cp866", 1, _single("cp866", {0xFC: "ⁿ", 0xFD: "²"})),
        ("cp932", 2, _multi("cp932", _SJIS)),
        ("dec8", 1, _single("latin-1", _DEC8)),
        ("eucjpms", 3, _multi("euc_jp", _EUC, _eucjpms)),
        ("euckr", 2, _multi("cp949", _TWO)),
        ("gb18030", 4, _multi("gb18030", _GB18030, {b"\xa8\xbc": "ḿ"}.get)),
        ("gb2312", 2, _multi("gb2312", _TWO)),
        ("gbk", 2, _multi("gbk", _TWO)),
        ("geostd8", 1, _single("latin-1", upper=_GEOSTD8)),
        ("greek", 1, _single("iso8859_7", {0xA1: "ʽ", 0xA2: "ʼ", 0xA4: "?", 0xA5: "?", 0xAA: "?"})),
        ("hebrew", 1, _single("iso8859_8", {0xAF: "‾"})),
        ("hp8", 1, _single("hp_roman8")),
        ("keybcs2", 1, _single("latin-1", upper=_KEYBCS2)),
        ("koi8r", 1, _single("koi8_r")),
        ("koi8u", 1, _single("koi8_u", {0x95: "•"})),
        ("latin1", 1, _single("cp1252", _LATIN1)),
        ("latin2", 1, _single("iso8859_2")),
        ("latin5", 1, _single("iso8859_9")),
        ("latin7", 1, _single("iso8859_13")),
        ("macce", 1, _single("mac_latin2")),
        ("macroman", 1, _single("mac_roman")),
        ("sjis", 2, _multi("shift_jis", _SJIS, {b"\x81\x5f": "\\"}.get)),
        ("swe7", 1, _single("latin-1", _SWE7)),
        ("tis620", 1, _single("tis_620", _TIS620)),
        ("ucs2", 2, _codec("utf-16-be")),
        ("ujis", 3, _multi("euc_jp", _EUC, _ujis)),
        ("utf16", 4, _codec("utf-16-be")),
        ("utf16le", 4, _codec("utf-16-le")),
        ("utf32", 4, _codec("utf-32-be")),
        ("utf8mb3", 3, _codec("utf-8")),
        ("utf8mb4", 4, _codec("utf-8")),
    )
}

_COLLATIONS: Final = {
    "armscii8": (32, 64),
    "ascii": (11, 65),
    "big5": (1, 84),
    "binary": (63,),
    "cp1250": (26, 34, 44, 66, 99),
    "cp1251": (14, 23, *range(50, 53)),
    "cp1256": (57, 67),
    "cp1257": (29, *range(58, 60)),
    "cp850": (4, 80),
    "cp852": (40, 81),
    "cp866": (36, 68),
    "cp932": (*range(95, 97),),
    "dec8": (3, 69),
    "eucjpms": (*range(97, 99),),
    "euckr": (19, 85),
    "gb18030": (*range(248, 251),),
    "gb2312": (24, 86),
    "gbk": (28, 87),
    "geostd8": (*range(92, 94),),
    "greek": (25, 70),
    "hebrew": (16, 71),
    "hp8": (6, 72),
    "keybcs2": (37, 73),
    "koi8r": (7, 74),
    "koi8u": (22, 75),
    "latin1": (5, 8, 15, 31, *range(47, 50), 94),
    "latin2": (2, 9, 21, 27, 77),
    "latin5": (30, 78),
    "latin7": (20, *range(41, 43), 79),
    "macce": (38, 43),
    "macroman": (39, 53),
    "sjis": (13, 88),
    "swe7": (10, 82),
    "tis620": (18, 89),
    "ucs2": (35, 90, *range(128, 152), 159, *range(640, 643)),
    "ujis": (12, 91),
    "utf16": (*range(54, 56), *range(101, 125), *range(672, 675)),
    "utf16le": (56, 62),
    "utf32": (*range(60, 62), *range(160, 184), *range(736, 739)),
    "utf8mb3": (33, 76, 83, *range(192, 216), 223, *range(576, 580)),
    "utf8mb4": (
        *range(45, 47),
        *range(224, 248),
        *range(255, 272),
        *range(273, 276),
        *range(277, 295),
        *range(296, 299),
        300,
        *range(303, 324),
        *range(608, 612),
    ),
}
"""MySQL's numbers. MariaDB's are these, their copies without padding 1024 further on, and from 2048 those of UCA 14."""
_UCA1400: Final = ("utf8mb3", "utf8mb4", "ucs2", "utf16", "utf32")
_BY_COLLATION: Final = {number: _CHARSETS[name] for name, numbers in _COLLATIONS.items() for number in numbers}


def charset(collation: int) -> Charset:
    """The character set of a collation, by the collation's number. Raises DecodeError when there is none."""
    found = _BY_COLLATION.get(collation)
    if found is None and 1024 <= collation < 2048:
        found = _BY_COLLATION.get(collation - 1024)
    if found is None and 2048 <= collation < 2048 + 256 * len(_UCA1400):
        found = _CHARSETS[_UCA1400[collation - 2048 >> 8]]
    if found is None:
        raise DecodeError(f"no character set is known for collation {collation}")
    return found
