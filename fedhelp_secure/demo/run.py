"""The demo, in order: data, identities, charter, servers, hospitals, evidence, report.

Everything a deployment would do is done by the same commands and services: this module only calls
them in the order in which the parties' operators would.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from fedhelp_secure.demo.conclusion import conclude
from fedhelp_secure.demo.federation import DemoFederation, charter_plan
from fedhelp_secure.demo.options import DatasetName, DataSource, DemoOptions
from fedhelp_secure.demo.processes import ProcessGroup, Running, free_port
from fedhelp_secure.demo.view import HospitalProgress, ProgressView, print_summary
from fedhelp_secure.errors import ConfigurationError
from fedhelp_secure.privacy.defaults import default_probe
from fedhelp_secure.report.model import DemoResult

_POLL_SECONDS = 0.2


class DemoRefused(ConfigurationError):
    """The demo's options do not fit together, or its directory is in use."""

    code = "demo"


def run_demo(
    options: DemoOptions,
    console: Console,
    *,
    publish: Callable[[DemoResult], None],
    keep_running: bool,
) -> DemoResult:
    """Run the whole demo; raises a FedHelpError if a part fails. No process outlives the call.

    ``publish`` gets the result as soon as there is one; with ``keep_running`` the servers then stay
    until Ctrl-C.
    """
    started = time.monotonic()
    _check(options)
    with ProcessGroup(options.out) as processes:
        demo = _Demo(options, console, processes)
        source = demo.prepare()
        demo.start_servers()
        demo.run_hospitals()
        result = conclude(
            options,
            demo.federation,
            processes,
            source=source,
            aggregator=demo.addresses["aggregator"],
            seconds=lambda: time.monotonic() - started,
        )
        print_summary(console, result, options.out)
        if keep_running:
            demo.wait_for_interrupt(lambda: publish(result))
        else:
            publish(result)
    return result


def _check(options: DemoOptions) -> None:
    if options.large + options.small < 2 or options.large < 1 or options.small < 1:
        raise DemoRefused("a federation needs at least one large and one small hospital.")
    if options.out.exists() and any(options.out.iterdir()):
        raise DemoRefused(f"{options.out} is not empty; remove it, or choose another --out.")
    if options.dataset not in (None, DatasetName.PHANTOM) and options.data is None:
        raise DemoRefused(
            f"--dataset {options.dataset} needs --data DIR, or FEDHELP_DATA in the environment."
        )


class _Demo:
    """The parts of one run; each method is one stage."""

    def __init__(self, options: DemoOptions, console: Console, processes: ProcessGroup) -> None:
        self._options = options
        self._console = console
        self._processes = processes
        self._out = options.out
        self.federation = DemoFederation(
            options.out / "parties", options.hospitals, unmaskers=options.unmaskers
        )
        self.addresses: dict[str, str] = {}

    @property
    def _public_set(self) -> Path:
        return self._out / "public" / "public_set.npz"

    @property
    def _public_embeddings(self) -> Path:
        return self._out / "public" / "embeddings"

    def prepare(self) -> DataSource:
        """Data, identities, the foundation model, the public set and the charter."""
        self._console.print("splitting the data between the hospitals ...")
        self._processes.run("simulate", "client", "simulate", *self._simulate_arguments())
        source = DataSource.read(self._out / "data" / "source.json")
        self._console.print(f"data: {source.sentence}", markup=False, soft_wrap=True)
        self._console.print("enrolling the parties, embedding the public images ...")
        proxies = self._out / "data" / "proxy"
        probe = default_probe(
            self._options.task.value,
            epsilon=self._options.epsilon,
            rounds=self._options.rounds,
            images=sum(1 for _ in proxies.glob("*.png")),
        )
        embedding = self._processes.start(
            "public-set",
            *("client", "public-set", "--images", str(proxies)),
            *("--task", self._options.task.value, "--dimension", str(probe.dimension)),
            *("--out", str(self._public_set)),
            *("--public-embeddings", str(self._public_embeddings)),
        )
        self.federation.enrol(self._processes)
        self._start_foundation_model()
        self._processes.finish(embedding)
        plan = charter_plan(
            self._options,
            probe,
            classes=source.classes,
            foundation_model=f"https://{self.addresses['foundation-model']}",
        )
        self.federation.make_charter(self._processes, plan, self._public_set)
        return source

    def _simulate_arguments(self) -> list[str]:
        options = self._options
        arguments = ["--task", options.task.value, "--seed", str(options.seed)]
        arguments += ["--large", str(options.large), "--small", str(options.small)]
        arguments += ["--out", str(self._out / "data")]
        if options.dataset is not None:
            arguments += ["--dataset", options.dataset.value]
        if options.data is not None and options.dataset is not DatasetName.PHANTOM:
            arguments += ["--data", str(options.data)]
        return arguments

    def _start_foundation_model(self) -> None:
        certificate = self._out / "parties" / "foundation-model"
        self._processes.run(
            "foundation-model-certificate",
            *("broker", "foundation-model-certificate", "--out", str(certificate)),
        )
        _, self.addresses["foundation-model"] = self._processes.serve(
            "foundation-model",
            *("broker", "foundation-model", "--listen", f"127.0.0.1:{free_port()}"),
            *("--certificate", str(certificate / "certificate.pem")),
            *("--key", str(certificate / "key.pem")),
        )

    def start_servers(self) -> None:
        """Custodians, then the aggregator that calls them, then the broker that reports to it."""
        federation, listen = self.federation, ("--listen", "127.0.0.1:0")
        for name in ("decryptor", *federation.unmaskers):
            _, self.addresses[name] = self._processes.serve(
                name, "custodian", "serve", "--state", str(federation.state(name)), *listen
            )
        _, self.addresses["aggregator"] = self._processes.serve(
            "aggregator",
            *("server", "run", "--state", str(federation.state("aggregator")), *listen),
            *("--charter", str(federation.charter)),
            *("--decryptor", self.addresses["decryptor"]),
            *(f"--unmasker={self.addresses[name]}" for name in federation.unmaskers),
        )
        _, self.addresses["broker"] = self._processes.serve(
            "broker",
            *("broker", "run", "--state", str(federation.state("broker")), *listen),
            *("--charter", str(federation.charter), "--public-set", str(self._public_set)),
            *("--ca", str(self._out / "parties" / "foundation-model" / "certificate.pem")),
            *("--allow-private-network", "127.0.0.0/8"),
            *("--aggregator", self.addresses["aggregator"]),
        )
        self._console.print(
            "running over mutual TLS: "
            + ", ".join(f"{name} {address}" for name, address in self.addresses.items()),
            soft_wrap=True,
        )

    def run_hospitals(self) -> None:
        """All hospitals to their end, with a live view of how far each is."""
        running: list[Running] = []
        progress = {}
        for name in self._options.hospitals:
            out = self._out / "hospitals" / name
            progress[name] = HospitalProgress(out / "progress.jsonl")
            running.append(self._processes.start(name, *self._node_arguments(name, out)))
        with ProgressView(self._console, progress) as view:
            while any(node.process.poll() is None for node in running):
                self._processes.check()
                view.refresh()
                time.sleep(_POLL_SECONDS)
            view.refresh()
        self._processes.check()

    def _node_arguments(self, name: str, out: Path) -> list[str]:
        data = self._out / "data"
        return [
            *("client", "run", "--state", str(self.federation.state(name))),
            *("--data", str(data / "hospitals" / name), "--test", str(data / "test")),
            *("--public-set", str(self._public_set), "--context", str(self.federation.context)),
            *("--aggregator", f"aggregator@{self.addresses['aggregator']}"),
            *("--broker", self.addresses["broker"]),
            *("--seed", str(self._options.seed), "--out", str(out)),
            # One machine plays all hospitals: public images need the backbone once.
            *("--public-embeddings", str(self._public_embeddings)),
            *("--pictures", str(self._out / "pictures" / name / "index.html")),
        ]

    def wait_for_interrupt(self, begin: Callable[[], None]) -> None:
        """Call ``begin``, then keep the servers up until Ctrl-C or SIGTERM: an ordinary end."""
        self._console.print("the servers go on running; Ctrl-C ends them.")
        try:
            # Whoever sees what it does may already interrupt.
            begin()
            while True:
                self._processes.check()
                time.sleep(_POLL_SECONDS)
        except KeyboardInterrupt:
            self._console.print("ending the servers ...")
