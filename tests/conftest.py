"""What every test process needs before it imports or starts anything."""

import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings
from support import softhsm
from support.softhsm import SoftToken

from fedhelp_secure.keystore import passphrase
from fedhelp_secure.keystore.passphrase import PassphraseSource

# One computing thread a process: tests start many, and idle matrix threads spin.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

# A shell that runs the suite in the background has SIGINT ignored, and children inherit that: the
# tests of Ctrl-C would wait for an interrupt that never arrives.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# No test asserts a time: a busy machine is no fault. All else is as hypothesis would have it here.
settings.register_profile("no-deadline", settings(), deadline=None)
settings.load_profile("no-deadline")

_TOGETHER = {
    "tests/e2e/test_demo.py": "demo",
    "tests/e2e/test_docs.py": "demo",
    "tests/e2e/attacks/": "attacks",
}
"""Files whose tests share what takes long to start."""


def _group(item: pytest.Item) -> str:
    file = item.nodeid.partition("::")[0]
    return next((name for begin, name in _TOGETHER.items() if file.startswith(begin)), file)


@pytest.hookimpl(tryfirst=True)  # xdist reads the marks in its own
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Two workers share the files; one takes the demo's, the longest, before anything else."""
    items.sort(key=lambda item: _group(item) != "demo")
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_group(item)))


@pytest.fixture(scope="session")
def soft_token(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SoftToken]:
    """A real PKCS#11 token; one for the whole run, since the library reads its settings once."""
    directory = tmp_path_factory.mktemp("softhsm")
    with pytest.MonkeyPatch.context() as environment:
        # Only once it is there: the library is loaded with this variable, here and in children.
        environment.setenv("SOFTHSM2_CONF", str(softhsm.configuration(directory)))
        token = softhsm.initialised(directory, "tests")
        if token is None:
            pytest.skip("SoftHSM is neither installed nor could 'make dev' fetch it from Debian")
        yield token


@pytest.fixture(autouse=True)
def no_passphrase_is_left() -> Iterator[None]:
    """A test that gives this process a passphrase does not give it to the next one."""
    yield
    passphrase.use(PassphraseSource())
