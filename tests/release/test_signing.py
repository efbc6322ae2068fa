"""A signature says who vouches for a release; nobody else can write it, and its key stays at home."""

import base64
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_public_key

from meddiff_core.errors import ConfigurationError
from meddiff_core.release.manifest import read_manifest
from meddiff_core.release.signing import (
    PAYLOAD_TYPE,
    fingerprint,
    generate_keys,
    parse_signer,
    read_public_key,
    read_signer,
    sign_manifest,
)
from meddiff_core.release.verify import Depth, check_release, verify_release


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return generate_keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture
def signed(released: Path, keys: tuple[Path, Path], tmp_path: Path) -> Path:
    folder = Path(shutil.copytree(released, tmp_path / "heads"))
    sign_manifest(folder, read_manifest(folder), read_signer(keys[0]))
    return folder


def findings(work: Any) -> Any:
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value


def test_keys_are_for_their_owner_and_never_overwritten(tmp_path: Path) -> None:
    private, public = generate_keys(tmp_path / "new")
    assert private.stat().st_mode & 0o777 == 0o600
    assert b"PRIVATE" not in public.read_bytes()
    before = private.read_bytes()
    with pytest.raises(ConfigurationError, match=r"meddiff-release\.key is there"):
        generate_keys(tmp_path / "new")
    assert private.read_bytes() == before


def test_the_owner_of_the_key_is_named(signed: Path, keys: tuple[Path, Path]) -> None:
    key = read_public_key(keys[1])
    found = findings(check_release(signed, Depth(key=key)))
    assert found.faults == ()
    assert found.signature == f"signed by the key {fingerprint(key)}"
    assert "give --key to check it" in findings(check_release(signed, Depth())).signature


def test_a_release_without_signature_says_so(released: Path) -> None:
    assert findings(check_release(released, Depth())).signature.startswith("not signed")


def test_another_key_does_not_vouch(signed: Path, tmp_path: Path) -> None:
    other = read_public_key(generate_keys(tmp_path / "other")[1])
    (fault,) = verify_release(signed, Depth(key=other))
    assert fault == f"manifest.dsse.json: must be signed by the key {fingerprint(other)[:16]}, is not"


def test_who_signs_a_changed_release_with_another_key_is_found(
    signed: Path, keys: tuple[Path, Path], reseal: Any, tmp_path: Path
) -> None:
    (signed / "README.md").write_text("better")
    reseal(signed)
    sign_manifest(signed, read_manifest(signed), read_signer(generate_keys(tmp_path / "other")[0]))
    forged = json.loads((signed / "manifest.dsse.json").read_text())
    forged["signatures"][0]["keyid"] = fingerprint(read_public_key(keys[1]))  # only a hint, and a lie
    (signed / "manifest.dsse.json").write_text(json.dumps(forged))
    assert verify_release(signed) == []
    (fault,) = verify_release(signed, Depth(key=read_public_key(keys[1])))
    assert "must be signed by the key" in fault


@pytest.mark.parametrize(
    "change",
    [
        {"payload": base64.b64encode(b"{}").decode()},
        {"payload": "not base64"},
        {"payload": base64.b64encode(b"[" * 5000).decode()},
        {"payloadType": "text/plain"},
        {"signatures": []},
        {"signatures": [{"sig": 5}]},
        {"signatures": [{"sig": "AAAA"}]},
        {"payload": None},
    ],
)
def test_a_broken_envelope_is_one_line(signed: Path, keys: tuple[Path, Path], change: dict[str, Any]) -> None:
    envelope = json.loads((signed / "manifest.dsse.json").read_text())
    (signed / "manifest.dsse.json").write_text(json.dumps(envelope | change))
    (fault,) = verify_release(signed, Depth(key=read_public_key(keys[1])))
    assert fault.startswith("manifest.dsse.json: ")
    assert "\n" not in fault


def test_the_signature_of_another_version_is_refused(signed: Path, reseal: Any, keys: tuple[Path, Path]) -> None:
    manifest = json.loads((signed / "manifest.json").read_text())
    (signed / "manifest.json").write_text(json.dumps(manifest | {"version": "2.0.0"}))
    (fault,) = verify_release(signed, Depth(key=read_public_key(keys[1])))
    assert "must be the signature of this manifest" in fault


def test_other_tools_of_the_standard_accept_it(signed: Path, keys: tuple[Path, Path]) -> None:
    dsse = pytest.importorskip("securesystemslib.dsse")
    signer = pytest.importorskip("securesystemslib.signer")
    envelope = dsse.Envelope.from_dict(json.loads((signed / "manifest.dsse.json").read_text()))
    public: Any = load_pem_public_key(keys[1].read_bytes())
    key = signer.SSlibKey.from_crypto(public, keyid=fingerprint(public))
    assert list(envelope.verify([key], 1)) == [fingerprint(public)]
    statement = pytest.importorskip("in_toto_attestation.v1.statement")
    pb = pytest.importorskip("in_toto_attestation.v1.statement_pb2")
    parse = pytest.importorskip("google.protobuf.json_format").Parse
    assert envelope.payload_type == PAYLOAD_TYPE
    statement.Statement.copy_from_pb(parse(envelope.payload, pb.Statement())).validate()


def test_the_same_key_and_release_give_the_same_signature(signed: Path, keys: tuple[Path, Path]) -> None:
    before = (signed / "manifest.dsse.json").read_bytes()
    sign_manifest(signed, read_manifest(signed), read_signer(keys[0]))
    assert (signed / "manifest.dsse.json").read_bytes() == before


def test_card_and_release_hold_the_fingerprint_and_never_the_key(
    content: Any, build: Any, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    signer = read_signer(keys[0])
    folder = build(content, tmp_path, signer=signer)
    assert verify_release(folder, Depth(1, key=signer.public_key)) == []
    card = (folder / "README.md").read_text()
    assert f"`{signer.key_id}`" in card
    assert "not signed" not in card
    pem = keys[0].read_text()
    secret = pem.splitlines()[1]
    raw = base64.b64decode(secret)[-32:]
    forms = [secret.encode(), raw, raw.hex().encode(), base64.b64encode(raw)]
    for path in folder.rglob("*"):
        assert not path.is_file() or not any(form in path.read_bytes() for form in forms)
    assert build(content, tmp_path, signer=signer) == folder  # the very same is left as it is


def test_the_card_of_an_unsigned_release_says_so(released: Path) -> None:
    assert "This release is not signed" in (released / "README.md").read_text()


def test_a_lost_signature_is_no_reason_to_keep_a_release(
    content: Any, build: Any, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    folder = build(content, tmp_path, signer=read_signer(keys[0]))
    (folder / "manifest.dsse.json").unlink()
    with pytest.raises(ConfigurationError, match="must be new"):
        build(content, tmp_path, signer=read_signer(keys[0]))


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    private, public = generate_keys(tmp_path)
    private.chmod(0o640)
    with pytest.raises(ConfigurationError, match=r"signing_key: must be for its owner alone.*chmod 600"):
        read_signer(private)
    with pytest.raises(ConfigurationError, match="must be a public Ed25519 key"):
        read_public_key(private)
    public.chmod(0o600)
    with pytest.raises(ConfigurationError, match="must be an Ed25519 key in PEM"):
        read_signer(public)
    with pytest.raises(ConfigurationError, match="there is none"):
        read_signer(tmp_path / "nothing")


def test_a_key_of_another_kind_is_refused_without_showing_it() -> None:
    rsa = generate_private_key(65537, 2048).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for pem in (rsa, b"-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n", b"secret"):
        with pytest.raises(ConfigurationError) as refused:
            parse_signer(pem, "MEDDIFF_SIGNING_KEY")
        assert str(refused.value).startswith("MEDDIFF_SIGNING_KEY: must be an Ed25519 key")
        assert "c2VjcmV0" not in str(refused.value)
        assert "secret" not in str(refused.value)
        assert refused.value.__cause__ is None


def test_the_stage_takes_the_key_of_the_study_or_of_the_environment(
    keys: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment is read by the tasks, and what carries the key on does not show it."""
    from meddiff_core.stages.signer import find_signer
    from meddiff_core.study import Study
    from meddiff_core.types import serial_map
    from meddiff_core.workspace import Workspace
    from tasks.stage import resources_of

    def workspace(**release: str) -> Workspace:
        content = {"name": "heads", "data": {"images": "x"}, "release": release, "runtime": {"device": "cpu"}}
        return Workspace(Study.model_validate(content), tmp_path)

    monkeypatch.delenv("MEDDIFF_SIGNING_KEY", raising=False)
    assert find_signer(workspace(), resources_of(workspace(), serial_map)) is None
    monkeypatch.setenv("MEDDIFF_SIGNING_KEY", keys[0].read_text())
    resources = resources_of(workspace(), serial_map)
    assert "PRIVATE" not in repr(resources)
    by_environment = find_signer(workspace(), resources)
    assert by_environment is not None
    assert by_environment.key_id == read_signer(keys[0]).key_id
    other, _ = generate_keys(tmp_path / "keys")
    by_study = find_signer(workspace(signing_key="keys/meddiff-release.key"), resources)
    assert by_study is not None
    assert by_study.key_id == read_signer(other).key_id


@pytest.mark.parametrize("content", [None, "hello\n"])
def test_a_key_that_cannot_sign_is_refused_before_anything_is_trained(tmp_path: Path, content: str | None) -> None:
    from meddiff_core.stages.making import Resources
    from meddiff_core.stages.prepare import plan_study
    from meddiff_core.study import Study
    from meddiff_core.workspace import Workspace

    if content is not None:
        (tmp_path / "wrong.key").write_text(content)
    study = Study.model_validate(
        {"name": "heads", "data": {"images": "x", "covariates": {}}, "release": {"signing_key": "wrong.key"}}
    )
    with pytest.raises(ConfigurationError, match=r"wrong\.key"):
        next(plan_study(Workspace(study, tmp_path), Resources("cpu")))
