"""Names in client certificates: as ``openssl x509 -subject -nameopt RFC2253`` prints them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.name import _ASN1Type as Type
from cryptography.x509.oid import NameOID

from tidegate.edge.transport.certificate_names import CertificateNames, names_of

KEY = ec.generate_private_key(ec.SECP256R1())
UNKNOWN = x509.ObjectIdentifier("2.999.7")
Pair = tuple[x509.ObjectIdentifier, str]


def attribute(oid: x509.ObjectIdentifier, value: str, kind: Type | None) -> x509.NameAttribute[str]:
    return x509.NameAttribute(oid, value, _type=kind, _validate=False)


def certificate(*relative_names: list[Pair], kind: Type | None = Type.UTF8String) -> bytes:
    name = x509.Name(
        x509.RelativeDistinguishedName([attribute(*pair, kind) for pair in pairs])
        for pairs in relative_names
    )
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "the issuer")]))
        .public_key(KEY.public_key())
        .serial_number(2**130)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
    )
    return builder.sign(KEY, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def subject_of(value: str, kind: Type = Type.UTF8String) -> str:
    return names_of(certificate([(NameOID.COMMON_NAME, value)], kind=kind)).subject


def test_the_last_relative_name_comes_first_and_the_first_common_name_counts() -> None:
    der = certificate(
        [(NameOID.COUNTRY_NAME, "DE")],
        [(NameOID.COMMON_NAME, "first")],
        [(NameOID.COMMON_NAME, "last")],
    )
    assert names_of(der) == CertificateNames("first", "CN=last,CN=first,C=DE")


def test_a_subject_without_common_name_has_none() -> None:
    assert names_of(certificate([(NameOID.COUNTRY_NAME, "DE")])) == CertificateNames("", "C=DE")


def test_a_certificate_may_have_no_subject() -> None:
    assert names_of(certificate()) == CertificateNames("", "")


def test_attributes_of_one_relative_name_are_joined_by_a_plus() -> None:
    # In the encoding they are sorted: the shorter ones first.
    der = certificate([(NameOID.COMMON_NAME, "a"), (NameOID.ORGANIZATION_NAME, "bc")])
    assert names_of(der) == CertificateNames("a", "O=bc+CN=a")


@pytest.mark.parametrize(
    ("oid", "name"),
    [
        (NameOID.EMAIL_ADDRESS, "emailAddress"),
        (NameOID.SERIAL_NUMBER, "serialNumber"),
        (NameOID.STREET_ADDRESS, "street"),
        (NameOID.TITLE, "title"),
        (NameOID.SURNAME, "SN"),
        (NameOID.GIVEN_NAME, "GN"),
        (NameOID.USER_ID, "UID"),
        (NameOID.DOMAIN_COMPONENT, "DC"),
        (NameOID.STATE_OR_PROVINCE_NAME, "ST"),
        (NameOID.JURISDICTION_LOCALITY_NAME, "jurisdictionL"),
    ],
)
def test_attributes_have_the_names_of_openssl(oid: x509.ObjectIdentifier, name: str) -> None:
    assert names_of(certificate([(oid, "x")])).subject == f"{name}=x"


def test_an_unknown_attribute_is_written_as_its_encoding() -> None:
    assert names_of(certificate([(UNKNOWN, "a\n")])).subject == "2.999.7=#0C02610A"


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("jürgen", "j\\C3\\BCrgen"),
        ("😀", "\\F0\\9F\\98\\80"),
        ('a,b+c"d\\e<f>g;h=i', 'a\\,b\\+c\\"d\\\\e\\<f\\>g\\;h=i'),
        (" a b ", "\\ a b\\ "),
        ("#a#", "\\#a#"),
        ("#", "#"),
        ("a\n\x7f", "a\\0A\\7F"),
    ],
)
def test_values_are_escaped_as_openssl_does(value: str, written: str) -> None:
    assert subject_of(value) == f"CN={written}"


@pytest.mark.parametrize("kind", [Type.BMPString, Type.UTF8String])
def test_other_encodings_are_converted(kind: Type) -> None:
    der = certificate([(NameOID.COMMON_NAME, "ü#漢")], kind=kind)
    assert names_of(der) == CertificateNames("ü#漢", "CN=\\C3\\BC#\\E6\\BC\\A2")


def test_a_common_name_with_a_nul_counts_as_none() -> None:
    der = certificate([(NameOID.COMMON_NAME, "admin\0.evil")])
    assert names_of(der) == CertificateNames("", "CN=admin\\00.evil")


@pytest.mark.parametrize("size", [0, 1, 2, 40, 90])
def test_a_certificate_that_is_cut_off_is_an_error(size: int) -> None:
    with pytest.raises(ValueError, match=r"cut off|not a certificate"):
        names_of(certificate([(NameOID.COMMON_NAME, "a")])[:size])
