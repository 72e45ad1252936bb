"""One hospital, from its folder of images to a better model of its own."""

from __future__ import annotations

import datetime
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from fedhelp_client.architecture import Architecture, choose_architecture, preset
from fedhelp_client.checkpoint import Checkpoint
from fedhelp_client.curve import Curve, curves_folder, read_curves
from fedhelp_client.data.contribution import capped
from fedhelp_client.data.embedding_store import EmbeddingStore
from fedhelp_client.data.folder import load_folder, read_folder
from fedhelp_client.data.types import Dataset
from fedhelp_client.distillation import distil, distillation_plan
from fedhelp_client.export.record import ModelRecord
from fedhelp_client.judging import judge_network
from fedhelp_client.learnt import ALONE, DISTILLED, KEPT, Learnt
from fedhelp_client.models import build_network
from fedhelp_client.node.coordinator import Coordinator, connect, read_context
from fedhelp_client.node.files import ReleaseFiles
from fedhelp_client.node.gate import HoursGate
from fedhelp_client.node.guidance import Guidance
from fedhelp_client.node.kept import fit_heads, judge_head
from fedhelp_client.node.mechanisms import Own, release_labels
from fedhelp_client.node.patients import own_features
from fedhelp_client.node.release import Releaser
from fedhelp_client.own_correction import correct
from fedhelp_client.pictures import check_drawable, write_pictures
from fedhelp_client.progress import ProgressCallback
from fedhelp_client.teacher import refine_labels
from fedhelp_client.training import train_alone
from fedhelp_secure.canonical import canonical_json
from fedhelp_secure.charter import Charter, CharterRefused
from fedhelp_secure.own_keys import hospital_keys
from fedhelp_secure.policy import SitePolicy
from fedhelp_secure.privacy.events import check_patients_allowed
from fedhelp_secure.privacy.ledger import Ledger
from fedhelp_secure.public_set import PublicSet
from fedhelp_secure.report.model import NodeResult
from fedhelp_secure.secure_sum.ckks import PublicContext
from fedhelp_secure.secure_sum.contribution import ContributionKeys
from fedhelp_secure.state import StateDirectory, write_atomically


@dataclass(frozen=True, slots=True)
class NodeOptions:
    """Where a node finds its data, its peers and the public files, and where it leaves results."""

    data: Path
    test: Path
    """A public labelled set on which the node measures its own model, for its own operator."""
    public_set: Path
    context: Path
    """The federation's public CKKS context; the charter pins its digest."""
    aggregator: tuple[str, str]
    """Name and host:port."""
    broker: str
    """host:port."""
    policy: Path | None
    seed: int
    out: Path
    public_embeddings: Path | None = None
    """Folder, shared by the nodes of one machine, for what the backbone says of public images."""
    model: str | None = None
    """A preset, or a YAML file (`fedhelp_client.architecture`); None for the group's default."""
    pictures: Path | None = None
    """HTML page or PNG of what was learnt, for the hospital's own operator."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """Everything read and checked before the first byte leaves."""

    own: Dataset
    test: Dataset
    public_set: PublicSet
    context: PublicContext


def run_node(state: StateDirectory, options: NodeOptions, progress: ProgressCallback) -> NodeResult:
    """Take part in the charter that the aggregator runs; returns what it brought.

    Raises a FedHelpError, before anything leaves the site, if data, charter, policy or public files
    do not fit or the charter is a rehearsal; BudgetExhausted if the ledger refuses; RoundFailed if
    a round ends without a sum; SumForged if a sum was altered on its way.
    """
    if options.pictures is not None:
        check_drawable(options.pictures)
    policy = SitePolicy.load(options.policy) if options.policy else SitePolicy()
    coordinator = connect(state, options.aggregator[1], options.aggregator[0])
    charter = coordinator.charter
    policy.check_signer(coordinator.signed_by or state.governance_key())
    check_patients_allowed(charter)
    charter.check_shares()
    ledger = Ledger.of(state, policy=policy)
    ledger.check(charter)
    group = charter.hospital(state.identity.name).group
    # Before the images, which take long to read: a model that does not fit costs nothing.
    architecture = _architecture(charter, options, group)
    model = build_network(
        architecture, task=charter.task, classes=len(charter.classes), seed=options.seed
    )
    inputs = read_inputs(charter, options)
    # Asked for at once: whoever asks first starts the one call, which takes as long as training.
    guidance = Guidance(coordinator, options.broker)

    trained, distilling = (_checkpoint(state, step) for step in ("training", "distillation"))
    train_alone(
        model,
        inputs.own,
        task=charter.task,
        seed=options.seed,
        progress=progress,
        checkpoint=trained,
        curve=Curve(curves_folder(state), "training"),
    )
    alone = judge_network(model, inputs.test, task=charter.task)
    _keep(model, state, "alone")

    own_store = EmbeddingStore(state.role_directory() / "embeddings", charter.task)
    features = own_features(inputs.own, inputs.public_set, own_store, progress=progress)
    releaser = _releaser(
        state, coordinator, inputs, ledger=ledger, progress=progress, gate=HoursGate(policy.hours)
    )
    own = Own(inputs.own, features.projected, model, charter.task)
    labels = release_labels(releaser, inputs.public_set, own)

    progress("foundation model", 0, 1)
    embeddings = guidance.embeddings()
    taught = correct(
        labels,
        inputs.own,
        features.projected,
        inputs.public_set,
        task=charter.task,
        plan=distillation_plan(charter.task, group),
    )
    distil(
        model,
        inputs.own,
        task=charter.task,
        group=group,
        proxy_images=inputs.public_set.images,
        teacher=refine_labels(inputs.public_set, taught.proxies, embeddings, task=charter.task),
        own_teacher=taught.own,
        foundation_embeddings=embeddings,
        seed=options.seed,
        progress=progress,
        checkpoint=distilling,
        curve=Curve(curves_folder(state), "distillation"),
    )
    distilled = judge_network(model, inputs.test, task=charter.task)
    _keep(model, state, "distilled")
    shared = options.public_embeddings
    # The same store, if it may be: each keeps a backbone of its own once it has needed one.
    tested = own_store if shared is None else EmbeddingStore(shared, charter.task)
    heads = fit_heads(
        inputs.own,
        features,
        inputs.public_set,
        labels.model,
        task=charter.task,
        public=tested,
    )
    heads.save(state)
    embedded = tested.embed(inputs.test.examples, progress)
    head_alone, head = (judge_head(one, inputs.test, embedded) for one in (heads.alone, heads.kept))

    spent = ledger.spent(charter)
    result = NodeResult(
        hospital=state.identity.name,
        group=group,
        task=charter.task,
        metric=alone.metrics.name,
        alone=alone.metrics.value,
        distilled=distilled.metrics.value,
        head_alone=head_alone.metrics.value,
        head=head.metrics.value,
        epsilon_aggregate=float(spent.epsilon_aggregate),
        epsilon_collusion=float(spent.epsilon_collusion),
    )
    record = _record(charter, result, architecture, images=distilled.metrics.images)
    record.save(state)
    ledger.export(options.out / "ledger.jsonl")
    releaser.files.export_receipts(options.out / "receipts", state.identity.name)
    write_atomically(options.out / "result.json", canonical_json(result.model_dump()))
    for checkpoint in (trained, distilling):
        checkpoint.remove()
    if options.pictures is not None:
        judged = {ALONE: alone, DISTILLED: distilled, KEPT: head}
        curves = tuple(read_curves(curves_folder(state)))
        write_pictures(Learnt(record, inputs.test, judged, curves), options.pictures)
    return result


def _architecture(
    charter: Charter, options: NodeOptions, group: Literal["large", "small"]
) -> Architecture:
    """The network that this hospital trains; raises ModelRefused."""
    if options.model is None:
        return preset(group, charter.task)
    return choose_architecture(options.model, charter.task)


def _checkpoint(state: StateDirectory, step: str) -> Checkpoint:
    return Checkpoint(state.role_directory() / "models" / f"{step}.checkpoint")


def read_inputs(charter: Charter, options: NodeOptions) -> Inputs:
    """Own patients (capped), test set, public set and CKKS context, as ``charter`` wants them.

    Raises DataError, CharterRefused or PublicSetRefused.
    """
    whole = load_folder(options.data, charter.task, classes=charter.classes)
    own = capped(whole, charter.privacy.maximum_images)
    # Public: nobody's privacy hangs on its identifiers.
    test = read_folder(options.test, charter.task, classes=charter.classes)
    for dataset in (own, test):
        if dataset.classes != charter.classes:
            raise CharterRefused(
                f"{dataset.name} has other classes than the charter; rename its labels to "
                f"{', '.join(charter.classes)}."
            )
    public_set = PublicSet.load(options.public_set)
    public_set.check(charter)
    return Inputs(own, test, public_set, read_context(charter, options.context))


def _record(
    charter: Charter, result: NodeResult, architecture: Architecture, *, images: int
) -> ModelRecord:
    """What an export of the network has to know; ``images``: of the test set."""
    return ModelRecord(
        federation=charter.federation,
        charter=charter.name,
        charter_digest=charter.digest,
        hospital=result.hospital,
        group=result.group,
        task=result.task,
        classes=charter.classes,
        metric=result.metric,
        alone=result.alone,
        distilled=result.distilled,
        head_alone=result.head_alone,
        head=result.head,
        test_images=images,
        mechanism=charter.privacy.mechanism,
        epsilon_aggregate=f"{result.epsilon_aggregate:.6f}",
        epsilon_collusion=f"{result.epsilon_collusion:.6f}",
        delta=charter.privacy.delta,
        learnt=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        architecture=architecture,
    )


def _releaser(
    state: StateDirectory,
    coordinator: Coordinator,
    inputs: Inputs,
    *,
    ledger: Ledger,
    progress: ProgressCallback,
    gate: HoursGate,
) -> Releaser:
    own = hospital_keys(state, coordinator.charter)
    return Releaser(
        coordinator=coordinator,
        keys=ContributionKeys(own.signing_key, own.unsealing_key, inputs.context),
        ledger=ledger,
        files=ReleaseFiles.of_charter(state, coordinator.charter.digest),
        progress=progress,
        gate=gate,
    )


def _keep(model: torch.nn.Module, state: StateDirectory, name: str) -> None:
    """The hospital's own model stays in its state directory: it needs no noise and goes nowhere."""
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    write_atomically(state.role_directory() / "models" / f"{name}.pt", buffer.getvalue())
