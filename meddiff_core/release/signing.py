"""Who vouches for a release: an Ed25519 signature over its manifest, and so over every byte of it.

Hashes alone stop no one who changes a file and hashes it again. The manifest's digest is stated in an in-toto
statement inside a DSSE envelope, `manifest.dsse.json`, which cosign and in-toto's own tools read. The envelope is four
keys and its signed bytes one line, so `cryptography` writes and checks it alone: a reader needs no protobuf for it, and
faults of a forged one stay ours to put in words (the tests hold it against securesystemslib and in-toto-attestation).
"""

import base64
import hashlib
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from meddiff_core.artefacts import canonical_json, write_json
from meddiff_core.errors import ConfigurationError, IntegrityError
from meddiff_core.objects.location import Location, is_there
from meddiff_core.release.bounded import describe_error, first_fault, parse_json, read_bounded, read_object
from meddiff_core.release.manifest import MANIFEST, SIGNATURE, Manifest, digest_manifest

PRIVATE, PUBLIC = "meddiff-release.key", "meddiff-release.pub"
PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
STATEMENT: Final = "https://in-toto.io/Statement/v1"
PREDICATE: Final = "https://in-toto.io/attestation/release/v0.1"
MOST_BYTES = 1 << 16
"""Bytes of a key, and of an envelope."""


@dataclass(frozen=True)
class Signer:
    """A private key. Nothing shows it: neither `repr`, nor a pickle, nor an error."""

    _key: Ed25519PrivateKey = field(repr=False)

    @property
    def public_key(self) -> Ed25519PublicKey:
        """The half to check its signatures with."""
        return self._key.public_key()

    @property
    def key_id(self) -> str:
        """Fingerprint of the public half."""
        return fingerprint(self.public_key)

    def sign(self, message: bytes) -> bytes:
        """64 bytes, the same for the same message."""
        return self._key.sign(message)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a private key does not travel to other processes")


@dataclass(frozen=True)
class Vouched:
    """What the signature of a release is worth."""

    text: str
    """For a person."""
    faults: tuple[str, ...] = ()


class _Signature(BaseModel):
    model_config = ConfigDict(extra="ignore")  # of the specification: what is not known is ignored

    keyid: str = ""
    sig: str


class _Envelope(BaseModel):
    payload: str
    payloadType: str  # noqa: N815 (as DSSE spells it)
    signatures: Annotated[list[_Signature], Field(min_length=1, max_length=16)]


def fingerprint(key: Ed25519PublicKey) -> str:
    """SHA-256 of the public key as it stands in its file (DER of SubjectPublicKeyInfo)."""
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def generate_keys(folder: Path) -> tuple[Path, Path]:
    """Write a new pair of keys as PEM: the private one for its owner alone, and the public one to give away.

    Raises:
        ConfigurationError: there is a key already; none is ever overwritten.
    """
    private, public = folder / PRIVATE, folder / PUBLIC
    folder.mkdir(parents=True, exist_ok=True)
    if taken := [path.name for path in (private, public) if path.exists() or path.is_symlink()]:
        raise ConfigurationError(f"keygen: must have a folder without a key, {taken[0]} is there")
    key = Ed25519PrivateKey.generate()
    _write_new(private, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), 0o600)
    _write_new(public, key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), 0o644)
    return private, public


def _write_new(path: Path, content: bytes, mode: int) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)


def read_signer(path: Path, source: str = "release.signing_key") -> Signer:
    """The private key in a file; `source` says in errors who named it.

    Raises:
        ConfigurationError: it is no Ed25519 key, or others can read it.
    """
    raw = _read_key(path, source)
    if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigurationError(f"{source}: must be for its owner alone, others can read it: chmod 600 {path}")
    return parse_signer(raw, source)


def parse_signer(pem: bytes, source: str) -> Signer:
    """The private key in a PEM text; `source` says in errors where it came from. The text never becomes part of one.

    Raises:
        ConfigurationError: it is no Ed25519 key without password.
    """
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigurationError(f"{source}: must be an Ed25519 key in PEM without password, as `meddiff keygen` makes")
    return Signer(key)


def read_public_key(path: Path) -> Ed25519PublicKey:
    """The public key in a file.

    Raises:
        ConfigurationError: it is none.
    """
    raw = _read_key(path, "--key")
    try:
        key = load_pem_public_key(raw)
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigurationError(f"--key: must be a public Ed25519 key in PEM, {path.name} is none")
    return key


def _read_key(path: Path, what: str) -> bytes:
    try:
        return read_bounded(path.resolve(), MOST_BYTES)
    except IntegrityError as error:
        raise ConfigurationError(f"{what}: must be the file of a key: {error}") from error


def sign_manifest(folder: Path, manifest: Manifest, signer: Signer) -> None:
    """Write the envelope beside the manifest."""
    payload = canonical_json(_statement(folder, manifest)).encode()
    signature = signer.sign(signed_bytes(PAYLOAD_TYPE, payload))
    envelope = {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": PAYLOAD_TYPE,
        "signatures": [{"keyid": signer.key_id, "sig": base64.b64encode(signature).decode()}],
    }
    write_json(folder / SIGNATURE, envelope)


def _statement(folder: Location, manifest: Manifest) -> dict[str, Any]:
    return {
        "_type": STATEMENT,
        "subject": [{"name": MANIFEST, "digest": {"sha256": digest_manifest(folder)}}],
        "predicateType": PREDICATE,
        "predicate": {"purl": f"pkg:generic/{manifest.name}@{manifest.version}"},
    }


def signed_bytes(kind: str, payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding of a payload: what is signed."""
    return b"DSSEv1 %d %b %d %b" % (len(kind.encode()), kind.encode(), len(payload), payload)


def check_signature(folder: Location, manifest: Manifest, key: Ed25519PublicKey | None) -> Vouched:
    """Whether the owner of `key` vouches for the manifest; without a key, only who claims to."""
    if not is_there(folder / SIGNATURE):
        text = "not signed: hashes show damage, not who made it"
        return Vouched(text, (f"{SIGNATURE}: must be there for --key, the release is not signed",) if key else ())
    try:
        return _check_envelope(folder, manifest, key)
    except IntegrityError as error:
        return Vouched("the signature is broken", (f"{SIGNATURE}: {error}",))


def _check_envelope(folder: Location, manifest: Manifest, key: Ed25519PublicKey | None) -> Vouched:
    envelope, payload = _open(folder / SIGNATURE)
    if parse_json(payload, "the statement") != _statement(folder, manifest):
        raise IntegrityError("must be the signature of this manifest, is that of another")
    if key is None:
        claimed = ", ".join(signature.keyid[:16] or "unknown" for signature in envelope.signatures)
        return Vouched(f"signed, it says by the key {claimed}; give --key to check it")
    message = signed_bytes(PAYLOAD_TYPE, payload)
    if not any(_is_by(key, _decode(signature.sig), message) for signature in envelope.signatures):
        raise IntegrityError(f"must be signed by the key {fingerprint(key)[:16]}, is not")
    return Vouched(f"signed by the key {fingerprint(key)}")


def _open(path: Location) -> tuple[_Envelope, bytes]:
    try:
        envelope = _Envelope.model_validate(read_object(path, MOST_BYTES), strict=True)
    except ValidationError as error:
        raise IntegrityError(f"must be a DSSE envelope: {first_fault(error)}") from error
    if envelope.payloadType != PAYLOAD_TYPE:
        raise IntegrityError(f"must hold {PAYLOAD_TYPE}, holds {envelope.payloadType!r}")
    return envelope, _decode(envelope.payload)


def _decode(text: str) -> bytes:
    try:
        content = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise IntegrityError(f"must be base64: {describe_error(error)}") from error
    if base64.b64encode(content).decode() != text:  # unused bits of the last letter
        raise IntegrityError("must be base64 as it is written, spells its bytes otherwise")
    return content


def _is_by(key: Ed25519PublicKey, signature: bytes, message: bytes) -> bool:
    try:
        key.verify(signature, message)
    except InvalidSignature:
        return False
    return True
