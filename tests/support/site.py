"""One hospital's node parts on its real state directory, without images or training."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from support.federation import Federation
from support.processes import context_file

from fedhelp_client.node.coordinator import Coordinator
from fedhelp_client.node.files import ReleaseFiles
from fedhelp_client.node.release import Releaser, StepListener, log_step
from fedhelp_secure.charter import Charter
from fedhelp_secure.own_keys import hospital_keys
from fedhelp_secure.policy import SitePolicy
from fedhelp_secure.privacy.ledger import Ledger
from fedhelp_secure.privacy.mechanisms import ProbeMechanism, Setting
from fedhelp_secure.privacy.probe import PatientExamples
from fedhelp_secure.public_set import PublicSet, fit_projection
from fedhelp_secure.secure_sum.ckks import PublicContext
from fedhelp_secure.secure_sum.contribution import ContributionKeys
from fedhelp_secure.state import StateDirectory

_RUN_SECONDS = 120.0
"""When a test gives up."""

DIMENSION, CLASSES = 4, 2
"""Of the charter that `support.federation` makes unless told otherwise."""


def _public_set() -> PublicSet:
    generator = np.random.default_rng(3)
    embeddings = generator.normal(size=(30, 1, 10)).astype(np.float32)
    projection = fit_projection(embeddings, DIMENSION)
    images = generator.integers(0, 256, (30, 16, 16), dtype=np.uint8)
    return PublicSet(images, projection.apply(embeddings), projection)


PUBLIC_SET = _public_set()


def patients(count: int) -> list[PatientExamples]:
    """``count`` patients with one image each."""
    features = PUBLIC_SET.features[:count].astype(np.float64)
    return [
        PatientExamples(row, np.eye(CLASSES)[[number % CLASSES]], np.ones(1))
        for number, row in enumerate(features)
    ]


class Site:
    """What `fedhelp_client.node.node` puts together, for the aggregator at ``address``."""

    def __init__(
        self,
        state: StateDirectory,
        charter: Charter,
        context: Path,
        address: str,
        policy: SitePolicy | None = None,
        *,
        listener: StepListener = log_step,
    ) -> None:
        self.state = state
        self.ledger = Ledger.of(state, policy=policy)
        keys = hospital_keys(state, charter)
        self.said: list[str] = []
        self.releaser = Releaser(
            coordinator=Coordinator(state, charter, address),
            keys=ContributionKeys(
                keys.signing_key,
                keys.unsealing_key,
                PublicContext(context.read_bytes(), charter.secure_sum),
            ),
            ledger=self.ledger,
            files=ReleaseFiles.of_charter(state, charter.digest),
            progress=lambda step, done, total: self.said.append(step),
            listener=listener,
        )

    def run(self) -> NDArray[np.float64]:
        """All rounds, for six patients."""
        charter = self.releaser.charter
        setting = Setting(charter, PUBLIC_SET, self.state.identity.name)
        return self.releaser.run(ProbeMechanism(setting), patients(6)).model

    def stored(self) -> dict[str, bytes]:
        """Every file that the node keeps of its rounds."""
        directory = self.releaser.files.directory
        return {
            str(path.relative_to(directory)): path.read_bytes()
            for path in sorted(directory.rglob("*"))
            if path.is_file()
        }


def site_of(
    federation: Federation, name: str, address: str, policy: SitePolicy | None = None
) -> Site:
    """The site of the hospital called ``name``."""
    return Site(
        federation.state(name), federation.charter, context_file(federation), address, policy
    )


def run_together(sites: Sequence[Site]) -> list[NDArray[np.float64]]:
    """Every site's public model in the end; raises what the first that fails raises."""
    with ThreadPoolExecutor(len(sites)) as pool:
        running = [pool.submit(site.run) for site in sites]
        done, waiting = wait(running, timeout=_RUN_SECONDS, return_when=FIRST_EXCEPTION)
        if waiting:
            # The others would wait for the one that failed.
            for site in sites:
                site.releaser.coordinator.close()
        for ended in done:
            ended.result()
        return [future.result() for future in running]
