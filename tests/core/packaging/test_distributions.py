"""The four distributions hold what they should, and nothing else."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
DISTRIBUTIONS = {
    ".": "fedhelp_secure",
    "keys": "fedhelp_keys",
    "server": "fedhelp_server",
    "client": "fedhelp_client",
}
STATE_SUFFIXES = {".pem", ".key", ".bin", ".sqlite", ".npz", ".png"}
SECRET = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """The wheel and the sdist of every distribution, built from this checkout."""
    archives = {}
    for folder, package in DISTRIBUTIONS.items():
        target = tmp_path_factory.mktemp(package)
        for kind in ("--wheel", "--sdist"):
            subprocess.run(
                [sys.executable, "-m", "build", "--no-isolation", kind, "--outdir", str(target)],
                cwd=ROOT / folder,
                check=True,
                capture_output=True,
            )
        archives[package] = sorted(target.iterdir())
    return archives


def _members(archive: Path) -> dict[str, bytes]:
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            return {name: wheel.read(name) for name in wheel.namelist()}
    with tarfile.open(archive) as sdist:
        files = [member for member in sdist.getmembers() if member.isfile()]
        contents = {}
        for member in files:
            extracted = sdist.extractfile(member)
            assert extracted is not None
            contents[member.name.split("/", 1)[1]] = extracted.read()
        return contents


@pytest.mark.parametrize("package", DISTRIBUTIONS.values())
def test_wheel_and_sdist_hold_only_their_package(
    built: dict[str, list[Path]], package: str
) -> None:
    sdist, wheel = sorted(built[package], key=lambda path: path.suffix)
    tops = {name.split("/")[0] for name in _members(wheel)}
    assert tops == {package, next(top for top in tops if top.endswith(".dist-info"))}
    allowed = {package, "README.md", "LICENSE", "pyproject.toml", "PKG-INFO", ".gitignore"}
    assert {name.split("/")[0] for name in _members(sdist)} <= allowed


@pytest.mark.parametrize("package", DISTRIBUTIONS.values())
def test_no_archive_holds_a_key_or_state(built: dict[str, list[Path]], package: str) -> None:
    for archive in built[package]:
        members = _members(archive)
        assert members
        for name, content in members.items():
            assert not SECRET.search(content), f"{archive.name}: {name}"
            assert Path(name).suffix not in STATE_SUFFIXES, name


def test_a_wheel_with_a_key_would_be_noticed() -> None:
    from fedhelp_secure.signing import SigningKey

    assert SECRET.search(SigningKey.generate().to_pem())


BLOCK = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {blocked!r}:
            raise ImportError('blocked: ' + name)
sys.meta_path.insert(0, Block())
import importlib, pkgutil
for package in {packages!r}:
    module = importlib.import_module(package)
    for info in pkgutil.walk_packages(module.__path__, package + '.'):
        if not info.name.endswith('__main__'):
            importlib.import_module(info.name)
"""


def _import_all(packages: list[str], blocked: list[str]) -> subprocess.CompletedProcess[str]:
    code = BLOCK.format(blocked=set(blocked), packages=packages)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_server_custodian_and_core_need_neither_torch_nor_monai() -> None:
    result = _import_all(
        ["fedhelp_secure", "fedhelp_keys", "fedhelp_server"], ["torch", "monai", "opacus"]
    )
    assert result.returncode == 0, result.stderr


def test_the_aggregator_needs_no_homomorphic_encryption() -> None:
    result = _import_all(["fedhelp_server.aggregator"], ["tenseal"])
    assert result.returncode == 0, result.stderr


def test_the_client_runs_without_server_or_registrar_code() -> None:
    result = _import_all(
        ["fedhelp_secure", "fedhelp_client"], ["fedhelp_server", "fedhelp_keys", "mlserver"]
    )
    assert result.returncode == 0, result.stderr


def test_the_block_does_block() -> None:
    assert _import_all(["fedhelp_client"], ["torch"]).returncode != 0


def test_a_client_only_install_has_no_server_code(
    built: dict[str, list[Path]], tmp_path: Path
) -> None:
    target = tmp_path / "site"
    wheels = [
        str(path)
        for package in ("fedhelp_secure", "fedhelp_client")
        for path in built[package]
        if path.suffix == ".whl"
    ]
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--no-deps", "--target", str(target), *wheels],
        check=True,
        capture_output=True,
    )
    installed = {path.name for path in target.iterdir()}
    assert {"fedhelp_secure", "fedhelp_client"} <= installed
    assert not {"fedhelp_server", "fedhelp_keys", "server", "keys", "client", "proto"} & installed


def test_generator_and_runtime_floors_agree() -> None:
    """The floor of grpcio and protobuf is what the checked-in generated code demands."""
    project = (ROOT / "pyproject.toml").read_text()
    generated = ROOT / "fedhelp_secure" / "wire" / "v1"
    grpc_text = (generated / "coordinator_pb2_grpc.py").read_text()
    proto_text = (generated / "coordinator_pb2.py").read_text()
    grpc_version = re.search(r"GRPC_GENERATED_VERSION = '([\d.]+)'", grpc_text)
    proto_version = re.search(r"Protobuf Python Version: ([\d.]+)", proto_text)
    assert grpc_version is not None
    assert proto_version is not None
    assert f'"grpcio>={grpc_version.group(1)}"' in project
    assert f'"protobuf>={proto_version.group(1)}"' in project
