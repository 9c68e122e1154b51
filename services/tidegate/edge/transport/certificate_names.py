"""What a client certificate says of its owner, in the words of OpenSSL and mosquitto.

Called by `TlsTransport` with a certificate that OpenSSL has verified. Reads the DER encoding
itself: the order of the attributes and the types of their values decide how a name is written.
Pure.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Final

_SEQUENCE: Final = 0x30
_EXPLICIT_VERSION: Final = 0xA0
_COMMON_NAME: Final = "2.5.4.3"

_UTF8_STRING: Final = 12
_UNIVERSAL_STRING: Final = 28
_BMP_STRING: Final = 30
#: Numeric, printable, teletex, IA5, visible, and both times: one byte is one character.
_ONE_BYTE: Final = frozenset({18, 19, 20, 22, 23, 24, 26})

#: Escaped with a backslash wherever they are.
_SPECIAL: Final = frozenset(b',+"\\<>;')
_SPACE: Final = 0x20
_HASH: Final = 0x23

#: OpenSSL's short names of attributes, by the object identifier above them.
_ATTRIBUTES: Final = {
    "2.5.4": (
        "3 CN 4 SN 5 serialNumber 6 C 7 L 8 ST 9 street 10 O 11 OU 12 title 13 description "
        "14 searchGuide 15 businessCategory 16 postalAddress 17 postalCode 18 postOfficeBox "
        "19 physicalDeliveryOfficeName 20 telephoneNumber 21 telexNumber "
        "22 teletexTerminalIdentifier 23 facsimileTelephoneNumber 24 x121Address "
        "25 internationaliSDNNumber 26 registeredAddress 27 destinationIndicator "
        "28 preferredDeliveryMethod 29 presentationAddress 30 supportedApplicationContext "
        "31 member 32 owner 33 roleOccupant 34 seeAlso 35 userPassword 36 userCertificate "
        "37 cACertificate 38 authorityRevocationList 39 certificateRevocationList "
        "40 crossCertificatePair 41 name 42 GN 43 initials 44 generationQualifier "
        "45 x500UniqueIdentifier 46 dnQualifier 47 enhancedSearchGuide 48 protocolInformation "
        "49 distinguishedName 50 uniqueMember 51 houseIdentifier 52 supportedAlgorithms "
        "53 deltaRevocationList 54 dmdName 65 pseudonym 72 role 97 organizationIdentifier 98 c3 "
        "99 n3 100 dnsName"
    ),
    "0.9.2342.19200300.100.1": (
        "1 UID 2 textEncodedORAddress 3 mail 4 info 5 favouriteDrink 6 roomNumber 7 photo "
        "8 userClass 9 host 10 manager 11 documentIdentifier 12 documentTitle 13 documentVersion "
        "14 documentAuthor 15 documentLocation 20 homeTelephoneNumber 21 secretary "
        "22 otherMailbox 23 lastModifiedTime 24 lastModifiedBy 25 DC 26 aRecord "
        "27 pilotAttributeType27 28 mXRecord 29 nSRecord 30 sOARecord 31 cNAMERecord "
        "37 associatedDomain 38 associatedName 39 homePostalAddress 40 personalTitle "
        "41 mobileTelephoneNumber 42 pagerTelephoneNumber 43 friendlyCountryName 44 uid "
        "45 organizationalStatus 46 janetMailbox 47 mailPreferenceOption 48 buildingName "
        "49 dSAQuality 50 singleLevelQuality 51 subtreeMinimumQuality 52 subtreeMaximumQuality "
        "53 personalSignature 54 dITRedirect 55 audio 56 documentPublisher"
    ),
    "1.3.6.1.4.1.311.60.2.1": ("1 jurisdictionL 2 jurisdictionST 3 jurisdictionC"),
    "1.2.840.113549.1.9": (
        "1 emailAddress 2 unstructuredName 7 challengePassword 8 unstructuredAddress "
        "20 friendlyName"
    ),
}


@dataclass(slots=True, frozen=True)
class CertificateNames:
    """The first common name and the subject (RFC 2253, as OpenSSL prints it); "" for none."""

    common_name: str
    subject: str


NO_NAMES: Final = CertificateNames("", "")


@dataclass(slots=True, frozen=True)
class _Attribute:
    oid: str
    tag: int
    value: bytes
    #: The value with its tag and length.
    encoded: bytes
    #: Whether it belongs to the same relative name as the attribute before.
    joined: bool


def names_of(der: bytes) -> CertificateNames:
    """Return the names in a certificate. Raises ValueError if it cannot be read.

    Both are what mosquitto makes a user name of: the first of several common names, and the subject
    with the last relative name first. A common name that is not text, or has a NUL, counts as none.
    """
    attributes = list(_attributes(_subject(der)))
    names = [each for each in attributes if each.oid == _COMMON_NAME]
    return CertificateNames(_text(names[0]) if names else "", _printed(attributes))


def _printed(attributes: list[_Attribute]) -> str:
    parts: list[str] = []
    for index in range(len(attributes) - 1, -1, -1):
        each = attributes[index]
        name = _short_names().get(each.oid)
        value = _escaped(each) if name is not None else None
        parts.append(f"{name or each.oid}={_dump(each) if value is None else value}")
        if index:
            parts.append("+" if each.joined else ",")
    return "".join(parts)


def _escaped(attribute: _Attribute) -> str | None:
    """Return the value in UTF-8 with escapes; None if its type is not one of text."""
    if attribute.tag == _UTF8_STRING:
        data = attribute.value
    else:
        text = _decoded(attribute)
        if text is None:
            return None
        data = text.encode("utf-8", "surrogatepass")
    last = len(data) - 1
    parts = []
    for index, byte in enumerate(data):
        at_an_end = byte == _SPACE and index in {0, last}
        # OpenSSL does not escape one that is alone.
        leading = byte == _HASH and index == 0 < last
        if byte in _SPECIAL or at_an_end or leading:
            parts.append(f"\\{chr(byte)}")
        elif 0x20 <= byte < 0x7F:
            parts.append(chr(byte))
        else:
            parts.append(f"\\{byte:02X}")
    return "".join(parts)


def _dump(attribute: _Attribute) -> str:
    return f"#{attribute.encoded.hex().upper()}"


def _text(attribute: _Attribute) -> str:
    """Return a common name as a user name: "" if it cannot be one."""
    if attribute.tag in _ONE_BYTE or attribute.tag == _UTF8_STRING:
        try:
            text = attribute.value.decode("utf-8")  # most issuers write it, whatever the type is
        except UnicodeDecodeError:
            text = _decoded(attribute) or ""
    else:
        text = _decoded(attribute) or ""
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        return ""
    return text


def _decoded(attribute: _Attribute) -> str | None:
    """Return the characters of a value that is not a UTF8String; None if it is not one of text."""
    if attribute.tag in _ONE_BYTE:
        return attribute.value.decode("latin-1")
    if attribute.tag == _BMP_STRING:
        width, codec = 2, "utf-16-be"
    elif attribute.tag == _UNIVERSAL_STRING:
        width, codec = 4, "utf-32-be"
    else:
        return None
    if len(attribute.value) % width:
        raise ValueError("a name in the certificate has an impossible length")
    return attribute.value.decode(codec, "surrogatepass")


@cache
def _short_names() -> dict[str, str]:
    found = {}
    for above, text in _ATTRIBUTES.items():
        words = text.split()
        found.update(
            {f"{above}.{n}": name for n, name in zip(words[::2], words[1::2], strict=True)}
        )
    return found


# DER


def _subject(der: bytes) -> bytes:
    """Return the content of the subject: the sixth field of what is signed, or the fifth."""
    signed = [(tag, content) for tag, content, _ in _elements(_sequence(_sequence(der)))]
    if signed and signed[0][0] == _EXPLICIT_VERSION:
        signed = signed[1:]
    if len(signed) < 5:
        raise ValueError("the certificate has no subject")
    return signed[4][1]


def _sequence(data: bytes) -> bytes:
    """Return the content of the first element, which is a SEQUENCE."""
    tag, content, _ = next(_elements(data), (0, b"", b""))
    if tag != _SEQUENCE:
        raise ValueError("not a certificate")
    return content


def _attributes(name: bytes) -> Iterator[_Attribute]:
    for _, relative_name, _ in _elements(name):
        joined = False
        for _, pair, _ in _elements(relative_name):
            (_, oid, _), (tag, value, encoded) = list(_elements(pair))[:2]
            yield _Attribute(_oid(oid), tag, value, encoded, joined)
            joined = True


def _elements(data: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Yield tag, content and the whole encoding of each element."""
    position = 0
    while position < len(data):
        begin = position
        if position + 2 > len(data):
            raise ValueError("the certificate is cut off")
        tag, size = data[position], data[position + 1]
        position += 2
        if size >= 0x80:
            count = size & 0x7F
            size = int.from_bytes(data[position : position + count])
            position += count
        if position + size > len(data):
            raise ValueError("the certificate is cut off")
        end = position + size
        yield tag, data[position:end], data[begin:end]
        position = end


def _oid(content: bytes) -> str:
    numbers = []
    number = 0
    for byte in content:
        number = number << 7 | byte & 0x7F
        if not byte & 0x80:
            numbers.append(number)
            number = 0
    if not numbers:
        raise ValueError("an attribute of the certificate has no identifier")
    first = min(numbers[0] // 40, 2)
    return ".".join(map(str, (first, numbers[0] - 40 * first, *numbers[1:])))
